//! The agent is killed with -9 at every step of the stop protocol, while clients connect: none of
//! them is lost, connections stay open, and the next agent finishes what was in progress.

use std::{
    thread,
    time::{Duration, Instant},
};

use tests::{
    built,
    client::{self, Loss, Request},
    pause::{arrive_at, idle_for},
    sandbox::Sandbox,
    service::{self, SOON, front, wait_state},
    wait_closely, wait_for,
};

use crate::{
    require_sandbox,
    steering::{CONFIG, ask_with, wait_route},
};

/// The file with the step at which the agent kills itself: see `ondemand::ablation`.
const DIES_AT: &str = "/run/ondemand/dies-at";
/// When clients connect after the agent's death, in milliseconds: at once, during the backend's
/// stop, which takes 60 ms, and around the start of the next agent.
const ARRIVALS: [u64; 7] = [0, 0, 5, 40, 70, 150, 300];

/// What brings the agent to a step.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The service goes idle.
    Stop,
    /// The same, but another unit needs the backend: the lease is taken again.
    Needed,
    /// A client starts the service.
    Start,
}

const STEPS: [(Way, &str); 14] = [
    (Way::Start, "opening"),
    (Way::Start, "opened"),
    (Way::Stop, "asking"),
    (Way::Stop, "idle"),
    (Way::Stop, "gate-closed"),
    (Way::Stop, "looked"),
    (Way::Stop, "releasing"),
    (Way::Stop, "release-queued"),
    (Way::Stop, "released"),
    (Way::Stop, "settling"),
    (Way::Stop, "stopped"),
    (Way::Needed, "retaking"),
    (Way::Needed, "retake-queued"),
    (Way::Needed, "retaken"),
];

fn set_up() -> Sandbox {
    let sandbox = service::installed().unwrap();
    let agent = built("ondemand-ablated").unwrap();
    sandbox.install(&agent, "/usr/bin/ondemand").unwrap();
    let drop_in = format!("[Service]\nEnvironment=ONDEMAND_DIES_AT={DIES_AT}\nRestartSec=200ms\n");
    let place = "/etc/systemd/system/ondemand.service.d/dies.conf";
    sandbox.write(place, drop_in).unwrap();
    let needs = "[Unit]\nRequires=app.service\nAfter=app.service\n\
                 [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/bin/true\n";
    let place = "/etc/systemd/system/needs.service";
    sandbox.write(place, needs).unwrap();
    service::write_backend(&sandbox, "app.service", "--stop-delay-ms 60").unwrap();
    let config = CONFIG.replace("1h", "200ms");
    let config = format!("[service.test]\n{config}veto = \"/usr/bin/true\"\n");
    service::write_config(&sandbox, &config).unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    sandbox
}

/// Clients that connect from now on, one of which stays; returns how they were lost.
fn clients(sandbox: &Sandbox) -> (client::Kept, Vec<Loss>) {
    let come = || {
        let now = Instant::now();
        thread::scope(|scope| {
            let clients = ARRIVALS.map(|wait| {
                scope.spawn(move || {
                    arrive_at(now + Duration::from_millis(wait));
                    client::get(front(), Request::default()).err()
                })
            });
            let kept = client::Kept::connect(front());
            let lost = clients
                .into_iter()
                .filter_map(|client| client.join().unwrap());
            (kept.unwrap(), lost.collect())
        })
    };
    sandbox.in_network(come).unwrap()
}

#[track_caller]
fn check(sandbox: &Sandbox, way: Way, step: &str) {
    let restarts = || sandbox.property("ondemand.service", "NRestarts").unwrap();
    let before = restarts();
    if way != Way::Start {
        ask_with(sandbox, front(), Request::default()).unwrap();
        wait_route(sandbox, "steered");
    }
    if way == Way::Needed {
        sandbox
            .run(&["systemctl", "start", "needs.service"])
            .unwrap();
    }
    sandbox.write(DIES_AT, step).unwrap();
    if way == Way::Start {
        ask_with(sandbox, front(), Request::default()).unwrap();
    }
    let marker = sandbox.path(DIES_AT);
    while_there(step, &marker);
    let (mut kept, lost) = clients(sandbox);
    assert!(lost.is_empty(), "killed when {step}: lost {lost:?}");
    wait_for("the next agent runs", SOON, || {
        let runs = sandbox.property("ondemand.service", "SubState").unwrap() == "running";
        (runs && restarts() != before).then_some(())
    })
    .unwrap();
    // An open connection keeps it up for longer than two idle timeouts, with the next agent.
    idle_for(Duration::from_millis(450));
    kept.ask()
        .unwrap_or_else(|loss| panic!("killed when {step}: the client that stays: {loss}"));
    drop(kept);
    if way == Way::Needed {
        sandbox
            .run(&["systemctl", "stop", "needs.service"])
            .unwrap();
    }
    wait_state(sandbox, "app.service", "inactive").unwrap();
}

/// Waits until the agent has removed the file, more closely than [`wait_for`] does.
#[track_caller]
fn while_there(step: &str, marker: &std::path::Path) {
    let what = format!("the agent is {step}");
    wait_closely(&what, SOON, Duration::from_micros(200), || {
        (!marker.exists()).then_some(())
    })
    .unwrap();
}

#[test]
fn killed_at_every_step_of_a_stop() {
    require_sandbox!();
    let sandbox = set_up();
    for (way, step) in STEPS {
        let start = Instant::now();
        check(&sandbox, way, step);
        eprintln!(
            "killed when {step}: right again after {:.1?}",
            start.elapsed()
        );
    }
    let journal = sandbox.journal("ondemand.service");
    let kills = journal.matches("status=9/KILL").count();
    assert_eq!(kills, STEPS.len(), "{journal}");
    let taken_over = journal
        .matches("watching 1 service; the kernel keeps counting")
        .count();
    assert_eq!(taken_over, STEPS.len(), "{journal}");
    assert_eq!(service::number(&sandbox, "test", "count_drift").unwrap(), 0);
}
