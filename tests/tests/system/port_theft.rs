//! A port that an application leaves free while it is down can be bound by any user of the host: that
//! user's process gets no client, neither straight from the kernel nor through the proxy.

use tests::{
    client::{self, Loss, Request},
    sandbox::Sandbox,
    service::{self, SOON, front, on_demand, status, wait_journal, wait_state},
    wait_for,
};

use crate::{
    require_sandbox,
    steering::{CONFIG, is_steered, parse, wait_route},
};

/// Another user's process that listens there, as a unit of its own.
fn steal(sandbox: &Sandbox, address: &str) {
    let listen = format!("/usr/bin/test-backend --notify --listen {address}");
    let mut words = vec![
        "systemd-run",
        "--unit=thief.service",
        "--uid=nobody",
        "--service-type=notify",
    ];
    words.extend(listen.split(' '));
    sandbox.run(&words).unwrap();
}

fn ask(sandbox: &Sandbox) -> Result<(), Loss> {
    let answer = sandbox.in_network(|| client::get(front(), Request::default()));
    answer.unwrap().map(drop)
}

#[test]
fn a_process_of_another_user_gets_no_client() {
    require_sandbox!();
    // Longer than the proxy waits before it tries an address at which it finds no listener.
    let config = CONFIG.replace("10s", "4s");
    // It is up and does not listen, as an application that tries to bind its port again and again.
    let sandbox = on_demand(&config, "--never-listen").unwrap();
    steal(&sandbox, "127.0.0.1:8080");
    let loss = ask(&sandbox).unwrap_err();
    assert!(matches!(loss, Loss::Closed | Loss::Receive(_)), "{loss}");
    let held = "127.0.0.1:8080 is held by a process of user";
    wait_journal(&sandbox, "ondemand-test.service", held, 1).unwrap();
    wait_journal(&sandbox, "ondemand.service", held, 1).unwrap();
    let seen = status(&sandbox, "test").unwrap();
    assert_eq!(seen["route"], "proxied", "{seen}");
    assert!(seen["detail"].as_str().unwrap().contains(held), "{seen}");
    assert_eq!(seen["back"]["accepted"], 0, "{seen}");
    let findings = sandbox.run(&["ondemand", "check"]).unwrap_err().to_string();
    assert!(findings.contains("is used by test-backend"), "{findings}");
    // A new agent finds it as well.
    sandbox
        .run(&["systemctl", "restart", "ondemand.service"])
        .unwrap();
    assert!(ask(&sandbox).is_err());
    // Its end is all that is needed.
    sandbox
        .run(&["systemctl", "stop", "thief.service"])
        .unwrap();
    service::write_backend(&sandbox, "app.service", "").unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    sandbox
        .run(&["systemctl", "restart", "app.service"])
        .unwrap();
    ask(&sandbox).unwrap();
    wait_route(&sandbox, "steered");
    assert!(is_steered(&sandbox, front()));
    let seen = status(&sandbox, "test").unwrap();
    assert!(
        !seen["detail"].as_str().unwrap().contains("held by"),
        "{seen}"
    );
}

#[test]
fn a_proxy_that_is_up_carries_nobody_to_who_has_taken_the_port_of_a_crashed_application() {
    require_sandbox!();
    let config = CONFIG.replace("steer = true", "steer = false");
    let sandbox = on_demand(&config, "").unwrap();
    ask(&sandbox).unwrap();
    // It stays in its place, and its listener does not.
    let closing = Request {
        query: "reopen=3600000",
        ..Request::default()
    };
    sandbox
        .in_network(|| client::get(front(), closing))
        .unwrap()
        .unwrap();
    wait_for("the port is free", SOON, || {
        let listeners = sandbox.run(&["ss", "-Hltn", "sport = :8080"]).ok()?;
        listeners.is_empty().then_some(())
    })
    .unwrap();
    steal(&sandbox, "127.0.0.1:8080");
    assert!(ask(&sandbox).is_err());
    wait_journal(
        &sandbox,
        "ondemand-test.service",
        "is held by a process of user",
        1,
    )
    .unwrap();
}

#[test]
fn another_family_of_the_port_cannot_be_taken_either() {
    require_sandbox!();
    let config = CONFIG.replace(
        r#"["127.0.0.1:8000"]"#,
        r#"["127.0.0.1:8000", "[::1]:8000"]"#,
    );
    let sandbox = on_demand(&config, "").unwrap();
    sandbox
        .run(&["sysctl", "-q", "-w", "net.ipv6.bindv6only=1"])
        .unwrap();
    assert!(!is_steered(&sandbox, front()));
    wait_route(&sandbox, "steered");
    // An application may listen at the wildcard of the other family, and clients are steered there.
    steal(&sandbox, "[::]:8080");
    assert!(is_steered(&sandbox, front()));
    assert!(
        !is_steered(&sandbox, parse("[::1]:8000")),
        "it is the application's"
    );
}

#[test]
fn the_applications_own_listener_is_recognized_whoever_runs_it() {
    require_sandbox!();
    let drop =
        "/usr/bin/setpriv --reuid=daemon --regid=daemon --clear-groups /usr/bin/test-backend";
    let below = format!(
        "/bin/sh -c 'cd /sys/fs/cgroup/$$(sed s/0::.//p -n /proc/self/cgroup) && mkdir -p below && \
         echo $$$$ > below/cgroup.procs && exec {drop}'"
    );
    for (name, lines) in [
        (
            "its user",
            "User=daemon\nExecStart=/usr/bin/test-backend".to_owned(),
        ),
        ("another one", format!("ExecStart={drop}")),
        (
            "below its cgroup",
            format!("Delegate=yes\nExecStart={below}"),
        ),
        (
            "a dynamic one",
            "DynamicUser=yes\nExecStart=/usr/bin/test-backend".to_owned(),
        ),
    ] {
        let sandbox = on_demand(CONFIG, "").unwrap();
        let unit = format!("[Service]\n{lines}\n");
        sandbox
            .write("/etc/systemd/system/app.service", unit)
            .unwrap();
        sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
        assert!(!is_steered(&sandbox, front()), "{name}: a cold start");
        wait_route(&sandbox, "steered");
        assert!(is_steered(&sandbox, front()), "{name}");
        // The next run, and the next agent.
        sandbox
            .run(&["systemctl", "restart", "app.service"])
            .unwrap();
        wait_state(&sandbox, "app.service", "active").unwrap();
        assert!(!is_steered(&sandbox, front()), "{name}: the first client");
        wait_route(&sandbox, "steered");
        sandbox
            .run(&["systemctl", "restart", "ondemand.service"])
            .unwrap();
        wait_route(&sandbox, "steered");
        assert!(is_steered(&sandbox, front()), "{name}");
        let journal = sandbox.journal("ondemand.service");
        assert!(!journal.contains("is held by"), "{name}: {journal}");
    }
}
