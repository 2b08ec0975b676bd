//! Applications whose listener PID 1 holds.

use super::*;

const NATIVE: Options = Options {
    native: true,
    catch: true,
    tcp_backend: false,
    ..STEERED
};

fn deactivating() -> View {
    with(released(), |view| {
        view.units.backend.state = ActiveState::Deactivating
    })
}

fn held(view: View) -> View {
    with(view, |view| view.caught = 1)
}

#[test]
fn the_gate_is_open_while_it_is_down() {
    let new = || Lifecycle::new(NATIVE);
    check(new(), stopped(), Input::Changed, "catch open", "rest");
    let failed = with(stopped(), |view| {
        view.units.backend.state = ActiveState::Failed
    });
    check(new(), failed, Input::Changed, "open", "rest");
    let starting = with(stopped(), |view| {
        view.units.backend.state = ActiveState::Activating;
        view.units.lease.job = true;
    });
    check(new(), starting, Input::Changed, "catch open", "rest");
    // Nobody has to be seen to accept before.
    let unseen = with(busy(), |view| {
        view.sample.as_mut().unwrap().served = None;
    });
    check(new(), unseen, Input::Changed, "catch open @61000", "rest");
    // Of these nobody can say whether they are stopped next.
    for view in [deactivating(), released()] {
        let mut lifecycle = new();
        lifecycle.step(&view, Input::Changed);
        assert_eq!(lifecycle.gate, Some(false), "{view:?}");
    }
}

#[test]
fn it_is_closed_from_the_look_to_the_end_and_no_longer() {
    assert_eq!(looking(NATIVE).gate, Some(false));
    assert_eq!(releasing(NATIVE).gate, Some(false));
    // The job is over, and it may still accept.
    let settling = || settling(NATIVE);
    assert_eq!(settling().gate, Some(false));
    check(
        settling(),
        held(deactivating()),
        Input::Changed,
        "",
        "settling",
    );
    // Those that were held start it like any others.
    check(
        settling(),
        held(stopped()),
        Input::Changed,
        "+stop:idle say open",
        "rest",
    );
    // It was not stopped after all: it is held again before anybody gets there.
    check(
        settling(),
        held(released()),
        Input::Changed,
        "+veto:activity say take",
        "retaking",
    );
}
