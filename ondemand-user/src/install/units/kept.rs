//! The units of all services, as the last run of the generator wrote them: what those go on with that have left the
//! configuration.
//!
//! One file, because four small ones for each of a thousand services take longer than the rest of a run. An earlier
//! version kept them in the services' directories of the record, from where they are still read.

use std::{
    collections::HashMap,
    fmt::Write as _,
    fs::{self, DirBuilder, File},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{self, Read as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use super::{Content, UnitFile};
use crate::host::atomic_file;

/// Its name, beside the record.
pub(super) const FILE: &str = "generated";
/// Begins the line before each unit, which has its name and its length in bytes.
const HEADING: &str = "# ";
/// The first of them: a hash of the others.
const FINGERPRINT: &str = "fingerprint";

/// The file.
pub struct Kept(PathBuf);

impl Kept {
    /// That beside the directory of a record.
    pub fn beside(record: &Path) -> Self {
        Self(record.with_file_name(FILE))
    }

    /// Its text; empty if there is none.
    pub fn read(&self) -> String {
        fs::read_to_string(&self.0).unwrap_or_default()
    }

    /// Keeps a copy of the units that were generated, but for the drop-ins.
    ///
    /// # Errors
    ///
    /// It cannot be written; the copy is unchanged.
    pub(super) fn keep<'a>(
        &self,
        files: impl IntoIterator<Item = &'a UnitFile> + Clone,
    ) -> io::Result<()> {
        let all_units = || files.clone().into_iter().filter_map(unit);
        let mut hasher = DefaultHasher::new();
        all_units().for_each(|unit| unit.hash(&mut hasher));
        let fingerprint = format!("{:016x}", hasher.finish());
        // Mostly they are the same: to write megabytes anew takes longer.
        let mut all = String::new();
        add(&mut all, (FINGERPRINT, &fingerprint));
        let path = &self.0;
        if is_begin_of(path, all.as_bytes()) {
            return Ok(());
        }
        all_units().for_each(|unit| add(&mut all, unit));
        if let Some(parent) = path.parent() {
            make_private(parent)?;
        }
        atomic_file::replace(path, all.as_bytes(), 0o600)
    }
}

/// Name and text of a file, if it is a unit to be kept.
fn unit(file: &UnitFile) -> Option<(&str, &str)> {
    let name = file.path.to_str().filter(|name| !name.contains('/'))?;
    match &file.content {
        Content::Text(text) => Some((name, text)),
        Content::Link(_) => None,
    }
}

fn add(all: &mut String, (name, text): (&str, &str)) {
    let _ = writeln!(all, "{HEADING}{name} {}", text.len()); // A String takes everything.
    *all += text;
}

fn is_begin_of(path: &Path, expected: &[u8]) -> bool {
    let mut begin = vec![0; expected.len()];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut begin));
    read.is_ok() && begin == expected
}

/// Makes a directory for root only, as a copy of the configuration may be.
pub(super) fn make_private(directory: &Path) -> io::Result<()> {
    let mut maker = DirBuilder::new();
    maker.recursive(true).mode(0o700).create(directory)
}

/// The units in its text, by their names.
pub(super) fn units(mut text: &str) -> HashMap<&str, &str> {
    let mut found = HashMap::new();
    while let Some((heading, rest)) = text.split_once('\n') {
        let unit = heading
            .strip_prefix(HEADING)
            .and_then(|it| it.split_once(' '));
        let unit = unit.and_then(|(name, length)| Some((name, length.parse().ok()?)));
        let Some((name, (unit, next))) =
            unit.and_then(|(name, length)| Some((name, rest.split_at_checked(length)?)))
        else {
            break;
        };
        found.insert(name, unit);
        text = next;
    }
    found
}
