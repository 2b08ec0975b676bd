//! Requested stops, and holds.

use super::*;
use crate::policy::Reason;

/// A stop was requested in the state of `view`.
fn asked(options: Options, view: View) -> Lifecycle {
    after(options, &[(busy(), Input::Changed), (view, Input::Stop)])
}

fn held(until: Option<u64>) -> View {
    View {
        verdict: Verdict::Held {
            since: ms(SINCE),
            until: until.map(ms),
        },
        ..idle()
    }
}

fn unknown() -> View {
    View {
        verdict: Verdict::Unknown(Reason::NoSample),
        ..idle()
    }
}

#[test]
fn a_request_is_taken_at_once() {
    #[track_caller]
    fn ask(view: View, commands: &str) {
        check(warm(STEERED), view, Input::Stop, commands, "rest");
    }
    // The verdict is still that of an idle stop.
    ask(quiet(), "@60000");
    ask(busy(), "@60000");
    ask(idle(), "@60000");
    ask(stopped(), "close +stop:external say =down");
    check(
        Lifecycle::new(PROXIED),
        stopped(),
        Input::Stop,
        "=down",
        "rest",
    );
    // It has just stopped for another request, and both get the same answer.
    let again = asked(STEERED, quiet());
    check(
        again,
        stopped(),
        Input::Stop,
        "close +stop:external say =stopped",
        "rest",
    );
    // It is starting, and is up at the next look: that is no stop.
    let starting = with(stopped(), |v| {
        v.units.backend.state = ActiveState::Activating
    });
    let starting = after(STEERED, &[(starting, Input::Stop)]);
    check(
        starting,
        quiet(),
        Input::Changed,
        "+start say open @65000",
        "rest",
    );
    assert!(asked(STEERED, quiet()).is_asked());
    assert!(!asked(STEERED, stopped()).is_asked());
}

#[test]
fn a_request_goes_the_way_of_an_idle_stop() {
    #[track_caller]
    fn go(options: Options, view: View, commands: &str, step: &str) {
        check(
            asked(options, quiet()),
            view,
            Input::Changed,
            commands,
            step,
        );
    }
    go(STEERED, idle(), "close snapshot @70000", "looking");
    go(PROXIED, idle(), "snapshot @70000", "looking");
    go(ASKED, idle(), "ask @70000", "asking");
    // It waits for what will pass: the last packets, a proxy without clients, a job.
    go(STEERED, quiet(), "@65000", "rest");
    let proxy = with(idle(), |v| v.units.proxy.state = ActiveState::Active);
    go(STEERED, proxy, "dismiss-proxy @70000", "rest");
    go(PROXIED, proxy, "dismiss-proxy @70000", "rest");
    let lease = with(idle(), |v| v.units.lease.job = true);
    go(STEERED, lease, "close @70000", "rest");
    go(STEERED, released(), "close @61000", "unleased");
    let deactivating = with(released(), |v| {
        v.units.backend.state = ActiveState::Deactivating
    });
    go(STEERED, deactivating, "close @70000", "rest");
    // Another program stops it, which takes long.
    go(STEERED, at(deactivating, NOW + 60_000), "close", "rest");
    // The rest of it.
    let mut lifecycle = asked(STEERED, quiet());
    lifecycle.step(&idle(), Input::Changed);
    let looking = lifecycle.clone();
    check(looking, idle(), clean(), "release @70000", "releasing");
    lifecycle.step(&idle(), clean());
    let releasing = lifecycle.clone();
    let done = Input::Job(JobEnd::Done);
    check(
        releasing,
        stopped(),
        done.clone(),
        "+stop:requested say =stopped",
        "rest",
    );
    lifecycle.step(&released(), done);
    // However long it takes: an attempt in progress has its own end.
    let late = with(at(deactivating, NOW + 60_000), |_| ());
    check(lifecycle.clone(), late, Input::Changed, "", "settling");
    check(
        lifecycle.clone(),
        stopped(),
        Input::Changed,
        "+stop:requested say =stopped",
        "rest",
    );
    let restarted = with(busy(), |v| {
        v.units.backend.active_enter = Some(ms(NOW - 10))
    });
    check(
        lifecycle,
        restarted,
        Input::Changed,
        "+stop:requested say +start say =stopped open @120000",
        "rest",
    );
}

#[test]
fn a_request_is_refused() {
    #[track_caller]
    fn refuse(view: View, commands: &str) {
        check(
            asked(STEERED, quiet()),
            view,
            Input::Changed,
            commands,
            "rest",
        );
    }
    refuse(busy(), "=kept:1_connection_is_open @120000");
    let two = Verdict::Busy { open: 2 };
    refuse(
        View {
            verdict: two,
            ..idle()
        },
        "=kept:2_connections_are_open @120000",
    );
    refuse(
        held(None),
        "=kept:it_is_held;_release_it_first_(`ondemand_release`)",
    );
    refuse(
        unknown(),
        "=kept:its_use_is_unknown:_the_kernel's_counters_could_not_be_read @70000",
    );
    let comes = "=kept:its_proxy_is_still_up;_it_exits_1_s_after_its_last_client @120000";
    let proxy = |state| with(idle(), |v| v.units.proxy.state = state);
    refuse(proxy(ActiveState::Activating), comes);
    refuse(with(idle(), |v| v.units.proxy.job = true), comes);
    refuse(
        with(stopped(), |v| {
            v.units.backend.state = ActiveState::Activating
        }),
        "close +stop:external say =stopped",
    );
    check(
        after(
            STEERED,
            &[(
                with(stopped(), |v| {
                    v.units.backend.state = ActiveState::Activating
                }),
                Input::Stop,
            )],
        ),
        with(stopped(), |v| {
            v.units.backend.state = ActiveState::Activating
        }),
        Input::Changed,
        "=kept:it_is_starting;_try_again_when_it_is_up",
        "rest",
    );
    // A proxy that would stay for long is signalled once, and does not exit: another version.
    let stays = Options {
        proxy_stays: Duration::from_secs(540),
        ..PROXIED
    };
    let up = proxy(ActiveState::Active);
    let told = after(stays, &[(busy(), Input::Changed), (idle(), Input::Stop)]);
    check(
        told.clone(),
        up,
        Input::Changed,
        "dismiss-proxy @70000",
        "rest",
    );
    let mut waits = told.clone();
    waits.step(&up, Input::Changed);
    check(waits.clone(), up, Input::Changed, "@70000", "rest");
    let stayed = "=kept:its_proxy_is_still_up;_it_exits_9_min_after_its_last_client @130000";
    check(
        waits.clone(),
        at(up, NOW + 10_000),
        Input::Changed,
        stayed,
        "rest",
    );
    check(
        waits.clone(),
        idle(),
        Input::Changed,
        "snapshot @70000",
        "looking",
    );
    // A client connected just then, and has closed again.
    let since = ms(NOW + 400);
    let again = View {
        verdict: Verdict::Idle { since },
        ..at(up, NOW + 500)
    };
    check(waits, again, Input::Changed, "dismiss-proxy @70000", "rest");
    // Not while the last packets may be of a client, and not where nothing is to be done.
    let last_packets = with(quiet(), |v| v.units.proxy.state = ActiveState::Active);
    check(told, last_packets, Input::Changed, "@65000", "rest");
    let dry = Options {
        dry_run: true,
        ..stays
    };
    check(
        asked(dry, quiet()),
        up,
        Input::Changed,
        "=kept:its_proxy_is_still_up;_it_exits_9_min_after_its_last_client @120000",
        "rest",
    );
    // The patience ends.
    let slow = "=kept:its_units_did_not_settle_within_10_s;_see_`ondemand_status`";
    let late = at(with(idle(), |v| v.units.lease.job = true), NOW + 10_000);
    refuse(late, &format!("close {slow}"));
    // The protocol's own vetoes.
    let mut looking = asked(STEERED, quiet());
    looking.step(&idle(), Input::Changed);
    let sockets = Sockets {
        half_open: 1,
        front_listeners: 1,
        ..Sockets::default()
    };
    check(
        looking,
        idle(),
        Input::Snapshot(Some(sockets)),
        "+veto:half-open =vetoed:half-open say @60250",
        "rest",
    );
    let mut asking = asked(ASKED, quiet());
    asking.step(&idle(), Input::Changed);
    check(
        asking,
        idle(),
        Input::Veto(Answer::Keep("backup".into())),
        "+veto:program =vetoed:program say @60250",
        "rest",
    );
    let mut dry = asked(DRY, quiet());
    dry.step(&idle(), Input::Changed);
    check(
        dry,
        idle(),
        clean(),
        "say =kept:dry_run;_it_would_be_stopped_now open @86460000",
        "rest",
    );
}

#[test]
fn a_request_does_not_wait_for_a_pause_or_fight_an_attempt() {
    let mut paused = looking(STEERED);
    paused.step(&idle(), Input::Snapshot(None));
    check(paused.clone(), idle(), Input::Changed, "@60250", "rest");
    check(paused.clone(), idle(), Input::Stop, "@60000", "rest");
    paused.step(&idle(), Input::Stop);
    check(
        paused,
        idle(),
        Input::Changed,
        "close snapshot @70000",
        "looking",
    );
    // An attempt that is in progress becomes the answer.
    check(looking(STEERED), idle(), Input::Stop, "@60000", "looking");
    let mut joined = looking(STEERED);
    joined.step(&idle(), Input::Stop);
    check(joined, idle(), clean(), "release @70000", "releasing");
    // Without systemd there is no answer.
    let mut interrupted = asked(STEERED, quiet());
    interrupted.interrupt();
    assert!(!interrupted.is_asked());
}

#[test]
fn a_hold_keeps_it_up() {
    #[track_caller]
    fn rest(view: View, commands: &str) {
        check(warm(STEERED), view, Input::Changed, commands, "rest");
    }
    rest(held(None), "");
    rest(held(Some(NOW + 5_000)), "@65000");
    // The host may be suspended meanwhile.
    rest(held(Some(NOW + 7_200_000)), "@120000");
    // It starts while the veto program runs, or during the snapshot: no veto.
    check(asking(), held(None), Input::Veto(Answer::Allow), "", "rest");
    check(looking(STEERED), held(None), clean(), "open", "rest");
    let mut asked = asked(STEERED, quiet());
    asked.step(&idle(), Input::Changed);
    check(
        asked,
        held(None),
        clean(),
        "=kept:it_is_held;_release_it_first_(`ondemand_release`) open",
        "rest",
    );
    // Too late: the lease is released.
    check(
        releasing(STEERED),
        with(held(None), |v| v.units.lease = unit(ActiveState::Inactive)),
        Input::Job(JobEnd::Done),
        "@61000",
        "settling",
    );
}
