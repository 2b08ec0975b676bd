//! What is lost when the real protocol leaves out a protection. If nothing is lost, another
//! protection covers it: this is shown by leaving out both.

use ondemand_core::{
    lifecycle::{
        Input, Lifecycle, Options, View,
        ablation::Protection::{self, *},
    },
    measure::{
        Ktime,
        unit::{ActiveState, Unit, Units},
    },
    policy::Verdict,
};

use crate::{
    ASKED_PROXIED, CAUGHT, CRASHES, DEAF, PROTOCOL, finds,
    model::{ANSWERS, LOST, Protocol, STUCK},
    mutant,
};

fn without(protocol: Protocol, leaves_out: &'static [Protection]) -> Protocol {
    let options = Options {
        leaves_out,
        ..protocol.options
    };
    Protocol {
        options,
        ..protocol
    }
}

/// Checks that without these protections `expected` does not hold.
#[track_caller]
fn breaks(expected: &str, protocol: Protocol, left_out: &'static [Protection]) {
    mutant(&left_out, expected, without(protocol, left_out));
}

/// Checks that without all but the last nothing is found, and that without the last, too, `expected`
/// does not hold.
#[track_caller]
fn covered(expected: &str, protocol: Protocol, left_out: &'static [Protection]) {
    if let Some((_, rest)) = left_out.split_last() {
        let found = finds(without(protocol, rest));
        assert_eq!(found, None, "without {rest:?}");
    }
    breaks(expected, protocol, left_out);
}

#[test]
fn the_gate() {
    breaks(LOST, PROTOCOL, &[Gate]);
    breaks(LOST, PROTOCOL, &[GateFirst]);
    breaks(LOST, PROTOCOL, &[GateUnknown]);
}

#[test]
fn the_last_look() {
    breaks(LOST, PROTOCOL, &[HalfOpen]);
    // The cookie of a look-up between the two.
    breaks(LOST, PROTOCOL, &[StillIdle]);
    // Each of three protections sees a connection between the two.
    let no_cookies = Protocol {
        cookies: false,
        ..PROTOCOL
    };
    covered(LOST, no_cookies, &[Counters, Connections, StillIdle]);
    covered(LOST, no_cookies, &[StillIdle, Counters, Connections]);
    covered(LOST, no_cookies, &[Connections, StillIdle, Counters]);
}

#[test]
fn when_the_gate_opens() {
    // The next agent finds the lease stopping, and the backend still up.
    breaks(LOST, PROTOCOL, &[LeaseHeld]);
    // PID 1 takes the lease when the backend is active, not before.
    let calm = PROTOCOL.with(|budgets| (budgets.deaths, budgets.attempts) = (0, 1));
    let two = Protocol { clients: 2, ..calm };
    // And nobody accepts before it is active.
    covered(LOST, two, &[Active, LeaseHeld, Accepted]);
    covered(LOST, two, &[Active, Accepted, LeaseHeld]);
}

#[test]
fn a_listener_that_nobody_accepts_at() {
    // A client is steered there.
    breaks(STUCK, DEAF, &[Accepted]);
}

#[test]
fn clients_that_are_held() {
    breaks(LOST, CAUGHT, &[Pass]);
    breaks(LOST, CAUGHT, &[PassActive]);
}

#[test]
fn the_end_of_the_stop() {
    let calm = PROTOCOL.with(|budgets| budgets.deaths = 0);
    covered(LOST, calm, &[Settling, LeaseHeld, Unleased]);
    covered(LOST, calm, &[Unleased, Settling, LeaseHeld]);
    covered(LOST, calm, &[LeaseHeld, Unleased, Settling]);
    covered(LOST, calm, &[Retaking, LeaseHeld, Unleased]);
    covered(LOST, calm, &[Unleased, Retaking, LeaseHeld]);
}

#[test]
fn a_proxy_that_is_up() {
    // PID 1 keeps what it `Wants=`: `Without::ProxyWants` loses a request by itself.
    assert_eq!(finds(without(PROTOCOL, &[ProxyDown])), None);
    breaks(STUCK, CRASHES, &[Orphan]);
}

#[test]
fn a_stop_that_somebody_asks_for() {
    let asked = Protocol {
        idle_timeout: None,
        ..PROTOCOL.with(|budgets| budgets.stops = 1)
    };
    breaks(STUCK, asked, &[Canceled]);
    breaks(ANSWERS, asked, &[RunEnded]);
    covered(STUCK, ASKED_PROXIED, &[Dismissal, Patience]);
    covered(STUCK, ASKED_PROXIED, &[Patience, Dismissal]);
}

/// The model has no unit that systemd restarts by itself: this shows what the idle clock would start from.
#[test]
fn systemds_own_restarts() {
    #[track_caller]
    fn check(leaves_out: &'static [Protection], expected: u64) {
        let options = without(PROTOCOL, leaves_out).options;
        let mut lifecycle = Lifecycle::new(options);
        let mut look = |state, restarting, active_enter| {
            let backend = Unit {
                state,
                restarting,
                active_enter: Some(Ktime::from_nanos(active_enter)),
                ..Unit::default()
            };
            let view = View {
                caught: 0,
                datagrams: 0,
                bound: false,
                listens: false,
                ready: true,
                room: true,
                silent: 0,
                now: Ktime::from_nanos(10),
                sample: None,
                verdict: Verdict::Quiet {
                    since: Ktime::default(),
                    idle_at: None,
                },
                units: Units {
                    backend,
                    ..Units::default()
                },
            };
            lifecycle.step(&view, Input::Changed);
            lifecycle.used_since(&backend)
        };
        look(ActiveState::Active, false, 1);
        look(ActiveState::Activating, true, 1);
        let since = look(ActiveState::Active, false, 5);
        assert_eq!(since, Some(Ktime::from_nanos(expected)), "{leaves_out:?}");
    }
    check(&[], 1);
    check(&[Restarts], 5);
}
