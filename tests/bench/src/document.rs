//! BENCHMARKS.md, with a part for each bench.

use std::fs;

use anyhow::{Context as _, Result};

/// Ends each bench's part.
const END: &str = "<!-- end -->";

/// Replaces a bench's part, between its two marks; a new one goes behind the last.
///
/// # Errors
///
/// There is no such file, or it has no part yet.
pub fn update(name: &str, markdown: &str) -> Result<()> {
    let path = ::tests::source_tree().join("BENCHMARKS.md");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let new = replace_part(&text, name, markdown)
        .or_else(|| add_part(&text, name, markdown))
        .with_context(|| format!("{} has no line {END}", path.display()))?;
    fs::write(&path, new).with_context(|| format!("write {}", path.display()))?;
    println!("updated: {}", path.display());
    Ok(())
}

fn replace_part(text: &str, name: &str, part: &str) -> Option<String> {
    let begin = format!("<!-- bench {name} -->\n");
    let (before, rest) = text.split_once(&begin)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{begin}{part}{END}{after}"))
}

fn add_part(text: &str, name: &str, part: &str) -> Option<String> {
    let (before, after) = text.rsplit_once(END)?;
    Some(format!(
        "{before}{END}\n\n<!-- bench {name} -->\n{part}{END}{after}"
    ))
}

#[cfg(test)]
mod tests {
    use super::{add_part, replace_part};

    const TEXT: &str =
        "a\n<!-- bench x -->\nold\n<!-- end -->\nb\n<!-- bench y -->\nkept\n<!-- end -->\nc\n";

    #[test]
    fn only_its_own_part_is_replaced() {
        let new = replace_part(TEXT, "x", "new\n");
        let wanted = TEXT.replace("old", "new");
        assert_eq!(new.as_deref(), Some(wanted.as_str()));
        assert_eq!(replace_part(TEXT, "z", "new\n"), None);
    }

    #[test]
    fn a_new_part_goes_behind_the_last() {
        let new = add_part(TEXT, "z", "new\n");
        let wanted = TEXT.replace("\nc\n", "\n\n<!-- bench z -->\nnew\n<!-- end -->\nc\n");
        assert_eq!(new.as_deref(), Some(wanted.as_str()));
        assert_eq!(add_part("nothing", "z", "new\n"), None);
    }
}
