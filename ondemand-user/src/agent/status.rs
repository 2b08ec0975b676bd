//! The agent's reply to `ondemand status`.

use std::{sync::atomic::Ordering, time::Duration};

use ondemand_core::{
    caught::Loss,
    config::IdleTimeout,
    lifecycle::{Step, View, note::VetoReason},
    measure::{Ktime, unit::ActiveState},
    policy::Verdict,
    runs::StopReason,
    words::{Span, counted},
};
use tokio::sync::oneshot;

use super::{Agent, connection, keeping, page, strangers, watched::Watched};
use crate::{
    bus::report::{Datagrams, HeldClients, Learned, Report, Service},
    host::clock,
    observe::page::Table,
    systemd::Known,
};

impl Agent {
    /// Reports all services.
    pub(super) fn report(&mut self, answer: oneshot::Sender<String>) {
        self.count_open_bytes();
        let report = self.all();
        tokio::spawn(async move {
            match serde_json::to_string(&report.await) {
                // The caller may be gone.
                Ok(text) => drop(answer.send(text)),
                Err(error) => log::error!("could not serialize the status: {error}"),
            }
        });
    }

    /// Reports all services to the page.
    pub(super) fn show(&self, answer: oneshot::Sender<Table>) {
        let report = self.all();
        // The browser may be gone.
        tokio::spawn(async move { answer.send(page::table(&report.await)) });
    }

    /// Their memory is asked for when it is awaited.
    fn all(&self) -> impl Future<Output = Report> + Send + use<> {
        let services = self.services.values();
        let report = Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            dry_run: self.dry_run,
            configuration: self.source.report(),
            services: services.map(|watched| self.describe_one(watched)).collect(),
        };
        connection::completed(self.systemd.caller(), report)
    }

    /// Describes one service; the result is empty if it is not configured.
    pub(super) fn describe(&self, name: &str) -> Service {
        let watched = self.services.get(name);
        watched
            .map(|watched| self.describe_one(watched))
            .unwrap_or_default()
    }

    fn describe_one(&self, watched: &Watched) -> Service {
        let steered = self.is_steered(watched);
        let now = clock::moment();
        let hold = self.holding.left(&watched.service.name, &now);
        let view = self.view(watched);
        let mut service = describe(watched, view.as_ref(), steered);
        let is_up = view
            .as_ref()
            .is_some_and(|view| view.units.backend.state.is_up());
        if let Some(why) = view.as_ref().and_then(|view| watched.why_proxied(view)) {
            service.detail = format!("{}; {why}", service.detail);
        }
        if let Some(why) = view
            .as_ref()
            .and_then(|view| watched.receives_nothing(view))
        {
            service.detail = format!("{why}; {}", service.detail);
        }
        if let Some(why) = watched
            .not_ready()
            .filter(|_| watched.never_ready(clock::now()).is_none())
        {
            service.detail = format!("not ready: {why}; {}", service.detail);
        }
        if let Some(rate) = watched
            .working
            .work
            .rate
            .filter(|_| watched.is_working() == Some(true))
        {
            service.detail = format!("{}; it works without a client: {rate}", service.detail);
        }
        if let Some(by) = self.needed_by(&watched.service.name).filter(|_| is_up) {
            service.detail = format!("{}; needed by {by}", service.detail);
        }
        service.room = self.room_of(watched);
        let room = service.room.as_ref();
        if let Some(room) = room.and_then(|room| self.room_detail(watched, room)) {
            service.detail = match is_up {
                true => format!("{}; {room}", service.detail),
                false => room,
            };
        }
        if let Some(frozen) = watched.frozen() {
            service.frozen = true;
            service.detail = format!("{frozen}; {}", service.detail);
        }
        if let Some(why) = watched.inhibited() {
            service.detail = format!("{}; {why}", service.detail);
        }
        if let Some(stranger) = strangers::present(watched) {
            service.detail = format!("{}; {stranger}", service.detail);
        }
        if service.learned.in_force && watched.problem.is_none() {
            service.detail = format!(
                "{}; idle timeout {}",
                service.detail, service.learned.reason
            );
        }
        if let Some(kept) = keeping::detail(watched).filter(|_| watched.problem.is_none()) {
            service.kept_up = true;
            service.detail = format!("{}; {kept}", service.detail);
        }
        if watched.service.prewarm
            && watched.problem.is_none()
            && let Some(expected) = watched.prewarming.detail(clock::now())
        {
            service.detail = format!("{}; {expected}", service.detail);
        }
        if let Some(hold) = hold {
            service.held = true;
            service.held_until = hold.until(&now).map(|until| until.to_string());
            // Who shows it knows the time zone of who asks.
            service.detail = format!("{}; {hold}", service.detail);
        }
        service.problem = self.trouble(watched);
        if let Some(problem) = service
            .problem
            .as_ref()
            .filter(|_| watched.problem.is_none())
        {
            service.detail = format!("{problem}; {}", service.detail);
        }
        service
    }

    /// What does not work.
    pub(super) fn trouble(&self, watched: &Watched) -> Option<String> {
        if let Some(problem) = &watched.problem {
            return Some(format!("not managed: {problem}"));
        }
        let end = |end: &Option<String>| {
            end.as_ref()
                .map(|end| format!(" ({end})"))
                .unwrap_or_default()
        };
        let names = &watched.units;
        let (proxy, backend) = (&names.proxy, &names.backend);
        if let Some(never) = watched.never_ready(clock::now()) {
            return Some(never);
        }
        let failures = watched.lifecycle.proxy_failures();
        if failures > 0 {
            return Some(format!(
                "its proxy cannot run{}, {} in a row: `journalctl -u {proxy}`",
                end(&watched.proxy_end),
                counted(failures.into(), "failure")
            ));
        }
        if self.systemd.known(proxy).is_some_and(Known::is_skipped) {
            return Some(format!(
                "its proxy is not started, a condition of {proxy} is not met: `systemctl status {proxy}`"
            ));
        }
        let restarts = watched.lifecycle.restarts(clock::now());
        let what = match (watched.gave_up, restarts) {
            (true, _) => "was stopped, because it kept failing".to_owned(),
            (false, 2..) => format!("keeps failing, {}", counted(restarts.into(), "restart")),
            _ => return None,
        };
        Some(format!(
            "{backend} {what}{}: `journalctl -u {backend}`",
            end(&watched.backend_end)
        ))
    }

    /// Whether new connections are steered to the backend.
    fn is_steered(&self, watched: &Watched) -> bool {
        watched.lifecycle.steered()
            && self
                .sampler
                .is_steerable(watched.slot)
                .unwrap_or_else(|error| {
                    log::debug!("{error:#}");
                    false
                })
    }
}

/// `view`: `None` if the states of its units are unknown. `steered`: whether new connections are
/// steered to the backend.
fn describe(watched: &Watched, view: Option<&View>, steered: bool) -> Service {
    let service = &watched.service;
    let state = view.map_or(ActiveState::Unknown, |view| view.units.backend.state);
    let sample = view.and_then(|view| view.sample);
    let up = state.is_up();
    let seconds = |span: Duration| span.as_secs_f64();
    let idle = view.filter(|_| up).and_then(|view| match view.verdict {
        Verdict::Quiet { since, .. }
        | Verdict::Idle { since }
        | Verdict::Held { since, .. }
        | Verdict::Needed { since } => view.now.since(since),
        Verdict::Busy { .. } | Verdict::Unknown(_) => None,
    });
    let stops_in = view.filter(|_| up).and_then(|view| match view.verdict {
        Verdict::Quiet { idle_at, .. } => idle_at?.since(view.now),
        Verdict::Idle { .. } => Some(Duration::ZERO),
        _ => None,
    });
    let tally = &watched.tally;
    let stops = StopReason::SEEN.map(|reason| {
        (
            reason.as_str().to_owned(),
            tally.stops.get(&reason).copied().unwrap_or(0),
        )
    });
    let vetoes = VetoReason::ALL.map(|reason| {
        (
            reason.as_str().to_owned(),
            tally.vetoes.get(&reason).copied().unwrap_or(0),
        )
    });
    let held = watched.held.tally();
    let lost = Loss::ALL.map(|why| {
        (
            why.as_str().to_owned(),
            watched.datagrams.tally().lost[why as usize],
        )
    });
    Service {
        name: service.name.clone(),
        unit: service.unit.clone(),
        listen: service.listen.iter().map(ToString::to_string).collect(),
        state: state.as_str().into(),
        route: match (steered, service.own_address) {
            _ if service.backend.is_udp() => match watched.lifecycle.passes_datagrams() {
                true => "native",
                false => "held",
            },
            (true, true) => "native",
            (true, false) => "steered",
            (false, _) => "proxied",
        }
        .into(),
        open_connections: watched.open(sample.as_ref()),
        accepted_connections: sample.map_or(0, |sample| sample.accepted()),
        received_bytes: sample.map_or(0, |sample| sample.received_bytes()),
        sent_bytes: sample.map_or(0, |sample| sample.sent_bytes()),
        idle_seconds: idle.map(seconds),
        idle_timeout_seconds: watched.idle_timeout().map(seconds),
        learned: learned(watched),
        frozen: false,
        room: None,
        prewarm: (watched.service.prewarm).then(|| watched.prewarming.report()),
        stops_in_seconds: stops_in.map(seconds),
        starts: tally.starts,
        stops: tally.stops.values().sum(),
        stops_by_reason: stops.into(),
        vetoes: tally.vetoes.values().sum(),
        vetoes_by_reason: vetoes.into(),
        last_start_duration_seconds: tally.last_start.map(seconds),
        usual_start_seconds: watched.learner.usual_start().map(seconds),
        front: sample.map(|sample| sample.front.into()).unwrap_or_default(),
        steered: sample
            .map(|sample| sample.steered.into())
            .unwrap_or_default(),
        back: sample.map(|sample| sample.back.into()).unwrap_or_default(),
        ignored: sample
            .map(|sample| sample.ignored.into())
            .unwrap_or_default(),
        refused_connections: sample.map_or(0, |sample| sample.refused),
        held_clients: HeldClients {
            waiting: watched.held.len() as u64,
            to_application: held.to_application,
            to_front: held.to_front,
            late: held.late,
            gave_up: held.gave_up,
            seconds: seconds(held.held),
        },
        datagrams: service.has_datagrams().then(|| Datagrams {
            passed: sample.map_or(0, |sample| sample.datagrams),
            waiting: watched.datagrams.len() as u64,
            held: watched.datagrams.tally().sent,
            lost: watched.datagrams.tally().lost(),
            lost_by_reason: lost.into(),
            refused: sample.map_or(0, |sample| sample.refused_datagrams),
        }),
        older_connections: sample.map_or(0, |sample| sample.older),
        count_drift: tally.drift,
        proxy_failures: tally.proxy_failures,
        restarts: tally.restarts,
        ready: watched.shows_ready(Some(state)),
        not_ready: watched.not_ready(),
        working: watched.is_working().filter(|_| up),
        problem: None,
        memory_bytes: None,
        given_back_bytes: Some(watched.memory.load(Ordering::Relaxed))
            .filter(|bytes| *bytes > 0 && state == ActiveState::Inactive),
        held: false,
        kept_up: false,
        held_until: None,
        detail: detail(watched, view),
    }
}

fn learned(watched: &Watched) -> Learned {
    let (learner, choice) = (&watched.learner, watched.learner.choice());
    let tally = learner.tally();
    Learned {
        idle_timeout_seconds: choice.timeout.as_secs_f64(),
        in_force: watched.service.idle_timeout == IdleTimeout::Learned,
        reason: choice.to_string(),
        gaps: learner.gaps(),
        cold_start_cost_seconds: learner.cold_start_cost().as_secs_f64(),
        fixed_cost_seconds: tally.fixed_cost,
        learned_cost_seconds: tally.learned_cost,
    }
}

/// Why it is up, or what happens next.
fn detail(watched: &Watched, view: Option<&View>) -> String {
    if let Some(problem) = &watched.problem {
        return format!("not managed: {problem}");
    }
    let Some(view) = view else {
        return "kept: systemd does not answer".into();
    };
    let under_way = match watched.lifecycle.current() {
        Step::Rest if watched.lifecycle.is_asked() => Some("stopping on request"),
        Step::Rest => None,
        Step::Asking => Some("idle, its veto program is running"),
        Step::Looking { .. } | Step::Releasing(_) | Step::Settling { stop: Some(_), .. } => {
            Some("stopping")
        }
        Step::Waking => Some("starting for a client that is held"),
        Step::Settling { stop: None, .. } | Step::Retaking => Some("running without its lease"),
    };
    if let Some(under_way) = under_way {
        return under_way.into();
    }
    let unit = &watched.service.unit;
    let down = matches!(
        view.units.backend.state,
        ActiveState::Inactive | ActiveState::Failed
    );
    if watched.is_silent && down {
        let socket = &watched.units.socket;
        return format!(
            "{socket} does not listen at all of its addresses: run `systemctl restart {socket}`"
        );
    }
    let next = match (
        watched.service.has_datagrams(),
        watched.service.backend.is_udp(),
    ) {
        (true, true) => "datagram",
        (true, false) => "connection or datagram",
        (false, _) => "connection",
    };
    match view.units.backend.state {
        ActiveState::Inactive => format!("starts with the next {next}"),
        ActiveState::Failed => {
            format!("failed (`journalctl -u {unit}`), starts with the next {next}")
        }
        ActiveState::Activating => "starting".into(),
        ActiveState::Deactivating => "stopping".into(),
        ActiveState::Unknown => "kept: its state is unknown".into(),
        ActiveState::Active | ActiveState::Reloading => why_up(watched, view),
    }
}

fn why_up(watched: &Watched, view: &View) -> String {
    let remaining = |at: Ktime| Span(at.since(view.now).unwrap_or_default());
    match view.verdict {
        Verdict::Busy { open } => format!("{} open", counted(open, "connection")),
        Verdict::Quiet {
            idle_at: Some(at), ..
        } => format!("quiet, stops in {}", remaining(at)),
        Verdict::Quiet { idle_at: None, .. } if watched.placed.is_kept() => {
            "quiet, stays up as long as its memory fits (memory_budget)".into()
        }
        Verdict::Quiet { idle_at: None, .. } => "quiet, never stopped".into(),
        Verdict::Unknown(reason) => format!("kept: {reason}"),
        Verdict::Held { .. } | Verdict::Needed { .. } => "quiet".into(),
        Verdict::Idle { .. } => match watched.lifecycle.paused() {
            Some((until, Some(reason))) if until > view.now => {
                format!(
                    "idle, kept (veto: {}) for {}",
                    reason.as_str(),
                    remaining(until)
                )
            }
            Some((until, None)) if until > view.now => "idle, would be stopped (dry run)".into(),
            _ if !view.units.proxy.is_settled_down() => "idle, its proxy is about to exit".into(),
            _ => "idle, about to be stopped".into(),
        },
    }
}
