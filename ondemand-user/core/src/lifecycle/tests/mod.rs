//! One row for each transition of the protocol. This file has the states that they start in.

mod caught;
mod datagrams;
mod look;
mod loops;
mod native;
mod release;
mod request;
mod room;
mod runs;

use super::*;
use crate::measure::{
    sample::{Leg, Sockets},
    unit::{ActiveState, Unit, Units},
};

const START: u64 = 1_000;
/// The start of the idle clock in every row.
const SINCE: u64 = 2_000;
/// The present in every row.
const NOW: u64 = 60_000;

const fn ms(ms: u64) -> Ktime {
    Ktime::from_nanos(ms * 1_000_000)
}

const STEERED: Options = Options {
    steer: true,
    wake_list: false,
    native: false,
    catch: false,
    datagrams: false,
    ask: false,
    dry_run: false,
    proxy_stays: Duration::from_secs(1),
    tcp_front: true,
    tcp_backend: true,
    leaves_out: &[],
};
const PROXIED: Options = Options {
    steer: false,
    ..STEERED
};
const LISTED: Options = Options {
    wake_list: true,
    ..STEERED
};
const ASKED: Options = Options {
    ask: true,
    ..STEERED
};
const DRY: Options = Options {
    dry_run: true,
    ..STEERED
};

fn sample(accepted: u64) -> Sample {
    let leg = Leg {
        accepted,
        closed: accepted,
        ..Leg::default()
    };
    Sample {
        at: ms(NOW),
        front: Leg::default(),
        steered: leg,
        back: Leg::default(),
        ignored: Leg::default(),
        refused: 0,
        older: 0,
        last_activity: Some(ms(SINCE)),
        last_open: Some(ms(SINCE)),
        lookups: accepted,
        last_lookup: Some(ms(SINCE)),
        served: Some(ms(START)),
        datagrams: 0,
        refused_datagrams: 0,
    }
}

fn unit(state: ActiveState) -> Unit {
    Unit {
        state,
        ..Unit::default()
    }
}

fn backend(state: ActiveState) -> Unit {
    Unit {
        active_enter: Some(ms(START)),
        inactive_exit: Some(ms(START - 840)),
        ..unit(state)
    }
}

/// Warm and idle: the backend up, the lease held, the proxy down, no client.
fn idle() -> View {
    View {
        now: ms(NOW),
        sample: Some(sample(12)),
        verdict: Verdict::Idle { since: ms(SINCE) },
        units: Units {
            backend: backend(ActiveState::Active),
            proxy: unit(ActiveState::Inactive),
            lease: unit(ActiveState::Active),
        },
        caught: 0,
        datagrams: 0,
        bound: false,
        listens: false,
        ready: true,
        room: true,
        silent: 0,
    }
}

fn busy() -> View {
    View {
        verdict: Verdict::Busy { open: 1 },
        ..idle()
    }
}

fn quiet() -> View {
    let idle_at = Some(ms(NOW + 5_000));
    View {
        verdict: Verdict::Quiet {
            since: ms(SINCE),
            idle_at,
        },
        ..idle()
    }
}

/// The lease released, no client.
fn released() -> View {
    with(idle(), |view| {
        view.units.lease = unit(ActiveState::Inactive)
    })
}

fn stopped() -> View {
    with(released(), |view| {
        view.units.backend = backend(ActiveState::Inactive)
    })
}

fn with(mut view: View, change: impl FnOnce(&mut View)) -> View {
    change(&mut view);
    view
}

fn at(view: View, now: u64) -> View {
    View {
        now: ms(now),
        ..view
    }
}

/// A lifecycle after `inputs`.
fn after(options: Options, inputs: &[(View, Input)]) -> Lifecycle {
    let mut lifecycle = Lifecycle::new(options);
    for (view, input) in inputs {
        lifecycle.step(view, input.clone());
    }
    lifecycle
}

/// Warm, with connections open.
fn warm(options: Options) -> Lifecycle {
    after(options, &[(busy(), Input::Changed)])
}

fn asking() -> Lifecycle {
    after(ASKED, &[(busy(), Input::Changed), (idle(), Input::Changed)])
}

fn looking(options: Options) -> Lifecycle {
    after(
        options,
        &[(busy(), Input::Changed), (idle(), Input::Changed)],
    )
}

fn clean() -> Input {
    Input::Snapshot(Some(Sockets {
        front_listeners: 1,
        back_listeners: 1,
        ..Sockets::default()
    }))
}

fn releasing(options: Options) -> Lifecycle {
    let mut lifecycle = looking(options);
    lifecycle.step(&idle(), clean());
    lifecycle
}

fn settling(options: Options) -> Lifecycle {
    let mut lifecycle = releasing(options);
    lifecycle.step(&released(), Input::Job(JobEnd::Done));
    lifecycle
}

fn name(step: &Step) -> &'static str {
    match step {
        Step::Rest => "rest",
        Step::Asking => "asking",
        Step::Looking { .. } => "looking",
        Step::Releasing(_) => "releasing",
        Step::Settling { stop: Some(_), .. } => "settling",
        Step::Settling { stop: None, .. } => "unleased",
        Step::Retaking => "retaking",
        Step::Waking => "waking",
    }
}

fn words(command: &Command) -> String {
    match command {
        Command::CloseGate => "close".into(),
        Command::OpenGate => "open".into(),
        Command::Admit(true) => "admit".into(),
        Command::Admit(false) => "refuse".into(),
        Command::Catch(true) => "catch".into(),
        Command::Catch(false) => "let-pass".into(),
        Command::PassDatagrams(true) => "pass-datagrams".into(),
        Command::PassDatagrams(false) => "hold-datagrams".into(),
        Command::PassOne => "pass-one".into(),
        Command::HandOver => "hand-over".into(),
        Command::AskVeto { .. } => "ask".into(),
        Command::TakeSnapshot => "snapshot".into(),
        Command::ReleaseLease => "release".into(),
        Command::TakeLease => "take".into(),
        Command::StopProxy => "stop-proxy".into(),
        Command::DismissProxy => "dismiss-proxy".into(),
        Command::ForgetStarts => String::new(),
        Command::EndLoop(EndLoop::Proxy { .. }) => "let-go".into(),
        Command::EndLoop(EndLoop::Backend { waiting: true, .. }) => "let-go stop".into(),
        Command::EndLoop(EndLoop::Backend { .. }) => "stop".into(),
        // Each is counted and logged.
        Command::Run(RunEvent::Started(_)) => "+start say".into(),
        Command::Run(RunEvent::Ended { reason, .. }) => format!("+stop:{} say", reason.as_str()),
        Command::Run(RunEvent::StartFailed { .. }) => "say".into(),
        Command::Run(_) => String::new(),
        Command::Count(Counter::Veto(reason)) => format!("+veto:{}", reason.as_str()),
        Command::Count(Counter::Drift) => "+drift".into(),
        Command::Count(Counter::ProxyFailed) => "+proxy-failed".into(),
        Command::Count(Counter::Restarted) => "+restart".into(),
        Command::Say(_) => "say".into(),
        Command::Answer(Reply::Stopped) => "=stopped".into(),
        Command::Answer(Reply::NotRunning) => "=down".into(),
        Command::Answer(Reply::Kept(Refusal::Vetoed(cause))) => {
            format!("=vetoed:{}", cause.reason().as_str())
        }
        Command::Answer(Reply::Kept(refusal)) => format!("=kept:{refusal}").replace(' ', "_"),
        Command::WaitUntil(at) => format!("@{}", at.as_nanos() / 1_000_000),
    }
}

/// Takes one step and compares the commands and the step that it ends in.
#[track_caller]
fn check(mut lifecycle: Lifecycle, view: View, input: Input, commands: &str, step: &str) {
    let done = lifecycle.step(&view, input);
    let mut done: Vec<_> = done.iter().map(words).collect();
    done.retain(|word| !word.is_empty());
    assert_eq!(
        (done.join(" ").as_str(), name(lifecycle.current())),
        (commands, step)
    );
}
