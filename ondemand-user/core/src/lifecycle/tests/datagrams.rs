//! Datagrams, which are held while the application is down or stops.

use super::*;

/// It receives datagrams alone.
const DATAGRAMS: Options = Options {
    datagrams: true,
    ..PROXIED
};

/// Down, with this number of datagrams that are held.
fn down(datagrams: u64) -> View {
    with(stopped(), |view| view.datagrams = datagrams)
}

/// Up, and bound where they arrive.
fn up(view: View) -> View {
    with(view, |view| view.bound = true)
}

fn new() -> Lifecycle {
    Lifecycle::new(DATAGRAMS)
}

/// Warm, and used.
fn passing() -> Lifecycle {
    after(DATAGRAMS, &[(up(quiet()), Input::Changed)])
}

fn looking() -> Lifecycle {
    let mut lifecycle = passing();
    lifecycle.step(&up(idle()), Input::Changed);
    lifecycle
}

fn settling() -> Lifecycle {
    let mut lifecycle = looking();
    lifecycle.step(&up(idle()), clean());
    lifecycle.step(&up(released()), Input::Job(JobEnd::Done));
    lifecycle
}

#[test]
fn a_datagram_starts_the_service() {
    check(new(), down(0), Input::Changed, "hold-datagrams", "rest");
    check(
        new(),
        down(1),
        Input::Changed,
        "hold-datagrams take",
        "waking",
    );
    // Also one that has failed: nobody else would. But not at once again.
    let failed = with(down(1), |view| {
        view.units.backend.state = ActiveState::Failed
    });
    check(
        new(),
        failed,
        Input::Changed,
        "hold-datagrams take",
        "waking",
    );
    let refused = Input::Job(JobEnd::Failed("refused".into()));
    let mut waking = after(DATAGRAMS, &[(down(1), Input::Changed)]);
    let commands = waking.step(&failed, refused);
    assert!(!commands.contains(&Command::TakeLease), "{commands:?}");
    check(
        waking.clone(),
        at(failed, NOW + 9_999),
        Input::Changed,
        "@70000",
        "rest",
    );
    check(
        waking,
        at(failed, NOW + 10_000),
        Input::Changed,
        "take",
        "waking",
    );
}

#[test]
fn they_pass_when_the_application_has_bound_their_ports() {
    let held = |view: View| with(view, |view| view.datagrams = 3);
    let started = held(quiet());
    check(
        new(),
        started,
        Input::Changed,
        "hold-datagrams @65000",
        "rest",
    );
    let mut lifecycle = new();
    lifecycle.step(&started, Input::Changed);
    check(
        lifecycle.clone(),
        up(started),
        Input::Changed,
        "pass-datagrams @65000",
        "rest",
    );
    // It listens, and is not active yet; or is not ready; or its lease is not held yet.
    for change in [
        (|view| view.units.backend.state = ActiveState::Activating) as fn(&mut View),
        |view| view.ready = false,
        |view| view.units.lease = unit(ActiveState::Activating),
    ] {
        let mut lifecycle = lifecycle.clone();
        let commands = lifecycle.step(&with(up(started), change), Input::Changed);
        let passes = commands.contains(&Command::PassDatagrams(true));
        assert!(!passes, "{commands:?}");
    }
    // It has closed its socket.
    check(
        passing(),
        quiet(),
        Input::Changed,
        "hold-datagrams @65000",
        "rest",
    );
}

#[test]
fn they_are_held_before_the_last_look() {
    check(
        passing(),
        up(idle()),
        Input::Changed,
        "hold-datagrams snapshot",
        "looking",
    );
    check(looking(), up(idle()), clean(), "release", "releasing");
    // One that came since, in the same tick of the clock.
    let came = with(up(idle()), |view| {
        view.sample = view.sample.map(|sample| Sample {
            datagrams: 1,
            ..sample
        });
    });
    check(
        looking(),
        came,
        clean(),
        "+veto:activity say pass-datagrams @60250",
        "rest",
    );
    // One that is held.
    let held = with(up(idle()), |view| view.datagrams = 1);
    check(
        looking(),
        held,
        clean(),
        "+veto:activity say pass-datagrams @60250",
        "rest",
    );
    // They arrive before it is looked at.
    check(passing(), held, Input::Changed, "@120000", "rest");
}

#[test]
fn one_that_comes_during_a_stop_takes_the_lease_again_or_is_an_arrival() {
    let came = with(up(released()), |view| view.datagrams = 1);
    check(
        settling(),
        came,
        Input::Changed,
        "+veto:activity say take",
        "retaking",
    );
    let mut lifecycle = settling();
    lifecycle.step(&stopped(), Input::Changed);
    check(lifecycle, down(1), Input::Changed, "take", "waking");
}

/// One that ends by itself is not started for each datagram.
#[test]
fn an_application_that_ends_by_itself_is_not_started_at_once() {
    let ended = |failed: bool| {
        with(down(1), |view| {
            view.units.backend.inactive_enter = Some(ms(NOW));
            if failed {
                view.units.backend.state = ActiveState::Failed;
            }
        })
    };
    for (failed, pause) in [(false, 1_000), (true, 10_000)] {
        let mut lifecycle = passing();
        let commands = lifecycle.step(&ended(failed), Input::Changed);
        assert!(!commands.contains(&Command::TakeLease), "{commands:?}");
        let wait = Command::WaitUntil(ms(NOW + pause));
        assert!(commands.contains(&wait), "{commands:?}");
        let later = at(ended(failed), NOW + pause);
        check(lifecycle, later, Input::Changed, "take", "waking");
    }
}
