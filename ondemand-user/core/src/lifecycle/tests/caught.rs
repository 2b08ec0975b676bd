//! Clients that are held.

use super::*;
use crate::caught::PATIENCE;

const CATCHING: Options = Options {
    catch: true,
    ..STEERED
};

/// Down, with this number of clients that are held.
fn down(caught: u64) -> View {
    with(stopped(), |view| view.caught = caught)
}

/// Just started, nobody has been accepted in this run, and one client is held.
fn started() -> View {
    with(busy(), |view| {
        view.units.backend = backend(ActiveState::Active);
        view.units.backend.inactive_exit = Some(ms(NOW));
        view.units.lease = unit(ActiveState::Activating);
        view.units.lease.job = true;
        (view.caught, view.listens) = (1, true);
    })
}

fn waking() -> Lifecycle {
    let mut lifecycle = Lifecycle::new(CATCHING);
    lifecycle.step(&down(0), Input::Changed);
    lifecycle.step(&down(1), Input::Changed);
    lifecycle
}

#[test]
fn a_client_that_is_held_starts_the_service() {
    let new = || Lifecycle::new(CATCHING);
    check(new(), down(0), Input::Changed, "catch close", "rest");
    check(new(), down(1), Input::Changed, "catch close take", "waking");
    // It was not asked for.
    let plain = Lifecycle::new(STEERED);
    check(plain, down(1), Input::Changed, "close hand-over", "rest");
    // A failure is for the proxy, whose client waits for the next restart.
    let failed = with(down(1), |view| {
        view.units.backend.state = ActiveState::Failed
    });
    check(new(), failed, Input::Changed, "close hand-over", "rest");
    let end = Input::Job(JobEnd::Failed("refused".into()));
    check(waking(), down(1), end, "say hand-over", "rest");
}

#[test]
fn nobody_passes_before_it_is_ready() {
    let unready = |view: View| with(view, |view| view.ready = false);
    let starting = unready(started());
    check(
        waking(),
        starting,
        Input::Changed,
        "+start say @61000",
        "waking",
    );
    // It has accepted a connection: that of the question.
    let warm = with(busy(), |view| view.ready = false);
    let new = || Lifecycle::new(CATCHING);
    check(new(), warm, Input::Changed, "catch close @61000", "rest");
    let late = at(warm, NOW + 2_000);
    let lifecycle = || after(CATCHING, &[(warm, Input::Changed)]);
    check(
        lifecycle(),
        late,
        Input::Changed,
        "let-pass @122000",
        "rest",
    );
    let ready = with(late, |view| view.ready = true);
    check(lifecycle(), ready, Input::Changed, "open @122000", "rest");
}

#[test]
fn one_client_passes_before_anybody_was_accepted() {
    check(
        waking(),
        started(),
        Input::Changed,
        "+start say pass-one @61000",
        "waking",
    );
    let not_yet = with(started(), |view| view.listens = false);
    check(
        waking(),
        not_yet,
        Input::Changed,
        "+start say @61000",
        "waking",
    );
    // Only one in a run.
    let mut passed = waking();
    passed.step(&started(), Input::Changed);
    check(
        passed.clone(),
        started(),
        Input::Changed,
        "@61000",
        "waking",
    );
    // Then the gate opens for all, when the lease is held.
    let held = with(started(), |view| {
        view.units.lease = unit(ActiveState::Active);
        if let Some(sample) = &mut view.sample {
            sample.served = Some(ms(NOW));
        }
    });
    let done = Input::Job(JobEnd::Done);
    check(passed.clone(), held, done, "open @120000", "rest");
    // Or nobody accepts, and after a second all are at the front socket.
    let late = with(started(), |view| view.now = view.now + PATIENCE);
    check(passed, late, Input::Changed, "let-pass hand-over", "waking");
}

#[test]
fn a_client_that_is_held_during_a_stop_is_served_after_it() {
    let catching = |state: fn(Options) -> Lifecycle| state(CATCHING);
    let held = |view: View| with(view, |view| view.caught = 1);
    check(
        catching(looking),
        held(idle()),
        clean(),
        "+veto:activity say open @60250",
        "rest",
    );
    check(
        catching(settling),
        held(released()),
        Input::Changed,
        "+veto:activity say take",
        "retaking",
    );
    let mut gone = catching(settling);
    gone.step(&stopped(), Input::Changed);
    check(gone, down(1), Input::Changed, "take", "waking");
}

/// A scan wakes it once, and not again before somebody has connected.
#[test]
fn a_run_without_a_connection_was_in_vain() {
    let mut lifecycle = waking();
    lifecycle.step(
        &with(started(), |view| view.sample = Some(sample(0))),
        Input::Changed,
    );
    let again = with(down(1), |view| {
        view.sample = Some(sample(0));
        view.units.backend.inactive_enter = Some(ms(NOW));
    });
    check(
        lifecycle,
        again,
        Input::Changed,
        "let-pass +stop:external say hand-over",
        "waking",
    );
}
