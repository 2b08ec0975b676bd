//! The agent's part of learned idle timeouts: what outlives it, and what the history tells at its start.
//!
//! Each gap between two uses that the history records is learned from at once, whether there is a history or not.
//! A new agent begins with what the last one saved, and replaces it by what it learns from the history, which a thread
//! reads. Nothing waits for that thread.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use ondemand_core::{
    config::{IdleTimeout, Learning},
    learned::{
        Learned, Starts,
        stored::{self, Stored},
    },
    lifecycle::Input,
    measure::Ktime,
    rhythm::Rhythm,
    words::{Span, counted},
};

use super::{Agent, events::Message, prewarming, watched::Watched};
use crate::{
    host::{
        atomic_file::{self, Store},
        clock, small_file,
    },
    observe::history::{Moment, past},
};

/// The file's name, in the agent's state directory.
const FILE: &str = "learned";
/// Maximum size of the file: some kilobytes a service. Bytes.
const LARGEST: u64 = 64 << 20;
/// How often the file is written, if something was learned: what an agent that is killed has learned in vain, without
/// a history.
const SAVE_EVERY: Duration = Duration::from_secs(900);

/// What outlives the agent, and the history's thread.
pub(super) struct Lessons {
    store: Store,
    /// What an earlier agent learned of services that are not watched yet.
    earlier: BTreeMap<String, Stored>,
    /// Services of which everything is to be learned from the history.
    anew: BTreeSet<String>,
    /// Whether a thread reads it.
    reading: bool,
    /// The history that was read last.
    history: Option<PathBuf>,
    /// When to save, if something was learned.
    save_at: Option<Ktime>,
}

impl Lessons {
    /// Reads the file, and logs what cannot be read.
    pub fn open() -> Self {
        let store = Store::new(atomic_file::path().with_file_name(FILE));
        let file = store.path().display().to_string();
        let earlier = match read(&store) {
            Ok((earlier, 0)) => earlier,
            Ok((earlier, damaged)) => {
                let services = counted(damaged as u64, "service");
                log::warn!(
                    "{file} is damaged: what was learned of {services} is lost, unless the history has it"
                );
                earlier
            }
            Err(error) => {
                log::warn!(
                    "what an earlier agent learned is lost, unless the history has it: {error:#}"
                );
                BTreeMap::new()
            }
        };
        Self {
            store,
            earlier,
            anew: BTreeSet::new(),
            reading: false,
            history: None,
            save_at: None,
        }
    }

    /// What an earlier agent learned of a service.
    pub fn take(&mut self, service: &str) -> Option<Stored> {
        self.earlier.remove(service)
    }

    /// Everything about a service is to be learned from the history.
    pub fn learn_anew(&mut self, service: &str) {
        self.anew.insert(service.to_owned());
    }
}

fn read(store: &Store) -> Result<(BTreeMap<String, Stored>, usize)> {
    let read = || {
        if !store.path().exists() {
            return Ok(Default::default());
        }
        let bytes = small_file::read(store.path(), LARGEST + 1)?;
        ensure!(bytes.len() as u64 <= LARGEST, "larger than {LARGEST} bytes");
        Ok(stored::parse(&String::from_utf8_lossy(&bytes)))
    };
    read().with_context(|| format!("read {}", store.path().display()))
}

/// What is to be learned of a service.
#[derive(Clone, Copy)]
struct Course {
    learning: Learning,
    idle_timeout: IdleTimeout,
    prewarm: bool,
}

/// Learns from the history what the agent asked for.
struct Student {
    courses: BTreeMap<String, Course>,
    lessons: BTreeMap<String, Lesson>,
}

#[derive(Default)]
struct Lesson {
    starts: Starts,
    /// Nothing before the first gap: all starts are known then.
    learned: Option<Learned>,
    rhythm: Rhythm,
}

impl past::Listener for Student {
    fn start(&mut self, service: &str, took: Duration) {
        if let Some(lesson) = self.lessons.get_mut(service) {
            lesson.starts.add(took);
        }
    }

    fn gap(&mut self, service: &str, length: Duration, ended: i64) {
        let (Some(lesson), Some(course)) =
            (self.lessons.get_mut(service), self.courses.get(service))
        else {
            return;
        };
        let usual = lesson.starts.usual();
        let none = || Learned::new(course.learning.terms(usual));
        let learned = lesson.learned.get_or_insert_with(none);
        if course.prewarm {
            let timeout = course.idle_timeout.or(learned.timeout());
            let terms = prewarming::terms(learned.terms().cold_start_cost(), usual, timeout);
            let at = prewarming::moment(ended);
            lesson.rhythm.returned(at, length, &terms);
        }
        learned.learn(length);
    }
}

impl Student {
    fn new(courses: BTreeMap<String, Course>) -> Self {
        let lessons = courses
            .keys()
            .map(|name| (name.clone(), Default::default()));
        Self {
            lessons: lessons.collect(),
            courses,
        }
    }

    fn learned(self) -> BTreeMap<String, Stored> {
        let courses = self.courses;
        let stored = |(name, lesson): (String, Lesson)| {
            let course = courses.get(&name)?;
            let none = || Learned::new(course.learning.terms(lesson.starts.usual()));
            let stored = Stored {
                learned: lesson.learned.unwrap_or_else(none),
                starts: lesson.starts,
                rhythm: course.prewarm.then_some(lesson.rhythm),
            };
            Some((name, stored))
        };
        self.lessons.into_iter().filter_map(stored).collect()
    }
}

impl Agent {
    /// Has the history read for the services that need it, after a change of the configuration.
    pub(super) fn read_past(&mut self) {
        let history = self.config.agent.history.clone();
        if history != self.lessons.history {
            self.lessons.anew.extend(self.services.keys().cloned());
            self.lessons.history.clone_from(&history);
        }
        if self.lessons.reading || self.lessons.anew.is_empty() {
            return;
        }
        let anew = std::mem::take(&mut self.lessons.anew);
        let Some(history) = history else {
            return;
        };
        let mut courses = BTreeMap::new();
        for name in anew {
            if let Some(watched) = self.services.get_mut(&name) {
                watched.learner.begin();
                let service = &watched.service;
                let course = Course {
                    learning: service.learning,
                    idle_timeout: service.idle_timeout,
                    prewarm: service.prewarm,
                };
                courses.insert(name, course);
            }
        }
        // Not one of the event loop's: its exit would wait for them.
        let (now, messages) = (Moment::now(), self.messages.clone());
        let thread = thread::Builder::new()
            .name("lessons".into())
            .spawn(move || {
                let names: Vec<String> = courses.keys().cloned().collect();
                let mut student = Student::new(courses);
                let read = past::tell(&history, &now, &mut student);
                let lessons = read.map(|()| student.learned());
                // The receiver is gone if the agent has exited.
                let _ = messages.send(Message::Past(names, lessons));
            });
        match thread {
            Ok(_) => self.lessons.reading = true,
            Err(error) => log::warn!("nothing is learned from the history: {error}"),
        }
    }

    /// Takes what the history told of these services.
    pub(super) fn take_past(
        &mut self,
        names: Vec<String>,
        lessons: Result<BTreeMap<String, Stored>>,
    ) {
        self.lessons.reading = false;
        self.lessons
            .save_at
            .get_or_insert(clock::now() + SAVE_EVERY);
        let mut lessons = lessons.unwrap_or_else(|error| {
            log::warn!(
                "idle timeouts are learned from now on only, the history cannot be read: {error:#}"
            );
            BTreeMap::new()
        });
        for name in names {
            let Some(watched) = self.services.get_mut(&name) else {
                continue;
            };
            let before = watched.idle_timeout();
            let past = lessons.remove(&name);
            if watched.service.prewarm {
                let rhythm = past.as_ref().and_then(|past| past.rhythm.clone());
                let terms = prewarming::terms_of(watched);
                watched.prewarming.restore(rhythm, &terms);
            }
            watched.learner.rebuilt(past, &watched.service.learning);
            let (timeout, gaps) = (watched.learner.choice(), watched.learner.gaps());
            log::debug!("{name}: learned from {}: {timeout}", counted(gaps, "gap"));
            if watched.idle_timeout() != before {
                self.look(&name, Input::Changed);
            }
        }
        self.rhythms.due = Some(clock::now());
        self.read_past();
    }

    /// Learns from gaps of a service that are over. Returns whether its idle timeout has changed.
    pub(super) fn learn(&mut self, name: &str, gaps: &[Duration]) -> bool {
        let Some(watched) = self.services.get_mut(name) else {
            return false;
        };
        let (before, now) = (watched.idle_timeout(), clock::now());
        for gap in gaps {
            if let Some(message) = watched.learner.learn(*gap, &watched.service, now) {
                log::info!("{name}: {message}");
            }
        }
        if !gaps.is_empty() {
            self.lessons.save_at.get_or_insert(now + SAVE_EVERY);
        }
        watched.idle_timeout() != before
    }

    /// A start of a service took this long.
    pub(super) fn learn_start(&mut self, name: &str, took: Duration) {
        let Some(watched) = self.services.get_mut(name) else {
            return;
        };
        if watched.learner.started(took, &watched.service.learning) {
            let cost = Span(watched.learner.cold_start_cost());
            log::info!("{name}: by its last starts, one costs as much as {cost} up and idle");
            self.lessons.learn_anew(name);
            self.read_past();
        }
    }

    fn lessons(&mut self) -> impl FnOnce() -> Result<()> + Send + 'static {
        self.lessons.save_at = None;
        // Copies are made in no time, and the text of a thousand services is not.
        let copy = |(name, watched): (&String, &Watched)| {
            let (starts, learned) = watched.learner.stored();
            let rhythm = watched.prewarming.rhythm();
            let stored = Stored {
                starts: starts.clone(),
                learned: learned.clone(),
                rhythm: watched.service.prewarm.then(|| rhythm.clone()),
            };
            (name.clone(), stored)
        };
        let services: Vec<_> = self.services.iter().map(copy).collect();
        self.lessons.store.save_made(move || {
            let services = services.iter();
            stored::text(services.map(|(name, stored)| (name.as_str(), stored)))
        })
    }

    /// Saves what was learned, now and then.
    pub(super) fn save_lessons(&mut self, now: Ktime) {
        // In a dry run the file may belong to another agent.
        if self.dry_run || self.lessons.save_at.is_none_or(|at| at > now) {
            return;
        }
        let save = self.lessons();
        tokio::task::spawn_blocking(|| {
            if let Err(error) = save() {
                log::warn!("what is learned outlives the agent only in the history: {error:#}");
            }
        });
    }

    /// The agent exits: saves what was learned since.
    pub(super) fn leave_lessons(&mut self) {
        if self.dry_run || self.lessons.save_at.is_none() {
            return;
        }
        if let Err(error) = self.lessons()() {
            log::warn!("what was learned is lost, unless the history has it: {error:#}");
        }
    }
}
