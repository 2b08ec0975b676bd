//! The agent's part of [`ondemand_core::room`]: it knows who of a group is up, starts, is idle or waits, lets those start for
//! whom there is room, and has idle ones stopped by the ordinary protocol.
//!
//! A start is waited for in two places. A client that is held has its service started when there is room. All other starts
//! pass `ondemand-room@NAME.service`, which asks by the bus: that counts only while PID 1 has a job for the application, since any
//! user may ask.

mod place;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ondemand_core::{
    lifecycle::{Input, Refusal, View, note::VetoReason},
    measure::Ktime,
    room::{self, Decision, GreedyDual, Member, Place, Why, Worth},
    runs::StopReason,
    words::{Bytes, Span, counted},
};
pub(super) use place::Placed;
use tokio::sync::oneshot;

use super::{Agent, memory::Readings, watched::Watched};
use crate::{bus::report, host::clock, observe::history::Eviction};

/// Who was not seen to wait for so long does not wait any more: a client that was held comes to the front socket, and its
/// proxy has the application started.
const FORGOTTEN: Duration = Duration::from_secs(3);
/// The pause after a client has kept a service up that was to make room.
const SOON: Duration = Duration::from_millis(20);
/// The same after anything else has.
const LATER: Duration = Duration::from_secs(1);
/// The shortest time between two warnings about memory.
const SILENCE: Duration = Duration::from_secs(600);
/// Maximum number of calls that wait for one service: PID 1 runs one process for it.
const MOST_WAITING: usize = 16;

/// Who waits, and who may start.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// By name.
    waiting: BTreeMap<String, Waiter>,
    clock: GreedyDual,
    /// Something has changed since it was decided.
    is_stale: bool,
    /// When to decide again whatever happens.
    again: Option<Ktime>,
    /// Who would go first when room is needed.
    next: BTreeSet<String>,
    /// What is taken of memory.
    pub(super) readings: Readings,
}

/// A service that is to be started when there is room.
#[derive(Debug)]
struct Waiter {
    since: Ktime,
    /// When it was last seen to wait. `None`: never, it is only said so.
    seen: Option<Ktime>,
    /// When that was said last.
    said: Ktime,
    /// The calls of its unit.
    calls: Vec<oneshot::Sender<()>>,
}

impl Room {
    /// When to decide again.
    pub(super) fn due(&self) -> Option<Ktime> {
        match self.is_stale {
            true => Some(Ktime::default()),
            false => self.again,
        }
    }
}

impl Agent {
    /// The configuration has changed.
    pub(super) fn doubt_room(&mut self) {
        self.room.is_stale = true;
    }

    /// Whether a service waits for its turn.
    fn takes_turns(&self, watched: &Watched) -> bool {
        watched.service.group.is_some() && !self.dry_run
    }

    /// Whether it matters which place a service has.
    pub(super) fn needs_room(&self, watched: &Watched) -> bool {
        self.takes_turns(watched) || self.has_budget()
    }

    /// Whether a client that is held may have it started.
    pub(super) fn may_start(&self, watched: &Watched) -> bool {
        !self.takes_turns(watched) || watched.placed.granted.is_some()
    }

    /// A start of a service's application waits for room.
    pub(super) fn wait_room(&mut self, name: &str, answer: oneshot::Sender<()>) {
        let takes_turns = |watched: &&Watched| self.takes_turns(watched);
        if self.services.get(name).filter(takes_turns).is_none() {
            // The caller may be gone.
            let _ = answer.send(());
            return;
        }
        let now = clock::now();
        let waiter = self.room.wait(name, now);
        waiter.calls.retain(|call| !call.is_closed());
        if waiter.calls.len() < MOST_WAITING {
            waiter.calls.push(answer);
        }
        self.room.is_stale = true;
    }

    /// Takes a look at a service for its place. `view`: `None` if it is not managed.
    pub(super) fn see_place(&mut self, name: &str, view: Option<&View>) {
        let Some(watched) = self.services.get(name) else {
            return;
        };
        if !self.needs_room(watched) {
            return;
        }
        let now = clock::now();
        let units = self.units_of(watched);
        let wants = view.is_some_and(|view| watched.lifecycle.is_wanted(view));
        let wanted = self.wanted_up(watched, now).is_some();
        let Some(watched) = self.services.get_mut(name) else {
            return;
        };
        let before = watched.placed.place;
        watched.placed.place = match units {
            Some(units) => watched.place(&units, view, wanted, now),
            // Unknown: it may be up.
            None => Place::Taken,
        };
        watched.placed.wants = wants;
        if watched.placed.place == Place::None {
            (watched.placed.logged, watched.placed.not_before) = (None, None);
            watched.placed.footprint.is_down();
        }
        let flows = view.and_then(|view| watched.flows_until(view));
        let changes = watched.placed.changes_at(now, view);
        if let Some(at) = flows.into_iter().chain(changes).min() {
            watched.look_at = Some(watched.look_at.map_or(at, |other| other.min(at)));
        }
        let is_same = before == watched.placed.place;
        // Without a turn there is nothing to wait for.
        let wants = wants && watched.service.group.is_some();
        if wants && watched.placed.place == Place::None {
            self.room.wait(name, now);
            self.room.is_stale = true;
        }
        self.room.readings.is_wanted |=
            (before == Place::None) != (watched.placed.place == Place::None);
        self.room.is_stale |= !is_same || self.room.waiting.contains_key(name);
    }

    /// Lets services start for which there is room, and has others stopped.
    pub(super) fn make_room(&mut self, now: Ktime) {
        self.read_memory(now);
        if !self.room.is_stale && self.room.again.is_none_or(|at| at > now) {
            return;
        }
        (self.room.is_stale, self.room.again) = (false, None);
        self.see_who_is_kept();
        self.answer_those_with_a_place(now);
        let decision = self.decide(now);
        self.say_whether_memory_is_over(decision.over, now);
        self.room.next = decision.next;
        for name in decision.starts {
            self.grant(&name, now);
        }
        for (name, why) in decision.stops {
            self.evict(&name, why, now);
        }
        if let Some(at) = self.room.waiting.values().map(Waiter::until).min() {
            self.room.again = Some(self.room.again.map_or(at, |other| other.min(at)));
        }
    }

    /// Those that are up, or start, have a place, and those that nobody waits for any more need none.
    fn answer_those_with_a_place(&mut self, now: Ktime) {
        let names: Vec<String> = self.room.waiting.keys().cloned().collect();
        for name in names {
            let watched = self.services.get(&name).filter(|it| self.takes_turns(it));
            let units = watched.and_then(|watched| self.units_of(watched));
            let place = watched.map(|watched| watched.placed.place);
            let wants = watched.is_some_and(|watched| watched.placed.wants);
            let has_job = units.is_some_and(|units| units.backend.job);
            let Some(waiter) = self.room.waiting.get_mut(&name) else {
                continue;
            };
            waiter.calls.retain(|call| !call.is_closed());
            // A client came between the release of its lease and its stop: PID 1 has a start job for an application that is
            // up, which waits for this answer, and so does all else. It keeps its place.
            let stays = units.is_some_and(|units| units.backend.state.is_up() && units.backend.job);
            let stays = stays && !waiter.calls.is_empty();
            match place {
                _ if stays => {}
                None => {}
                Some(Place::None | Place::Leaving) => {
                    if wants || (has_job && !waiter.calls.is_empty()) {
                        waiter.seen = Some(now);
                        continue;
                    }
                    if now < waiter.until() {
                        continue;
                    }
                }
                Some(Place::Taken | Place::Idle) => {}
            }
            let waiter = self.room.waiting.remove(&name);
            let is_up =
                stays || place.is_some_and(|place| place != Place::None && place != Place::Leaving);
            if !is_up {
                self.forgive(&name);
            }
            for call in waiter.into_iter().flat_map(|waiter| waiter.calls) {
                if place.is_none() || is_up {
                    let _ = call.send(()); // The caller may be gone.
                }
            }
            if let Some(watched) = self.services.get_mut(&name).filter(|_| is_up) {
                // It may be a restart: it goes down, and keeps its place.
                watched.placed.granted.get_or_insert((now, false));
                watched.look_at = Some(now);
            }
        }
    }

    fn decide(&self, now: Ktime) -> Decision {
        room::decide(&self.members(now), &self.groups(), self.memory(now))
    }

    /// Whether a service that is down may be started of which nobody has asked for a start.
    pub(super) fn fits(&self, name: &str, now: Ktime) -> bool {
        let members = self.members(now);
        let Some(member) = members.iter().find(|it| it.name == name) else {
            return true;
        };
        let usual = self.services.get(name);
        let usual = usual.and_then(|it| it.placed.footprint.usual());
        let newcomer = Member {
            grows: usual.unwrap_or(0),
            ..*member
        };
        room::fits(&newcomer, &members, &self.groups(), self.memory(now))
    }

    fn groups(&self) -> BTreeMap<&str, u32> {
        let groups = self.config.groups.iter();
        groups
            .map(|(name, group)| (name.as_str(), group.at_most))
            .collect()
    }

    /// All whose place matters.
    fn members(&self, now: Ktime) -> Vec<Member<'_>> {
        let has_budget = self.has_budget();
        let mut members = Vec::new();
        for (name, watched) in self.services.iter() {
            let takes_turns = self.takes_turns(watched);
            if !takes_turns && !has_budget {
                continue;
            }
            let placed = &watched.placed;
            let waiter = self.room.waiting.get(name);
            let waiter = waiter.filter(|waiter| waiter.seen.is_some());
            let units = self.units_of(watched).unwrap_or_default();
            let began = units.backend.active_enter;
            let began = began.filter(|_| units.backend.state.is_up());
            let up_for = began.and_then(|at| now.since(at));
            members.push(Member {
                name,
                group: watched.service.group.as_deref().filter(|_| takes_turns),
                place: placed.place,
                waits: waiter.map(|waiter| waiter.since),
                worth: watched.worth(),
                memory: placed.footprint.now,
                grows: match placed.place {
                    Place::Taken | Place::Idle => placed.footprint.grows(began, now),
                    Place::None | Place::Leaving => 0,
                },
                gives: watched.idle_timeout().is_some()
                    && up_for.is_some_and(|it| it >= watched.service.min_uptime),
            });
        }
        members
    }

    /// Services whose memory is known stay up as long as it fits.
    fn see_who_is_kept(&mut self) {
        let has_memory = self.memory(clock::now()).is_some();
        let mut changed = Vec::new();
        for (name, watched) in self.services.iter() {
            let is_kept = has_memory
                && watched.placed.footprint.now.is_some()
                && watched.idle_timeout().is_some()
                // Silence is looked for when it would be idle otherwise, which costs too much to do all the time.
                && watched.service.silent_after.is_none();
            if is_kept != watched.placed.is_kept {
                changed.push(name.clone());
            }
        }
        for name in changed {
            if let Some(watched) = self.services.get_mut(&name) {
                watched.placed.is_kept ^= true;
            }
            self.look(&name, Input::Changed);
        }
    }

    fn say_whether_memory_is_over(&mut self, over: u64, now: Ktime) {
        let said = self.room.readings.said_over;
        let is_new = said.is_none_or(|at| now.since(at).is_none_or(|age| age >= SILENCE));
        if over > 0 && is_new {
            self.room.readings.said_over = Some(now);
            log::warn!(
                "services take {} more memory than memory_budget allows, and those that are left are in use, or their memory is \
                 not known",
                Bytes(over)
            );
        }
    }

    /// Nobody waits for a service any more: that there was no room in time is no fault that `systemctl --failed` is to show.
    fn forgive(&self, name: &str) {
        let watched = self.services.get(name);
        if let (Some(watched), Some(systemd)) = (watched, self.systemd.caller()) {
            let unit = watched.service.room_unit();
            tokio::spawn(async move {
                if let Err(error) = systemd.forget_starts(&unit).await {
                    log::debug!("{error:#}");
                }
            });
        }
    }

    fn grant(&mut self, name: &str, now: Ktime) {
        // It keeps its turn, and does not start for nobody.
        if self
            .room
            .waiting
            .get(name)
            .is_none_or(|it| it.seen != Some(now))
        {
            return;
        }
        let Some(waiter) = self.room.waiting.remove(name) else {
            return;
        };
        if let Some(watched) = self.services.get_mut(name) {
            watched.placed.granted = Some((now, false));
            watched.placed.place = Place::Taken;
        }
        let waited = now.since(waiter.since).unwrap_or_default();
        if waited > SOON {
            if let Some(watched) = self.services.get_mut(name) {
                watched.placed.tally.waits += 1;
                watched.placed.tally.waited += waited;
            }
            self.recorder.note(name, |usage| usage.waited(waited));
            log::info!("{name}: starting, there is room after {}", Span(waited));
        }
        for call in waiter.calls {
            let _ = call.send(()); // The caller may be gone.
        }
        self.look(name, Input::Changed);
    }

    fn evict(&mut self, name: &str, why: Why, now: Ktime) {
        let worth = self.services.get(name).map(|it| it.placed.worth);
        let Some(watched) = self.services.get_mut(name) else {
            return;
        };
        if let Some(at) = watched.placed.not_before.filter(|at| *at > now) {
            self.room.again = Some(self.room.again.map_or(at, |other| other.min(at)));
            return;
        }
        let is_memory = matches!(why, Why::Memory { .. });
        // How much is lacking changes all the time.
        let is_same = match &watched.placed.logged {
            Some(Why::Memory { .. }) => is_memory,
            logged => logged.as_ref() == Some(&why),
        };
        if !is_same {
            let uses = worth.map_or(0, |worth| worth.uses.into());
            let uses = counted(uses, "use");
            match &why {
                Why::For { service, group } => log::info!(
                    "{name}: making room for {service} (group {group}): nobody uses it, and of the idle ones it is the least \
                     worth keeping ({uses})"
                ),
                Why::Memory { over, starts } => {
                    let takes = watched.placed.footprint.now.map_or(0, |bytes| bytes);
                    let whom = starts
                        .as_ref()
                        .map_or_else(String::new, |name| format!(" for {name}"));
                    let lacks = match over {
                        0 => "programs wait for memory".to_owned(),
                        over => format!("{} are lacking (memory_budget)", Bytes(*over)),
                    };
                    log::info!(
                        "{name}: giving back {}{whom}: {lacks}, nobody uses it, and of the idle ones it is the least worth \
                         keeping ({uses})",
                        Bytes(takes)
                    );
                }
                Why::TooMany { group } => log::info!(
                    "{name}: making room: more services of the group {group} are up than its at_most says"
                ),
            }
            watched.placed.logged = Some(why.clone());
        }
        if matches!(why, Why::Memory { over: 0, .. }) {
            self.room.readings.eased = Some(now);
        }
        watched.prewarming.leave();
        watched.placed.goes = Some(why);
        watched.placed.place = Place::Leaving;
        watched.placed.not_before = Some(now + LATER);
        let input = match is_memory {
            true => Input::MakeRoom,
            // Who waits has come before those that are held by now.
            false => Input::GiveWay,
        };
        self.look(name, input);
    }

    /// Whether it is a service that was to make room, and stays: there is another attempt, and nobody has asked for this
    /// one.
    pub(super) fn keeps_its_place(&mut self, name: &str, refusal: &Refusal) -> bool {
        let Some(watched) = self.services.get_mut(name) else {
            return false;
        };
        if watched.placed.goes.take().is_none() || !watched.asked.is_empty() {
            return false;
        }
        log::debug!("{name}: makes no room now: {refusal}");
        let by_client = match refusal {
            Refusal::Open(_) => true,
            Refusal::Vetoed(cause) => {
                matches!(cause.reason(), VetoReason::Activity | VetoReason::Proxy)
            }
            _ => false,
        };
        let pause = if by_client { SOON } else { LATER };
        watched.placed.not_before = Some(clock::now() + pause);
        self.room.is_stale = true;
        true
    }

    /// A service's application has ended.
    pub(super) fn left(&mut self, name: &str, reason: StopReason) {
        let Some(watched) = self.services.get_mut(name) else {
            return;
        };
        let goes = watched.placed.goes.take();
        if let Some(why) = goes.filter(|_| reason == StopReason::Idle) {
            let tally = &mut watched.placed.tally;
            let eviction = match why {
                Why::Memory { .. } => {
                    tally.for_memory += 1;
                    Eviction::ForMemory
                }
                Why::For { .. } | Why::TooMany { .. } => {
                    tally.for_group += 1;
                    Eviction::ForGroup
                }
            };
            self.recorder.note(name, |usage| usage.evicted(eviction));
            let value = watched.worth();
            self.room.clock.evicted(&mut watched.placed.worth, value);
        } else {
            watched.placed.worth = Worth::default();
        }
    }

    /// A client has come to a service.
    pub(super) fn is_worth_more(&mut self, name: &str) {
        let Some(watched) = self.services.get_mut(name) else {
            return;
        };
        self.room.clock.used(&mut watched.placed.worth);
    }

    /// A service's room, for observers. `None`: it has no group, and there is no budget.
    pub(super) fn room_of(&self, watched: &Watched) -> Option<report::Room> {
        if !self.needs_room(watched) {
            return None;
        }
        let tally = watched.placed.tally;
        let waiter = self.room.waiting.get(&watched.service.name);
        let waiter = waiter.filter(|it| it.seen.is_some() && watched.placed.place == Place::None);
        let waits = waiter.and_then(|waiter| clock::now().since(waiter.since));
        Some(report::Room {
            group: watched.service.group.clone(),
            waits_seconds: waits.map(|it| it.as_secs_f64()),
            goes_next: watched.placed.place == Place::Idle
                && self.room.next.contains(&watched.service.name),
            evictions_for_group: tally.for_group,
            evictions_for_memory: tally.for_memory,
            waits: tally.waits,
            waited_seconds: tally.waited.as_secs_f64(),
        })
    }

    /// The same for people, with the rest of what there is to say.
    pub(super) fn room_detail(&self, watched: &Watched, room: &report::Room) -> Option<String> {
        if let Some((waits, group)) = room.waits_seconds.zip(room.group.as_deref()) {
            let others = self.services.iter().filter(|(_, other)| {
                other.service.group.as_deref() == Some(group) && other.placed.place != Place::None
            });
            let others: Vec<&str> = others.map(|(name, _)| name.as_str()).collect();
            let others = match others.as_slice() {
                [] => "none is".to_owned(),
                [one] => format!("{one} is"),
                many => format!("{} are", many.join(", ")),
            };
            let waits = Span(Duration::from_secs_f64(waits));
            return Some(format!(
                "waits for room in the group {group} since {waits}: {others} up"
            ));
        }
        match &watched.placed.goes {
            Some(Why::For { service, group }) => {
                return Some(format!("makes room for {service} in the group {group}"));
            }
            Some(Why::TooMany { group }) => {
                return Some(format!("makes room: too many of the group {group} are up"));
            }
            Some(Why::Memory {
                starts: Some(name), ..
            }) => {
                return Some(format!("gives back its memory, for {name}"));
            }
            Some(Why::Memory { starts: None, .. }) => {
                return Some("gives back its memory (memory_budget)".to_owned());
            }
            None => {}
        }
        room.goes_next.then(|| {
            let uses = counted(watched.placed.worth.uses.into(), "use");
            format!("goes first when room is needed ({uses}, the least worth keeping)")
        })
    }
}

impl Waiter {
    /// When it is forgotten, if it is not seen again.
    fn until(&self) -> Ktime {
        self.said.max(self.seen.unwrap_or_default()) + FORGOTTEN
    }
}

impl Room {
    fn wait(&mut self, name: &str, now: Ktime) -> &mut Waiter {
        let waiter = self.waiting.entry(name.to_owned()).or_insert(Waiter {
            since: now,
            seen: None,
            said: now,
            calls: Vec::new(),
        });
        waiter.said = now;
        waiter
    }
}
