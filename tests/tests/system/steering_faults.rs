//! Listeners, agents and neighbours that steering must cope with: plain fallback to the proxy, a
//! clear message, and no client's SYN is dropped.

use std::{collections::BTreeMap, process::Child};

use nix::sched::CloneFlags;
use serde_json::Value;
use tests::{
    client::{self, Loss, Request},
    sandbox::Sandbox,
    service::{self, SOON, front, on_demand, status, wait_state},
    wait_for,
};

use crate::{
    counts::{self, Sums},
    faults::agent_pid,
    require_sandbox,
    steering::{CONFIG, ask_with, is_steered, parse, wait_route, warm},
};

/// How many sockets listen at a port.
pub(crate) fn listeners(sandbox: &Sandbox, port: u16) -> usize {
    let listening = sandbox
        .run(&["ss", "-Hltn", &format!("sport = :{port}")])
        .unwrap();
    listening.lines().count()
}

/// The workers that serve this number of clients, all of which must be steered.
#[track_caller]
fn workers(sandbox: &Sandbox, clients: u32) -> BTreeMap<String, u32> {
    let mut seen = BTreeMap::new();
    for _ in 0..clients {
        let (answer, steered) = ask_with(sandbox, front(), Request::default()).unwrap();
        assert!(steered);
        let worker = answer.header("X-Worker").unwrap().to_owned();
        *seen.entry(worker).or_default() += 1;
    }
    seen
}

#[test]
fn workers_that_share_a_port_keep_their_balance_and_may_end() {
    require_sandbox!();
    let sandbox = warm(CONFIG, "--workers 4");
    for left in (1..=4).rev() {
        let seen = workers(&sandbox, 200);
        assert_eq!(seen.len(), left, "{seen:?}");
        // Evenly: a quarter of the fair share is far outside of chance.
        let fair = 200 / u32::try_from(left).unwrap();
        assert!(seen.values().all(|count| *count >= fair / 4), "{seen:?}");
        if left == 1 {
            break;
        }
        let close = Request {
            query: "close",
            ..Request::default()
        };
        ask_with(&sandbox, front(), close).unwrap();
        wait_for("the worker's listener is closed", SOON, || {
            (listeners(&sandbox, 8080) == left - 1).then_some(())
        })
        .unwrap();
        // No client is lost until steering has another of them.
        wait_for("clients are steered", SOON, || {
            is_steered(&sandbox, front()).then_some(())
        })
        .unwrap();
    }
}

#[test]
fn a_listener_that_is_closed_and_opened_again() {
    require_sandbox!();
    let sandbox = warm(CONFIG, "");
    // A proxy that runs already has done its waiting, and would let the client go.
    wait_state(&sandbox, "ondemand-test.service", "inactive").unwrap();
    let reopen = Request {
        query: "reopen=1500",
        ..Request::default()
    };
    assert!(ask_with(&sandbox, front(), reopen).unwrap().1);
    wait_for("the listener is closed", SOON, || {
        (listeners(&sandbox, 8080) == 0).then_some(())
    })
    .unwrap();
    assert!(!is_steered(&sandbox, front()), "the proxy waits for it");
    wait_route(&sandbox, "steered");
    assert!(is_steered(&sandbox, front()));
}

#[test]
fn an_mptcp_listener_is_proxied_and_said_to_be_so_once() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "--mptcp").unwrap();
    let sums = Sums::default();
    counts::load(&sandbox, front(), 100, Request::default(), &sums);
    assert!(!is_steered(&sandbox, front()));
    let now = counts::settled(&sandbox);
    assert_eq!(now["accepted_connections"], 101, "{now}");
    assert_eq!(now["front"]["accepted"], 101, "{now}");
    assert_eq!(now["steered"]["accepted"], 0, "{now}");
    assert_eq!(now["route"], "proxied", "{now}");
    let said = || sandbox.journal("ondemand.service").matches("MPTCP").count();
    assert_eq!(said(), 1);
    // Not for every start, but by every agent.
    sandbox
        .run(&["systemctl", "restart", "app.service"])
        .unwrap();
    assert!(!is_steered(&sandbox, front()));
    assert_eq!(said(), 1);
    sandbox
        .run(&["systemctl", "restart", "ondemand.service"])
        .unwrap();
    assert_eq!(said(), 2);
}

#[test]
fn a_backend_on_another_port_than_configured_swallows_nobody() {
    require_sandbox!();
    let config = CONFIG.replace("\"10s\"", "\"1500ms\"");
    let sandbox = on_demand(&config, "--listen 127.0.0.1:8081").unwrap();
    for attempt in 1..=2 {
        let loss = ask_with(&sandbox, front(), Request::default()).unwrap_err();
        assert!(
            matches!(
                loss,
                Loss::Closed | Loss::Receive(std::io::ErrorKind::ConnectionReset)
            ),
            "{loss}"
        );
        // The proxy closes its clients before it logs why.
        let why = "the backend did not become ready";
        let journal =
            service::wait_journal(&sandbox, "ondemand-test.service", why, attempt).unwrap();
        assert_eq!(journal.matches(why).count(), attempt, "{journal}");
        assert!(journal.contains("127.0.0.1:8080"), "{journal}");
    }
    assert_eq!(status(&sandbox, "test").unwrap()["route"], "proxied");
}

#[test]
fn clients_are_steered_while_no_agent_runs() {
    require_sandbox!();
    let sandbox = warm(CONFIG, "");
    let drop_in = "/etc/systemd/system/ondemand.service.d/stay.conf";
    sandbox.write(drop_in, "[Service]\nRestart=no\n").unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    sandbox
        .run(&["systemctl", "kill", "--signal=KILL", "ondemand.service"])
        .unwrap();
    wait_state(&sandbox, "ondemand.service", "failed").unwrap();
    let steered = (0..100).filter(|_| is_steered(&sandbox, front())).count();
    assert_eq!(steered, 100);
    service::start_agent(&sandbox).unwrap();
    let now = counts::settled(&sandbox);
    assert_eq!(now["route"], "steered", "{now}");
    assert_eq!(now["steered"]["accepted"], 100, "{now}");
    // The next agent looks after what the last one left.
    reconfigure(&sandbox, &CONFIG.replace("1h", "500ms"));
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    assert!(!is_steered(&sandbox, front()));
}

/// Changes the configuration of the running agent.
#[track_caller]
fn reconfigure(sandbox: &Sandbox, config: &str) {
    service::write_config(sandbox, &format!("[service.test]\n{config}")).unwrap();
    sandbox
        .run(&["systemctl", "reload", "ondemand.service"])
        .unwrap();
}

#[test]
fn a_reload_closes_and_opens_the_gate() {
    require_sandbox!();
    let sandbox = warm(CONFIG, "");
    for _ in 0..2 {
        reconfigure(&sandbox, &CONFIG.replace("steer = true", "steer = false"));
        wait_route(&sandbox, "proxied");
        assert!(!is_steered(&sandbox, front()));
        reconfigure(&sandbox, CONFIG);
        wait_route(&sandbox, "steered");
        assert!(is_steered(&sandbox, front()));
    }
}

/// Ends a program that a test started, also when the test fails.
struct Kill(Child);

impl Drop for Kill {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn another_network_namespace_is_left_alone() {
    require_sandbox!();
    let sandbox = warm(CONFIG, "");
    sandbox.run(&["ip", "netns", "add", "other"]).unwrap();
    let inside = |words: &[&str]| {
        let all: Vec<&str> = [&["ip", "netns", "exec", "other"], words].concat();
        sandbox.run(&all)
    };
    inside(&["ip", "link", "set", "lo", "up"]).unwrap();
    let programs = ["127.0.0.1:8080", "127.0.0.1:8000"].map(|address| {
        let mut command = sandbox.command("ip");
        command.args(["netns", "exec", "other", "test-backend", "--listen"]);
        Kill(command.arg(address).spawn().unwrap())
    });
    wait_for("both listen", SOON, || {
        let listening = inside(&["ss", "-Hltn"]).ok()?;
        (listening.lines().count() == 2).then_some(())
    })
    .unwrap();
    let before = counts::settled(&sandbox);
    let namespace = std::fs::File::open(sandbox.path("/run/netns/other")).unwrap();
    std::thread::scope(|scope| {
        let clients = scope.spawn(|| {
            nix::sched::setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
            for address in ["127.0.0.1:8080", "127.0.0.1:8000"] {
                for _ in 0..50 {
                    client::get(parse(address), Request::default()).unwrap();
                }
            }
        });
        // At the same time: each client reaches the application of its own namespace.
        let app = sandbox.main_pid("app.service").unwrap().to_string();
        for _ in 0..50 {
            let (answer, steered) = ask_with(&sandbox, front(), Request::default()).unwrap();
            assert!(steered);
            assert_eq!(answer.header("X-Pid"), Some(app.as_str()));
        }
        clients.join().unwrap();
    });
    let after = counts::settled(&sandbox);
    let accepted = |status: &Value| status["accepted_connections"].as_u64().unwrap();
    assert_eq!(accepted(&after), accepted(&before) + 50, "{after}");
    assert_eq!(after["back"], before["back"], "{after}");
    drop(programs);
    assert!(is_steered(&sandbox, front()));
    // It goes away, with a listener in it.
    let mut command = sandbox.command("ip");
    command.args(["netns", "exec", "other", "test-backend"]);
    let last = Kill(command.spawn().unwrap());
    wait_for("it listens", SOON, || {
        let listening = inside(&["ss", "-Hltn"]).ok()?;
        (listening.lines().count() == 1).then_some(())
    })
    .unwrap();
    sandbox.run(&["ip", "netns", "del", "other"]).unwrap();
    drop((last, namespace));
    assert!(is_steered(&sandbox, front()));
}

/// Listens, and leaves the accepting to a child, as programs with a master process do.
const HANDS_OVER: &str = r#"
import os, socket
listener = socket.create_server(("127.0.0.1", 8080), backlog=4096)
if os.fork():
    listener.close()
    os.wait()
else:
    while True:
        client, (host, port) = listener.accept()
        client.recv(65536)
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1024\r\nConnection: close\r\n"
                       b"X-Peer: %s:%d\r\n\r\n" % (host.encode(), port) + b"x" * 1024)
        client.close()
"#;

#[test]
fn a_backend_that_hands_its_listener_to_a_child_is_steered_to() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    sandbox.write("/etc/hands-over.py", HANDS_OVER).unwrap();
    sandbox
        .write(
            "/etc/systemd/system/app.service",
            "[Service]\nExecStart=/usr/bin/python3 /etc/hands-over.py\n",
        )
        .unwrap();
    let config = CONFIG.replace("1h", "1s");
    service::write_config(&sandbox, &format!("[service.test]\n{config}")).unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    assert!(!is_steered(&sandbox, front()), "the first is proxied");
    wait_route(&sandbox, "steered");
    assert!(is_steered(&sandbox, front()));
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    assert!(!is_steered(&sandbox, front()), "and is started again");
}

#[test]
fn a_front_address_that_no_interface_has_is_said_beforehand() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    service::write_backend(&sandbox, "app.service", "").unwrap();
    let config = CONFIG.replace("127.0.0.1:8000", "192.0.2.1:8000");
    service::write_config(&sandbox, &format!("[service.test]\n{config}")).unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    // It may come later, and is listened to until then.
    let checked = sandbox.run(&["ondemand", "check"]);
    // Its socket is not started yet, which is an error.
    let said = checked.unwrap_or_else(|error| error.to_string());
    let mut about = said.lines().filter(|line| line.contains("192.0.2.1"));
    assert!(about.any(|line| line.contains("warning")), "{said}");
    sandbox
        .run(&["systemctl", "start", "ondemand-test.socket"])
        .unwrap();
    service::start_agent(&sandbox).unwrap();
    let journal = sandbox.journal("ondemand.service");
    assert!(!journal.contains("does not listen"), "{journal}");
}

#[test]
fn another_program_at_the_front_address_keeps_its_clients() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    service::write_backend(&sandbox, "app.service", "").unwrap();
    service::write_backend(&sandbox, "other.service", "--listen 127.0.0.1:8000").unwrap();
    let config = CONFIG.replace("1h", "300ms");
    service::write_config(&sandbox, &format!("[service.test]\n{config}")).unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    sandbox
        .run(&["systemctl", "start", "other.service"])
        .unwrap();
    wait_for("the other program listens", SOON, || {
        (listeners(&sandbox, 8000) == 1).then_some(())
    })
    .unwrap();
    sandbox
        .run(&["systemctl", "start", "ondemand-test.socket"])
        .unwrap_err();
    service::start_agent(&sandbox).unwrap();
    sandbox.run(&["systemctl", "start", "app.service"]).unwrap();
    wait_for("the application listens", SOON, || {
        (listeners(&sandbox, 8080) == 1).then_some(())
    })
    .unwrap();
    let other = sandbox.main_pid("other.service").unwrap().to_string();
    for _ in 0..20 {
        let (answer, _) = ask_with(&sandbox, front(), Request::default()).unwrap();
        assert_eq!(answer.header("X-Pid"), Some(other.as_str()));
    }
    let now = status(&sandbox, "test").unwrap();
    assert_eq!(now["route"], "proxied", "{now}");
    let journal = sandbox.journal("ondemand.service");
    let said = "ondemand-test.socket does not listen";
    assert_eq!(journal.matches(said).count(), 1, "{journal}");
    // It could not be started again: it is not stopped, until its socket is back.
    let state = sandbox.property("app.service", "ActiveState").unwrap();
    assert_eq!(state, "active");
    sandbox
        .run(&["systemctl", "stop", "other.service"])
        .unwrap();
    sandbox
        .run(&["systemctl", "start", "ondemand-test.socket"])
        .unwrap();
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    assert!(!is_steered(&sandbox, front()));
}

/// A client that an address rule refuses must not get in by another way.
#[test]
fn address_rules_that_steering_would_bypass_turn_it_off() {
    require_sandbox!();
    let sandbox = warm(CONFIG, "");
    let agent = agent_pid(&sandbox);
    // Rules of the front socket, of the application, and of a slice that both are in.
    for unit in ["ondemand-test.socket", "app.service", "system.slice"] {
        let drop_in = format!("/etc/systemd/system/{unit}.d/rules.conf");
        let section = match unit.rsplit_once('.') {
            Some((_, "socket")) => "Socket",
            Some((_, "slice")) => "Slice",
            _ => "Service",
        };
        let rules = format!("[{section}]\nIPAddressDeny=192.0.2.0/24\n");
        sandbox.write(&drop_in, rules).unwrap();
        sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
        wait_route(&sandbox, "proxied");
        assert!(!is_steered(&sandbox, front()), "{unit}");
        let journal = sandbox.journal("ondemand.service");
        let said = format!("IPAddressDeny= of {unit}");
        assert_eq!(journal.matches(&said).count(), 1, "{journal}");
        let said = sandbox.run(&["ondemand", "check"]).unwrap();
        assert!(
            said.contains(&format!("IPAddressDeny= of {unit}")),
            "{said}"
        );
        // Of no use to a later agent, either.
        if unit == "app.service" {
            sandbox
                .run(&["systemctl", "restart", "ondemand.service"])
                .unwrap();
            assert!(!is_steered(&sandbox, front()), "{unit}");
        }
        sandbox.run(&["rm", &drop_in]).unwrap();
        sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
        wait_route(&sandbox, "steered");
        assert!(is_steered(&sandbox, front()), "{unit}");
    }
    assert_ne!(agent, agent_pid(&sandbox));
    // Rules that only allow deny nothing.
    let allow = "[Socket]\nIPAddressAllow=127.0.0.0/8\n";
    sandbox
        .write(
            "/etc/systemd/system/ondemand-test.socket.d/rules.conf",
            allow,
        )
        .unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    wait_route(&sandbox, "steered");
    assert!(is_steered(&sandbox, front()));
}
