//! Taking a service in, renaming it, changing its addresses, removing it: nothing that runs is stopped, and
//! no connection is cut, whether there is an agent or not.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use tests::{
    client::{self, Kept, Request},
    pause, require_long,
    sandbox::Sandbox,
    service::{self, SOON, front, stays, wait_state},
    wait_for,
};

use crate::require_sandbox;

/// Rounds of four transitions.
fn rounds() -> usize {
    let set = std::env::var("ONDEMAND_TRANSITIONS");
    set.ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

fn backend() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8080))
}

/// A service of this name, with more lines.
fn config(sandbox: &Sandbox, name: &str, listen: &str, more: &str) {
    service::write_config(
        sandbox,
        &format!(
            "[service.{name}]\nlisten = [{listen}]\nbackend = \"127.0.0.1:8080\"\nunit = \"app.service\"\n\
             idle_timeout = \"1h\"\nmin_uptime = \"0s\"\n{more}\n"
        ),
    )
    .unwrap();
}

const FRONT: &str = "\"127.0.0.1:8000\"";

fn reload(sandbox: &Sandbox) {
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
}

/// Clients of one address that must not be cut: one that keeps its connection, and one that downloads.
struct Clients {
    address: SocketAddr,
    answers: AtomicUsize,
    end: AtomicBool,
}

impl Clients {
    fn of(address: SocketAddr) -> Self {
        Self {
            address,
            answers: AtomicUsize::new(0),
            end: AtomicBool::new(false),
        }
    }

    fn run(&self, sandbox: &Sandbox) {
        let work = || {
            let mut kept = Kept::connect(self.address).unwrap();
            while !self.end.load(Ordering::SeqCst) {
                kept.ask().unwrap_or_else(|loss| {
                    panic!("a connection at {} was cut: {loss:?}", self.address)
                });
                self.answers.fetch_add(1, Ordering::SeqCst);
                pause::think(Duration::from_millis(5));
            }
        };
        let download = || {
            while !self.end.load(Ordering::SeqCst) {
                let request = Request {
                    download: 4 << 20,
                    ..Request::default()
                };
                client::get(backend(), request)
                    .unwrap_or_else(|loss| panic!("a download was cut: {loss:?}"));
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| sandbox.in_network(work).unwrap());
            scope.spawn(|| sandbox.in_network(download).unwrap());
        });
    }

    /// Waits until the one that is kept has been answered since now.
    fn go_on(&self) {
        let before = self.answers.load(Ordering::SeqCst);
        wait_for("the kept connection is answered", SOON, || {
            (self.answers.load(Ordering::SeqCst) > before + 1).then_some(())
        })
        .unwrap();
    }
}

/// Does `work` beside clients of `address`, which end with it.
fn under_load(sandbox: &Sandbox, address: SocketAddr, work: impl FnOnce(&Clients)) {
    let clients = Clients::of(address);
    thread::scope(|scope| {
        struct End<'a>(&'a Clients);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.end.store(true, Ordering::SeqCst);
            }
        }
        let end = End(&clients);
        let running = scope.spawn(|| clients.run(sandbox));
        work(&clients);
        drop(end);
        running.join().unwrap();
    });
}

fn running() -> Sandbox {
    let sandbox = service::installed().unwrap();
    service::write_backend(&sandbox, "app.service", "").unwrap();
    let unit = sandbox.path("/etc/systemd/system/app.service");
    let text = std::fs::read_to_string(&unit).unwrap();
    sandbox
        .write(
            "/etc/systemd/system/app.service",
            format!("{text}[Install]\nWantedBy=multi-user.target\n"),
        )
        .unwrap();
    reload(&sandbox);
    sandbox.run(&["systemctl", "start", "app.service"]).unwrap();
    wait_for("the application listens", SOON, || {
        let get = || client::get(backend(), Request::default());
        sandbox.in_network(get).unwrap().ok()
    })
    .unwrap();
    sandbox
}

fn stop_when_unneeded(sandbox: &Sandbox) -> bool {
    sandbox.property("app.service", "StopWhenUnneeded").unwrap() == "yes"
}

/// Waits until the agent manages a service, of which nothing is left to do.
fn wait_managed(sandbox: &Sandbox, name: &str) {
    wait_for(&format!("{name} is managed"), SOON, || {
        let status = service::status(sandbox, name).ok()?;
        let detail = status["detail"].as_str()?;
        (!detail.contains("not managed") && status["state"] == "active").then_some(())
    })
    .unwrap_or_else(|error| {
        let status = service::statuses(sandbox);
        panic!(
            "{error:#}\n{status:?}\n{}",
            sandbox.journal("ondemand.service")
        )
    });
}

#[test]
fn nothing_is_cut_without_an_agent() {
    require_sandbox!();
    let sandbox = running();
    let pid = sandbox.main_pid("app.service").unwrap();
    under_load(&sandbox, backend(), |clients| {
        for round in 0..rounds() {
            sandbox
                .run(&["systemctl", "enable", "app.service"])
                .unwrap();
            config(&sandbox, "test", FRONT, "");
            reload(&sandbox);
            clients.go_on();
            sandbox
                .run(&["systemctl", "disable", "app.service"])
                .unwrap();
            clients.go_on();
            sandbox
                .run(&["systemctl", "start", "ondemand-test.socket"])
                .unwrap();
            // Half of the rounds with what root's part does before the next transition.
            if round % 2 == 0 {
                sandbox.run(&["ondemand", "permit"]).unwrap();
                assert!(stop_when_unneeded(&sandbox), "it is taken in");
                wait_state(&sandbox, "ondemand-test.target", "active").unwrap();
            }
            config(&sandbox, "renamed", FRONT, "");
            reload(&sandbox);
            assert!(
                !stop_when_unneeded(&sandbox),
                "nothing holds it under its new name"
            );
            clients.go_on();
            let get = || client::get(front(), Request::default());
            sandbox.in_network(get).unwrap().unwrap();
            service::write_config(&sandbox, "").unwrap();
            reload(&sandbox);
            clients.go_on();
            sandbox.in_network(get).unwrap().unwrap();
            sandbox.run(&["rm", "/etc/ondemand/ondemand.toml"]).unwrap();
            reload(&sandbox);
            sandbox.in_network(get).unwrap().unwrap();
            clients.go_on();
        }
        assert_eq!(sandbox.main_pid("app.service").unwrap(), pid);
    });
    // Nothing needs it, and nothing stops it.
    stays(
        &sandbox,
        "app.service",
        "active",
        Duration::from_millis(500),
    );
}

fn with_an_agent(steer: bool) {
    let sandbox = running();
    let pid = sandbox.main_pid("app.service").unwrap();
    let more = format!("steer = {steer}");
    service::write_config(&sandbox, "").unwrap();
    service::start_agent(&sandbox).unwrap();
    under_load(&sandbox, backend(), |clients| {
        for _ in 0..rounds() {
            sandbox
                .run(&["systemctl", "enable", "app.service"])
                .unwrap();
            config(&sandbox, "test", FRONT, &more);
            let apply = || sandbox.run(&["ondemand", "apply"]);
            apply().unwrap();
            let lease = sandbox.property("ondemand-test.target", "ActiveState");
            assert_eq!(lease.unwrap(), "active");
            // The agent may have been faster.
            wait_state(&sandbox, "ondemand-test.socket", "active").unwrap();
            assert!(stop_when_unneeded(&sandbox));
            wait_managed(&sandbox, "test");
            clients.go_on();
            sandbox
                .run(&["systemctl", "disable", "app.service"])
                .unwrap();
            clients.go_on();

            // A client of the front socket, who is there all the time, and new ones.
            under_load(&sandbox, front(), |at_front| {
                at_front.go_on();
                config(&sandbox, "renamed", FRONT, &more);
                // An application that is proxied keeps its old front socket until its clients are gone.
                let waits = apply().is_err();
                assert!(steer || waits, "its proxy has a client");
                at_front.go_on();
                clients.go_on();
                let get = || client::get(front(), Request::default());
                sandbox.in_network(get).unwrap().unwrap();
            });
            wait_for("the new name has the front socket", SOON, || apply().ok()).unwrap();
            wait_managed(&sandbox, "renamed");
            assert_eq!(
                sandbox
                    .property("ondemand-test.socket", "ActiveState")
                    .unwrap(),
                "inactive"
            );
            clients.go_on();

            config(
                &sandbox,
                "renamed",
                "\"127.0.0.1:8001\", \"127.0.0.1:8000\"",
                &more,
            );
            wait_for("its new address is open", SOON, || apply().ok()).unwrap();
            for port in [8000, 8001] {
                let address = SocketAddr::from(([127, 0, 0, 1], port));
                let get = || client::get(address, Request::default());
                sandbox.in_network(get).unwrap().unwrap();
            }
            clients.go_on();

            service::write_config(&sandbox, "").unwrap();
            wait_for("it is let go", SOON, || apply().ok()).unwrap();
            assert!(!stop_when_unneeded(&sandbox));
            assert_eq!(
                sandbox
                    .property("ondemand-renamed.socket", "ActiveState")
                    .unwrap(),
                "inactive"
            );
            clients.go_on();
        }
        assert_eq!(sandbox.main_pid("app.service").unwrap(), pid);
    });
    stays(
        &sandbox,
        "app.service",
        "active",
        Duration::from_millis(500),
    );
}

#[test]
fn nothing_is_cut_with_an_agent_and_steering() {
    require_sandbox!();
    with_an_agent(true);
}

#[test]
fn nothing_is_cut_with_an_agent_and_a_proxy() {
    require_sandbox!();
    require_long!("the same is shown with steering");
    with_an_agent(false);
}

/// A reload of systemd is all that a person does: the agent has root take the other steps.
#[test]
fn the_agent_has_root_take_the_steps() {
    require_sandbox!();
    let sandbox = running();
    service::write_config(&sandbox, "").unwrap();
    service::start_agent(&sandbox).unwrap();
    config(&sandbox, "test", FRONT, "");
    reload(&sandbox);
    wait_managed(&sandbox, "test");
    assert!(stop_when_unneeded(&sandbox));
    config(&sandbox, "test", "\"127.0.0.1:8001\"", "");
    reload(&sandbox);
    let second = SocketAddr::from(([127, 0, 0, 1], 8001));
    wait_for("its front socket listens at its new address", SOON, || {
        let get = || client::get(second, Request::default());
        sandbox.in_network(get).unwrap().ok()
    })
    .unwrap();

    // A generator that fails once: systemd closes all front sockets.
    let generator = "/usr/lib/systemd/system-generators/ondemand-generator";
    sandbox.run(&["mv", generator, "/root/generator"]).unwrap();
    reload(&sandbox);
    sandbox.run(&["mv", "/root/generator", generator]).unwrap();
    reload(&sandbox);
    wait_for("its front socket listens again", SOON, || {
        let get = || client::get(second, Request::default());
        sandbox.in_network(get).unwrap().ok()
    })
    .unwrap();
    wait_managed(&sandbox, "test");
    assert!(stop_when_unneeded(&sandbox));
}

/// A service whose front socket cannot be repaired without harm says so, and is not stopped.
#[test]
fn a_front_socket_in_use_is_left_alone() {
    require_sandbox!();
    let sandbox = running();
    config(&sandbox, "test", FRONT, "steer = false\n");
    let text = sandbox
        .run(&["cat", "/etc/ondemand/ondemand.toml"])
        .unwrap();
    let short = text.replace("idle_timeout = \"1h\"", "idle_timeout = \"300ms\"");
    sandbox
        .write("/etc/ondemand/ondemand.toml", &short)
        .unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    under_load(&sandbox, front(), |clients| {
        clients.go_on();
        let other = short.replace(FRONT, "\"127.0.0.1:8000\", \"127.0.0.1:8001\"");
        sandbox
            .write("/etc/ondemand/ondemand.toml", &other)
            .unwrap();
        reload(&sandbox);
        sandbox
            .run(&["systemctl", "reload", "ondemand.service"])
            .unwrap();
        service::wait_journal(
            &sandbox,
            "ondemand.service",
            "does not listen at all of its addresses; `systemctl restart ondemand-test.socket`",
            1,
        )
        .unwrap();
        clients.go_on();
        let check = sandbox.command("ondemand").arg("check").output().unwrap();
        let said = String::from_utf8_lossy(&check.stdout).into_owned();
        assert!(
            said.contains("systemctl restart ondemand-test.socket"),
            "{said}"
        );
    });
    // Its proxy leaves, root restarts the socket, and it is stopped as usual.
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    let get = || client::get(SocketAddr::from(([127, 0, 0, 1], 8001)), Request::default());
    sandbox.in_network(get).unwrap().unwrap();
}

/// Units that are written by hand, where no generator is wanted.
#[test]
fn units_written_by_hand_stop_nothing_that_runs() {
    require_sandbox!();
    let sandbox = running();
    config(&sandbox, "test", FRONT, "");
    sandbox
        .run(&[
            "rm",
            "/usr/lib/systemd/system-generators/ondemand-generator",
        ])
        .unwrap();
    let pid = sandbox.main_pid("app.service").unwrap();
    let write = || {
        let mut command = sandbox.command("ondemand");
        let output = command
            .args(["units", "--output", "/etc/systemd/system"])
            .output()
            .unwrap();
        assert!(output.status.success());
        reload(&sandbox);
        assert_eq!(sandbox.main_pid("app.service").unwrap(), pid);
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = write();
    assert!(
        said.contains("systemctl start ondemand-test.target"),
        "{said}"
    );
    assert!(!stop_when_unneeded(&sandbox));
    sandbox
        .run(&["systemctl", "start", "ondemand-test.target"])
        .unwrap();
    assert_eq!(write(), "");
    assert!(stop_when_unneeded(&sandbox));
    stays(
        &sandbox,
        "app.service",
        "active",
        Duration::from_millis(500),
    );
}
