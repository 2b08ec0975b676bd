//! What cannot run is not started again and again while a client waits.

use std::{
    collections::BTreeMap,
    io::Read as _,
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use serde_json::Value;
use tests::{
    client::{self, Request},
    pause::{idle_for, observe_for},
    require_long,
    sandbox::Sandbox,
    service::{self, SOON, front, number, status, wait_journal, wait_state},
    wait_for,
};

use crate::require_sandbox;

/// Name, and a drop-in of its proxy with which it cannot run.
const PROXIES: [(&str, &str); 8] = [
    ("user", "[Service]\nUser=missing\n"),
    (
        "program",
        "[Service]\nExecStart=\nExecStart=/usr/bin/nothing\n",
    ),
    ("namespace", "[Service]\nBindReadOnlyPaths=/nothing\n"),
    ("filter", "[Service]\nSystemCallFilter=~epoll_create1\n"),
    ("zero", "[Service]\nExecStart=\nExecStart=/bin/true\n"),
    ("one", "[Service]\nExecStart=\nExecStart=/bin/false\n"),
    ("condition", "[Unit]\nConditionPathExists=/nothing\n"),
    ("assert", "[Unit]\nAssertPathExists=/nothing\n"),
];
/// Its backend is a Unix socket, whose proxy ends to be started again at once in a good case.
const UNIX: (&str, &str) = ("unix", "[Service]\nUser=missing\n");

fn address(name: &str) -> SocketAddr {
    let index = PROXIES.iter().position(|(known, _)| *known == name);
    let index = index.unwrap_or(PROXIES.len());
    SocketAddr::from(([127, 0, 0, 1], 8000 + index as u16))
}

fn drop_in(name: &str) -> String {
    format!("/etc/systemd/system/ondemand-{name}.service.d/broken.conf")
}

/// A system with a service for each kind. No proxy can run.
fn broken_proxies() -> Sandbox {
    let sandbox = service::installed().unwrap();
    let mut config = String::new();
    let all = PROXIES.iter().chain([&UNIX]);
    for (name, text) in all.clone() {
        let listens = match *name {
            "unix" => "/run/unix.sock".into(),
            _ => format!("127.0.0.1:{}", 100 + address(name).port()),
        };
        let unit = format!("{name}.service");
        service::write_backend(&sandbox, &unit, &format!("--listen {listens}")).unwrap();
        sandbox.write(&drop_in(name), text).unwrap();
        config += &format!(
            "[service.{name}]\nlisten = [\"{}\"]\nbackend = \"{listens}\"\nunit = \"{unit}\"\n\
             idle_timeout = \"1s\"\nmin_uptime = \"0s\"\nstart_timeout = \"10s\"\nsteer = false\n\n",
            address(name),
        );
    }
    service::write_config(&sandbox, &config).unwrap();
    let names: Vec<&str> = all.map(|(name, _)| *name).collect();
    service::reload(&sandbox, &names).unwrap();
    sandbox
}

fn connect(sandbox: &Sandbox, name: &str) -> TcpStream {
    let stream = sandbox.in_network(|| client::connect(address(name)));
    stream
        .unwrap()
        .unwrap_or_else(|loss| panic!("{name}: {loss}"))
}

/// How often PID 1 has begun to start the proxy, and how often it has skipped a start.
fn attempts(sandbox: &Sandbox, name: &str) -> (usize, usize) {
    let journal = sandbox.journal(&format!("ondemand-{name}.service"));
    let count = |words: &str| journal.lines().filter(|line| line.contains(words)).count();
    // For an assertion there may be two lines.
    let skipped = count("skipped") + count("Assertion failed").max(count("Starting requested"));
    (count("Started "), skipped)
}

#[test]
fn a_proxy_that_cannot_run_is_not_started_for_ever() {
    require_sandbox!();
    let sandbox = broken_proxies();
    let names = || PROXIES.iter().chain([&UNIX]).map(|(name, _)| *name);
    // One stays, and one is gone at once: both are in the queue.
    let waiting: Vec<TcpStream> = names()
        .map(|name| {
            drop(connect(&sandbox, name));
            connect(&sandbox, name)
        })
        .collect();
    observe_for(Duration::from_secs(6), || {});
    for name in names() {
        let (started, skipped) = attempts(&sandbox, name);
        println!("{name}: started {started} times, skipped {skipped} times");
        assert!(
            started <= 2 && skipped <= 20,
            "{name}: {started}, {skipped}"
        );
        assert!(started + skipped > 0, "{name}");
    }
    drop(waiting);
    // The socket that PID 1 has given up comes back by itself, the others have never gone.
    for name in names() {
        std::fs::remove_file(sandbox.path(&drop_in(name))).unwrap();
    }
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    for name in names() {
        wait_state(&sandbox, &format!("ondemand-{name}.socket"), "active").unwrap();
        let answer = sandbox.in_network(|| client::get(address(name), Request::default()));
        answer
            .unwrap()
            .unwrap_or_else(|loss| panic!("{name}: {loss}"));
    }
}

#[test]
fn clients_of_a_proxy_that_cannot_run_are_let_go() {
    require_sandbox!();
    require_long!("a proxy that cannot run is not started for ever, which the short suite shows");
    let sandbox = broken_proxies();
    service::start_agent(&sandbox).unwrap();
    let names = || PROXIES.iter().chain([&UNIX]).map(|(name, _)| *name);
    let begin = Instant::now();
    let mut waiting: Vec<TcpStream> = names().map(|name| connect(&sandbox, name)).collect();
    for (name, client) in names().zip(&mut waiting) {
        client.set_read_timeout(Some(client::patience())).unwrap();
        let end = client.read(&mut [0]);
        let took = begin.elapsed();
        println!("{name}: {end:?} after {took:?}");
        assert!(!matches!(end, Ok(1..)), "{name}");
        let (started, skipped) = attempts(&sandbox, name);
        let most = 4 + took.as_secs() as usize / 7;
        assert!(
            started <= most && skipped <= 20,
            "{name}: {started} starts, {skipped} skipped"
        );
        let problem = |status: &Value| status["problem"].as_str().map(str::to_owned);
        let found = wait_for("it is reported", SOON, || {
            problem(&status(&sandbox, name).ok()?)
        });
        let found = found.unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected = match name {
            "condition" | "assert" => "a condition of",
            _ => "its proxy cannot run (",
        };
        assert!(found.contains(expected), "{name}: {found}");
    }
    let found = checked(&sandbox);
    for name in names() {
        assert_eq!(found.get(name).map(String::as_str), Some("error"), "{name}");
    }
    let journal = sandbox.journal("ondemand.service");
    let report = sandbox.run(&["ondemand", "status"]).unwrap();
    println!("{report}\n{journal}");
    assert!(
        report.contains("exit status 217, its user does not exist"),
        "{report}"
    );
    assert_eq!(
        journal.matches("closing the waiting connections").count(),
        7,
        "{journal}"
    );
    // Nobody waits: nothing is started any more, and no application stays up.
    let before: Vec<_> = names().map(|name| attempts(&sandbox, name)).collect();
    for name in names() {
        wait_state(&sandbox, &format!("{name}.service"), "inactive").unwrap();
    }
    let after: Vec<_> = names().map(|name| attempts(&sandbox, name)).collect();
    assert_eq!(before, after);
    // It is repaired.
    for name in names() {
        std::fs::remove_file(sandbox.path(&drop_in(name))).unwrap();
    }
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    for name in names() {
        wait_state(&sandbox, &format!("ondemand-{name}.socket"), "active").unwrap();
        let answer = sandbox.in_network(|| client::get(address(name), Request::default()));
        answer
            .unwrap()
            .unwrap_or_else(|loss| panic!("{name}: {loss}"));
        wait_for("it is forgiven", SOON, || {
            status(&sandbox, name).ok()?["problem"]
                .is_null()
                .then_some(())
        })
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    assert_eq!(checked(&sandbox), BTreeMap::new());
}

/// What `ondemand check` finds about the proxies, by service.
fn checked(sandbox: &Sandbox) -> BTreeMap<String, String> {
    let command = "ondemand check --json || true"; // there are errors
    let text = sandbox.run(&["sh", "-c", command]).unwrap();
    let found: Vec<Value> = serde_json::from_str(&text).unwrap();
    let about_proxies = found.iter().filter(|finding| finding["what"] == "proxy");
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    about_proxies
        .inspect(|finding| println!("{finding}"))
        .map(|finding| (text(finding, "service"), text(finding, "level")))
        .collect()
}

/// Name, and the section [Service] of its unit: it cannot run, and systemd restarts it.
const APPLICATIONS: [(&str, &str); 8] = [
    (
        "zero",
        "ExecStart=/bin/true\nRestart=always\nRestartSec=100ms\n",
    ),
    (
        "status",
        "ExecStart=/bin/false\nRestart=always\nRestartSec=0\n",
    ),
    (
        "signal",
        "ExecStart=/bin/sh -c 'kill -SEGV $$$$'\nRestart=on-failure\nRestartSec=0\n",
    ),
    (
        "silent",
        "Type=notify\nExecStart=/bin/sleep 100\nTimeoutStartSec=300ms\nRestart=on-failure\nRestartSec=100ms\n",
    ),
    (
        "later",
        "ExecStart=/bin/sh -c 'sleep 1; exit 3'\nRestart=always\nRestartSec=100ms\n",
    ),
    (
        "before",
        "ExecStartPre=/bin/false\nExecStart=/bin/sleep 100\nRestart=always\nRestartSec=100ms\n",
    ),
    (
        "oneshot",
        "Type=oneshot\nRemainAfterExit=yes\nExecStart=/bin/false\nRestart=on-failure\nRestartSec=100ms\n",
    ),
    (
        "watchdog",
        "Type=notify\nExecStart=/usr/bin/test-backend --listen 127.0.0.1:9000 --notify\n\
         WatchdogSec=300ms\nWatchdogSignal=KILL\nRestart=always\nRestartSec=100ms\n",
    ),
];

fn failing_address(name: &str) -> SocketAddr {
    let index = APPLICATIONS.iter().position(|(known, _)| *known == name);
    SocketAddr::from(([127, 0, 0, 1], 8200 + index.unwrap() as u16))
}

/// A system with a service for each kind. No application can run.
fn failing_applications() -> Sandbox {
    let sandbox = service::installed().unwrap();
    let mut config = String::new();
    for (index, (name, section)) in APPLICATIONS.iter().enumerate() {
        let unit = format!("/etc/systemd/system/{name}.service");
        sandbox
            .write(&unit, format!("[Service]\n{section}"))
            .unwrap();
        config += &format!(
            "[service.{name}]\nlisten = [\"{}\"]\nbackend = \"127.0.0.1:{}\"\nunit = \"{name}.service\"\n\
             idle_timeout = \"1h\"\nmin_uptime = \"0s\"\nstart_timeout = \"60s\"\nsteer = true\n\n",
            failing_address(name),
            8300 + index,
        );
    }
    service::write_config(&sandbox, &config).unwrap();
    let names = APPLICATIONS.map(|(name, _)| name);
    service::reload(&sandbox, &names).unwrap();
    sandbox
}

/// How often systemd has begun to start a unit.
fn starts(sandbox: &Sandbox, unit: &str) -> usize {
    let journal = sandbox.journal(unit);
    let count = |word: &str| {
        journal
            .lines()
            .filter(|line| line.starts_with(word))
            .count()
    };
    count("Started ").max(count("Starting "))
}

/// Waits until a unit is down for good, by the agent or by systemd's limit.
fn wait_down(sandbox: &Sandbox, unit: &str) {
    // Between two attempts it is down for a moment, too.
    let mut looks = 0;
    let is_down = || {
        let state = sandbox.property(unit, "SubState").ok()?;
        looks = match state.as_str() {
            "dead" | "failed" => looks + 1,
            _ => 0,
        };
        (looks > 8).then_some(())
    };
    wait_for(&format!("{unit} is down"), SOON, is_down).unwrap();
}

fn start_all(sandbox: &Sandbox) {
    for (name, _) in APPLICATIONS {
        let unit = format!("{name}.service");
        sandbox
            .run(&["systemctl", "start", "--no-block", &unit])
            .unwrap();
    }
}

#[test]
fn an_application_that_cannot_run_is_not_restarted_for_ever() {
    require_sandbox!();
    require_long!("of a loop, that of the proxy is shown in the short suite");
    let sandbox = failing_applications();
    service::start_agent(&sandbox).unwrap();
    start_all(&sandbox);
    for (name, _) in APPLICATIONS {
        let unit = format!("{name}.service");
        wait_journal(
            &sandbox,
            "ondemand.service",
            &format!("{name}: {unit} keeps failing ("),
            1,
        )
        .unwrap();
        wait_down(&sandbox, &unit);
        let count = starts(&sandbox, &unit);
        println!("{name}: {count} starts");
        // Some more than five where there is no pause between them; systemd's limit is the last.
        assert!((2..=9).contains(&count), "{name}: {count} starts");
        let problem = &status(&sandbox, name).unwrap()["problem"];
        let text = problem.as_str().unwrap_or_default();
        assert!(text.contains("kept failing ("), "{name}: {text}");
        assert!(number(&sandbox, name, "restarts").unwrap() >= 5, "{name}");
    }
    let states = || {
        let units = APPLICATIONS.map(|(name, _)| format!("{name}.service"));
        let mut words = vec![
            "systemctl",
            "show",
            "--property=ActiveState,StateChangeTimestampMonotonic",
        ];
        words.extend(units.iter().map(String::as_str));
        sandbox.run(&words).unwrap()
    };
    let stay_down = || {
        // The end of the last one may still be on its way.
        wait_for("nothing changes for a second", SOON, || {
            let down = states();
            let is_down = !down.contains("=active") && !down.contains("=activating");
            let mut is_same = true;
            observe_for(Duration::from_secs(1), || is_same &= states() == down);
            (is_down && is_same).then_some(())
        })
        .unwrap_or_else(|error| panic!("{error}: {}", states()));
    };
    stay_down();
    // The start counters of the first loops are forgotten.
    idle_for(Duration::from_secs(4));
    let before = APPLICATIONS.map(|(name, _)| starts(&sandbox, &format!("{name}.service")));
    // A client that waits is told, and the loop ends with it.
    let mut waiting: Vec<TcpStream> = APPLICATIONS
        .iter()
        .map(|(name, _)| {
            let stream = sandbox.in_network(|| client::connect(failing_address(name)));
            stream.unwrap().unwrap()
        })
        .collect();
    for (((name, _), client), before) in APPLICATIONS.iter().zip(&mut waiting).zip(before) {
        let unit = format!("{name}.service");
        client.set_read_timeout(Some(client::patience())).unwrap();
        let end = client.read(&mut [0]);
        assert!(!matches!(end, Ok(1..)), "{name}: {end:?}");
        wait_down(&sandbox, &unit);
        let count = starts(&sandbox, &unit) - before;
        let proxies = starts(&sandbox, &format!("ondemand-{name}.service"));
        println!("{name}: {end:?}, {count} starts, {proxies} of its proxy");
        // The first is the client's, and one may follow from the restart of the socket.
        assert!(
            (1..=9).contains(&count) && proxies <= 11,
            "{name}: {count} starts, {proxies} of its proxy"
        );
    }
    stay_down();
}

#[test]
fn without_an_agent_systemd_limits_the_restarts() {
    require_sandbox!();
    require_long!("it waits for limits of systemd");
    let sandbox = failing_applications();
    start_all(&sandbox);
    for (name, _) in APPLICATIONS {
        let unit = format!("{name}.service");
        wait_state(&sandbox, &unit, "failed").unwrap();
        let count = starts(&sandbox, &unit);
        println!("{name}: {count} starts");
        assert!(count <= 9, "{name}: {count} starts");
    }
}

/// One that was used, crashes once, and is restarted; and one that waits to be restarted.
#[test]
fn a_crash_is_no_use_and_no_obstacle_to_a_stop() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    let config = service::CONFIG.replace("300ms", "1h");
    let unit = "/etc/systemd/system/app.service";
    let section = "[Service]\nExecStart=/usr/bin/test-backend --listen 127.0.0.1:8080\n";
    let restart = |pause: &str| format!("{section}Restart=always\nRestartSec={pause}\n");
    sandbox.write(unit, restart("100ms")).unwrap();
    service::write_config(&sandbox, &format!("[service.test]\n{config}")).unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    let ask = || {
        let answer = sandbox.in_network(|| client::get(front(), Request::default()));
        answer.unwrap().unwrap();
    };
    let crash = || sandbox.run(&["systemctl", "kill", "--signal=KILL", "app.service"]);
    let before = Instant::now();
    ask();
    idle_for(Duration::from_secs(1));
    crash().unwrap();
    wait_for("it is restarted", SOON, || {
        let status = status(&sandbox, "test").ok()?;
        (status["starts"] == 2 && status["state"] == "active").then_some(())
    })
    .unwrap();
    let status = status(&sandbox, "test").unwrap();
    assert_eq!(status["restarts"], 1, "{status}");
    assert!(status["problem"].is_null(), "{status}");
    let idle = status["idle_seconds"].as_f64().unwrap();
    let least = Duration::from_secs(1);
    assert!(
        idle >= least.as_secs_f64() && idle <= before.elapsed().as_secs_f64(),
        "{status}"
    );
    ask();
    // It would be restarted in an hour.
    sandbox.write(unit, restart("1h")).unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    crash().unwrap();
    wait_for("it waits for its restart", SOON, || {
        let state = sandbox.property("app.service", "SubState").ok()?;
        (state == "auto-restart").then_some(())
    })
    .unwrap();
    sandbox.run(&["ondemand", "stop", "test"]).unwrap();
    wait_down(&sandbox, "app.service");
    // And the next client starts it.
    ask();
}

/// Far more starts than systemd's limit allows.
#[test]
fn starts_by_clients_run_into_no_limit() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    let section = "[Service]\nExecStart=/usr/bin/test-backend --listen 127.0.0.1:8080\n\
                   Restart=always\nRestartSec=100ms\n";
    sandbox
        .write("/etc/systemd/system/app.service", section)
        .unwrap();
    let config = service::CONFIG.replace("300ms", "100ms");
    service::write_config(&sandbox, &format!("[service.test]\n{config}")).unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    let burst = sandbox.property("app.service", "StartLimitBurst").unwrap();
    assert_eq!(burst, "9");
    service::start_agent(&sandbox).unwrap();
    for round in 1..=15 {
        let answer = sandbox.in_network(|| client::get(front(), Request::default()));
        answer
            .unwrap()
            .unwrap_or_else(|loss| panic!("round {round}: {loss}"));
        wait_state(&sandbox, "app.service", "inactive").unwrap();
    }
    assert_eq!(number(&sandbox, "test", "starts").unwrap(), 15);
    assert_eq!(number(&sandbox, "test", "restarts").unwrap(), 0);
}
