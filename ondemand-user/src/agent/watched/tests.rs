//! Tests of the state of one service.

use ondemand_core::{
    config::{Access, Activation, FirstClient, IdleTimeout, Learning, Limits, List, Schedule},
    measure::unit::ActiveState,
};

use super::*;

const fn ms(ms: u64) -> Ktime {
    Ktime::from_nanos(ms * 1_000_000)
}

#[test]
fn what_is_not_counted_is_dated_by_the_looks() {
    let mut uncounted = Uncounted::default();
    uncounted.unix(0, ms(1));
    assert_eq!(
        uncounted.until,
        Some(ms(1)),
        "what was before the first look is not known"
    );
    uncounted.unix(0, ms(2));
    assert_eq!(uncounted.until, Some(ms(1)));
    uncounted.unix(2, ms(3));
    uncounted.unix(2, ms(4));
    assert_eq!(uncounted.until, Some(ms(4)));
    uncounted.unix(0, ms(5));
    uncounted.unix(0, ms(6));
    assert_eq!(uncounted.until, Some(ms(5)), "the first look without one");
    uncounted.older(0, ms(7));
    assert_eq!(uncounted.until, Some(ms(5)));
    uncounted.older(1, ms(8));
    uncounted.older(1, ms(9));
    uncounted.older(0, ms(10));
    uncounted.older(0, ms(11));
    assert_eq!(uncounted.until, Some(ms(10)));
    uncounted.unix_unknown(ms(12));
    assert_eq!(uncounted.until, Some(ms(12)));
}

#[test]
fn what_cannot_be_steered_has_no_gate() {
    let asks = |listen| Service {
        steer: true,
        ..service(listen)
    };
    let watched = |listen, steerable| Watched::new(asks(listen), Slot(0), steerable, false, ms(0));
    assert!(watched("127.0.0.1:80", true).lifecycle.has_gate());
    assert!(!watched("127.0.0.1:80", false).lifecycle.has_gate());
    assert!(!watched("/run/wiki.sock", true).lifecycle.has_gate());
    // Address rules appear and disappear, and are logged if they change the route.
    let mut fenced = watched("127.0.0.1:80", true);
    let rules = Some("system.slice".to_owned());
    assert!(fenced.set_rules(rules.clone()) && !fenced.lifecycle.has_gate());
    assert!(!fenced.set_rules(rules.clone()));
    fenced.reconfigure(asks("127.0.0.1:80"), Slot(0), false, ms(1));
    assert!(!fenced.lifecycle.has_gate());
    assert!(fenced.set_rules(None) && fenced.lifecycle.has_gate());
    assert!(!watched("127.0.0.1:80", false).set_rules(rules.clone()));
    // Without steering before, it is not steered until the rules are read.
    let mut asks_now = Watched::new(service("127.0.0.1:80"), Slot(0), true, false, ms(0));
    assert!(!asks_now.could_steer());
    asks_now.reconfigure(asks("127.0.0.1:80"), Slot(0), false, ms(1));
    assert!(!asks_now.lifecycle.has_gate() && asks_now.could_steer());
    assert!(!asks_now.set_rules(None) && asks_now.lifecycle.has_gate());
}

fn service(listen: &str) -> Service {
    let listen = match listen.strip_prefix('/') {
        Some(_) => Endpoint::Unix(listen.into()),
        None => Endpoint::Tcp(listen.parse().unwrap()),
    };
    Service {
        name: "wiki".into(),
        listen: vec![listen.clone()],
        own_address: false,
        front: vec![listen],
        backend: Endpoint::Tcp("127.0.0.1:8080".parse().unwrap()),
        unit: "wiki.service".into(),
        idle_timeout: IdleTimeout::After(Duration::from_secs(10)),
        learning: Learning::default(),
        keep_up: Schedule::default(),
        prewarm: false,
        freeze_after: None,
        freeze_reclaim: false,
        group: None,
        silent_after: None,
        waiting_page: None,
        busy: Limits::default(),
        min_uptime: Duration::ZERO,
        start_timeout: Duration::from_secs(90),
        ready: None,
        steer: false,
        first_client: FirstClient::Auto,
        activation: Activation::Front,
        wake_from: List::default(),
        ignore_from: List::default(),
        ignore_empty: false,
        keepalive: None,
        veto: None,
        access: Access::default(),
    }
}

#[test]
fn a_unix_front_is_dated_by_the_end_of_its_proxy() {
    let ended = Unit {
        inactive_enter: Some(ms(60_000)),
        ..Unit::default()
    };
    let units = Units {
        proxy: ended,
        ..Units::default()
    };
    let watched = |listen| {
        Watched::new(service(listen), Slot(0), true, false, ms(0))
            .facts(&units)
            .uncounted_until
    };
    // It stays up 9 s after its last client.
    assert_eq!(watched("/run/wiki.sock"), Some(ms(51_000)));
    assert_eq!(watched("127.0.0.1:80"), None);
    let never = Watched::new(service("/run/wiki.sock"), Slot(0), true, false, ms(0));
    assert_eq!(never.facts(&Units::default()).uncounted_until, None);
}

#[track_caller]
fn check_problem(
    [backend, proxy, lease, socket_unit]: [&str; 4],
    stop_when_unneeded: bool,
    socket: ActiveState,
    expected: Option<&str>,
) {
    let known = |state: &str| {
        let mut known = Known::default();
        known.load_state = state.into();
        known.stop_when_unneeded = stop_when_unneeded;
        known
    };
    let mut known = PerUnit {
        backend: known(backend),
        proxy: known(proxy),
        lease: known(lease),
        socket: known(socket_unit),
    };
    known.socket.unit.state = socket;
    let names = service("127.0.0.1:80").unit_names();
    let problem = problem(&names, &known.find(Some).unwrap());
    assert_eq!(problem.as_deref(), expected);
}

#[test]
fn units_that_cannot_be_looked_after() {
    let all = ["loaded"; 4];
    let up = ActiveState::Active;
    check_problem(all, true, up, None);
    check_problem(
        all,
        false,
        up,
        Some(
            "systemd does not stop wiki.service yet, which ran when it came into the configuration, or lacks its \
             drop-in 50-ondemand.conf; `ondemand apply` ends that",
        ),
    );
    check_problem(
        ["not-found", "loaded", "loaded", "loaded"],
        true,
        up,
        Some("its unit wiki.service does not exist"),
    );
    check_problem(
        ["masked", "loaded", "loaded", "loaded"],
        true,
        up,
        Some("its unit wiki.service cannot be used, systemd reports it as masked"),
    );
    check_problem(
        ["loaded", "not-found", "loaded", "loaded"],
        true,
        up,
        Some("ondemand-wiki.service is missing; run `systemctl daemon-reload`"),
    );
    check_problem(
        ["loaded", "loaded", "not-found", "loaded"],
        true,
        up,
        Some("ondemand-wiki.target is missing; run `systemctl daemon-reload`"),
    );
    check_problem(
        ["loaded", "loaded", "loaded", "not-found"],
        true,
        ActiveState::Inactive,
        Some("ondemand-wiki.socket is missing; run `systemctl daemon-reload`"),
    );
    for state in [ActiveState::Inactive, ActiveState::Failed] {
        check_problem(
            all,
            true,
            state,
            Some(
                "ondemand-wiki.socket does not listen; \
                 run `systemctl start ondemand-wiki.socket`",
            ),
        );
    }
}
