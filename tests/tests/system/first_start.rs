//! How long the first start after the agent's own took: nothing of the run before is taken for it.

use std::time::Duration;

use tests::{
    client::{self, Request},
    metrics::{self, of_test, scrape},
    pause::idle_for,
    sandbox::{Cgroups, Sandbox},
    service::{CONFIG, SOON, front, start_agent, status, wait_state},
    skip, wait_for,
};

use crate::{bus::check, require_sandbox};

fn set_up(backend: &str) -> Sandbox {
    let sandbox = Sandbox::boot_with(Cgroups::Unified).unwrap();
    metrics::on_demand(sandbox, &CONFIG.replace("300ms", "1h"), backend).unwrap()
}

fn ask(sandbox: &Sandbox) {
    let answer = sandbox.in_network(|| client::get(front(), Request::default()));
    answer.unwrap().unwrap();
}

/// Waits for the length of the last start of this agent's, which must be shorter than the time since the run before.
#[track_caller]
fn is_short(sandbox: &Sandbox, starts: f64) {
    let length = || {
        let status = status(sandbox, "test").ok()?;
        let samples = scrape(sandbox).ok()?;
        let count = of_test(&samples, "start_duration_seconds_count", "")?;
        let is_over =
            status["starts"].as_f64()? >= starts && count == of_test(&samples, "starts_total", "")?;
        let sum = of_test(&samples, "start_duration_seconds_sum", "")?;
        is_over.then_some((status["last_start_duration_seconds"].as_f64()?, sum))
    };
    let (last, sum) = wait_for("the start's length", SOON, length)
        .unwrap_or_else(|error| panic!("{error}: {:?}", status(sandbox, "test")));
    let journal = sandbox.journal("ondemand.service");
    assert!(last < 1.0 && sum < 3.0, "{last} s, all {sum} s: {journal}");
    let listens = journal.lines().filter(|line| line.contains("listening "));
    let slow = listens.filter(|line| !line.contains(" ms after"));
    assert_eq!(slow.count(), 0, "{journal}");
}

/// The kernel tells the agent of a new listener while systemd's signals of the end of the run before are still on
/// their way, as on a busy host.
#[test]
fn a_listener_that_is_known_before_systemds_signals_is_not_of_the_run_before() {
    require_sandbox!();
    let sandbox = set_up("");
    // As at a boot: a client has started the service before the first agent ran.
    let first = "systemctl stop ondemand.service; rm -rf /run/ondemand/metrics /sys/fs/bpf/ondemand; systemctl start \
                 app.service";
    check(&sandbox, first, 0, &[]);
    idle_for(Duration::from_millis(1600));
    start_agent(&sandbox).unwrap();
    wait_for("the agent has seen the run", SOON, || {
        (status(&sandbox, "test").ok()?["state"] == "active").then_some(())
    })
    .unwrap();
    let listens = "until ss -ltn | grep -q 127.0.0.1:8080; do sleep 0.02; done; sleep 0.3";
    let late = format!(
        "systemctl kill --signal=STOP dbus.service; systemctl restart app.service; timeout 10 sh -c '{listens}'; \
         systemctl kill --signal=CONT dbus.service"
    );
    check(&sandbox, &late, 0, &[]);
    is_short(&sandbox, 2.0);
}

/// Whatever the service does when the agent is started again.
#[test]
fn the_first_start_after_the_agents_restart_has_its_own_length() {
    require_sandbox!();
    let run = |sandbox: &Sandbox, script: &str| check(sandbox, script, 0, &[]);
    let backends = ["--start-delay-ms 200", "--start-delay-ms 200 --notify"];
    let count = if skip::is_long() { 2 } else { 1 };
    for backend in backends.into_iter().take(count) {
        let sandbox = set_up(backend);
        ask(&sandbox);
        is_short(&sandbox, 1.0);
        let pause = || idle_for(Duration::from_millis(1200));
        // While it is up, in order and not.
        pause();
        run(
            &sandbox,
            "systemctl restart ondemand.service; systemctl restart app.service",
        );
        is_short(&sandbox, 1.0);
        pause();
        run(
            &sandbox,
            "systemctl restart ondemand.service; ondemand stop test",
        );
        ask(&sandbox);
        is_short(&sandbox, 1.0);
        // While it is down.
        run(&sandbox, "ondemand stop test");
        pause();
        run(&sandbox, "systemctl restart ondemand.service");
        ask(&sandbox);
        is_short(&sandbox, 1.0);
        // While it starts.
        run(&sandbox, "ondemand stop test");
        pause();
        run(
            &sandbox,
            "systemctl start --no-block app.service; systemctl restart ondemand.service",
        );
        wait_state(&sandbox, "app.service", "active").unwrap();
        pause();
        run(&sandbox, "systemctl restart app.service");
        is_short(&sandbox, 1.0);
    }
}
