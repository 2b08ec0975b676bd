//! Clients that may start a service, and clients whose use does not keep it up: `wake_from` and
//! `ignore_from`.

use std::{io::ErrorKind, net::IpAddr, time::Duration};

use tests::{
    client::{self, Answer, Loss, Request},
    pause::{idle_for, think},
    sandbox::Sandbox,
    service::{self, SOON, front, number, on_demand, status, wait_state},
    wait_for,
};

use crate::{
    counts, require_sandbox,
    steering::{CONFIG, parse, wait_route},
};

const FRIEND: &str = "127.0.0.2";
const STRANGER: &str = "127.0.0.3";

/// One request of a client with this address.
fn ask_from(sandbox: &Sandbox, source: &str, to: &str) -> Result<Answer, Loss> {
    let (source, to) = (source.parse::<IpAddr>().unwrap(), parse(to));
    sandbox
        .in_network(|| {
            let mut stream = client::connect_from(source, to)?;
            client::ask(&mut stream, Request::default())
        })
        .unwrap()
}

#[track_caller]
fn check_refused(sandbox: &Sandbox, source: &str, to: &str) {
    let loss = ask_from(sandbox, source, to).unwrap_err();
    assert_eq!(
        loss,
        Loss::Connect(ErrorKind::ConnectionRefused),
        "{source}"
    );
    assert_eq!(
        sandbox.property("app.service", "ActiveState").unwrap(),
        "inactive"
    );
}

#[test]
fn only_those_in_the_list_wake_it() {
    require_sandbox!();
    let config = CONFIG
        .replace(
            r#"["127.0.0.1:8000"]"#,
            r#"["127.0.0.1:8000", "[fd00::1]:8000"]"#,
        )
        .replace("1h", "500ms")
        + r#"wake_from = ["127.0.0.0/8", "!127.0.0.3", "fd00::2"]"#;
    let sandbox = service::installed().unwrap();
    for address in ["fd00::1", "fd00::2", "fd00::3"] {
        sandbox
            .run(&[
                "ip",
                "address",
                "add",
                &format!("{address}/128"),
                "dev",
                "lo",
                "nodad",
            ])
            .unwrap();
    }
    service::write_backend(&sandbox, "app.service", "").unwrap();
    service::write_config(&sandbox, &format!("[service.test]\n{config}")).unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    let (v4, v6) = ("127.0.0.1:8000", "[fd00::1]:8000");
    check_refused(&sandbox, STRANGER, v4);
    check_refused(&sandbox, "fd00::3", v6);
    ask_from(&sandbox, FRIEND, v4).unwrap();
    wait_route(&sandbox, "steered");
    // It is up, so all clients are served, and keep it up.
    ask_from(&sandbox, STRANGER, v4).unwrap();
    ask_from(&sandbox, "fd00::3", v6).unwrap();
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    check_refused(&sandbox, STRANGER, v4);
    ask_from(&sandbox, "fd00::2", v6).unwrap();
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    // The kernel looks at the list, whether there is an agent or not.
    sandbox
        .run(&["systemctl", "stop", "ondemand.service"])
        .unwrap();
    check_refused(&sandbox, STRANGER, v4);
    service::start_agent(&sandbox).unwrap();
    let now = status(&sandbox, "test").unwrap();
    assert_eq!(now["refused_connections"], 4, "{now}");
    assert_eq!(now["accepted_connections"], 4, "{now}");
    // Without the list all clients may start it.
    let open = config.lines().filter(|line| !line.starts_with("wake_from"));
    let open = open.collect::<Vec<_>>().join("\n");
    service::write_config(&sandbox, &format!("[service.test]\n{open}")).unwrap();
    sandbox
        .run(&["systemctl", "reload", "ondemand.service"])
        .unwrap();
    // (Before systemd 253 `systemctl reload` does not wait for the agent.)
    wait_for("all clients may start it", SOON, || {
        ask_from(&sandbox, STRANGER, v4).ok()
    })
    .unwrap();
}

#[test]
fn whose_use_does_not_keep_it_up() {
    require_sandbox!();
    let config = CONFIG.replace("1h", "1s") + r#"ignore_from = "127.0.0.3""#;
    let sandbox = on_demand(&config, "").unwrap();
    // It may wake it.
    ask_from(&sandbox, STRANGER, "127.0.0.1:8000").unwrap();
    wait_route(&sandbox, "steered");
    let keep_alive = Request {
        keep_alive: true,
        ..Request::default()
    };
    let (requests, last) = sandbox
        .in_network(|| {
            let source = STRANGER.parse().unwrap();
            let mut stream = client::connect_from(source, front()).unwrap();
            let mut requests = 0;
            loop {
                match client::ask(&mut stream, keep_alive) {
                    Ok(_) => requests += 1,
                    Err(loss) => return (requests, loss),
                }
                assert!(requests < 600, "it is kept up");
                think(Duration::from_millis(50));
            }
        })
        .unwrap();
    assert!(requests > 5, "{requests}");
    assert!(
        matches!(last, Loss::Closed | Loss::Send(_) | Loss::Receive(_)),
        "{last}"
    );
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    let now = status(&sandbox, "test").unwrap();
    assert_eq!(now["stops_by_reason"]["idle"], 1, "{now}");
    assert_eq!(now["ignored"]["accepted"], 1, "{now}");
    assert_eq!(now["steered"]["accepted"], 0, "{now}");
    // Others keep it up, and an open connection of the one beside theirs changes nothing.
    ask_from(&sandbox, FRIEND, "127.0.0.1:8000").unwrap();
    wait_route(&sandbox, "steered");
    let run = sandbox.property("app.service", "InvocationID").unwrap();
    sandbox
        .in_network(|| {
            let connect = |source: &str| client::connect_from(source.parse().unwrap(), front());
            let mut ignored = connect(STRANGER).unwrap();
            let mut friend = connect(FRIEND).unwrap();
            client::ask(&mut friend, keep_alive).unwrap();
            client::ask(&mut ignored, keep_alive).unwrap();
            idle_for(Duration::from_secs(3)); // several idle timeouts
            client::ask(&mut friend, keep_alive).unwrap();
        })
        .unwrap();
    assert_eq!(
        sandbox.property("app.service", "InvocationID").unwrap(),
        run
    );
    let now = counts::settled(&sandbox);
    assert_eq!(now["ignored"]["accepted"], 2, "{now}");
    wait_for("the ignored one is closed", SOON, || {
        let now = status(&sandbox, "test").ok()?;
        (now["ignored"]["closed"] == 2).then_some(())
    })
    .unwrap();
    assert_eq!(number(&sandbox, "test", "count_drift").unwrap(), 0);
}

/// No agent takes the admission back when the service stops: it is gone with the agent, however that ended.
#[test]
fn without_an_agent_only_those_in_the_list_are_served() {
    require_sandbox!();
    let config = format!("{CONFIG}wake_from = [\"127.0.0.0/8\", \"!127.0.0.3\"]");
    let sandbox = service::installed().unwrap();
    let place = "/etc/systemd/system/ondemand.service.d/once.conf";
    sandbox.write(place, "[Service]\nRestart=no\n").unwrap();
    service::write_backend(&sandbox, "app.service", "").unwrap();
    service::write_config(&sandbox, &format!("[service.test]\n{config}")).unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    let front = "127.0.0.1:8000";
    for end in [
        "systemctl stop ondemand.service",
        "systemctl kill --signal=KILL ondemand.service",
        "systemctl kill --signal=ABRT ondemand.service",
    ] {
        service::start_agent(&sandbox).unwrap();
        ask_from(&sandbox, FRIEND, front).unwrap();
        // It is up, so it serves all.
        wait_for("it is admitted", SOON, || {
            ask_from(&sandbox, STRANGER, front).ok()
        })
        .unwrap();
        let keep_alive = Request {
            keep_alive: true,
            ..Request::default()
        };
        let mut held = sandbox
            .in_network(|| {
                let mut held = client::connect_from(FRIEND.parse().unwrap(), parse(front))?;
                client::ask(&mut held, keep_alive).map(|_| held)
            })
            .unwrap()
            .unwrap();
        sandbox.run(&["sh", "-c", end]).unwrap();
        wait_for("the agent is gone", SOON, || {
            let state = sandbox.property("ondemand.service", "ActiveState").ok()?;
            matches!(&*state, "inactive" | "failed").then_some(())
        })
        .unwrap();
        // Up still, without an agent: those of the list are served, and nobody else.
        let run = sandbox.property("app.service", "InvocationID").unwrap();
        ask_from(&sandbox, FRIEND, front).unwrap();
        sandbox
            .in_network(|| client::ask(&mut held, Request::default()).unwrap())
            .unwrap();
        let refused = Loss::Connect(ErrorKind::ConnectionRefused);
        let loss = ask_from(&sandbox, STRANGER, front).unwrap_err();
        assert_eq!(loss, refused, "{end}");
        assert_eq!(
            sandbox.property("app.service", "InvocationID").unwrap(),
            run
        );
        // It stops, and only those of the list start it.
        drop(held);
        let stop = "systemctl stop ondemand-test.target ondemand-test.service app.service";
        sandbox.run(&["sh", "-c", stop]).unwrap();
        wait_state(&sandbox, "app.service", "inactive").unwrap();
        check_refused(&sandbox, STRANGER, front);
        ask_from(&sandbox, FRIEND, front).unwrap();
        let _ = sandbox.run(&["systemctl", "reset-failed", "ondemand.service"]);
    }
}
