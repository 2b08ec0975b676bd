//! Room for services: who of a group may start, who waits, and which idle service goes to make room. Pure; a function of
//! what is known of all services at one moment.
//!
//! In a group at most so many services are up. Who waits comes in the order of arrival, and nobody is stopped who is in
//! use. Of the idle ones the one goes that is least worth keeping ([`worth`]).

mod worth;

use std::{cmp::Ordering, collections::BTreeMap};

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
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// The services that may start, in the order of arrival.
    pub starts: Vec<String>,
    /// The idle services that are to be stopped, the least worth first.
    pub stops: Vec<(String, Why)>,
}

/// Decides for services whose groups have so many places (`at_most`). A group that is not in `groups` has no limit.
pub fn decide(members: &[Member<'_>], groups: &BTreeMap<&str, u32>) -> Decision {
    let mut by_group: BTreeMap<&str, Vec<&Member<'_>>> = BTreeMap::new();
    for member in members {
        if let Some(group) = member.group {
            by_group.entry(group).or_default().push(member);
        }
    }
    let mut decision = Decision::default();
    for (group, members) in by_group {
        let at_most = groups
            .get(group)
            .map_or(usize::MAX, |at_most| *at_most as usize);
        decide_group(group, at_most, &members, &mut decision);
    }
    decision
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

/// The order in which they go.
fn least(a: &Member<'_>, b: &Member<'_>) -> Ordering {
    a.worth.total_cmp(&b.worth).then_with(|| a.name.cmp(b.name))
}

#[cfg(test)]
mod tests;
