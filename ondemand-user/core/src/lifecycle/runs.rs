//! Starts and ends of the backend, whoever brought them about.

use std::time::Duration;

use super::{
    messages::{Command, Counter, View},
    note::{Note, Run, StopReason},
};
use crate::measure::{Ktime, sample::Sample, unit::ActiveState};

/// The present run of the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Current {
    started: Option<Ktime>,
    /// The counters before it.
    before: Option<Sample>,
    /// Whether its start was seen.
    whole: bool,
}

/// This agent released the lease.
#[derive(Clone, Copy, Debug)]
pub(super) struct Released {
    /// How long nobody had used it.
    pub(super) quiet: Duration,
    /// Whether somebody asked for the stop.
    pub(super) asked: bool,
}

/// Recognises the runs of the backend by the time of its start, so that a restart of which
/// only the end was seen is two runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Runs {
    current: Option<Current>,
    /// The counters when the last run ended: the next run's first client is counted before
    /// the backend is up.
    between: Option<Sample>,
    /// The last start that was reported, by its begin.
    reported: Option<Ktime>,
    /// Whether a view was seen before.
    seen: bool,
}

impl Runs {
    /// Reports what has changed. `released`: this agent's own stop, if it is that.
    pub(super) fn follow(
        &mut self,
        view: &View,
        released: Option<Released>,
        commands: &mut Vec<Command>,
    ) {
        let backend = &view.units.backend;
        let first_view = !std::mem::replace(&mut self.seen, true);
        match backend.state {
            ActiveState::Active | ActiveState::Reloading => {
                if self
                    .current
                    .is_some_and(|run| run.started == backend.active_enter)
                {
                    return;
                }
                self.end(view, released, commands);
                let before = self.between.take().or(view.sample);
                let started = backend.active_enter;
                self.current = Some(Current {
                    started,
                    before,
                    whole: !first_view,
                });
                self.reported = backend.inactive_exit;
                if !first_view {
                    let took = started.zip(backend.inactive_exit);
                    let took = took.and_then(|(end, begin)| end.since(begin));
                    commands.push(Command::Count(Counter::Start(took)));
                    commands.push(Command::Say(Note::Started { took }));
                }
            }
            ActiveState::Activating | ActiveState::Inactive | ActiveState::Failed => {
                self.end(view, released, commands);
                self.between = self.between.or(view.sample);
                let failed = backend.state == ActiveState::Failed;
                if failed && self.reported != backend.inactive_exit {
                    self.reported = backend.inactive_exit;
                    if !first_view {
                        commands.push(Command::Say(Note::StartFailed));
                    }
                }
            }
            // It is neither up nor down yet.
            ActiveState::Deactivating | ActiveState::Unknown => {}
        }
    }

    /// When the present run began. `None` inside: systemd does not say.
    pub(super) fn started(&self) -> Option<Option<Ktime>> {
        self.current.map(|run| run.started)
    }

    /// What the kernel has counted since the present run's begin.
    pub(super) fn so_far(&self, view: &View) -> Run {
        let Some(run) = self.current else {
            return Run::default();
        };
        let (connections, sent_bytes) =
            view.sample.zip(run.before).map_or((0, 0), |(now, then)| {
                (
                    now.accepted().saturating_sub(then.accepted()),
                    now.sent_bytes().saturating_sub(then.sent_bytes()),
                )
            });
        let up = run
            .started
            .and_then(|started| view.now.since(started))
            .unwrap_or_default();
        Run {
            connections,
            sent_bytes,
            up,
            whole: run.whole,
        }
    }

    fn end(&mut self, view: &View, released: Option<Released>, commands: &mut Vec<Command>) {
        if self.current.is_none() {
            return;
        }
        let run = self.so_far(view);
        self.current = None;
        self.between = view.sample;
        let failed = view.units.backend.state == ActiveState::Failed;
        let (reason, note) = match released {
            Some(Released { quiet, asked }) => {
                let reason = match asked {
                    true => StopReason::Requested,
                    false => StopReason::Idle,
                };
                let note = Note::Stopped {
                    quiet,
                    asked,
                    run,
                    failed,
                };
                (reason, note)
            }
            None if failed => (StopReason::Failed, Note::Ended { failed, run }),
            None => (StopReason::External, Note::Ended { failed, run }),
        };
        commands.push(Command::Count(Counter::Stop(reason)));
        commands.push(Command::Say(note));
    }
}
