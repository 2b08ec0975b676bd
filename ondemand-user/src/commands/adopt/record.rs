//! What was changed for a service that was adopted: by this its adoption is finished, or taken back.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::links::Link;
use crate::{
    host::{atomic_file, directories, small_file},
    install::units::last_good::STATE,
};

/// Below the directory of root's own state.
const DIRECTORY: &str = "adopted";
/// A record is shorter. Bytes.
const LONGEST: u64 = 1 << 20;

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// `ondemand adopt` is at work, or was killed.
    Adopting,
    /// It is done.
    Adopted,
    /// `ondemand abandon` is at work, or was killed.
    Abandoning,
}

/// The record of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// How far it has come.
    pub phase: Phase,
    /// The application's unit.
    pub unit: String,
    /// The file with the service.
    pub file: PathBuf,
    /// Its text, as it was written.
    pub text: String,
    /// Whether the application was up.
    pub was_up: bool,
    /// The links that enabled the unit.
    pub links: Vec<Link>,
}

/// Where the records are.
fn directory() -> PathBuf {
    Path::new(STATE).join(DIRECTORY)
}

impl Record {
    /// That of a service. `None`: it was not adopted, or the record is unreadable.
    pub fn of(name: &str) -> Option<Self> {
        let bytes = small_file::read(&directory().join(name), LONGEST).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// The service of a unit, by its record.
    pub fn of_unit(unit: &str) -> Option<(String, Self)> {
        let entries = fs::read_dir(directory()).into_iter().flatten().flatten();
        let mut names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.find_map(|name| {
            let record = Self::of(&name).filter(|record| record.unit == unit)?;
            Some((name, record))
        })
    }

    /// Writes it.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn write(&self, name: &str) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        let directory = directory();
        let made = directories::create(Path::new(STATE), 0o755)
            .and_then(|()| directories::create(&directory, 0o755))
            .and_then(|()| atomic_file::replace(&directory.join(name), text.as_bytes(), 0o644));
        made.with_context(|| format!("write the record {}", directory.join(name).display()))
    }

    /// Removes that of a service.
    ///
    /// # Errors
    ///
    /// It cannot be removed.
    pub fn forget(name: &str) -> Result<()> {
        let path = directory().join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }
}
