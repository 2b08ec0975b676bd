//! Checks the stop protocol against a model of everything that runs beside it, and shows
//! that each step is needed: the model finds a lost request in every mutant.

mod effects;
mod model;
mod possible;
mod state;

use state::{Protocol, Without};
use stateright::{Checker as _, Model as _};

const LOST: &str = "no request is lost";

#[test]
fn no_interleaving_loses_a_request() {
    let checker = Protocol {
        clients: 2,
        without: Without::Nothing,
    }
    .checker()
    .threads(2)
    .spawn_bfs()
    .join();
    eprintln!(
        "{} states, {} of them different",
        checker.state_count(),
        checker.unique_state_count()
    );
    checker.assert_properties();
}

#[track_caller]
fn check_loses(without: Without) {
    let checker = Protocol {
        clients: 1,
        without,
    }
    .checker()
    .spawn_bfs()
    .join();
    let Some(path) = checker.discovery(LOST) else {
        panic!("{without:?} was left out and the model found no loss");
    };
    eprintln!("without {without:?}:");
    for action in path.into_actions() {
        eprintln!("  {action:?}");
    }
}

#[test]
fn without_the_gate() {
    check_loses(Without::Gate);
}

#[test]
fn without_the_second_look() {
    check_loses(Without::Recheck);
}

#[test]
fn without_the_half_open_check() {
    check_loses(Without::HalfOpenCheck);
}

#[test]
fn with_the_age_of_the_syn_instead_of_the_half_open_check() {
    check_loses(Without::OldHalfOpenCheck);
}

#[test]
fn without_the_wait_for_cookies() {
    check_loses(Without::CookieAge);
}

#[test]
fn without_the_wait_for_lookups() {
    check_loses(Without::WaitForLookups);
}

#[test]
fn without_waiting_until_the_backend_is_active() {
    check_loses(Without::WaitForActive);
}

#[test]
fn without_waiting_until_the_backend_has_stopped() {
    check_loses(Without::WaitForStopped);
}
