//! Checks the real stop protocol against a model of everything that runs beside it, and shows the
//! purpose of each of its protections: the model finds what is lost without it.
//!
//! `cargo model` runs it: with the feature `ablation`, and optimised.

mod agent;
mod client;
mod model;
mod mutants;
mod pid1;
mod relative;
mod state;
mod view;

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

use model::{Action, LOST, Protocol, STOPPED, Without};
use ondemand_core::lifecycle::Options;
use state::{Budgets, State};
use stateright::{Checker as _, HasDiscoveries, Model as _, Path};

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
    // The runs do not get the backend's listeners: the protocol's decisions do not depend on them.
    tcp_backend: false,
    leaves_out: &[],
};

const CATCHING: Options = Options {
    catch: true,
    ..STEERED
};

const PROXIED: Options = Options {
    steer: false,
    ..STEERED
};

/// One client; the agent dies once, and a start fails once.
const PROTOCOL: Protocol = Protocol {
    clients: 1,
    tick: Duration::from_secs(3),
    cookies: true,
    deaf: false,
    options: STEERED,
    idle_timeout: Some(Duration::ZERO),
    proxy_stays: false,
    gives_way: false,
    late_signals: false,
    budgets: Budgets {
        attempts: 2,
        deaths: 1,
        failures: 1,
        crashes: 0,
        stops: 0,
        holds: 0,
        interrupts: 0,
    },
    without: None,
};

impl Protocol {
    /// With other budgets.
    fn with(self, change: impl FnOnce(&mut Budgets)) -> Self {
        let mut budgets = self.budgets;
        change(&mut budgets);
        Self { budgets, ..self }
    }
}

/// A container's published port: nobody accepts at the listener.
const DEAF: Protocol = Protocol {
    deaf: true,
    ..PROTOCOL
};

/// Its proxy is up when the stop is requested, and would stay for long.
const ASKED_PROXIED: Protocol = Protocol {
    options: Options {
        proxy_stays: Duration::from_secs(540),
        ..PROXIED
    },
    idle_timeout: None,
    proxy_stays: true,
    budgets: Budgets {
        stops: 2,
        deaths: 0,
        ..PROTOCOL.budgets
    },
    ..PROTOCOL
};

/// Clients are held while the service is down.
const CAUGHT: Protocol = Protocol {
    options: CATCHING,
    ..PROTOCOL
};

/// The backend ends by itself. Its next start does not fail: until the agent knows of the crash,
/// the gate may be open for a backend that is not active yet.
const CRASHES: Protocol = Protocol {
    budgets: Budgets {
        crashes: 1,
        deaths: 0,
        failures: 0,
        ..PROTOCOL.budgets
    },
    ..PROTOCOL
};

/// Visits every state.
#[track_caller]
fn check(name: &str, protocol: Protocol) {
    let begin = Instant::now();
    let checker = protocol
        .checker()
        .threads(2)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    eprintln!(
        "{name}: {} states, {} of them different, in {:.1} s",
        checker.state_count(),
        checker.unique_state_count(),
        begin.elapsed().as_secs_f64()
    );
    for (name, path) in checker.discoveries() {
        assert!(name == STOPPED, "{name}:\n{}", words(path));
    }
    // Only a failure ends it sooner: every state was visited.
    assert!(checker.discovery(STOPPED).is_some(), "{STOPPED}: never");
}

/// Returns the property that does not hold, and the path to it.
fn finds(protocol: Protocol) -> Option<(&'static str, String)> {
    let checker = protocol
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let mut discoveries = checker.discoveries().into_iter();
    let (name, path) = discoveries.find(|(name, _)| *name != STOPPED)?;
    Some((name, words(path)))
}

fn words(path: Path<State, Action>) -> String {
    path.into_actions()
        .iter()
        .map(|action| format!("  {action:?}\n"))
        .collect()
}

#[test]
fn one_client() {
    check("one client", PROTOCOL);
}

#[test]
fn a_client_that_is_held() {
    check("held client", CAUGHT);
}

#[test]
fn two_clients_that_are_held() {
    // Two of them, and an agent that dies, are too many states.
    let calm = CAUGHT.with(|budgets| (budgets.deaths, budgets.attempts) = (0, 1));
    check("two held clients", Protocol { clients: 2, ..calm });
}

#[test]
fn a_client_that_is_held_and_a_backend_that_crashes() {
    let crashes = Protocol {
        options: CATCHING,
        ..CRASHES
    };
    check("held client, crash", crashes);
}

#[test]
fn a_client_that_is_held_when_signals_come_late() {
    let late = Protocol {
        late_signals: true,
        ..CAUGHT.with(|budgets| (budgets.deaths, budgets.attempts) = (0, 1))
    };
    check("held client, late signals", late);
}

#[test]
fn two_clients() {
    let clients = 2;
    check(
        "two clients",
        Protocol {
            clients,
            ..PROTOCOL
        },
    );
}

/// Cookies outlive one step of time, and die with the second.
#[test]
fn one_client_in_short_steps_of_time() {
    let tick = Duration::from_secs(1);
    check("short steps", Protocol { tick, ..PROTOCOL });
}

#[test]
fn an_unsteered_service() {
    let options = PROXIED;
    check(
        "unsteered",
        Protocol {
            options,
            ..PROTOCOL
        },
    );
}

#[test]
fn a_veto_program_is_asked() {
    let options = Options {
        ask: true,
        ..STEERED
    };
    check(
        "veto program",
        Protocol {
            options,
            ..PROTOCOL
        },
    );
}

#[test]
fn somebody_holds_it() {
    let held = PROTOCOL.with(|budgets| (budgets.holds, budgets.deaths) = (1, 0));
    check("held", held);
}

#[test]
fn somebody_asks_for_a_stop() {
    let asked = PROTOCOL.with(|budgets| (budgets.stops, budgets.deaths) = (2, 0));
    let protocol = Protocol {
        idle_timeout: None,
        ..asked
    };
    check("asked", protocol);
}

#[test]
fn another_one_needs_its_room() {
    let protocol = Protocol {
        idle_timeout: None,
        gives_way: true,
        ..PROTOCOL.with(|budgets| budgets.stops = 1)
    };
    check("gives way", protocol);
}

#[test]
fn somebody_asks_for_the_stop_of_one_whose_proxy_stays() {
    check("asked, the proxy stays", ASKED_PROXIED);
}

#[test]
fn systemd_is_lost_and_its_signals_come_late() {
    let lost = PROTOCOL.with(|budgets| (budgets.interrupts, budgets.deaths) = (1, 0));
    let protocol = Protocol {
        late_signals: true,
        ..lost
    };
    check("late signals", protocol);
}

#[test]
fn nobody_accepts_at_the_listener() {
    check("deaf", DEAF);
}

#[test]
fn the_backend_crashes() {
    check("crash", CRASHES);
}

/// The protections outside the protocol: those of the sampler, the agent and the policy.
#[test]
fn what_is_lost_without_the_agents_own_protections() {
    #[track_caller]
    fn loses(without: Without) {
        let protocol = Protocol {
            without: Some(without),
            ..PROTOCOL
        };
        mutant(&without, LOST, protocol);
    }
    loses(Without::AnyAge);
    loses(Without::WaitForCookies);
    loses(Without::WaitForFrontCookies);
    loses(Without::WaitForLookups);
    loses(Without::ProxyWants);
}

/// One whose cookie is outstanding is not told apart from the others any more.
#[test]
fn what_is_lost_when_clients_are_held_too_early() {
    let without = Without::WaitForFrontCookies;
    let protocol = Protocol {
        without: Some(without),
        ..CAUGHT
    };
    mutant(&without, LOST, protocol);
}

/// A mutant in which the model finds the error.
#[track_caller]
fn mutant(without: &dyn Debug, expected: &str, protocol: Protocol) {
    let Some((found, path)) = finds(protocol) else {
        panic!("{without:?} is left out, and nothing is found");
    };
    eprintln!("without {without:?}, not so: {found}\n{path}");
    assert_eq!(found, expected, "without {without:?}");
}
