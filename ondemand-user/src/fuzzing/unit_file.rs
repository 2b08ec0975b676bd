//! A parser of unit files like systemd's: systemd.syntax(7), and `config_parse` in
//! src/shared/conf-parser.c where the manual has no rule.

/// Whitespace of systemd (`WHITESPACE`, src/fundamental/string-util-fundamental.h).
const SPACES: [char; 4] = [' ', '\t', '\n', '\r'];

/// An assignment.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    pub section: String,
    pub key: String,
    pub value: String,
}

/// Returns all assignments of a file.
///
/// # Panics
///
/// systemd would reject a line, or join it with the next one.
pub fn entries(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut section = String::new();
    // The line ends of read_line().
    for line in text.split(['\n', '\r', '\0']) {
        let line = line.trim_matches(SPACES);
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let backslashes = line.len() - line.trim_end_matches('\\').len();
        assert!(backslashes % 2 == 0, "continues on the next line: {line:?}");
        if let Some(name) = line.strip_prefix('[') {
            section = name
                .strip_suffix(']')
                .expect("an open section header")
                .into();
            continue;
        }
        let (key, value) = line.split_once('=').expect("neither section nor key");
        entries.push(Entry {
            section: section.clone(),
            key: key.trim_matches(SPACES).into(),
            value: value.trim_matches(SPACES).into(),
        });
    }
    entries
}

/// Returns a value with its specifiers replaced (systemd.unit(5)).
///
/// # Panics
///
/// It contains a specifier other than the percent sign.
pub fn without_specifiers(value: &str) -> String {
    single(value, '%', "a specifier")
}

/// Replaces each pair of `sign` by one; a single one would start `what`.
fn single(value: &str, sign: char, what: &str) -> String {
    let mut text = String::new();
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        if c == sign {
            assert_eq!(chars.next(), Some(sign), "{what}: {value:?}");
        }
        text.push(c);
    }
    text
}

/// Returns the words of a command line (systemd.service(5), "Command lines").
///
/// # Panics
///
/// It contains a specifier, a variable, a second command, or an open quote.
pub fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut chars = line.chars().peekable();
    loop {
        while chars.next_if(|c| SPACES.contains(c)).is_some() {}
        if chars.peek().is_none() {
            break;
        }
        let mut word = String::new();
        let mut quote = None;
        let mut quoted = false;
        loop {
            match (chars.next(), quote) {
                (None, quote) => {
                    assert_eq!(quote, None, "an open quote: {line:?}");
                    break;
                }
                (Some('\\'), _) => {
                    let c = chars.next().expect("a backslash at the end");
                    assert!(['\\', '"'].contains(&c), "\\{c} in {line:?}");
                    word.push(c);
                }
                (Some(c), Some(end)) if c == end => quote = None,
                (Some(c @ ('"' | '\'')), None) => {
                    quote = Some(c);
                    quoted = true;
                }
                (Some(c), None) if SPACES.contains(&c) => break,
                (Some(c), _) => word.push(c),
            }
        }
        assert!(quoted || word != ";", "a second command: {line:?}");
        words.push(single(&without_specifiers(&word), '$', "a variable"));
    }
    words
}
