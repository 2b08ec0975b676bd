//! Problems of a configuration, each with its line, its key and the remedy.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// An invalid configuration. The program exits with 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    path: PathBuf,
    problems: Vec<Problem>,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line in the file, counted from 1. `None`: the file as a whole.
    pub line: Option<usize>,
    /// The key, `service.wiki.listen`; empty where there is none.
    pub key: String,
    /// What is wrong, and how to correct it.
    pub message: String,
}

impl Problem {
    /// A problem of the whole file.
    pub fn file(message: String) -> Self {
        Self {
            line: None,
            key: String::new(),
            message,
        }
    }
}

impl Error {
    /// `problems` of the file at `path`, sorted by line.
    pub fn new(path: &Path, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.line);
        for problem in &mut problems {
            problem.message = harmless(&problem.message);
        }
        Self {
            path: path.to_owned(),
            problems,
        }
    }

    /// The problems, in the file's order.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl std::error::Error for Error {}

/// `FILE:LINE: KEY: MESSAGE`, one line for each problem.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Problem { line, key, message }) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}", self.path.display())?;
            if let Some(line) = line {
                write!(f, ":{line}")?;
            }
            if !key.is_empty() {
                write!(f, ": {key}")?;
            }
            write!(f, ": {message}")?;
        }
        Ok(())
    }
}

/// `text` with its control characters escaped: it contains parts of the file, and a terminal
/// would interpret them.
fn harmless(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let control = c.is_control();
            let plain = (!control).then_some(c);
            plain
                .into_iter()
                .chain(c.escape_default().filter(move |_| control))
        })
        .collect()
}
