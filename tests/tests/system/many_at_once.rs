//! A whole host that becomes idle in the same moment.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use tests::{
    client::{self, Request},
    patience,
    service::{self, statuses},
    wait_for,
};

use crate::require_sandbox;

/// More than the bus lets a connection ask about at once, in the calls of their stops.
const SERVICES: u16 = 60;

#[test]
fn sixty_services_that_are_idle_at_once_are_stopped_by_the_agent() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    let mut text = String::new();
    for index in 0..SERVICES {
        let backend = format!("127.0.0.1:{}", 9000 + index);
        let unit = format!("app{index}.service");
        service::write_backend(&sandbox, &unit, &format!("--listen {backend}")).unwrap();
        text += &format!(
            "[service.t{index}]\nlisten = [\"127.0.0.1:{}\"]\nbackend = \"{backend}\"\nunit = \"{unit}\"\n\
             idle_timeout = \"300ms\"\nmin_uptime = \"0s\"\n",
            8000 + index
        );
    }
    service::write_config(&sandbox, &text).unwrap();
    let names: Vec<String> = (0..SERVICES).map(|index| format!("t{index}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    service::reload(&sandbox, &names).unwrap();
    // The agent was away, and all of them are past their timeouts when it comes.
    for index in 0..SERVICES {
        let front = std::net::SocketAddr::from(([127, 0, 0, 1], 8000 + index));
        sandbox
            .in_network(|| client::get(front, Request::default()))
            .unwrap()
            .unwrap();
    }
    service::start_agent(&sandbox).unwrap();
    let begin = Instant::now();
    let limit = Duration::from_secs(60);
    wait_for("all of them are stopped", limit, || {
        let all = statuses(&sandbox).ok()?;
        let down = |status: &serde_json::Value| status["state"] == "inactive";
        all.values().all(down).then_some(())
    })
    .unwrap();
    eprintln!("after {:?}, patience {}", begin.elapsed(), patience());
    for (name, status) in statuses(&sandbox).unwrap() {
        let reasons = &status["stops_by_reason"];
        assert_eq!(reasons["idle"], 1, "{name}: {reasons}");
        assert_eq!(reasons["external"], 0, "{name}: {reasons}");
    }
    let journal = sandbox.journal("ondemand.service");
    assert!(!journal.contains("systemd does not answer"), "{journal}");
}

/// PID 1 merges their starts into one job, whose end both of them wait for.
#[test]
fn all_who_start_a_service_at_once_are_answered() {
    require_sandbox!();
    let sandbox = service::on_demand(service::CONFIG, "").unwrap();
    sandbox.run(&["mkfifo", "/run/go"]).unwrap();
    let waits = "[Service]\nExecStartPre=cat /run/go\n";
    let place = "/etc/systemd/system/app.service.d/waits.conf";
    sandbox.write(place, waits).unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    let start = || {
        let mut command = sandbox.command("ondemand");
        command.args(["start", "test"]).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let callers = [start(), start(), start()];
    let asked = "test: starting, on request";
    service::wait_journal(&sandbox, "ondemand.service", asked, callers.len()).unwrap();
    wait_for("the start has begun", service::SOON, || {
        let state = sandbox.property("app.service", "SubState").ok()?;
        (state == "start-pre").then_some(())
    })
    .unwrap();
    sandbox.run(&["sh", "-c", "echo >/run/go"]).unwrap();
    for caller in callers {
        let ended = caller.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "{said}");
    }
}
