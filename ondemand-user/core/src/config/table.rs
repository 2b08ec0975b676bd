//! TOML tables whose values keep their line and key, so that each message can name them.

use std::{
    path::{Path, PathBuf},
    rc::Rc,
};

use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

use super::{
    error::Problem,
    parts::{self, Part},
};

/// The position of a value in the file. Its words are made when a message needs them: most files have a thousand
/// values and no mistake.
#[derive(Clone, Debug)]
pub(super) struct Place<'t> {
    lines: &'t Lines,
    /// Of the key, in the text.
    offset: usize,
    /// The key of the table that it is in.
    above: Rc<str>,
    name: &'t str,
}

impl Place<'_> {
    /// Counted from 1.
    fn line(&self) -> usize {
        self.lines.at(self.offset)
    }

    /// Earlier places are less.
    pub(super) fn order(&self) -> (usize, usize) {
        (self.lines.index, self.offset)
    }

    /// Where it is, for a message about `other`: `line 3`, or `FILE:3`.
    pub(super) fn seen_from(&self, other: &Self) -> String {
        match self.lines.index == other.lines.index {
            true => format!("line {}", self.line()),
            false => format!("{}:{}", self.lines.path.display(), self.line()),
        }
    }

    /// `service.wiki.listen`.
    pub(super) fn key(&self) -> String {
        match (&*self.above, self.name) {
            // The document.
            ("", "") => String::new(),
            ("", name) => quoted(name),
            (above, name) => format!("{above}.{}", quoted(name)),
        }
    }

    /// A problem of the value at this place.
    pub(super) fn problem(&self, message: impl Into<String>) -> Problem {
        Problem {
            file: self.lines.file(),
            line: Some(self.line()),
            key: self.key(),
            message: message.into(),
        }
    }

    /// A problem of a key that this table lacks.
    pub(super) fn problem_below(&self, key: &str, message: impl Into<String>) -> Problem {
        Problem {
            key: format!("{}.{key}", self.key()),
            ..self.problem(message)
        }
    }
}

/// A file's place among the others, and the offsets of its line ends.
#[derive(Debug)]
pub(super) struct Lines {
    /// 0: the main file.
    index: usize,
    path: PathBuf,
    ends: Vec<usize>,
}

impl Lines {
    /// Those of a file of the configuration with the main file at `main`.
    pub(super) fn new(index: usize, part: &Part<'_>, main: &Path) -> Self {
        let ends = part.text.match_indices('\n').map(|(offset, _)| offset);
        Self {
            index,
            path: parts::beside(main, part.name.as_deref()),
            ends: ends.collect(),
        }
    }

    /// The file, if it is not the main one.
    pub(super) fn file(&self) -> Option<PathBuf> {
        (self.index > 0).then(|| self.path.clone())
    }

    /// The line of byte `offset`, counted from 1.
    pub(super) fn at(&self, offset: usize) -> usize {
        1 + self.ends.partition_point(|end| *end < offset)
    }
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Value<'t> {
    pub place: Place<'t>,
    value: &'t DeValue<'t>,
}

impl<'t> Value<'t> {
    /// The document `table` as the root value.
    pub(super) fn root(lines: &'t Lines, value: &'t DeValue<'t>) -> Self {
        Self {
            place: Place {
                lines,
                offset: 0,
                above: Rc::from(""),
                name: "",
            },
            value,
        }
    }

    /// Returns the entries of a table: each key and its value with its place.
    pub(super) fn table(&self) -> Result<Vec<(&'t str, Self)>, Problem> {
        let DeValue::Table(table) = self.value else {
            return Err(self.wrong_type("a table", &format!("[{}]", self.place.key())));
        };
        Ok(entries(self, table))
    }

    /// The rest of a name with dots that was written without quotes, as `[service.wiki.example]`: the names
    /// of tables that contain one table each. `None`: this is no table, or an empty one.
    pub(super) fn dotted(&self) -> Option<String> {
        let DeValue::Table(table) = self.value else {
            return None;
        };
        // (The entries of a table are not free, and a service's has several.)
        let (name, value) = (table.len() == 1).then(|| entries(self, table).pop())??;
        if !matches!(value.value, DeValue::Table(_)) {
            return None;
        }
        Some(match value.dotted() {
            Some(rest) => format!("{name}.{rest}"),
            None => name.to_owned(),
        })
    }

    fn is_table(&self) -> bool {
        matches!(self.value, DeValue::Table(_))
    }

    /// Returns the string.
    pub(super) fn string(&self, example: &str) -> Result<&'t str, Problem> {
        match self.value {
            DeValue::String(string) => Ok(string),
            _ => Err(self.wrong_type("a string", example)),
        }
    }

    /// Returns the boolean.
    pub(super) fn boolean(&self) -> Result<bool, Problem> {
        match self.value {
            DeValue::Boolean(value) => Ok(*value),
            _ => Err(self.wrong_type("true or false", "true")),
        }
    }

    /// Returns the string, or the digits of an integer.
    pub(super) fn string_or_integer(&self, example: &str) -> Result<&'t str, Problem> {
        match self.value {
            DeValue::String(string) => Ok(string),
            DeValue::Integer(integer) if integer.radix() == 10 => Ok(integer.as_str()),
            _ => Err(self.wrong_type("a string", example)),
        }
    }

    /// Returns the strings of an array; a single string is an array of one.
    pub(super) fn strings(&self, example: &str) -> Result<Vec<(Place<'t>, &'t str)>, Problem> {
        self.each("an array of strings", example, Self::string)
    }

    /// The same, of strings and of the digits of integers.
    pub(super) fn strings_or_integers(
        &self,
        example: &str,
    ) -> Result<Vec<(Place<'t>, &'t str)>, Problem> {
        self.each("an array of strings", example, Self::string_or_integer)
    }

    fn each(
        &self,
        expected: &str,
        example: &str,
        read: impl Fn(&Self, &str) -> Result<&'t str, Problem>,
    ) -> Result<Vec<(Place<'t>, &'t str)>, Problem> {
        match self.value {
            DeValue::Array(array) => array
                .iter()
                .map(|element| {
                    let place = Place {
                        offset: element.span().start,
                        ..self.place.clone()
                    };
                    let element = Self {
                        place,
                        value: element.get_ref(),
                    };
                    Ok((element.place.clone(), read(&element, example)?))
                })
                .collect(),
            _ => match read(self, example) {
                Ok(one) => Ok(vec![(self.place.clone(), one)]),
                Err(_) => Err(self.wrong_type(expected, example)),
            },
        }
    }

    fn wrong_type(&self, expected: &str, example: &str) -> Problem {
        let found = match self.value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        self.place.problem(format!(
            "expected {expected}, found {found}; write it like {example}"
        ))
    }
}

fn entries<'t>(parent: &Value<'t>, table: &'t DeTable<'t>) -> Vec<(&'t str, Value<'t>)> {
    let above: Rc<str> = parent.place.key().into();
    let entry = |(name, value): (&'t Spanned<DeString<'t>>, &'t Spanned<DeValue<'t>>)| {
        let place = Place {
            lines: parent.place.lines,
            offset: name.span().start,
            above: Rc::clone(&above),
            name: name.get_ref(),
        };
        let value = value.get_ref();
        (place.name, Value { place, value })
    };
    table.iter().map(entry).collect()
}

/// `key` in TOML's notation: quoted unless it is a bare key.
fn quoted(key: &str) -> String {
    let bare = !key.is_empty()
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if bare {
        key.to_owned()
    } else {
        format!("{key:?}")
    }
}

/// A table with known keys: each is taken once, and the rest is reported.
pub(super) struct Section<'t> {
    /// The place of its header.
    pub place: Place<'t>,
    known: &'static [&'static str],
    entries: Vec<(&'t str, Value<'t>)>,
}

impl<'t> Section<'t> {
    /// Opens `value`, which may contain the keys `known`.
    pub(super) fn open(value: &Value<'t>, known: &'static [&'static str]) -> Result<Self, Problem> {
        Ok(Self {
            place: value.place.clone(),
            known,
            entries: value.table()?,
        })
    }

    /// Takes the value of `key`.
    pub(super) fn take(&mut self, key: &str) -> Option<Value<'t>> {
        debug_assert!(self.known.contains(&key), "{key} is not declared");
        let index = self.entries.iter().position(|(name, _)| *name == key)?;
        Some(self.entries.swap_remove(index).1)
    }

    /// The value of `key`, which can still be taken.
    pub(super) fn peek(&self, key: &str) -> Option<&Value<'t>> {
        let found = self.entries.iter().find(|(name, _)| *name == key);
        found.map(|(_, value)| value)
    }

    /// A problem for each key that was not taken.
    pub(super) fn unknown(self) -> Vec<Problem> {
        self.entries
            .iter()
            .map(|(name, value)| {
                let hint = match nearest(name, self.known) {
                    _ if value.is_table() && self.place.key().contains('.') => {
                        format!(
                            "if it is a part of a name with dots, quote the name: {}",
                            example(&self.place.key(), name)
                        )
                    }
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("known keys: {}", self.known.join(", ")),
                };
                value.place.problem(format!("unknown key; {hint}"))
            })
            .collect()
    }
}

/// `[service."wiki.example"]` for `service.wiki` and `example`.
pub(super) fn example(above: &str, rest: &str) -> String {
    match above.split_once('.') {
        Some((kind, name)) => format!("[{kind}.\"{}.{rest}\"]", name.trim_matches('"')),
        None => format!("[{above}.\"{rest}\"]"),
    }
}

/// A longer word is not compared: the cost of a comparison is the product of the lengths.
const LONGEST_COMPARED: usize = super::names::LONGEST_NAME;

/// The entry of `known` that `word` probably means.
pub fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    if word.len() > LONGEST_COMPARED {
        return None;
    }
    let limit = 1 + word.len() / 4;
    known
        .iter()
        // The distance is at least the difference of the lengths.
        .filter(|key| key.len().abs_diff(word.len()) <= limit)
        .map(|key| (distance(word, key), *key))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, key)| key)
}

/// Levenshtein's edit distance, in bytes; `-` and `_` are the same, as are capitals.
fn distance(a: &str, b: &str) -> usize {
    let fold = |byte: u8| {
        if byte == b'-' {
            b'_'
        } else {
            byte.to_ascii_lowercase()
        }
    };
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(fold(x) != fold(y));
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
