//! Room for services: who of a group may start, who waits, and which idle service goes to make room. Pure; a function of
//! what is known of all services at one moment.
//!
//! In a group at most so many services are up. Who waits comes in the order of arrival, and nobody is stopped who is in
//! use. Of the idle ones the one goes that is least worth keeping ([`worth`]). Memory is less strict: a start waits for none, and
//! idle ones go until the others fit.

pub mod memory;
pub mod simulation;
mod worth;

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

pub use memory::Memory;
pub use worth::{GreedyDual, Worth};

use crate::measure::Ktime;

/// What a service has of its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is down, and takes none.
    None,
    /// It takes one, and must not be stopped: it starts, is used, is held, or that is unknown.
    Taken,
    /// It takes one, and nobody uses it.
    Idle,
    /// It is being stopped.
    Leaving,
}

/// One service.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// Its name: of two that are alike otherwise, the first one comes first.
    pub name: &'a str,
    /// Its group.
    pub group: Option<&'a str>,
    /// What it has.
    pub place: Place,
    /// Since when a client waits for it to be started.
    pub waits: Option<Ktime>,
    /// What it is worth.
    pub worth: f64,
    /// What it takes of memory, in bytes; `None`: that is unknown, so it does not count, and is not stopped for it.
    pub memory: Option<u64>,
    /// How much more it will probably take soon, because it starts, in bytes.
    pub grows: u64,
    /// Whether it may go to give memory back, if it is idle.
    pub gives: bool,
}

/// Why an idle service goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// Clients of another service of its group wait.
    For {
        /// That service.
        service: String,
        /// The group.
        group: String,
    },
    /// More services of its group are up than may be.
    TooMany {
        /// The group.
        group: String,
    },
    /// The services that are up take more memory than they may.
    Memory {
        /// How much more, in bytes; 0: the host is short of it.
        over: u64,
        /// One that starts, if there is one.
        starts: Option<String>,
    },
}

/// What has become of a service's room, since the agent began to watch it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How often it was stopped to make room in its group.
    pub for_group: u64,
    /// How often it was stopped for its memory.
    pub for_memory: u64,
    /// How often it waited for room, until there was some.
    pub waits: u64,
    /// How long, in all.
    pub waited: Duration,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// The services that may start, in the order of arrival.
    pub starts: Vec<String>,
    /// The idle services that are to be stopped, the least worth first.
    pub stops: Vec<(String, Why)>,
    /// The idle services that would go first when room is needed: of each group, and for memory.
    pub next: BTreeSet<String>,
    /// By how many bytes the memory of services is too much when these have gone: all others are in use.
    pub over: u64,
}

/// Decides for services whose groups have so many places (`at_most`). A group that is not in `groups` has no limit. `memory`:
/// `None`: as much as they want.
pub fn decide(
    members: &[Member<'_>],
    groups: &BTreeMap<&str, u32>,
    memory: Option<Memory>,
) -> Decision {
    let mut by_group: BTreeMap<&str, Vec<&Member<'_>>> = BTreeMap::new();
    for member in members {
        if let Some(group) = member.group {
            by_group.entry(group).or_default().push(member);
        }
    }
    let mut decision = Decision::default();
    let first = |members: &mut dyn Iterator<Item = &Member<'_>>| {
        let idle = members.filter(|it| it.place == Place::Idle);
        idle.min_by(|a, b| least(a, b)).map(|it| it.name.to_owned())
    };
    for members in by_group.values() {
        decision.next.extend(first(&mut members.iter().copied()));
    }
    if memory.is_some() {
        let mut giving = members.iter().filter(|it| it.gives && it.memory.is_some());
        decision.next.extend(first(&mut giving));
    }
    for (group, members) in by_group {
        let at_most = groups
            .get(group)
            .map_or(usize::MAX, |at_most| *at_most as usize);
        decide_group(group, at_most, &members, &mut decision);
    }
    if let Some(memory) = memory {
        decide_memory(members, memory, &mut decision);
    }
    decision
}

/// Whether a service that is down fits in without anybody's having to go or to wait longer. Nobody waits for it, so the others come
/// first. `newcomer.grows`: what it will probably take.
pub fn fits(
    newcomer: &Member<'_>,
    members: &[Member<'_>],
    groups: &BTreeMap<&str, u32>,
    memory: Option<Memory>,
) -> bool {
    let others = || members.iter().filter(|it| it.name != newcomer.name);
    let at_most = newcomer.group.and_then(|group| groups.get(group));
    if let Some(at_most) = at_most {
        let group = others().filter(|it| it.group == newcomer.group);
        let taken = group.filter(|it| it.place != Place::None || it.waits.is_some());
        if taken.count() >= *at_most as usize {
            return false;
        }
    }
    let Some(memory) = memory else {
        return true;
    };
    let up = || others().filter(|it| it.place != Place::None);
    let grows = up().fold(newcomer.grows, |sum, it| sum.saturating_add(it.grows));
    let sizes = up().filter_map(|it| it.memory);
    let taken = sizes.fold(grows, u64::saturating_add);
    memory.over(taken, grows, 0) == 0 && !memory.is_short()
}

fn decide_group(group: &str, at_most: usize, members: &[&Member<'_>], decision: &mut Decision) {
    let count = |wanted: fn(Place) -> bool| members.iter().filter(|it| wanted(it.place)).count();
    let taken = count(|place| place != Place::None);
    let leaving = count(|place| place == Place::Leaving);
    let mut waiting: Vec<_> = members
        .iter()
        .filter(|it| it.place == Place::None)
        .filter_map(|it| Some((it.waits?, it.name)))
        .collect();
    waiting.sort_unstable();
    let free = at_most.saturating_sub(taken);
    let starts = waiting.iter().take(free);
    decision
        .starts
        .extend(starts.map(|(_, name)| (*name).to_owned()));
    // Whom those that are leaving make room for needs no other one to go; with too many up they come first.
    let too_many = taken.saturating_sub(at_most);
    let others = waiting.iter().skip(free).map(|(_, name)| Why::For {
        service: (*name).to_owned(),
        group: group.to_owned(),
    });
    let whys = (0..too_many)
        .map(|_| Why::TooMany {
            group: group.to_owned(),
        })
        .chain(others)
        .skip(leaving);
    let mut idle: Vec<_> = members
        .iter()
        .filter(|it| it.place == Place::Idle)
        .collect();
    idle.sort_unstable_by(|a, b| least(a, b));
    let stops = idle.iter().map(|it| it.name.to_owned()).zip(whys);
    decision.stops.extend(stops);
}

fn decide_memory(members: &[Member<'_>], memory: Memory, decision: &mut Decision) {
    let going: BTreeSet<&str> = decision
        .stops
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    let goes = |it: &&Member<'_>| it.place == Place::Leaving || going.contains(it.name);
    let size = |it: &Member<'_>| it.memory.unwrap_or(0);
    let leaving: u64 = members.iter().filter(goes).map(size).sum();
    let stays = members
        .iter()
        .filter(|it| it.place != Place::None && !goes(it));
    let taken: u64 = stays
        .clone()
        .map(|it| size(it).saturating_add(it.grows))
        .sum();
    let grows: u64 = stays.clone().map(|it| it.grows).sum();
    let mut over = memory.over(taken, grows, leaving);
    let is_short = memory.is_short() && leaving == 0;
    if over == 0 && !is_short {
        return;
    }
    let starts = stays
        .clone()
        .find(|it| it.grows > 0)
        .map(|it| it.name.to_owned());
    let mut idle: Vec<_> = stays
        .filter(|it| it.place == Place::Idle && it.gives && it.memory.is_some())
        .collect();
    idle.sort_unstable_by(|a, b| least(a, b));
    for (index, member) in idle.into_iter().enumerate() {
        if over == 0 && (index > 0 || !is_short) {
            break;
        }
        let why = Why::Memory {
            over,
            starts: starts.clone(),
        };
        decision.stops.push((member.name.to_owned(), why));
        over = over.saturating_sub(size(member));
    }
    decision.over = over;
}

/// The order in which they go.
fn least(a: &Member<'_>, b: &Member<'_>) -> Ordering {
    a.worth.total_cmp(&b.worth).then_with(|| a.name.cmp(b.name))
}

#[cfg(test)]
mod tests;
