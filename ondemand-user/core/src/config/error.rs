//! Problems of a configuration, each with its line, its key and the remedy.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use crate::words;

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
            // It contains parts of the file.
            problem.message = words::on_one_line(&problem.message);
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
