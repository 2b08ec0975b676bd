//! The paths in a source, without a parser: this suffices for sources formatted by rustfmt.

use std::collections::BTreeSet;

/// `text` without comments and strings.
pub fn bare(text: &str) -> String {
    let mut bare = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['/', '"', '\'']) {
        bare += &rest[..at];
        rest = &rest[at..];
        let end = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with('"') {
            let raw = bare.ends_with("r#");
            let close = if raw { "\"#" } else { "\"" };
            let mut end = 1;
            while !rest[end..].starts_with(close) && end < rest.len() {
                let escaped = !raw && rest[end..].starts_with('\\');
                let step = |from: usize| rest[from..].chars().next().map_or(1, char::len_utf8);
                end += step(end);
                if escaped {
                    end += step(end);
                }
            }
            (end + close.len()).min(rest.len())
        } else if rest.starts_with("'\"'") {
            3
        } else if rest.starts_with("'\\\"'") {
            4
        } else {
            bare.push_str(&rest[..1]);
            1
        };
        rest = &rest[end..];
    }
    bare + rest
}

/// The paths that `text` imports or names, as segments; those of a `use` are listed one by one.
pub fn paths(text: &str) -> BTreeSet<Vec<String>> {
    let text = bare(text);
    let mut found = BTreeSet::new();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    for (at, _) in text.match_indices("::") {
        let start = text[..at]
            .rfind(|c| !is_word(c))
            .map_or(0, |before| before + 1);
        if text[..start].ends_with("::") || start == at {
            continue; // Not the start of a path.
        }
        leaves(&text[start..], &mut Vec::new(), &mut found);
    }
    found
}

/// Reads a path, or a tree of paths, from the start of `text`. Returns the rest.
fn leaves<'a>(
    text: &'a str,
    before: &mut Vec<String>,
    found: &mut BTreeSet<Vec<String>>,
) -> &'a str {
    let depth = before.len();
    let mut rest = text.trim_start();
    loop {
        let end = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        before.push(rest[..end].to_owned());
        rest = rest[end..].trim_start();
        let Some(next) = rest.strip_prefix("::") else {
            break;
        };
        rest = next.trim_start();
        if let Some(mut inside) = rest.strip_prefix('{') {
            loop {
                inside = leaves(inside, before, found);
                inside = inside.trim_start_matches(|c| !"},".contains(c));
                match inside.strip_prefix(',') {
                    Some(next) if !next.trim_start().starts_with('}') => inside = next,
                    Some(next) => inside = next.trim_start(),
                    None => break,
                }
                if inside.starts_with('}') {
                    break;
                }
            }
            before.truncate(depth);
            return inside.strip_prefix('}').unwrap_or(inside);
        }
    }
    found.insert(before.clone());
    before.truncate(depth);
    rest
}
