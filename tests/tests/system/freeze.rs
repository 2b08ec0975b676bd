//! Applications that are frozen while nobody uses them.

use std::{
    fs::{self, Permissions},
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tests::{
    built,
    client::{self, Random, Request},
    pause::{idle_for, think},
    require_long,
    sandbox::{Cgroups, Sandbox},
    service::{self, SOON, front, status, wait_journal, wait_state},
    skip, wait_for,
};

use crate::require_sandbox;

/// Of an application that keeps its address.
const OWN: &str = r#"
listen = ["127.0.0.1:8000"]
unit = "app.service"
idle_timeout = "1h"
min_uptime = "0s"
start_timeout = "10s"
freeze_after = "200ms"
"#;
/// Of one that the proxy carries.
const PROXIED: &str = r#"
listen = ["127.0.0.1:8000"]
backend = "127.0.0.1:8080"
unit = "app.service"
idle_timeout = "1h"
min_uptime = "0s"
start_timeout = "10s"
steer = false
freeze_after = "200ms"
"#;

fn prepared(config: &str, backend: &str) -> Sandbox {
    let sandbox = service::installed().unwrap();
    make_mortal(&sandbox);
    begin(&sandbox, config, backend);
    sandbox
}

fn make_mortal(sandbox: &Sandbox) {
    let ablated = built("ondemand-ablated").unwrap();
    sandbox.install(&ablated, "/usr/bin/ondemand").unwrap();
    let drop_in = format!("[Service]\nEnvironment=ONDEMAND_DIES_AT={DIES_AT}\n");
    let place = "/etc/systemd/system/ondemand.service.d/death.conf";
    sandbox.write(place, drop_in).unwrap();
}

fn begin(sandbox: &Sandbox, config: &str, backend: &str) {
    service::write_backend(sandbox, "app.service", backend).unwrap();
    service::write_config(sandbox, &format!("[service.test]\n{config}")).unwrap();
    service::reload(sandbox, &["test"]).unwrap();
    service::start_agent(sandbox).unwrap();
}

/// The agent dies at the moment that this file names.
const DIES_AT: &str = "/run/ondemand/dies-at";

fn own() -> Sandbox {
    prepared(OWN, "--listen 127.0.0.1:8000")
}

fn ask(sandbox: &Sandbox) -> Duration {
    let answer = sandbox.in_network(|| client::get(front(), Request::default()));
    answer.unwrap().unwrap().took
}

/// Whether the kernel says that all of its processes are frozen (cgroup.events).
fn is_frozen(sandbox: &Sandbox) -> bool {
    let show = ["systemctl", "show", "-P", "FreezerState", "app.service"];
    sandbox.run(&show).unwrap().trim() == "frozen"
}

fn wait_frozen(sandbox: &Sandbox) {
    wait_for("it is frozen", SOON, || {
        (is_frozen(sandbox) && status(sandbox, "test").ok()?["frozen"] == true).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}: {}", sandbox.journal("ondemand.service")));
}

#[test]
fn an_idle_application_is_frozen_and_its_client_thaws_it() {
    require_sandbox!();
    for (config, backend) in [(OWN, "--listen 127.0.0.1:8000"), (PROXIED, "")] {
        let sandbox = prepared(config, backend);
        ask(&sandbox);
        for _ in 0..3 {
            wait_frozen(&sandbox);
            let took = ask(&sandbox);
            assert!(took < SOON, "{took:?}");
        }
        // A client that stays keeps it running, silent or not.
        let stay = || {
            let mut client = client::Kept::connect(front()).unwrap();
            client.ask().unwrap();
            client
        };
        let mut client = sandbox.in_network(stay).unwrap();
        idle_for(Duration::from_millis(800));
        assert!(!is_frozen(&sandbox));
        client.ask().unwrap();
        drop(client);
        wait_frozen(&sandbox);
        let known = status(&sandbox, "test").unwrap();
        assert_eq!(known["starts"], 1, "{known}");
        assert!(
            known["detail"].as_str().unwrap().contains("frozen"),
            "{known}"
        );
    }
}

#[test]
fn whoever_stops_it_or_ends_the_agent_thaws_it() {
    require_sandbox!();
    let sandbox = own();
    ask(&sandbox);
    wait_frozen(&sandbox);
    // Not by ondemand.
    sandbox
        .run(&["systemctl", "restart", "app.service"])
        .unwrap();
    ask(&sandbox);
    wait_frozen(&sandbox);
    sandbox.run(&["ondemand", "stop", "test"]).unwrap();
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    ask(&sandbox);
    wait_frozen(&sandbox);
    // Somebody holds it.
    sandbox.run(&["ondemand", "hold", "test"]).unwrap();
    wait_for("it is thawed", SOON, || {
        (!is_frozen(&sandbox)).then_some(())
    })
    .unwrap();
    sandbox.run(&["ondemand", "release", "test"]).unwrap();
    wait_frozen(&sandbox);
    // The agent ends, is killed, and is killed at each step.
    sandbox
        .run(&["systemctl", "stop", "ondemand.service"])
        .unwrap();
    assert!(!is_frozen(&sandbox));
    ask(&sandbox);
    service::start_agent(&sandbox).unwrap();
    wait_frozen(&sandbox);
    let kill = ["systemctl", "kill", "--signal=KILL", "ondemand.service"];
    sandbox.run(&kill).unwrap();
    ask(&sandbox);
    wait_frozen(&sandbox);
    for moment in ["freezing", "frozen", "thawing"] {
        let file = sandbox.path(DIES_AT);
        fs::write(&file, moment).unwrap();
        // It dies when it is frozen, or when the client thaws it.
        for _ in 0..2 {
            ask(&sandbox);
            idle_for(Duration::from_millis(500));
        }
        wait_for(&format!("the agent dies at {moment}"), SOON, || {
            (!file.exists()).then_some(())
        })
        .unwrap();
        ask(&sandbox);
        wait_frozen(&sandbox);
    }
    // It is not configured any more, or not to be frozen.
    let write = |text: &str| {
        service::write_config(&sandbox, text).unwrap();
        sandbox.run(&["ondemand", "reload"]).unwrap();
    };
    write("");
    wait_for("it is thawed", SOON, || {
        (!is_frozen(&sandbox)).then_some(())
    })
    .unwrap();
    write(&format!("[service.test]\n{OWN}"));
    ask(&sandbox);
    wait_frozen(&sandbox);
    let config = OWN.replace("freeze_after = \"200ms\"\n", "");
    write(&format!("[service.test]\n{config}"));
    wait_for("it is thawed", SOON, || {
        (!is_frozen(&sandbox)).then_some(())
    })
    .unwrap();
}

#[test]
fn what_cannot_be_frozen_says_why() {
    require_sandbox!();
    let sandbox = own();
    ask(&sandbox);
    let check = || sandbox.run(&["ondemand", "check"]);
    let text = check().unwrap();
    assert!(text.contains("systemd can freeze app.service"), "{text}");
    let drop_in = "[Service]\nWatchdogSec=30s\n";
    sandbox
        .write("/etc/systemd/system/app.service.d/watchdog.conf", drop_in)
        .unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    // What it had at its start is in force.
    sandbox
        .run(&["systemctl", "restart", "app.service"])
        .unwrap();
    let text = format!("{:#}", check().unwrap_err());
    assert!(text.contains("would kill it while it is frozen"), "{text}");
}

/// With cgroup v1 beside it nothing is frozen; the application is left running, and served.
#[test]
fn with_cgroup_v1_it_is_left_running() {
    require_sandbox!();
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return skip::say("this machine has cgroup2 alone");
    }
    let sandbox = Sandbox::boot_with(Cgroups::Accounted).unwrap();
    service::prepare(&sandbox).unwrap();
    begin(&sandbox, OWN, "--listen 127.0.0.1:8000");
    ask(&sandbox);
    wait_journal(
        &sandbox,
        "ondemand.service",
        "not frozen, and left running",
        1,
    )
    .unwrap();
    ask(&sandbox);
    let known = status(&sandbox, "test").unwrap();
    assert_eq!(
        (&known["frozen"], &known["starts"]),
        (&false.into(), &1.into()),
        "{known}"
    );
    let text = format!("{:#}", sandbox.run(&["ondemand", "check"]).unwrap_err());
    assert!(text.contains("systemd cannot freeze app.service"), "{text}");
}

#[test]
fn nothing_is_taken_back_where_that_cannot_be() {
    require_sandbox!();
    let sandbox = prepared(
        &format!("{OWN}freeze_reclaim = true"),
        "--listen 127.0.0.1:8000",
    );
    ask(&sandbox);
    wait_frozen(&sandbox);
    let text = sandbox.run(&["ondemand", "check", "--json"]).unwrap();
    let found: Vec<Value> = serde_json::from_str(&text).unwrap();
    let about: Vec<_> = found.iter().filter(|it| it["what"] == "freeze").collect();
    assert_eq!(about.len(), 2, "{text}");
    // Whatever it says of this machine: it is no fault.
    let start = ["systemctl", "start", "ondemand-reclaim@test.service"];
    sandbox.run(&start).unwrap();
    assert!(is_frozen(&sandbox));
    ask(&sandbox);
    wait_frozen(&sandbox);
    // Without capabilities, and by whom the rule allows it.
    let rules = "/etc/polkit-1/rules.d";
    let rule = sandbox.run(&["grep", "-rc", "start ondemand-reclaim@test.service", rules]);
    assert!(rule.unwrap().trim().ends_with(":1"));
}

/// A file on the machine's own disk that it swaps to.
struct Swap(PathBuf);

impl Swap {
    fn on() -> Self {
        let path = PathBuf::from("/var/tmp/ondemand-swap");
        fs::write(&path, vec![0; 192 << 20]).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        for program in ["mkswap", "swapon"] {
            let done = Command::new(program).arg(&path).output().unwrap();
            assert!(done.status.success(), "{program}: {done:?}");
        }
        Self(path)
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        // The machine ends with the tests.
        let _ = Command::new("swapoff").arg(&self.0).status();
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn the_memory_of_a_frozen_one_goes_to_swap_and_comes_back() {
    require_sandbox!();
    if !skip::is_own_machine() {
        return skip::say("it gives the machine swap; cargo xtask test --vm");
    }
    let sandbox = service::installed().unwrap();
    let config = format!("{OWN}freeze_reclaim = true").replace("200ms", "2s");
    begin(&sandbox, &config, "--listen 127.0.0.1:8000");
    let grow = Request {
        query: "grow=64",
        ..Request::default()
    };
    let answer = sandbox.in_network(|| client::get(front(), grow));
    answer.unwrap().unwrap();
    let taken = || -> u64 {
        let bytes = sandbox.property("app.service", "MemoryCurrent").unwrap();
        bytes.parse().unwrap()
    };
    let given_back = |times| {
        wait_journal(
            &sandbox,
            "ondemand-reclaim@test.service",
            "given back",
            times,
        )
        .unwrap()
    };
    // Without swap it keeps it.
    wait_frozen(&sandbox);
    let full = taken();
    assert!(full > 60 << 20, "{full}");
    let check = |words: &str| {
        let text = sandbox.run(&["ondemand", "check"]).unwrap();
        assert!(text.contains(words), "{words}: {text}");
    };
    check("no swap is free");
    let swap = Swap::on();
    check("goes to swap while it is frozen");
    ask(&sandbox);
    wait_frozen(&sandbox);
    given_back(1);
    let left = taken();
    println!("{full} bytes, {left} when its memory was taken back");
    assert!(left < full / 4, "{left} of {full}");
    assert!(is_frozen(&sandbox));
    // Its clients find it as it was, and again.
    for times in 2..=3 {
        let took = ask(&sandbox);
        println!("its next client waited {took:?}");
        wait_frozen(&sandbox);
        given_back(times);
    }
    let status = status(&sandbox, "test").unwrap();
    assert_eq!(status["starts"], 1, "{status}");
    drop(swap);
}

/// Clients at random times about the moment of the freeze, while agents are killed.
#[test]
fn clients_at_all_times_and_no_loss() {
    require_sandbox!();
    let rounds = if skip::is_long() { 1250 } else { 40 };
    let sandbox = own();
    ask(&sandbox);
    let latencies = Mutex::new(Vec::new());
    let begin = Instant::now();
    thread::scope(|scope| {
        let clients = scope.spawn(|| {
            let one = |seed: u64| {
                let mut random = Random::new(seed);
                for _ in 0..rounds {
                    let answer = client::get(front(), Request::default()).unwrap();
                    latencies.lock().unwrap().push(answer.took);
                    think(random.between(Duration::from_millis(150), Duration::from_millis(400)));
                }
            };
            sandbox
                .in_network(|| {
                    thread::scope(|scope| {
                        for seed in 1..=2 {
                            scope.spawn(move || one(seed));
                        }
                    });
                })
                .unwrap();
        });
        while !clients.is_finished() {
            idle_for(Duration::from_secs(3));
            let kill = ["systemctl", "kill", "--signal=KILL", "ondemand.service"];
            // It may be starting.
            let _ = sandbox.run(&kill);
        }
    });
    wait_frozen(&sandbox);
    let mut latencies = latencies.into_inner().unwrap();
    latencies.sort();
    let [half, most] = [50, 99].map(|part| latencies[(latencies.len() - 1) * part / 100]);
    eprintln!(
        "{} requests in {:.0?}: p50 {half:.1?}, p99 {most:.1?}",
        latencies.len(),
        begin.elapsed()
    );
    assert_eq!(latencies.len(), 2 * rounds);
    wait_journal(&sandbox, "ondemand.service", "watching 1 service", 2).unwrap();
}

/// Where this machine has the cgroup of a unit of the sandbox.
fn group_of(sandbox: &Sandbox, unit: &str) -> PathBuf {
    let tops = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
    let top = tops
        .into_iter()
        .find(|top| top.join("cgroup.controllers").exists())
        .unwrap();
    top.join(&sandbox.name).join("system.slice").join(unit)
}

#[test]
fn a_frozen_application_uses_no_cpu_time() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    begin(&sandbox, OWN, "--listen 127.0.0.1:8000");
    // It never rests.
    let restless = "[Service]\nExecStart=\nExecStart=/bin/sh -c 'while :; do sleep 0.01; done & exec \
                    /usr/bin/test-backend --listen 127.0.0.1:8000'\n";
    let place = "/etc/systemd/system/app.service.d/restless.conf";
    sandbox.write(place, restless).unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    sandbox
        .run(&["systemctl", "restart", "app.service"])
        .unwrap();
    let used = || -> u64 {
        let file = group_of(&sandbox, "app.service").join("cpu.stat");
        let text = fs::read_to_string(file).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("usage_usec "));
        line.unwrap().parse().unwrap()
    };
    let spans = |span| {
        let before = used();
        idle_for(span);
        used() - before
    };
    let half = Duration::from_millis(500);
    let hold = |verb: &str| sandbox.run(&["ondemand", verb, "test"]).unwrap();
    hold("hold");
    assert!(spans(half) > 0);
    hold("release");
    wait_frozen(&sandbox);
    assert_eq!(spans(half), 0);
    assert!(is_frozen(&sandbox));
    ask(&sandbox);
}

/// 5,000 requests of services that are frozen, or about to be, while agents are killed at each step and at any moment.
#[test]
fn no_request_is_lost_over_hundreds_of_freezes() {
    require_long!("minutes of clients");
    require_sandbox!();
    const SERVICES: u16 = 8;
    const EACH: usize = 625;
    let sandbox = service::installed().unwrap();
    make_mortal(&sandbox);
    let mut config = String::new();
    for number in 0..SERVICES {
        let (unit, port) = (format!("app{number}.service"), 8000 + number);
        service::write_backend(&sandbox, &unit, &format!("--listen 127.0.0.1:{port}")).unwrap();
        let own = OWN.replace(":8000", &format!(":{port}"));
        config += &format!(
            "[service.test{number}]\n{}",
            own.replace("app.service", &unit)
        );
    }
    service::write_config(&sandbox, &config).unwrap();
    let names: Vec<String> = (0..SERVICES)
        .map(|number| format!("test{number}"))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    service::reload(&sandbox, &names).unwrap();
    service::start_agent(&sandbox).unwrap();
    let (frozen, lost) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let begin = Instant::now();
    let deaths = thread::scope(|scope| {
        let clients = scope.spawn(|| {
            let one = |number: u16| {
                let mut random = Random::new(u64::from(number) * 2 + 1);
                let group = group_of(&sandbox, &format!("app{number}.service"));
                let address = SocketAddr::from(([127, 0, 0, 1], 8000 + number));
                for _ in 0..EACH {
                    // It is not there before the first start.
                    let events = fs::read_to_string(group.join("cgroup.events"));
                    if events.is_ok_and(|text| text.contains("frozen 1")) {
                        frozen.fetch_add(1, Ordering::Relaxed);
                    }
                    if let Err(loss) = client::get(address, Request::default()) {
                        lost.lock().unwrap().push(format!("{number}: {loss}"));
                    }
                    think(random.between(Duration::from_millis(150), Duration::from_millis(450)));
                }
            };
            let all = || {
                thread::scope(|scope| {
                    for number in 0..SERVICES {
                        let one = &one;
                        scope.spawn(move || one(number));
                    }
                });
            };
            sandbox.in_network(all).unwrap();
        });
        let mut deaths = 0;
        while !clients.is_finished() {
            idle_for(Duration::from_secs(2));
            let moment = ["freezing", "frozen", "thawing", ""][deaths % 4];
            deaths += 1;
            if !moment.is_empty() {
                // Removed when it dies there.
                fs::write(sandbox.path(DIES_AT), moment).unwrap();
                continue;
            }
            let kill = ["systemctl", "kill", "--signal=KILL", "ondemand.service"];
            // It may be starting.
            let _ = sandbox.run(&kill);
        }
        deaths
    });
    let (frozen, lost) = (frozen.into_inner(), lost.into_inner().unwrap());
    eprintln!(
        "{} requests, {frozen} of frozen applications, {deaths} agents killed, in {:.0?}",
        usize::from(SERVICES) * EACH,
        begin.elapsed()
    );
    assert!(lost.is_empty(), "{lost:?}");
    assert!(frozen >= 500, "{frozen}");
}

/// How long a client of a frozen application waits, beside one of a running application.
#[test]
fn a_frozen_application_is_back_in_no_time() {
    require_sandbox!();
    require_long!("its times are of a quiet machine");
    // Also of a build that no test kills.
    let sandbox = service::installed().unwrap();
    begin(&sandbox, OWN, "--listen 127.0.0.1:8000");
    ask(&sandbox);
    let mut frozen = Vec::new();
    let mut running = Vec::new();
    for _ in 0..200 {
        wait_frozen(&sandbox);
        // What has looked at that is over.
        idle_for(Duration::from_millis(50));
        frozen.push(ask(&sandbox));
        running.push(ask(&sandbox));
    }
    frozen.sort();
    running.sort();
    eprintln!(
        "from frozen p50 {:.2?}, p99 {:.2?}; running p50 {:.2?}, p99 {:.2?}",
        frozen[100], frozen[197], running[100], running[197]
    );
    assert!(
        frozen[100] < running[100] + Duration::from_millis(10),
        "{frozen:?}"
    );
}
