//! Stops that make room for another service, and starts that wait for it.

use super::*;

/// Another service needs the room in the state of `view`.
fn asked(options: Options, view: View) -> Lifecycle {
    let lines = [(busy(), Input::Changed), (view, Input::MakeRoom)];
    after(options, &lines)
}

#[test]
fn to_make_room_is_an_idle_stop() {
    let mut lifecycle = asked(STEERED, quiet());
    assert!(lifecycle.is_asked() && lifecycle.makes_room());
    lifecycle.step(&idle(), Input::Changed);
    lifecycle.step(&idle(), clean());
    let Step::Releasing(stop) = lifecycle.current() else {
        panic!("{lifecycle:?}");
    };
    assert!(!stop.asked, "{stop:?}");
    lifecycle.step(&released(), Input::Job(JobEnd::Done));
    check(
        lifecycle,
        stopped(),
        Input::Changed,
        "+stop:idle say =stopped",
        "rest",
    );
}

#[test]
fn a_person_who_asks_as_well_has_asked() {
    let mut both = asked(STEERED, quiet());
    both.step(&quiet(), Input::Stop);
    assert!(both.is_asked() && !both.makes_room());
    both.step(&quiet(), Input::MakeRoom);
    assert!(both.is_asked() && !both.makes_room());
}

#[test]
fn who_is_held_has_nothing_started_without_room() {
    let options = Options {
        catch: true,
        ..STEERED
    };
    let waits = with(stopped(), |view| (view.caught, view.room) = (1, false));
    let lifecycle = Lifecycle::new(options);
    check(lifecycle, waits, Input::Changed, "catch close", "rest");
    let mut lifecycle = Lifecycle::new(options);
    lifecycle.step(&waits, Input::Changed);
    assert!(lifecycle.is_wanted(&waits));
    let has_room = with(waits, |view| view.room = true);
    check(lifecycle, has_room, Input::Changed, "take", "waking");
}

#[test]
fn a_client_that_is_held_meanwhile_waits_for_its_turn() {
    let options = Options {
        catch: true,
        ..STEERED
    };
    let held = |view| with(view, |view| view.caught = 1);
    let lines = [(busy(), Input::Changed), (quiet(), Input::GiveWay)];
    let mut lifecycle = after(options, &lines);
    lifecycle.step(&idle(), Input::Changed);
    lifecycle.step(&held(idle()), clean());
    assert!(
        matches!(lifecycle.current(), Step::Releasing(_)),
        "{lifecycle:?}"
    );
    lifecycle.step(&held(released()), Input::Job(JobEnd::Done));
    assert!(
        matches!(lifecycle.current(), Step::Settling { .. }),
        "{lifecycle:?}"
    );
    let waits = with(held(stopped()), |view| view.room = false);
    lifecycle.step(&waits, Input::Changed);
    assert!(
        lifecycle.is_wanted(&waits) && lifecycle.catches(),
        "{lifecycle:?}"
    );
    // For memory alone it stays.
    let mut lifecycle = asked(options, quiet());
    lifecycle.step(&idle(), Input::Changed);
    lifecycle.step(&held(idle()), clean());
    assert_eq!(*lifecycle.current(), Step::Rest);
}
