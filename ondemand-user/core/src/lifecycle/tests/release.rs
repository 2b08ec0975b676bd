//! From the release of the lease to the open gate.

use super::*;

#[test]
fn step_4_releases_the_lease() {
    #[track_caller]
    fn job(end: JobEnd, view: View, commands: &str, step: &str) {
        check(releasing(STEERED), view, Input::Job(end), commands, step);
    }
    // Events before the job's end.
    check(releasing(STEERED), idle(), Input::Changed, "", "releasing");
    check(
        releasing(STEERED),
        released(),
        Input::Changed,
        "",
        "releasing",
    );
    check(
        releasing(STEERED),
        stopped(),
        Input::Changed,
        "+stop:idle say",
        "releasing",
    );

    job(JobEnd::Done, stopped(), "+stop:idle say", "rest");
    job(JobEnd::Done, released(), "@61000", "settling");
    job(JobEnd::Canceled, released(), "@61000", "settling");
    let deactivating = with(released(), |v| {
        v.units.backend.state = ActiveState::Deactivating
    });
    job(JobEnd::Done, deactivating, "", "settling");
    job(
        JobEnd::Done,
        with(released(), |v| v.units.backend.job = true),
        "",
        "settling",
    );
    let failed = with(stopped(), |v| v.units.backend.state = ActiveState::Failed);
    job(JobEnd::Done, failed, "+stop:idle say", "rest");

    // A client connected: the proxy needs the backend.
    let came = "+veto:proxy say take";
    let proxy = |state| with(released(), |v| v.units.proxy.state = state);
    job(JobEnd::Done, proxy(ActiveState::Active), came, "retaking");
    job(
        JobEnd::Done,
        proxy(ActiveState::Activating),
        came,
        "retaking",
    );
    job(
        JobEnd::Done,
        with(released(), |v| v.units.proxy.job = true),
        came,
        "retaking",
    );
    job(
        JobEnd::Canceled,
        proxy(ActiveState::Activating),
        came,
        "retaking",
    );
    // The proxy took the lease along.
    let retaken = with(proxy(ActiveState::Active), |v| {
        v.units.lease.state = ActiveState::Active
    });
    job(JobEnd::Done, retaken, "+veto:proxy say open @60250", "rest");
    job(
        JobEnd::Canceled,
        idle(),
        "+veto:needed say open @60250",
        "rest",
    );
    let taking = with(proxy(ActiveState::Active), |v| v.units.lease.job = true);
    job(JobEnd::Done, taking, "@61000", "settling");
    // The client was too late to prevent the stop, and starts it again.
    let restarting = with(stopped(), |v| {
        v.units.backend.state = ActiveState::Activating;
        v.units.proxy.state = ActiveState::Active;
    });
    job(JobEnd::Canceled, restarting, "+stop:idle say", "rest");
    let restarted = with(busy(), |v| {
        v.units.backend.active_enter = Some(ms(NOW - 10))
    });
    job(
        JobEnd::Done,
        restarted,
        "+stop:idle say +start say open @120000",
        "rest",
    );

    // Refused: the lease is held as before.
    let refused = || JobEnd::Failed("Access denied".into());
    job(refused(), idle(), "+veto:refused say open @60250", "rest");
    job(
        refused(),
        released(),
        "+veto:refused say @61000",
        "unleased",
    );
}

#[test]
fn step_4_waits_for_the_stop() {
    #[track_caller]
    fn settle(view: View, commands: &str, step: &str) {
        check(settling(STEERED), view, Input::Changed, commands, step);
    }
    settle(at(released(), NOW + 999), "@61000", "settling");
    settle(stopped(), "+stop:idle say", "rest");
    let deactivating = with(released(), |v| {
        v.units.backend.state = ActiveState::Deactivating
    });
    settle(deactivating, "", "settling");
    // However long it takes to stop, and whatever waits for it.
    settle(at(deactivating, NOW + 60_000), "", "settling");
    let waited = with(deactivating, |v| v.units.proxy.state = ActiveState::Active);
    settle(waited, "", "settling");
    // Another unit needs it.
    settle(
        at(released(), NOW + 1_000),
        "+veto:needed say take",
        "retaking",
    );
    let proxy = with(released(), |v| {
        v.units.proxy.state = ActiveState::Activating
    });
    settle(proxy, "+veto:proxy say take", "retaking");
    settle(idle(), "+veto:needed say open @60250", "rest");
    // What becomes of the lease is not known yet.
    let lease = |state, job| {
        with(at(released(), NOW + 999), |view| {
            (view.units.lease.state, view.units.lease.job) = (state, job);
        })
    };
    settle(lease(ActiveState::Active, true), "@61000", "settling");
    settle(lease(ActiveState::Activating, false), "@61000", "settling");
    settle(
        lease(ActiveState::Deactivating, false),
        "@61000",
        "settling",
    );
    // Its stop is queued, by PID 1 or by hand.
    settle(
        with(at(released(), NOW + 9_000), |v| v.units.backend.job = true),
        "",
        "settling",
    );
}

#[test]
fn a_lease_is_taken_again() {
    let mut unleased = warm(STEERED);
    unleased.step(&released(), Input::Changed);
    let unleased = || unleased.clone();
    check(
        unleased(),
        at(released(), NOW + 999),
        Input::Changed,
        "@61000",
        "unleased",
    );
    check(
        unleased(),
        at(released(), NOW + 1_000),
        Input::Changed,
        "say take",
        "retaking",
    );
    // It was stopped by hand: this is not reverted.
    check(
        unleased(),
        stopped(),
        Input::Changed,
        "+stop:external say",
        "rest",
    );
    let stopping = with(at(released(), NOW + 1_000), |v| v.units.backend.job = true);
    check(unleased(), stopping, Input::Changed, "", "unleased");
    check(unleased(), busy(), Input::Changed, "open @120000", "rest");

    let mut retaking = unleased();
    retaking.step(&at(released(), NOW + 1_000), Input::Changed);
    let retaking = || retaking.clone();
    let done = || Input::Job(JobEnd::Done);
    let failed = || Input::Job(JobEnd::Failed("no such unit".into()));
    check(retaking(), busy(), Input::Changed, "", "retaking");
    check(retaking(), busy(), done(), "open @120000", "rest");
    check(retaking(), idle(), done(), "snapshot", "looking");
    check(retaking(), stopped(), done(), "+stop:external say", "rest");
    // It fails: the attempts become rarer.
    check(retaking(), released(), failed(), "say @62000", "unleased");
    check(retaking(), released(), done(), "@62000", "unleased");
}

fn served(view: &mut View, at: Option<Ktime>) {
    let sample = view.sample.as_mut().unwrap();
    sample.served = at;
}

#[test]
fn step_5_opens_the_gate() {
    let mut down = warm(STEERED);
    down.step(&stopped(), Input::Changed);
    let next = |change: fn(&mut View), commands: &str| {
        let view = with(busy(), |view| {
            view.units.backend.active_enter = Some(ms(NOW));
            view.units.backend.inactive_exit = Some(ms(NOW - 100));
            served(view, Some(ms(NOW - 50)));
            change(view);
        });
        check(down.clone(), view, Input::Changed, commands, "rest");
    };
    next(
        |v| {
            v.units.backend.state = ActiveState::Activating;
            v.units.backend.active_enter = Some(ms(START));
        },
        "",
    );
    next(|v| v.units.lease.job = true, "+start say");
    next(
        |v| (v.units.lease.state, v.units.lease.job) = (ActiveState::Inactive, true),
        "+start say",
    );
    next(|v| v.units.backend.job = true, "+start say");
    // Nobody has accepted a connection in this run, or ever, or the run's begin is unknown.
    next(|v| served(v, Some(ms(NOW - 101))), "+start say @120000");
    next(|v| served(v, None), "+start say @120000");
    next(
        |v| v.units.backend.inactive_exit = None,
        "+start say @120000",
    );
    next(|_| (), "+start say open @120000");
    // It closes as soon as the backend begins to stop, whatever stops it.
    let stopping = with(busy(), |v| {
        v.units.backend.state = ActiveState::Deactivating
    });
    check(warm(STEERED), stopping, Input::Changed, "close", "rest");
    let failed = with(stopped(), |v| v.units.backend.state = ActiveState::Failed);
    check(
        warm(STEERED),
        failed,
        Input::Changed,
        "close +stop:failed say",
        "rest",
    );
    // And when the configuration takes steering away.
    let mut plain = warm(STEERED);
    plain.set_options(PROXIED);
    check(plain, busy(), Input::Changed, "close @120000", "rest");
    let mut steered = warm(PROXIED);
    steered.set_options(STEERED);
    check(steered, busy(), Input::Changed, "open @120000", "rest");
}

#[test]
fn pauses_grow_and_a_client_ends_them() {
    let mut lifecycle = warm(STEERED);
    let half_open = || {
        Input::Snapshot(Some(Sockets {
            half_open: 1,
            front_listeners: 1,
            ..Sockets::default()
        }))
    };
    let mut now = NOW;
    let mut pauses = Vec::new();
    for _ in 0..9 {
        assert_eq!(name(lifecycle.current()), "rest");
        lifecycle.step(&at(idle(), now), Input::Changed);
        let commands = lifecycle.step(&at(idle(), now), half_open());
        let Some(Command::WaitUntil(until)) = commands.last() else {
            panic!("no timer in {commands:?}");
        };
        let until = until.as_nanos() / 1_000_000;
        pauses.push(until - now);
        // Too early.
        let early = lifecycle.step(&at(idle(), until - 1), Input::Changed);
        assert_eq!(early, [Command::WaitUntil(ms(until))]);
        now = until;
    }
    assert_eq!(
        pauses,
        [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]
    );
    // A client connected and closed: only the idle clock counts, and the next pause is short.
    let view = View {
        sample: Some(sample(13)),
        ..at(idle(), now - 10_000)
    };
    check(
        lifecycle.clone(),
        view,
        Input::Changed,
        "snapshot",
        "looking",
    );
    lifecycle.step(&view, Input::Changed);
    check(
        lifecycle,
        view,
        half_open(),
        "+veto:half-open say @142000",
        "rest",
    );
}

#[test]
fn a_half_open_handshake_keeps_the_gate_closed_until_a_client_has_come() {
    let half_open = Some(Sockets {
        half_open: 1,
        front_listeners: 1,
        ..Sockets::default()
    });
    let vetoed = || {
        let mut lifecycle = looking(STEERED);
        lifecycle.step(&idle(), Input::Snapshot(half_open));
        lifecycle
    };
    check(vetoed(), idle(), Input::Changed, "@60250", "rest");
    // The scan continues at the front.
    check(vetoed(), quiet(), Input::Changed, "@65000", "rest");
    check(
        vetoed(),
        at(idle(), 60_250),
        Input::Changed,
        "snapshot",
        "looking",
    );
    check(vetoed(), busy(), Input::Changed, "open @120000", "rest");
    let came_and_went = View {
        sample: Some(sample(13)),
        ..quiet()
    };
    check(
        vetoed(),
        came_and_went,
        Input::Changed,
        "open @65000",
        "rest",
    );
}

#[test]
fn an_interrupted_step_is_judged_by_the_units() {
    let idle = "+stop:idle say";
    for (mut lifecycle, end) in [
        (looking(STEERED), "+stop:external say"),
        (releasing(STEERED), idle),
        (settling(STEERED), idle),
    ] {
        lifecycle.interrupt();
        // A second loss of the connection forgets nothing.
        lifecycle.interrupt();
        check(
            lifecycle.clone(),
            released(),
            Input::Changed,
            "@61000",
            "unleased",
        );
        check(
            lifecycle.clone(),
            busy(),
            Input::Changed,
            "open @120000",
            "rest",
        );
        check(lifecycle.clone(), stopped(), Input::Changed, end, "rest");
        // With the lease held the next end is somebody else's.
        let mut held = lifecycle.clone();
        held.step(&busy(), Input::Changed);
        check(
            held,
            stopped(),
            Input::Changed,
            "close +stop:external say",
            "rest",
        );
        // A pending answer is not taken for an answer now.
        check(
            lifecycle,
            busy(),
            Input::Job(JobEnd::Done),
            "open @120000",
            "rest",
        );
    }
}

#[test]
fn a_proxy_without_its_backend_is_ended() {
    let orphan = with(stopped(), |view| {
        view.units.proxy = unit(ActiveState::Active)
    });
    let later = |view, ms| at(view, NOW + ms);
    let down = || after(PROXIED, &[(stopped(), Input::Changed)]);
    let seen = || {
        after(
            PROXIED,
            &[(stopped(), Input::Changed), (orphan, Input::Changed)],
        )
    };
    check(down(), orphan, Input::Changed, "@62000", "rest");
    check(
        seen(),
        later(orphan, 1_999),
        Input::Changed,
        "@62000",
        "rest",
    );
    check(
        seen(),
        later(orphan, 2_000),
        Input::Changed,
        "say stop-proxy @64000",
        "rest",
    );
    // It is being started for a client, or the backend is.
    let starting = with(orphan, |view| view.units.backend.job = true);
    check(seen(), later(starting, 9_000), Input::Changed, "", "rest");
    let ending = with(orphan, |view| view.units.proxy.job = true);
    check(seen(), later(ending, 9_000), Input::Changed, "", "rest");
}
