//! What other idle timeouts would have meant, of all services of this boot, in one file.
//!
//! In one, because gaps end more often than services stop, and in the services' sum those that have left the
//! configuration stay: a counter never decreases.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::ErrorKind,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use ondemand_core::{whatif::WhatIf, words::counted};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    super::history::What,
    waits::{Waits, Way},
};
use crate::host::{atomic_file, complaints::Complaints, small_file};

/// How long changes are gathered before they are written, unless a scrape comes: what a kill may lose, as in the
/// history.
const GATHERED: Duration = Duration::from_secs(5);
/// Maximum size of the file. Bytes.
const LARGEST: u64 = 16 << 20;
/// With more services than that, those that have left the configuration are summed.
const MOST: usize = 4096;
/// The name of that sum, and of what belongs to the host. No service has it.
const GONE: &str = "";

/// The gaps of all services.
#[derive(Debug)]
pub struct Uses {
    path: PathBuf,
    services: BTreeMap<String, WhatIf>,
    waits: Waits,
    /// When to write it, if it has changed since it was written.
    due: Option<Instant>,
    complaints: Complaints<()>,
}

#[derive(Serialize)]
struct Line<'a> {
    service: &'a str,
    gaps: &'a WhatIf,
    #[serde(skip_serializing_if = "Option::is_none")]
    waits: Option<&'a Waits>,
}

#[derive(Deserialize)]
struct Read {
    service: String,
    gaps: WhatIf,
    #[serde(default)]
    waits: Option<Waits>,
}

impl Uses {
    /// Those of the file, which need not exist.
    pub fn open(path: PathBuf) -> Self {
        let read = || -> Result<Vec<u8>> {
            let bytes = match small_file::read(&path, LARGEST + 1) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
                bytes => bytes?,
            };
            ensure!(bytes.len() as u64 <= LARGEST, "larger than {LARGEST} bytes");
            Ok(bytes)
        };
        let read = read().with_context(|| format!("read {}", path.display()));
        let (services, waits, damaged) = match read {
            Ok(bytes) => parse(&String::from_utf8_lossy(&bytes)),
            Err(error) => {
                log::warn!("what other idle timeouts would have meant is counted anew: {error:#}");
                Default::default()
            }
        };
        if damaged > 0 {
            log::warn!(
                "what other idle timeouts would have meant is counted anew for {}, {} is damaged",
                counted(damaged, "service"),
                path.display()
            );
        }
        Self {
            path,
            services,
            waits,
            due: None,
            complaints: Complaints::default(),
        }
    }

    /// Takes what the history is told of a service, and the timeout that is learned of it.
    pub fn take(&mut self, service: &str, what: &What, learned: Duration) {
        let gaps = match self.services.get_mut(service) {
            Some(gaps) => gaps,
            None => self.services.entry(service.to_owned()).or_default(),
        };
        match *what {
            What::Quiet { since } => gaps.quiet(since, learned),
            What::Found { started, used } => gaps.found(started, used, learned),
            What::Arrived { at, gap } => gaps.arrived(at, gap, learned),
            _ => return,
        }
        self.due.get_or_insert_with(|| Instant::now() + GATHERED);
    }

    /// A client has waited for so long.
    pub fn waited(&mut self, way: Way, waited: Duration) {
        self.services.entry(GONE.into()).or_default();
        self.waits.add(way, waited);
        self.due.get_or_insert_with(|| Instant::now() + GATHERED);
    }

    /// How long clients have waited.
    pub fn waits(&self) -> &Waits {
        &self.waits
    }

    /// These are the services now.
    pub fn configure<'a>(&mut self, services: impl Iterator<Item = &'a String>) {
        if self.services.len() <= MOST {
            return;
        }
        let present: BTreeSet<&String> = services.collect();
        let mut gone = WhatIf::default();
        self.services.retain(|name, gaps| {
            let stays = present.contains(name);
            if !stays {
                gone.merge(gaps);
            }
            stays
        });
        self.services.insert(GONE.into(), gone);
        self.due.get_or_insert_with(Instant::now);
    }

    /// When to write it.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The gaps of a service, if there were any.
    pub fn of(&self, service: &str) -> Option<&WhatIf> {
        self.services.get(service)
    }

    /// The sum of all, with those that have left the configuration.
    pub fn total(&self) -> WhatIf {
        let mut sum = WhatIf::default();
        for gaps in self.services.values() {
            sum.merge(gaps);
        }
        sum
    }

    /// Writes what has changed.
    pub fn save(&mut self) {
        if self.due.take().is_none() {
            return;
        }
        let mut text = Vec::with_capacity(self.services.len() * 512);
        for (service, gaps) in &self.services {
            let waits = (service == GONE).then_some(&self.waits);
            let line = Line {
                service,
                gaps,
                waits,
            };
            // Strings and whole numbers always serialize, and a vector takes all.
            let _ = serde_json::to_writer(&mut text, &line);
            text.push(b'\n');
        }
        let write = || match atomic_file::replace(&self.path, &text, 0o600) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fs::create_dir_all(self.path.parent().unwrap_or(&self.path))?;
                atomic_file::replace(&self.path, &text, 0o600)
            }
            written => written,
        };
        let written = write().with_context(|| format!("write {}", self.path.display()));
        if let Some(error) = self.complaints.follow((), &written) {
            log::warn!("what other idle timeouts would have meant ends with the agent: {error}");
        }
    }
}

/// Parses the file. Also returns the number of lines that are no state that could have been written.
pub(crate) fn parse(text: &str) -> (BTreeMap<String, WhatIf>, Waits, u64) {
    let (mut services, mut waits) = (BTreeMap::new(), Waits::default());
    let mut damaged = 0;
    for line in text.lines() {
        match serde_json::from_str::<Read>(line) {
            Ok(read) if read.gaps.is_sound() => {
                waits = read.waits.unwrap_or(waits);
                services.insert(read.service, read.gaps);
            }
            _ => damaged += 1,
        }
    }
    (services, waits, damaged)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const LEARNED: Duration = Duration::from_secs(60);

    fn at(directory: &Path) -> PathBuf {
        directory.join("run/gaps")
    }

    fn arrive(uses: &mut Uses, service: &str, at: i64) {
        let gap = Some(30_000);
        uses.take(service, &What::Arrived { at, gap }, LEARNED);
    }

    fn arrivals(uses: &Uses) -> u64 {
        uses.total().replay().arrivals()
    }

    #[test]
    fn sums_outlive_the_agent_and_the_configuration() {
        let directory = tempfile::tempdir().unwrap();
        let mut first = Uses::open(at(directory.path()));
        assert_eq!((first.due(), arrivals(&first)), (None, 0));
        arrive(&mut first, "a", 1000);
        arrive(&mut first, "b", 2000);
        first.take("b", &What::Quiet { since: 5000 }, LEARNED);
        first.take("b", &What::Listening { after: 1 }, LEARNED);
        assert!(first.due().is_some());
        first.waited(Way::Held, LEARNED);
        first.save();
        assert_eq!(first.due(), None);
        let mut second = Uses::open(at(directory.path()));
        assert_eq!(second.services, first.services);
        assert_eq!(second.waits, first.waits);
        // Of the first, nothing is asked any more.
        second.configure([String::from("b")].iter());
        let (started, used) = (Some(9000), 9500);
        second.take("b", &What::Found { started, used }, LEARNED);
        assert_eq!(second.of("b").unwrap().replay().arrivals(), 2);
        assert_eq!(arrivals(&second), 3);
        assert!(second.of("c").is_none());
    }

    #[test]
    fn many_that_have_left_are_one() {
        let directory = tempfile::tempdir().unwrap();
        let mut uses = Uses::open(at(directory.path()));
        for number in 0..=MOST {
            arrive(&mut uses, &format!("s{number}"), 1000);
        }
        let all = uses.total();
        uses.waited(Way::Native, LEARNED);
        let stays = [String::from("s7")];
        uses.configure(stays.iter());
        assert_eq!(uses.services.len(), 2);
        assert_eq!(uses.total(), all);
        uses.save();
        assert_eq!(Uses::open(at(directory.path())).total(), all);
    }

    #[test]
    fn a_damaged_line_costs_one_service() {
        let directory = tempfile::tempdir().unwrap();
        let mut first = Uses::open(at(directory.path()));
        for service in ["a", "b", "c"] {
            arrive(&mut first, service, 1000);
        }
        first.save();
        let path = at(directory.path());
        let text = fs::read_to_string(&path).unwrap();
        let whole = text.lines().nth(1).unwrap();
        for line in [
            "",
            "x",
            "{}",
            &whole[..200],
            &whole.replacen("[0,0],", "", 1),
        ] {
            fs::write(&path, text.replace(whole, line)).unwrap();
            let mut second = Uses::open(path.clone());
            assert_eq!(arrivals(&second), 2, "{line}");
            arrive(&mut second, "b", 2000);
            second.save();
            assert_eq!(arrivals(&Uses::open(path.clone())), 3);
        }
        // A directory, a file that is too large, and one that cannot be written.
        fs::write(&path, vec![b' '; LARGEST as usize + 1]).unwrap();
        assert_eq!(arrivals(&Uses::open(path.clone())), 0);
        let mut nowhere = Uses::open("/proc/gaps".into());
        arrive(&mut nowhere, "a", 1000);
        nowhere.save();
        assert_eq!(arrivals(&nowhere), 1);
    }
}
