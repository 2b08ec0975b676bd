//! What services take of memory, and what the host has: for `memory_budget`.
//!
//! The files of cgroups are read, not PID 1 asked: it has one thread, and there may be a thousand services. It is asked once in a
//! run for the name of the cgroup.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::Duration,
};

use ondemand_core::{
    config::MemoryBudget,
    measure::Ktime,
    room::{Memory, Place, memory},
};

use super::{Agent, events::Message, watched::Watched};
use crate::host::clock;

/// How often memory is read while a service is up that could go.
const EVERY: Duration = Duration::from_secs(5);
/// The shortest time between two readings.
const SOONEST: Duration = Duration::from_millis(250);
/// How long after its start an application is expected to take what it took before.
const GROWS: Duration = Duration::from_secs(10);
/// How long the kernel's figure for pressure tells of what is over: it is an average of so long.
const AVERAGE: Duration = Duration::from_secs(10);
/// Where memory is accounted: cgroup2, or v1 with its own hierarchy for it.
const PLACES: [(&str, &str); 3] = [
    ("/sys/fs/cgroup", "memory.current"),
    ("/sys/fs/cgroup/memory", "memory.usage_in_bytes"),
    ("/sys/fs/cgroup/unified", "memory.current"),
];

/// What is known of the memory of all services.
#[derive(Debug, Default)]
pub(super) struct Readings {
    /// A reading is under way.
    is_read: bool,
    /// When the last one ended.
    last: Option<Ktime>,
    /// Of the host, in bytes, and whether programs wait for memory.
    host: Option<(u64, bool)>,
    /// It is to be read soon.
    pub is_wanted: bool,
    /// When a service was stopped last because they do.
    pub eased: Option<Ktime>,
    /// When it was logged that too much is taken by those that are in use.
    pub said_over: Option<Ktime>,
}

/// Of one service.
#[derive(Clone, Debug, Default)]
pub(super) struct Footprint {
    /// Its cgroup, in this run.
    group: Option<(Option<Ktime>, String)>,
    /// Bytes, when they were read last. `None`: they are not accounted, or it is down.
    pub now: Option<u64>,
    /// Bytes when they were read last while it was not frozen: what is taken back then it takes again.
    awake: Option<u64>,
    /// Bytes before it went down last.
    before: Option<u64>,
    /// There is nothing to read, which was logged.
    is_unknown: bool,
}

/// The results of one reading.
pub(super) struct Reading {
    services: Vec<OfService>,
    /// The host's `MemAvailable`, and whether programs wait.
    host: Option<(u64, bool)>,
}

struct OfService {
    name: String,
    run: Option<Ktime>,
    /// Its cgroup, and what that takes, in bytes.
    group: Option<String>,
    bytes: Option<u64>,
}

impl Footprint {
    /// It is down.
    pub fn is_down(&mut self) {
        self.before = self.awake.take().or(self.now).or(self.before);
        (self.now, self.group) = (None, None);
    }

    /// It takes so much.
    fn read(&mut self, bytes: Option<u64>, is_frozen: bool) {
        self.now = bytes;
        if !is_frozen {
            self.awake = bytes;
        }
    }

    /// What it took when it was up last, if it is not known now.
    pub fn usual(&self) -> Option<u64> {
        self.now.or(self.before)
    }

    /// How much more it will probably take: it has just started.
    pub fn grows(&self, began: Option<Ktime>, now: Ktime) -> u64 {
        let is_young = began
            .and_then(|began| now.since(began))
            .is_none_or(|age| age < GROWS);
        match self.before {
            Some(before) if is_young => before.saturating_sub(self.now.unwrap_or(0)),
            _ => 0,
        }
    }
}

impl Agent {
    /// What there is of memory. `None`: there is no budget, or it is not known.
    pub(super) fn memory(&self, now: Ktime) -> Option<Memory> {
        match self.config.agent.memory_budget.filter(|_| !self.dry_run)? {
            MemoryBudget::Bytes(bytes) => Some(Memory::Budget(bytes)),
            MemoryBudget::Auto { reserve } => {
                let (available, is_short) = self.room.readings.host?;
                let was_eased = |at: Ktime| now.since(at).is_some_and(|age| age < AVERAGE);
                Some(Memory::Host {
                    available,
                    reserve,
                    is_short: is_short && !self.room.readings.eased.is_some_and(was_eased),
                })
            }
        }
    }

    /// Whether idle services stay up as long as their memory fits.
    pub(super) fn has_budget(&self) -> bool {
        self.config.agent.memory_budget.is_some() && !self.dry_run
    }

    /// When memory is to be read next.
    pub(super) fn memory_due(&self) -> Option<Ktime> {
        let readings = &self.room.readings;
        if !self.has_budget() || readings.is_read {
            return None;
        }
        // The next start asks for it.
        if self.services.totals().up == 0 && !readings.is_wanted && readings.last.is_some() {
            return None;
        }
        let pause = match self.room.readings.is_wanted {
            true => SOONEST,
            false => EVERY,
        };
        Some(
            self.room
                .readings
                .last
                .map_or(Ktime::default(), |last| last + pause),
        )
    }

    /// Reads the memory of all that is up, if that is due.
    pub(super) fn read_memory(&mut self, now: Ktime) {
        if self.memory_due().is_none_or(|at| at > now) {
            return;
        }
        let up = self
            .services
            .iter()
            .filter(|(_, it)| it.placed.place() != Place::None);
        let mut services = Vec::new();
        for (name, watched) in up {
            let run = self.run_of(watched);
            let group = watched.placed.footprint.group.as_ref();
            let group = group
                .filter(|(of, _)| *of == run)
                .map(|(_, group)| group.clone());
            services.push((name.clone(), watched.service.unit.clone(), run, group));
        }
        self.room.readings.is_wanted = false;
        let Some(systemd) = self.systemd.caller().filter(|_| !services.is_empty()) else {
            self.room.readings.last = Some(now);
            return;
        };
        self.room.readings.is_read = true;
        let messages = self.messages.clone();
        tokio::spawn(async move {
            let mut known = Vec::new();
            for (name, unit, run, mut group) in services {
                if group.is_none() {
                    let owner = systemd.owner(&unit).await;
                    let owner = owner.inspect_err(|error| log::debug!("{error:#}"));
                    group = owner
                        .ok()
                        .map(|it| it.control_group)
                        .filter(|it| !it.is_empty());
                }
                known.push((name, run, group));
            }
            // Of each of them the kernel adds up what all CPUs have.
            let read = tokio::task::spawn_blocking(|| {
                let read = |(name, run, group): (String, Option<Ktime>, Option<String>)| {
                    let bytes = group.as_deref().and_then(taken_by);
                    OfService {
                        name,
                        run,
                        group,
                        bytes,
                    }
                };
                Reading {
                    services: known.into_iter().map(read).collect(),
                    host: of_host(),
                }
            });
            // Neither does it panic, nor is the receiver gone unless the agent has exited.
            if let Ok(reading) = read.await {
                let _ = messages.send(Message::Memory(reading));
            }
        });
    }

    fn run_of(&self, watched: &Watched) -> Option<Ktime> {
        self.units_of(watched)?.backend.inactive_exit
    }

    /// Takes a reading.
    pub(super) fn take_memory(&mut self, reading: Reading) {
        let now = clock::now();
        let readings = &mut self.room.readings;
        (readings.is_read, readings.last) = (false, Some(now));
        if readings.host.is_some() && reading.host.is_none() {
            log::warn!(
                "/proc/meminfo cannot be read: services go when they are idle (memory_budget)"
            );
        }
        readings.host = reading.host;
        for of in reading.services {
            let OfService {
                name,
                run,
                group,
                bytes,
            } = of;
            let Some(watched) = self.services.get(&name) else {
                continue;
            };
            if self.run_of(watched) != run {
                continue;
            }
            let Some(watched) = self.services.get_mut(&name) else {
                continue;
            };
            let is_frozen = watched.freezing.is_frozen();
            let footprint = &mut watched.placed.footprint;
            footprint.group = group.map(|group| (run, group));
            footprint.read(bytes, is_frozen);
            if bytes.is_none() && footprint.group.is_some() && !footprint.is_unknown {
                footprint.is_unknown = true;
                log::warn!(
                    "{name}: its memory is not accounted, so it does not count for memory_budget, and goes when it is idle: \
                     MemoryAccounting=yes in its unit makes systemd do that"
                );
            }
            if let Some(bytes) = bytes {
                footprint.is_unknown = false;
                if !is_frozen {
                    watched.memory.store(bytes, Ordering::Relaxed);
                }
            }
        }
        self.doubt_room();
    }
}

fn taken_by(group: &str) -> Option<u64> {
    let group = group.trim_start_matches('/');
    PLACES.iter().find_map(|(top, file)| {
        let directory: PathBuf = Path::new(top).join(group);
        let current = fs::read_to_string(directory.join(file)).ok()?;
        let stat = fs::read_to_string(directory.join("memory.stat")).ok()?;
        memory::of_cgroup(&current, &stat)
    })
}

/// A kernel without PSI tells of no pressure.
fn of_host() -> Option<(u64, bool)> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let pressure = fs::read_to_string("/proc/pressure/memory").ok();
    let pressure = pressure.as_deref().and_then(memory::Pressure::parse);
    Some((
        memory::available(&text)?,
        pressure.is_some_and(memory::Pressure::is_high),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_back_of_a_frozen_one_counts_at_its_next_start() {
        let mut footprint = Footprint::default();
        footprint.read(Some(100), false);
        footprint.read(Some(10), true);
        assert_eq!(footprint.usual(), Some(10));
        footprint.is_down();
        assert_eq!(footprint.usual(), Some(100));
        assert_eq!(footprint.grows(None, Ktime::default()), 100);
        // An agent that has only seen it frozen.
        let mut footprint = Footprint::default();
        footprint.read(Some(10), true);
        footprint.is_down();
        assert_eq!(footprint.usual(), Some(10));
    }
}
