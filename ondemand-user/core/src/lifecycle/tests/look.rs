//! From the first sight of a service to the release of its lease.

use super::*;
use crate::policy::Reason;

#[test]
fn who_may_not_wake_it_is_served_while_it_is_up() {
    #[track_caller]
    fn next(lifecycle: Lifecycle, view: View, input: Input, commands: &str, step: &str) {
        check(lifecycle, view, input, commands, step);
    }
    let new = || Lifecycle::new(LISTED);
    next(new(), stopped(), Input::Changed, "close refuse", "rest");
    next(new(), busy(), Input::Changed, "admit open @120000", "rest");
    let warm = || warm(LISTED);
    next(
        warm(),
        idle(),
        Input::Changed,
        "close refuse snapshot",
        "looking",
    );
    next(
        warm(),
        stopped(),
        Input::Changed,
        "close refuse +stop:external say",
        "rest",
    );
    // After a half-open handshake the gate stays closed, but it is up.
    let half_open = Input::Snapshot(Some(Sockets {
        half_open: 1,
        front_listeners: 1,
        ..Sockets::default()
    }));
    next(
        looking(LISTED),
        idle(),
        half_open,
        "+veto:half-open say admit @60250",
        "rest",
    );
    // Proxied clients are admitted too.
    let proxied = Options {
        steer: false,
        ..LISTED
    };
    next(
        Lifecycle::new(proxied),
        busy(),
        Input::Changed,
        "admit @120000",
        "rest",
    );
}

#[test]
fn the_agent_comes_to_any_state() {
    #[track_caller]
    fn first(view: View, commands: &str, step: &str) {
        check(
            Lifecycle::new(STEERED),
            view,
            Input::Changed,
            commands,
            step,
        );
    }
    first(busy(), "open @120000", "rest");
    first(quiet(), "open @65000", "rest");
    first(idle(), "close snapshot", "looking");
    first(stopped(), "close", "rest");
    first(
        with(stopped(), |v| v.units.backend.state = ActiveState::Failed),
        "close",
        "rest",
    );
    first(
        with(stopped(), |v| {
            v.units.backend.state = ActiveState::Activating
        }),
        "close",
        "rest",
    );
    first(
        with(released(), |v| {
            v.units.backend.state = ActiveState::Deactivating
        }),
        "close",
        "rest",
    );
    // An agent died between release and settling, or the lease was stopped by hand.
    first(released(), "close @61000", "unleased");
    // PID 1 is working on it: wait for the end of its jobs.
    first(
        with(released(), |v| v.units.lease.job = true),
        "close",
        "rest",
    );
    first(
        with(released(), |v| v.units.backend.job = true),
        "close",
        "rest",
    );
    first(with(idle(), |v| v.units.lease.job = true), "close", "rest");
    // Without steering there is no gate.
    check(
        Lifecycle::new(PROXIED),
        busy(),
        Input::Changed,
        "@120000",
        "rest",
    );
    check(
        Lifecycle::new(PROXIED),
        idle(),
        Input::Changed,
        "snapshot",
        "looking",
    );
    check(
        Lifecycle::new(PROXIED),
        stopped(),
        Input::Changed,
        "",
        "rest",
    );
}

#[test]
fn step_1_waits_for_idle() {
    #[track_caller]
    fn rest(view: View, commands: &str, step: &str) {
        check(warm(STEERED), view, Input::Changed, commands, step);
    }
    rest(busy(), "@120000", "rest");
    rest(quiet(), "@65000", "rest");
    rest(
        View {
            verdict: Verdict::Unknown(Reason::NoSample),
            ..idle()
        },
        "@70000",
        "rest",
    );
    let never = Verdict::Quiet {
        since: ms(SINCE),
        idle_at: None,
    };
    rest(
        View {
            verdict: never,
            ..idle()
        },
        "",
        "rest",
    );
    // Idle, but the proxy is still up or about to start.
    let proxy = |state| with(idle(), |v| v.units.proxy.state = state);
    rest(proxy(ActiveState::Active), "@120000", "rest");
    rest(proxy(ActiveState::Activating), "@120000", "rest");
    rest(proxy(ActiveState::Deactivating), "@120000", "rest");
    rest(proxy(ActiveState::Unknown), "@120000", "rest");
    rest(
        with(idle(), |v| v.units.proxy.job = true),
        "@120000",
        "rest",
    );
    rest(proxy(ActiveState::Failed), "close snapshot", "looking");
    // Idle.
    rest(idle(), "close snapshot", "looking");
    check(warm(PROXIED), idle(), Input::Changed, "snapshot", "looking");
    check(warm(ASKED), idle(), Input::Changed, "ask", "asking");
    // A job is about to change something.
    rest(
        with(idle(), |v| v.units.backend.job = true),
        "close",
        "rest",
    );
    rest(with(idle(), |v| v.units.lease.job = true), "close", "rest");
    // A reloading backend serves.
    rest(
        with(busy(), |v| v.units.backend.state = ActiveState::Reloading),
        "@120000",
        "rest",
    );
}

#[test]
fn step_1_asks_the_veto_program() {
    let allow = || Input::Veto(Answer::Allow);
    let keep = || Input::Veto(Answer::Keep("backup".into()));
    check(asking(), idle(), allow(), "close snapshot", "looking");
    check(asking(), idle(), keep(), "+veto:program say @60250", "rest");
    // Events while it runs.
    check(asking(), idle(), Input::Changed, "", "asking");
    check(asking(), busy(), Input::Changed, "", "asking");
    // A client connected while it ran.
    let two = View {
        sample: Some(sample(13)),
        ..busy()
    };
    check(asking(), two, allow(), "+veto:activity say @120000", "rest");
    check(
        asking(),
        quiet(),
        allow(),
        "+veto:activity say @65000",
        "rest",
    );
    let unknown = View {
        verdict: Verdict::Unknown(Reason::NoSample),
        ..idle()
    };
    check(
        asking(),
        unknown,
        allow(),
        "+veto:unknown say @70000",
        "rest",
    );
    // It was stopped by hand meanwhile.
    let gone = with(stopped(), |_| ());
    check(
        asking(),
        gone,
        Input::Changed,
        "close +stop:external say",
        "rest",
    );
    check(
        asking(),
        released(),
        Input::Changed,
        "close @61000",
        "unleased",
    );
    // The configuration changes while it runs: the answer is no longer awaited.
    let changed = |options| {
        let mut lifecycle = asking();
        lifecycle.set_options(options);
        name(lifecycle.current())
    };
    assert_eq!(changed(STEERED), "rest");
    let listed = Options {
        wake_list: true,
        ..ASKED
    };
    assert_eq!(changed(listed), "asking");
    let mut looks = looking(STEERED);
    looks.set_options(ASKED);
    assert_eq!(name(looks.current()), "looking");
    // A late answer changes nothing.
    check(warm(STEERED), busy(), allow(), "@120000", "rest");
}

#[test]
fn step_3_looks_again() {
    #[track_caller]
    fn look(view: View, input: Input, commands: &str, step: &str) {
        check(looking(STEERED), view, input, commands, step);
    }
    look(idle(), clean(), "release", "releasing");
    check(looking(PROXIED), idle(), clean(), "release", "releasing");
    check(looking(DRY), idle(), clean(), "say open @86460000", "rest");

    let vetoed = |reason: &str| format!("+veto:{reason} say open @60250");
    let sample_with = |change: fn(&mut Sample)| {
        let mut sample = sample(12);
        change(&mut sample);
        View {
            sample: Some(sample),
            ..idle()
        }
    };
    let activity = vetoed("activity");
    look(
        sample_with(|s| s.steered.accepted += 1),
        clean(),
        &activity,
        "rest",
    );
    look(
        sample_with(|s| s.front.accepted += 1),
        clean(),
        &activity,
        "rest",
    );
    look(
        sample_with(|s| s.back.closed += 1),
        clean(),
        &activity,
        "rest",
    );
    // A port scan. For a look-up that matters, the policy's verdict is no longer idle.
    look(
        sample_with(|s| (s.lookups, s.last_lookup) = (13, Some(ms(NOW)))),
        clean(),
        "release",
        "releasing",
    );
    look(quiet(), clean(), "+veto:activity say open @65000", "rest");
    look(
        sample_with(|s| s.last_activity = Some(ms(NOW))),
        clean(),
        &activity,
        "rest",
    );
    look(
        sample_with(|s| s.steered.received_bytes += 1),
        clean(),
        &activity,
        "rest",
    );
    check(
        looking(PROXIED),
        sample_with(|s| s.front.accepted += 1),
        clean(),
        "+veto:activity say @60250",
        "rest",
    );

    let sockets = |change: fn(&mut Sockets)| {
        let mut sockets = Sockets {
            front_listeners: 1,
            ..Sockets::default()
        };
        change(&mut sockets);
        Input::Snapshot(Some(sockets))
    };
    let drift = format!("+drift {}", vetoed("drift"));
    // The gate stays closed.
    look(
        idle(),
        sockets(|s| s.half_open = 1),
        "+veto:half-open say @60250",
        "rest",
    );
    look(idle(), sockets(|s| s.front = 1), &drift, "rest");
    look(idle(), sockets(|s| s.steered = 1), &drift, "rest");
    look(idle(), sockets(|s| s.back = 1), &drift, "rest");
    look(idle(), sockets(|s| s.older = 1), &drift, "rest");

    // Unknown: nothing is stopped.
    look(idle(), Input::Snapshot(None), &vetoed("unknown"), "rest");
    // An agent in another network namespace sees neither the front socket nor its clients.
    let elsewhere = sockets(|s| s.front_listeners = 0);
    look(idle(), elsewhere.clone(), &vetoed("unknown"), "rest");
    let unix_front = Options {
        tcp_front: false,
        ..STEERED
    };
    check(
        looking(unix_front),
        idle(),
        elsewhere,
        "release",
        "releasing",
    );
    let blind = View {
        sample: None,
        verdict: Verdict::Unknown(Reason::NoSample),
        ..idle()
    };
    // Nor is the gate opened.
    look(blind, clean(), "+veto:unknown say @70000", "rest");
    let clock = View {
        verdict: Verdict::Unknown(Reason::Clock),
        ..idle()
    };
    look(clock, clean(), "+veto:unknown say open @70000", "rest");

    // The units changed.
    let proxy = with(idle(), |v| v.units.proxy.state = ActiveState::Activating);
    look(proxy, clean(), &vetoed("proxy"), "rest");
    look(
        with(idle(), |v| v.units.proxy.job = true),
        clean(),
        &vetoed("proxy"),
        "rest",
    );
    look(stopped(), clean(), "+stop:external say", "rest");
    look(released(), clean(), "@61000", "unleased");
    look(
        with(idle(), |v| v.units.backend.job = true),
        clean(),
        "",
        "rest",
    );
}

/// Idle in spite of two open connections, on which no byte goes.
fn silent() -> View {
    with(idle(), |view| {
        view.silent = 2;
        view.sample = Some(Sample {
            steered: Leg {
                accepted: 14,
                closed: 12,
                ..Leg::default()
            },
            ..sample(12)
        });
    })
}

#[test]
fn silent_connections_are_closed_by_a_stop() {
    let looking = || {
        after(
            STEERED,
            &[(busy(), Input::Changed), (silent(), Input::Changed)],
        )
    };
    let seen = |silent| {
        Input::Snapshot(Some(Sockets {
            steered: 2,
            front_listeners: 1,
            silent,
            ..Sockets::default()
        }))
    };
    check(looking(), silent(), seen(2), "release", "releasing");
    // A byte has come since the first look.
    let spoke = with(silent(), |view| {
        view.silent = 0;
        view.verdict = Verdict::Busy { open: 2 };
    });
    check(
        looking(),
        spoke,
        seen(0),
        "+veto:activity say open @120000",
        "rest",
    );
    // One more is in the socket tables.
    check(
        looking(),
        silent(),
        seen(1),
        "+drift +veto:drift say open @60250",
        "rest",
    );
}

#[test]
fn a_proxy_with_silent_connections_leaves_first() {
    let proxied = with(silent(), |view| {
        view.units.proxy = unit(ActiveState::Active);
    });
    check(
        warm(STEERED),
        proxied,
        Input::Changed,
        "dismiss-proxy @120000",
        "rest",
    );
    let again = after(
        STEERED,
        &[(busy(), Input::Changed), (proxied, Input::Changed)],
    );
    check(again, proxied, Input::Changed, "@120000", "rest");
    // Nobody is asked before its connections are closed.
    check(warm(ASKED), proxied, Input::Changed, "@120000", "rest");
}
