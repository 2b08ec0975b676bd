//! The backend's runs, whatever starts and ends them.

use super::*;

#[test]
fn runs_are_reported_once() {
    let notes = |lifecycle: &mut Lifecycle, view: View| -> Vec<String> {
        let commands = lifecycle.step(&view, Input::Changed);
        let say = |command| match command {
            Command::Run(event) => event.level().map(|_| event.to_string()),
            Command::Say(note) => Some(note.to_string()),
            _ => None,
        };
        commands.into_iter().filter_map(say).collect()
    };
    let started = |view, at: u64| {
        with(view, |view| {
            view.units.backend.active_enter = Some(ms(at));
            view.units.backend.inactive_exit = Some(ms(at - 840));
        })
    };
    let mut lifecycle = Lifecycle::new(PROXIED);
    assert_eq!(notes(&mut lifecycle, stopped()), [""; 0]);
    let first = View {
        sample: Some(sample(14)),
        ..started(busy(), NOW)
    };
    assert_eq!(notes(&mut lifecycle, first), ["started in 840 ms"]);
    assert_eq!(notes(&mut lifecycle, first), [""; 0]);
    // A restart of which only the end was seen.
    let second = View {
        sample: Some(sample(15)),
        ..at(started(busy(), NOW + 5_000), NOW + 6_000)
    };
    let ended = "was stopped by another program or a person (3 connections, 0 B out since its start 6 s ago)";
    assert_eq!(notes(&mut lifecycle, second), [ended, "started in 840 ms"]);
    // A crash, and a start that fails.
    let failed = with(second, |v| v.units.backend.state = ActiveState::Failed);
    let failed = at(failed, NOW + 7_000);
    let words = "failed (0 connections, 0 B out since its start 2 s ago)";
    assert_eq!(notes(&mut lifecycle, failed), [words]);
    assert_eq!(notes(&mut lifecycle, failed), [""; 0]);
    let again = with(failed, |v| {
        v.units.backend.inactive_exit = Some(ms(NOW + 8_000))
    });
    assert_eq!(
        notes(&mut lifecycle, again),
        ["start failed, its unit has failed"]
    );
    assert_eq!(notes(&mut lifecycle, again), [""; 0]);
}

#[test]
fn a_start_waits_for_the_listener_that_the_kernel_tells_of() {
    for tcp_backend in [false, true] {
        let options = Options {
            tcp_backend,
            ..PROXIED
        };
        let mut lifecycle = after(options, &[(stopped(), Input::Changed)]);
        let started = with(at(busy(), NOW + 200), |view| {
            view.units.backend.active_enter = Some(ms(NOW + 100));
            view.units.backend.inactive_exit = Some(ms(NOW + 50));
        });
        let ready = |command: &Command| matches!(command, Command::Run(RunEvent::Ready { .. }));
        let commands = lifecycle.step(&started, Input::Changed);
        assert_eq!(commands.iter().any(ready), !tcp_backend);
        lifecycle.runs().listens(ms(NOW + 150));
        let commands = lifecycle.step(&started, Input::Changed);
        assert_eq!(commands.iter().any(ready), tcp_backend);
    }
}

#[test]
fn the_first_client_of_a_run_is_counted_before_it_is_up() {
    let with_sample = |view, accepted| View {
        sample: Some(sample(accepted)),
        ..view
    };
    let mut lifecycle = warm(PROXIED);
    lifecycle.step(&stopped(), Input::Changed);
    // The client connects at the front socket; the backend starts.
    let starting = with(stopped(), |view| {
        view.units.backend.state = ActiveState::Activating;
    });
    lifecycle.step(&with_sample(stopped(), 13), Input::Changed);
    lifecycle.step(&with_sample(starting, 13), Input::Changed);
    let started = with(busy(), |view| {
        view.units.backend.active_enter = Some(ms(NOW));
    });
    lifecycle.step(&with_sample(started, 13), Input::Changed);
    let commands = lifecycle.step(&with_sample(stopped(), 13), Input::Changed);
    let run = commands.iter().find_map(|command| match command {
        Command::Run(RunEvent::Ended { run, .. }) => Some(run.connections),
        _ => None,
    });
    assert_eq!(run, Some(1));
}
