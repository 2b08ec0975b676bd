//! `ondemand adopt` and `ondemand abandon`: a unit that runs becomes a service on demand, and an ordinary unit again,
//! while clients use it all the time.

use std::{
    net::SocketAddr,
    os::unix::process::ExitStatusExt as _,
    process::Output,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::Value;
use tests::{
    built,
    client::{self, Kept, Loss, Request},
    pause,
    sandbox::Sandbox,
    service::{self, SOON, front, wait_state},
    skip, wait_for,
};

use crate::require_sandbox;

const LINK: &str = "/etc/systemd/system/multi-user.target.wants/app.service";
const FILE: &str = "/etc/ondemand/conf.d/app.toml";

/// An application that is enabled and runs, and `ondemand` installed, without a configuration.
fn running() -> Sandbox {
    let sandbox = service::installed().unwrap();
    service::write_backend(&sandbox, "app.service", "--listen [::]:8000").unwrap();
    install_section(&sandbox, "app.service", "multi-user.target");
    sandbox
        .run(&["systemctl", "enable", "--now", "app.service"])
        .unwrap();
    served(&sandbox);
    sandbox
}

pub(crate) fn install_section(sandbox: &Sandbox, unit: &str, target: &str) {
    let path = format!("/etc/systemd/system/{unit}");
    let text = std::fs::read_to_string(sandbox.path(&path)).unwrap();
    sandbox
        .write(&path, format!("{text}[Install]\nWantedBy={target}\n"))
        .unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
}

pub(crate) fn served(sandbox: &Sandbox) {
    wait_for("a client is served", SOON, || {
        let get = || client::get(front(), Request::default());
        sandbox.in_network(get).unwrap().ok()
    })
    .unwrap();
}

pub(crate) fn is_there(sandbox: &Sandbox, path: &str) -> bool {
    sandbox.path(path).symlink_metadata().is_ok()
}

/// Clients that must not be cut: one that keeps its connection, and one that connects again and again.
#[derive(Default)]
struct Clients {
    end: AtomicBool,
    answers: AtomicUsize,
    lost: Mutex<Vec<Loss>>,
}

impl Clients {
    fn run(&self, sandbox: &Sandbox, address: SocketAddr) {
        let until_end = |mut ask: Box<dyn FnMut() -> Result<(), Loss> + '_>| {
            while !self.end.load(Ordering::SeqCst) {
                match ask() {
                    Ok(()) => _ = self.answers.fetch_add(1, Ordering::SeqCst),
                    Err(loss) => self.lost.lock().unwrap().push(loss),
                }
                pause::think(Duration::from_millis(2));
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| {
                let kept = || {
                    let mut kept = Kept::connect(address).unwrap();
                    until_end(Box::new(|| kept.ask().map(drop)));
                };
                sandbox.in_network(kept).unwrap();
            });
            scope.spawn(|| {
                let new = || {
                    until_end(Box::new(|| {
                        client::get(address, Request::default()).map(drop)
                    }));
                };
                sandbox.in_network(new).unwrap();
            });
        });
    }

    /// Waits until requests are answered that were sent from now on.
    fn go_on(&self) {
        let before = self.answers.load(Ordering::SeqCst);
        wait_for("clients are answered", SOON, || {
            (self.answers.load(Ordering::SeqCst) > before + 4).then_some(())
        })
        .unwrap();
        assert_eq!(*self.lost.lock().unwrap(), []);
    }
}

/// Does `work` beside clients, of which none may lose a request, and whose application goes on as the same process.
fn under_load(sandbox: &Sandbox, work: impl FnOnce(&Clients)) {
    let pid = sandbox.main_pid("app.service").unwrap();
    let clients = Clients::default();
    thread::scope(|scope| {
        struct End<'a>(&'a Clients);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.end.store(true, Ordering::SeqCst);
            }
        }
        let end = End(&clients);
        let running = scope.spawn(|| clients.run(sandbox, front()));
        clients.go_on();
        work(&clients);
        clients.go_on();
        drop(end);
        running.join().unwrap();
    });
    assert_eq!(*clients.lost.lock().unwrap(), []);
    assert_eq!(sandbox.main_pid("app.service").unwrap(), pid);
}

/// The state after `adopt`.
fn is_adopted(sandbox: &Sandbox) {
    assert!(is_there(sandbox, FILE) && !is_there(sandbox, LINK));
    for unit in [
        "ondemand.service",
        "ondemand-load.service",
        "ondemand-app.socket",
        "ondemand-app.target",
    ] {
        wait_state(sandbox, unit, "active").unwrap();
    }
    for unit in ["ondemand.service", "ondemand-load.service"] {
        let state = sandbox.property(unit, "UnitFileState").unwrap();
        assert_eq!(state, "enabled", "{unit}");
    }
    wait_for("it is managed", SOON, || {
        let status = service::status(sandbox, "app").ok()?;
        let detail = status["detail"].as_str()?.to_owned();
        (!detail.contains("not managed")).then_some(())
    })
    .unwrap();
    let needed = sandbox.property("app.service", "StopWhenUnneeded").unwrap();
    assert_eq!(needed, "yes");
}

/// The state before `adopt`, and after `abandon`.
fn is_ordinary(sandbox: &Sandbox) {
    assert!(!is_there(sandbox, FILE) && is_there(sandbox, LINK));
    let target = std::fs::read_link(sandbox.path(LINK)).unwrap();
    assert!(target.ends_with("app.service"), "{target:?}");
    let needed = sandbox.property("app.service", "StopWhenUnneeded").unwrap();
    assert_eq!(needed, "no");
    for unit in ["ondemand-app.socket", "ondemand-app.target"] {
        let state = sandbox.property(unit, "ActiveState").unwrap();
        assert_eq!(state, "inactive", "{unit}");
    }
    wait_state(sandbox, "app.service", "active").unwrap();
    let wanted = sandbox.property("app.service", "WantedBy").unwrap();
    assert!(wanted.contains("multi-user.target"), "{wanted}");
    let left = "/var/lib/ondemand-generator/adopted/app";
    assert!(!is_there(sandbox, left));
}

pub(crate) fn output(sandbox: &Sandbox, words: &[&str]) -> Output {
    let (program, arguments) = words.split_first().unwrap();
    sandbox.command(program).args(arguments).output().unwrap()
}

pub(crate) fn said(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{out}{err}")
}

/// From nothing to a service that is stopped and started again by its client, in the three commands of the README, and
/// back.
#[test]
fn a_running_unit_is_adopted_and_abandoned_under_load() {
    require_sandbox!();
    let sandbox = running();
    let plan = sandbox
        .run(&["ondemand", "adopt", "app.service", "--dry-run"])
        .unwrap();
    for word in [
        FILE,
        LINK,
        "0.0.0.0:8000",
        "[::]:8000",
        "ondemand abandon app",
    ] {
        assert!(plan.contains(word), "{plan}");
    }
    assert!(
        !is_there(&sandbox, "/etc/ondemand"),
        "--dry-run changes nothing"
    );
    under_load(&sandbox, |_| {
        let said = sandbox.run(&["ondemand", "adopt", "app", "--yes"]).unwrap();
        assert!(said.contains("ondemand abandon app"), "{said}");
    });
    is_adopted(&sandbox);
    let text = std::fs::read_to_string(sandbox.path(FILE)).unwrap();

    // The agent counts, and stops it; its client starts it.
    let short = text.replace("\"10min\"", "\"300ms\"\nmin_uptime = \"0s\"");
    sandbox.write(FILE, &short).unwrap();
    sandbox.run(&["ondemand", "apply"]).unwrap();
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    served(&sandbox);
    wait_state(&sandbox, "app.service", "inactive").unwrap();

    // It is started first, since it was up before; clients are there all the time.
    let abandon = ["ondemand", "abandon", "app.service", "--yes"];
    let clients = Clients::default();
    thread::scope(|scope| {
        let running = scope.spawn(|| clients.run(&sandbox, front()));
        clients.go_on();
        sandbox.run(&abandon).unwrap();
        clients.go_on();
        clients.end.store(true, Ordering::SeqCst);
        running.join().unwrap();
    });
    assert_eq!(*clients.lost.lock().unwrap(), []);
    is_ordinary(&sandbox);
    assert!(service::statuses(&sandbox).unwrap().is_empty());

    // Again, with nothing left of the first time.
    under_load(&sandbox, |clients| {
        sandbox.run(&["ondemand", "adopt", "app", "--yes"]).unwrap();
        clients.go_on();
        sandbox.run(&abandon).unwrap();
    });
    is_ordinary(&sandbox);
}

/// One that is asleep is started by `abandon`: it was up before.
#[test]
fn a_sleeping_service_is_abandoned_awake() {
    require_sandbox!();
    let sandbox = running();
    sandbox.run(&["ondemand", "adopt", "app", "--yes"]).unwrap();
    let text = std::fs::read_to_string(sandbox.path(FILE)).unwrap();
    let short = text.replace("\"10min\"", "\"300ms\"\nmin_uptime = \"0s\"");
    sandbox.write(FILE, &short).unwrap();
    sandbox.run(&["ondemand", "apply"]).unwrap();
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    sandbox
        .run(&["ondemand", "abandon", "app", "--yes"])
        .unwrap();
    is_ordinary(&sandbox);
    served(&sandbox);
}

const ADOPT: [&str; 11] = [
    "recorded",
    "written",
    "apply-reloaded",
    "apply-settled",
    "apply-opened",
    "apply-permitted",
    "in-force",
    "enabled",
    "unlinked",
    "reloaded",
    "adopted",
];
const ABANDON: [&str; 9] = [
    "marked",
    "relinked",
    "started",
    "removed",
    "apply-reloaded",
    "apply-settled",
    "apply-permitted",
    "out-of-force",
    "forgotten",
];

/// Calls a command that is killed at a step. What a person may do next, or the agent, does no harm.
fn killed(sandbox: &Sandbox, step: &str, words: &[&str], clients: &Clients) {
    let file = "/run/dies-at";
    sandbox.write(file, step).unwrap();
    let mut command = sandbox.command("/usr/bin/env");
    command.arg(format!("ONDEMAND_DIES_AT={file}"));
    let output = command
        .arg("/usr/bin/ondemand-ablated")
        .args(words)
        .output()
        .unwrap();
    let status = output.status;
    let is_killed = status.signal() == Some(9) || status.code() == Some(137);
    assert!(is_killed, "{step}: {status} {}", said(&output));
    assert!(!is_there(sandbox, file), "{step} was not reached");
    clients.go_on();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    clients.go_on();
}

#[test]
fn a_killed_adoption_is_finished_or_taken_back() {
    require_sandbox!();
    let sandbox = running();
    let ablated = built("ondemand-ablated").unwrap();
    sandbox
        .install(&ablated, "/usr/bin/ondemand-ablated")
        .unwrap();
    let adopt = ["adopt", "app", "--yes"];
    let abandon = ["abandon", "app", "--yes"];
    let run = |words: &[&str]| sandbox.run(&[&["ondemand"], words].concat()).unwrap();
    let every = if skip::is_long() { 1 } else { 6 };
    under_load(&sandbox, |clients| {
        for step in ADOPT.iter().step_by(every) {
            killed(&sandbox, step, &adopt, clients);
            if *step == "adopted" {
                is_adopted(&sandbox);
            }
            run(&abandon);
            is_ordinary(&sandbox);
            clients.go_on();
        }
        for step in ADOPT[..10].iter().skip(1).step_by(every) {
            killed(&sandbox, step, &adopt, clients);
            run(&adopt);
            is_adopted(&sandbox);
            clients.go_on();
            run(&abandon);
            is_ordinary(&sandbox);
        }
        for step in ABANDON.iter().step_by(every) {
            run(&adopt);
            killed(&sandbox, step, &abandon, clients);
            if *step != "forgotten" {
                run(&abandon);
            }
            is_ordinary(&sandbox);
        }
        // And forward again.
        run(&adopt);
        killed(&sandbox, "relinked", &abandon, clients);
        run(&adopt);
        is_adopted(&sandbox);
        run(&abandon);
    });
    is_ordinary(&sandbox);
}

/// Each unit that cannot be adopted, with a part of the message, which says what to do. Nothing is changed.
#[test]
fn what_cannot_be_adopted_says_why_and_what_to_do() {
    require_sandbox!();
    let sandbox = running();
    let unit = |name: &str, more: &str| {
        let text = format!("[Service]\nExecStart=/bin/sleep infinity\n{more}");
        sandbox
            .write(&format!("/etc/systemd/system/{name}"), text)
            .unwrap();
    };
    unit("silent.service", "");
    unit("template@.service", "");
    unit(
        "once.service",
        "ExecStart=\nExecStart=/bin/true\nType=oneshot\nRemainAfterExit=yes\n",
    );
    unit("hidden.service", "");
    unit("masked.service", "");
    unit("needs.service", "[Unit]\nRequires=needed.service\n");
    unit("by-socket.service", "");
    for (name, port) in [
        ("needed.service", 8001),
        ("other.service", 8002),
        ("asleep.service", 8003),
    ] {
        let listen = format!("--listen 127.0.0.1:{port}");
        service::write_backend(&sandbox, name, &listen).unwrap();
    }
    sandbox
        .write(
            "/etc/systemd/system/by-socket.socket",
            "[Socket]\nListenStream=8005\n",
        )
        .unwrap();
    sandbox
        .run(&[
            "ln",
            "-sf",
            "other.service",
            "/etc/systemd/system/alias.service",
        ])
        .unwrap();
    sandbox
        .run(&[
            "ln",
            "-sf",
            "/dev/null",
            "/etc/systemd/system/masked.service",
        ])
        .unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    for unit in [
        "silent.service",
        "once.service",
        "needs.service",
        "other.service",
        "by-socket.socket",
    ] {
        sandbox.run(&["systemctl", "start", unit]).unwrap();
    }
    sandbox
        .run(&[
            "systemd-run",
            "--unit=transient.service",
            "test-backend",
            "--listen",
            "127.0.0.1:8004",
        ])
        .unwrap();
    #[track_caller]
    fn check(sandbox: &Sandbox, words: &[&str], parts: &[&str]) {
        let output = output(sandbox, &[&["ondemand"], words].concat());
        let said = said(&output);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
        for part in parts {
            assert!(said.contains(part), "{words:?}: {said}");
        }
        assert!(!is_there(sandbox, "/etc/ondemand"), "{words:?}");
    }
    let rows: &[(&str, &[&str])] = &[
        (
            "masked.service",
            &["masked", "systemctl unmask masked.service"],
        ),
        (
            "template@.service",
            &["a template", "template@INSTANCE.service"],
        ),
        ("nothing.service", &["no unit of this name", "--user"]),
        ("silent.service", &["listens at no port", "backend"]),
        ("once.service", &["oneshot"]),
        (
            "needed.service",
            &["needs.service needs it and is up", "Requires="],
        ),
        (
            "by-socket.service",
            &[
                "by-socket.socket starts it",
                "systemctl disable --now by-socket.socket",
            ],
        ),
        ("by-socket.socket", &["a socket", ".service"]),
        ("transient.service", &["systemd-run", "unit file"]),
        ("dbus.service", &["dbus"]),
        ("systemd-journald.service", &["systemd-journald.service"]),
        ("ondemand.service", &["ondemand's own"]),
    ];
    for (unit, parts) in rows {
        check(&sandbox, &["adopt", unit, "--yes"], parts);
    }
    // No terminal to ask at.
    check(&sandbox, &["adopt", "app"], &["--yes"]);
    check(&sandbox, &["adopt", "app", "--json"], &["--yes"]);
    check(
        &sandbox,
        &["adopt", "asleep"],
        &["asleep.service is down", "--yes"],
    );
    check(
        &sandbox,
        &["adopt", "asleep", "--dry-run"],
        &["systemctl start asleep.service"],
    );
    check(
        &sandbox,
        &["adopt", "hidden", "--yes"],
        &["listens at no port"],
    );
    let state = sandbox.property("hidden.service", "ActiveState").unwrap();
    assert_eq!(state, "inactive", "it is down again");

    // A configuration that cannot be written: nothing is changed.
    sandbox.run(&["mkdir", "/etc/ondemand"]).unwrap();
    sandbox
        .run(&["mount", "-t", "tmpfs", "-o", "ro", "none", "/etc/ondemand"])
        .unwrap();
    let refused = output(&sandbox, &["ondemand", "adopt", "app", "--yes"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        said(&refused).contains("nothing was changed"),
        "{}",
        said(&refused)
    );
    assert!(is_there(&sandbox, LINK));
    assert!(!is_there(
        &sandbox,
        "/var/lib/ondemand-generator/adopted/app"
    ));
    sandbox.run(&["umount", "/etc/ondemand"]).unwrap();

    // An alias is another name of the same unit, and a unit that is adopted is so by each name.
    let alias = output(&sandbox, &["ondemand", "adopt", "alias", "--yes"]);
    assert!(alias.status.success(), "{}", said(&alias));
    assert!(is_there(&sandbox, "/etc/ondemand/conf.d/other.toml"));
    for name in ["other", "alias"] {
        let again = output(&sandbox, &["ondemand", "adopt", name, "--yes"]);
        assert_eq!(again.status.code(), Some(2));
        assert!(
            said(&again).contains("ondemand abandon other"),
            "{}",
            said(&again)
        );
    }
    // One that is down is started to look, and is down again if it is refused then.
    check_refused(&sandbox, &["adopt", "asleep", "--yes", "--name", "other"]);
    let state = sandbox.property("asleep.service", "ActiveState").unwrap();
    assert_eq!(state, "inactive");
    // Otherwise it stays up, as a service.
    let asleep = output(&sandbox, &["ondemand", "adopt", "asleep", "--yes"]);
    assert!(asleep.status.success(), "{}", said(&asleep));
    let wrong = output(&sandbox, &["ondemand", "abandon", "othr"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(
        said(&wrong).contains("did you mean \"other\""),
        "{}",
        said(&wrong)
    );
    // One that was not made by `adopt`.
    let text = "[service.hand]\nlisten = \"127.0.0.1:8000\"\nunit = \"app.service\"\n";
    sandbox.write("/etc/ondemand/ondemand.toml", text).unwrap();
    let hand = output(&sandbox, &["ondemand", "abandon", "hand", "--yes"]);
    assert_eq!(hand.status.code(), Some(2));
    assert!(
        said(&hand).contains("remove [service.hand] there"),
        "{}",
        said(&hand)
    );
}

fn check_refused(sandbox: &Sandbox, words: &[&str]) {
    let output = output(sandbox, &[&["ondemand"], words].concat());
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
}

/// Without a unit it lists what runs and listens.
#[test]
fn what_is_worth_it_is_listed() {
    require_sandbox!();
    let sandbox = running();
    service::write_backend(&sandbox, "ssh.service", "--listen 127.0.0.1:8022").unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    sandbox.run(&["systemctl", "start", "ssh.service"]).unwrap();
    let list = || -> Vec<Value> {
        let text = sandbox.run(&["ondemand", "adopt", "--json"]).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    let mut kept = None;
    wait_for("both are listed", SOON, || {
        (list().len() == 2).then_some(())
    })
    .unwrap();
    sandbox
        .in_network(|| kept = Some(Kept::connect(front()).unwrap()))
        .unwrap();
    let listed = list();
    let [app, ssh] = &listed[..] else {
        panic!("{listed:?}");
    };
    assert_eq!(app["unit"], "app.service");
    assert_eq!(
        app["listen"],
        serde_json::json!(["0.0.0.0:8000", "[::]:8000"])
    );
    assert_eq!(app["not_proposed"], Value::Null);
    assert_eq!(app["open_connections"], 1, "{app}");
    assert!(app["silent_seconds"].as_f64().unwrap() < 10.0, "{app}");
    assert_eq!(ssh["unit"], "ssh.service");
    assert!(ssh["not_proposed"].is_string(), "{ssh}");
    let table = sandbox.run(&["ondemand", "adopt"]).unwrap();
    assert!(
        table.contains("app.service") && table.contains("not proposed"),
        "{table}"
    );
    sandbox.run(&["ondemand", "adopt", "app", "--yes"]).unwrap();
    assert_eq!(list().len(), 1, "what is on demand is not listed");
    drop(kept);
}

/// An application that receives datagrams, too, is started by one.
#[test]
fn an_application_of_datagrams_is_adopted() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    service::write_backend(
        &sandbox,
        "app.service",
        "--listen [::]:8000 --udp 127.0.0.1:8053",
    )
    .unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    sandbox.run(&["systemctl", "start", "app.service"]).unwrap();
    served(&sandbox);
    sandbox.run(&["ondemand", "adopt", "app", "--yes"]).unwrap();
    let text = std::fs::read_to_string(sandbox.path(FILE)).unwrap();
    assert!(text.contains("\"udp:127.0.0.1:8053\""), "{text}");
    let short = text.replace("\"10min\"", "\"300ms\"\nmin_uptime = \"0s\"");
    sandbox.write(FILE, short).unwrap();
    sandbox.run(&["ondemand", "apply"]).unwrap();
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    let to = SocketAddr::from(([127, 0, 0, 1], 8053));
    sandbox
        .in_network(|| {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.send_to(b"hello", to).unwrap();
        })
        .unwrap();
    wait_for("a datagram starts it", SOON, || {
        let since = sandbox
            .property("app.service", "ActiveEnterTimestampMonotonic")
            .ok()?;
        let down = sandbox
            .property("app.service", "InactiveEnterTimestampMonotonic")
            .ok()?;
        (since.parse::<u64>().ok()? > down.parse::<u64>().ok()?).then_some(())
    })
    .unwrap_or_else(|error| {
        // It may have been stopped again.
        let status = service::status(&sandbox, "app").unwrap();
        assert!(status["starts"].as_u64().unwrap() > 0, "{error:#} {status}");
    });
}
