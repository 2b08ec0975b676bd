//! Sample -> verdict -> step -> commands, for one service.

use std::time::Duration;

use ondemand_core::{
    lifecycle::{Command, Counter, EndLoop, Input, Step, View},
    measure::{Ktime, unit::Units},
    policy::{self, COOKIE_GRACE, Facts, Hold, STAMP_SLACK, Verdict},
};

use super::{
    Agent,
    events::Message,
    keeping,
    loops::Failing,
    timing::timed,
    watched::{Complaint, Watched},
};
use crate::{
    host::{
        ablation::{self, Moment},
        clock, veto,
    },
    systemd::LEAVE,
};

/// How often to look whether SYN cookies are still sent, when a gate waits for their end.
const COOKIES_EVERY: Duration = Duration::from_millis(500);
/// Maximum share of the agent's time for periodic looks.
const POLL_SHARE: u32 = 100;

impl Agent {
    /// What is known of a service now. `None`: the states of its units are unknown.
    pub(super) fn view(&self, watched: &Watched) -> Option<View> {
        let units = self.units_of(watched)?;
        let sample = match timed("sample", || self.sampler.sample(watched.slot)) {
            Ok(sample) => Some(sample),
            Err(error) => {
                log::debug!("{}: {error:#}", watched.service.name);
                None
            }
        };
        // Read after the sample, so that nothing in the sample is in the future.
        let now = clock::now();
        let facts = self.facts(watched, &units, now);
        let verdict = policy::decide(&watched.rules(), now, sample.as_ref(), &facts);
        let (datagrams, bound) = self.datagrams_of(watched, &units, now);
        Some(View {
            now,
            sample,
            verdict,
            units,
            caught: watched.held.len() as u64,
            datagrams,
            bound,
            listens: watched.held.len() > 0
                && self.sampler.is_steerable(watched.slot).unwrap_or(false),
            ready: watched.is_ready() && watched.has_what_it_needs(&units.backend),
            room: self.may_start(watched),
            silent: watched.silent(sample.as_ref(), now),
        })
    }

    /// Whether a program, a calendar or a person wants it to stay up.
    pub(super) fn wanted_up(&self, watched: &Watched, now: Ktime) -> Option<Hold> {
        let inhibitors = watched.inhibitors.hold();
        inhibitors
            .or_else(|| keeping::hold(watched))
            .or_else(|| self.holding.hold(&watched.service.name, now))
    }

    /// The policy's input besides the counters, with what holds it.
    pub(super) fn facts(&self, watched: &Watched, units: &Units, now: Ktime) -> Facts {
        let wanted = self.wanted_up(watched, now);
        Facts {
            hold: wanted.or_else(|| watched.prewarming.hold(now)),
            need: self.need(&watched.service.name),
            ..watched.facts(units)
        }
    }

    /// Takes a service through all steps that need no waiting.
    pub(super) fn look(&mut self, name: &str, input: Input) {
        self.release_late(name);
        self.drop_late_datagrams(name);
        let mut input = Some(input);
        while let Some(next) = input.take() {
            let Some(view) = self.fresh_view(name) else {
                self.catch_nobody(name);
                self.hold_no_datagrams(name);
                self.follow_unmanaged(name);
                self.tell_chain(name);
                self.see_place(name, None);
                return;
            };
            let Some(watched) = self.services.get_mut(name) else {
                return;
            };
            watched.wake = None;
            if watched.look_at.is_some_and(|at| at <= view.now) {
                watched.look_at = None;
            }
            let commands = watched.lifecycle.step(&view, next);
            watched.forget_ends(&view.units);
            if view.units.backend.is_settled_down() {
                watched.prewarming.is_down();
            }
            self.tell_chain(name);
            let is_other = self.record(name, &view);
            input = self.carry_out(name, commands);
            self.send_on(name, &view);
            self.send_datagrams(name, &view);
            if input.is_none() {
                self.freeze_or_thaw(name, &view);
                self.see_place(name, Some(&view));
            }
            if input.is_none() && (self.arm(name, &view) || is_other) {
                // The last connection may have closed before the event was requested; or the time after which it is
                // stopped is another one.
                input = Some(Input::Changed);
            }
        }
    }

    /// A view with the uncounted connections. `None`: the service is not managed.
    fn fresh_view(&mut self, name: &str) -> Option<View> {
        self.forget_the_ended_run(name);
        self.follow_readiness(name);
        self.follow_chain(name);
        self.follow_silence(name);
        self.follow_work(name);
        let watched = self.services.get_mut(name)?;
        if watched.problem.is_some() {
            return None;
        }
        if let Ok(sample) = self.sampler.sample(watched.slot) {
            let now = clock::now();
            watched.uncounted.older(sample.older, now);
            // Cookies matter only after a recent look-up of the front address.
            let recent = sample.last_lookup.and_then(|at| now.since(at));
            watched.syn_cookies =
                recent.is_some_and(|age| age < COOKIE_GRACE) && self.cookies.sent_lately(now);
        }
        let watched = self.services.get_mut(name)?;
        let has_datagrams = watched.service.has_datagrams();
        watched
            .lifecycle
            .set_datagrams(has_datagrams && watched.can_hold);
        let mut view = self.view(self.services.get(name)?)?;
        if has_datagrams
            && matches!(view.verdict, Verdict::Idle { .. })
            && self.finds_connected(name)
        {
            view = self.view(self.services.get(name)?)?;
        }
        self.await_accept(name, &view);
        self.find_deaf_listener(name, &view);
        let can_catch = self.sampler.can_catch();
        let watched = self.services.get_mut(name)?;
        let catch = can_catch && watched.may_catch(view.sample.as_ref());
        watched.lifecycle.set_catching(catch);
        let complaints = &mut watched.complaints;
        match view.verdict {
            Verdict::Unknown(reason) if view.units.backend.state.is_up() => {
                if complaints.is_new(Complaint::Unknown(reason), reason) {
                    log::warn!("{name}: kept, because its use is unknown: {reason}");
                }
            }
            _ => complaints.end(|of| matches!(of, Complaint::Unknown(_))),
        }
        if let Some(interval) = watched.poll_interval(&view.units, view.sample.as_ref()) {
            let at = view.now + interval.max(self.poll_cost * POLL_SHARE);
            self.next_poll = Some(self.next_poll.map_or(at, |next| next.min(at)));
        }
        Some(view)
    }

    /// Carries out commands in their order. An immediate result is the next input.
    fn carry_out(&mut self, name: &str, commands: Vec<Command>) -> Option<Input> {
        let mut next = None;
        let mut gate_failed = false;
        for command in commands {
            let meets_cookies = matches!(command, Command::OpenGate | Command::Catch(true));
            if meets_cookies && self.waits_for_cookies(name) {
                let lifecycle = &mut self.services.get_mut(name)?.lifecycle;
                match command {
                    Command::OpenGate => lifecycle.gate_is_closed(),
                    _ => lifecycle.nobody_is_caught(),
                }
                continue;
            }
            let watched = self.services.get_mut(name)?;
            match command {
                Command::CloseGate | Command::OpenGate => {
                    let open = command == Command::OpenGate;
                    let (before, after) = match open {
                        true => (Moment::Opening, Moment::Opened),
                        false => (Moment::Idle, Moment::GateClosed),
                    };
                    ablation::reached(before);
                    if let Err(error) = self.sampler.set_gate(watched.slot, open) {
                        log::error!("{name}: {error:#}");
                        gate_failed = true;
                    }
                    ablation::reached(after);
                }
                Command::Catch(catch) => self.set_catch(name, catch),
                Command::PassDatagrams(pass) => {
                    // What is not held may pass after the last look.
                    gate_failed |= !self.pass_datagrams(name, pass) && !pass;
                }
                Command::PassOne => self.pass_one(name),
                Command::HandOver => self.hand_over(name),
                Command::Admit(admits) => {
                    if let Err(error) = self.sampler.set_admission(watched.slot, admits) {
                        log::error!("{name}: {error:#}");
                    }
                }
                Command::TakeSnapshot => {
                    self.measure_memory(name);
                    next = match gate_failed {
                        true => Some(Input::Snapshot(None)),
                        false => self.last_look(name),
                    };
                }
                Command::AskVeto { quiet } => self.ask_veto(name, quiet),
                Command::ReleaseLease => {
                    self.metrics.lease(name, true);
                    ablation::reached(Moment::Releasing);
                    self.run_job(name, false);
                }
                Command::TakeLease => {
                    self.metrics.lease(name, false);
                    ablation::reached(Moment::Retaking);
                    self.run_job(name, true);
                }
                Command::EndLoop(end) => {
                    watched.gave_up |= matches!(end, EndLoop::Backend { often: true, .. });
                    self.end_loop(name, end);
                }
                Command::ForgetStarts => self.forget_starts(name),
                Command::StopProxy => self.stop_proxy(name),
                Command::DismissProxy => self.dismiss_proxy(name),
                Command::Run(event) => self.happened(name, &event),
                Command::Count(counter) => {
                    watched.tally.add(counter);
                    self.metrics.count(name, counter);
                    match counter {
                        Counter::ProxyFailed => self.ask_end(name, Failing::Proxy),
                        Counter::Restarted => self.ask_end(name, Failing::Backend),
                        Counter::Veto(reason) => self.announcer.vetoed(name, reason),
                        Counter::Drift => {}
                    }
                }
                Command::Answer(reply) => self.answer_stop(name, &reply),
                Command::Say(note) => log::log!(note.level(), "{name}: {note}"),
                Command::WaitUntil(at) => watched.wake = Some(at),
            }
        }
        next
    }

    /// The final ACK of a SYN cookie that the front socket has sent would reach the application's listener, or the
    /// socket that holds clients, which know nothing of it and reset the connection: the gate opens, and clients are
    /// held, when none can be outstanding. One that an earlier agent has opened stays open.
    fn waits_for_cookies(&mut self, name: &str) -> bool {
        let Some(watched) = self.services.get_mut(name) else {
            return false;
        };
        let now = clock::now();
        let is_open = self.sampler.is_gate_open(watched.slot).unwrap_or(false);
        // A cookie's SYN was looked up; that of an ignored client leaves no stamp.
        let looked_up = self.sampler.sample(watched.slot).map_or(true, |sample| {
            let age = sample.last_lookup.map(|at| now.since(at));
            age.is_some_and(|age| age.is_none_or(|age| age < COOKIE_GRACE + STAMP_SLACK))
        });
        let may_matter = looked_up || !watched.service.ignore_from.is_absent();
        if is_open || !may_matter || !self.cookies.sent_lately(now) {
            return false;
        }
        watched.look_at = Some(now + COOKIES_EVERY);
        true
    }

    /// Requests an event for the close of the last connection. Returns true if it was requested now.
    fn arm(&mut self, name: &str, view: &View) -> bool {
        let Some(watched) = self.services.get_mut(name) else {
            return false;
        };
        let counted = view
            .sample
            .and_then(|sample| Some(sample.open()? - sample.older));
        if !view.units.backend.state.is_up() || counted.is_none_or(|open| open == 0) {
            // If the event was lost, it is requested again with the next connection.
            watched.armed = false;
            return false;
        }
        if watched.armed {
            return false;
        }
        match self.sampler.arm_closed(watched.slot) {
            Ok(()) => watched.armed = true,
            // Then the periodic look finds it.
            Err(error) => log::warn!("{name}: {error:#}"),
        }
        watched.armed
    }

    fn ask_veto(&mut self, name: &str, quiet: Duration) {
        let Some(watched) = self.services.get_mut(name) else {
            return;
        };
        let Some(program) = watched.service.veto.clone() else {
            return;
        };
        watched.ticket += 1;
        let (service, ticket, messages) = (name.to_owned(), watched.ticket, self.messages.clone());
        let unit = watched.service.unit.clone();
        let question = veto::Question {
            program,
            service: service.clone(),
            unit,
            quiet,
        };
        tokio::spawn(async move {
            ablation::reached(Moment::Asking);
            let reply = veto::ask(question, veto::TIMEOUT).await;
            // The receiver is gone if the agent has exited.
            let _ = messages.send(Message::Veto {
                service,
                ticket,
                reply,
            });
        });
    }

    fn stop_proxy(&self, name: &str) {
        let (Some(watched), Some(systemd)) = (self.services.get(name), self.systemd.caller())
        else {
            return;
        };
        let (name, proxy) = (name.to_owned(), watched.units.proxy.clone());
        tokio::spawn(async move {
            if let ondemand_core::lifecycle::JobEnd::Failed(why) = systemd.stop(&proxy).await {
                log::warn!("{name}: {why}");
            }
        });
    }

    /// Its exit is an event. If it does not exit, the end of the request reports it.
    fn dismiss_proxy(&self, name: &str) {
        let (Some(watched), Some(systemd)) = (self.services.get(name), self.systemd.caller())
        else {
            return;
        };
        let (name, proxy) = (name.to_owned(), watched.units.proxy.clone());
        tokio::spawn(async move {
            if let Err(error) = systemd.signal(&proxy, LEAVE).await {
                log::warn!("{name}: {error:#}");
            }
        });
    }

    /// Starts or stops the lease, then asks for the states of the service's units.
    fn run_job(&mut self, name: &str, start: bool) {
        // Without systemd there are no steps, so this is never reached without it.
        let (Some(watched), Some(systemd)) = (self.services.get_mut(name), self.systemd.caller())
        else {
            return;
        };
        watched.ticket += 1;
        let (service, ticket, messages) = (name.to_owned(), watched.ticket, self.messages.clone());
        let names = watched.units.clone();
        let probe = self.recorder.probe(name).filter(|_| !start);
        let cpu = self.metrics.cpu(name);
        // For a client that is held it is the start that the front socket would make: what the application needs may
        // be about to stop, and PID 1 would leave it out of a start that gives way.
        let wakes = start && *watched.lifecycle.current() == Step::Waking;
        tokio::spawn(async move {
            if let Some(probe) = probe {
                probe.ask(&systemd, &names.backend, cpu).await;
            }
            let end = if wakes {
                systemd.start_as_asked(&names.lease).await
            } else if start {
                systemd.start(&names.lease).await
            } else {
                systemd.stop(&names.lease).await
            };
            ablation::reached(if start {
                Moment::Retaken
            } else {
                Moment::Released
            });
            let readings = systemd.read_states(&names.each().map(String::clone)).await;
            // The receiver is gone if the agent has exited.
            let _ = messages.send(Message::Job {
                service,
                ticket,
                end,
                readings,
            });
        });
    }
}
