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
    /// The file, if it is not the main one.
    pub file: Option<PathBuf>,
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
            file: None,
            line: None,
            key: String::new(),
            message,
        }
    }
}

impl Error {
    /// `problems` of the configuration with the main file at `path`, sorted by file and line.
    pub fn new(path: &Path, mut problems: Vec<Problem>) -> Self {
        problems.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
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
        for (i, problem) in self.problems.iter().enumerate() {
            let Problem {
                file,
                line,
                key,
                message,
            } = problem;
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}", file.as_ref().unwrap_or(&self.path).display())?;
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
