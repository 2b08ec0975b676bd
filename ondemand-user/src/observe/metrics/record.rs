//! Ledgers on disk: a small file per service.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use super::ledger::Ledger;
use crate::host::{atomic_file, directories};

/// Maximum size of a file. Bytes.
const LARGEST: u64 = 64 << 10;

/// The directory of the files. Like the kernel's counters, it is kept until the next boot.
#[derive(Clone, Debug)]
pub struct Record {
    directory: PathBuf,
}

impl Record {
    /// In the runtime directory from systemd, or its default.
    pub fn here() -> Self {
        Self::at(&directories::directory().join("metrics"))
    }

    /// In this directory, which need not exist.
    pub fn at(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
        }
    }

    /// The path of the gaps of all services: beside the directory, in which any name may be that of a service.
    pub fn gaps(&self) -> PathBuf {
        self.directory.with_file_name("gaps")
    }

    /// The path of a service's ledger. The suffix makes names like `..` harmless.
    pub fn path(&self, service: &str) -> PathBuf {
        self.directory.join(format!("{service}.json"))
    }

    /// Reads the ledger of a service. `None`: there is none.
    ///
    /// # Errors
    ///
    /// It cannot be read or parsed.
    pub fn load(&self, service: &str) -> Result<Option<Ledger>> {
        let path = self.path(service);
        let read = || -> Result<Option<Ledger>> {
            let file = match File::open(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                file => file?,
            };
            let mut bytes = Vec::new();
            file.take(LARGEST + 1).read_to_end(&mut bytes)?;
            ensure!(bytes.len() as u64 <= LARGEST, "larger than {LARGEST} bytes");
            Ok(Some(parse(&bytes)?))
        };
        read().with_context(|| format!("read {}", path.display()))
    }

    /// Writes the ledger of a service atomically.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn save(&self, service: &str, ledger: &Ledger) -> Result<()> {
        let path = self.path(service);
        let write = || -> Result<()> {
            let bytes = serde_json::to_vec(ledger)?;
            match atomic_file::replace(&path, &bytes, 0o600) {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    fs::create_dir_all(&self.directory)?;
                    Ok(atomic_file::replace(&path, &bytes, 0o600)?)
                }
                written => Ok(written?),
            }
        };
        write().with_context(|| format!("write {}", path.display()))
    }
}

/// Parses a ledger.
///
/// # Errors
///
/// It is not a ledger.
pub(crate) fn parse(bytes: &[u8]) -> Result<Ledger> {
    Ok(serde_json::from_slice(bytes)?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use ondemand_core::{
        lifecycle::{Counter, note::VetoReason},
        measure::Ktime,
        runs::{RunEvent, Stamps, Start},
    };

    fn ledger() -> Ledger {
        let at = |seconds: u64| Ktime::from_nanos(seconds * 1_000_000_000);
        let start = Start {
            began: Some(at(4)),
            up: Some(at(5)),
        };
        let mut ledger = Ledger::default();
        ledger.set_unit("wiki.service");
        ledger.take(&RunEvent::Found(Stamps::default()), at(3));
        ledger.take(&RunEvent::Began { at: start.began }, at(6));
        ledger.take(&RunEvent::Started(start), at(6));
        ledger.count(Counter::Veto(VetoReason::HalfOpen));
        ledger.times.measured(u64::MAX);
        let (at, failed) = (Some(at(7)), false);
        ledger.take(
            &RunEvent::Down { at, failed },
            Ktime::from_nanos(8_000_000_000),
        );
        ledger.times.advance(Ktime::from_nanos(u64::MAX));
        ledger.start_durations.observe(Duration::from_nanos(1));
        ledger
    }

    #[test]
    fn what_is_written_is_read_to_the_last_digit() {
        let directory = tempfile::tempdir().unwrap();
        let record = Record::at(&directory.path().join("metrics"));
        assert_eq!(record.load("wiki").unwrap(), None);
        for name in ["wiki", "..", "wiki.json"] {
            record.save(name, &ledger()).unwrap();
            assert_eq!(record.load(name).unwrap(), Some(ledger()), "{name}");
        }
        let files = fs::read_dir(directory.path().join("metrics")).unwrap();
        assert_eq!(files.count(), 3, "no other file is left");
    }

    #[test]
    fn what_is_no_ledger_is_said_with_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let record = Record::at(directory.path());
        let whole = serde_json::to_string(&ledger()).unwrap();
        let large = " ".repeat(LARGEST as usize) + &whole;
        for text in ["", "{}", "[]", &whole[..whole.len() - 1], &large] {
            fs::write(record.path("wiki"), text).unwrap();
            let error = format!("{:#}", record.load("wiki").unwrap_err());
            assert!(error.contains("wiki.json"), "{error}");
        }
    }

    #[test]
    fn a_record_that_cannot_be_written_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Record::at(file.path()).save("wiki", &ledger()).unwrap_err();
        assert!(format!("{error:#}").contains("wiki.json"), "{error:#}");
    }
}
