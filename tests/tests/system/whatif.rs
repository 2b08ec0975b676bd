//! What other idle timeouts would have meant: the metrics' counters are the report of the same gaps.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;
use tests::{
    client::Kept,
    metrics::{Samples, address, scrape},
    pause::idle_for,
    require_long,
    sandbox::Sandbox,
    service::{self, CONFIG, SOON, front, wait_state},
    wait_for,
};

use crate::{
    faults::{agent_pid, wait_next_agent},
    history::{HISTORY, ask},
    require_sandbox,
};

fn write(sandbox: &Sandbox, whatif: &str, services: &[&str]) {
    let mut config = format!(
        "[agent]\nmetrics = \"{}\"\nhistory = \"{HISTORY}\"\nwhatif = \"{whatif}\"\n",
        address()
    );
    for name in services {
        config += &format!("\n[service.{name}]\n{CONFIG}");
    }
    sandbox
        .write("/etc/ondemand/ondemand.toml", config)
        .unwrap();
}

fn prepared() -> Sandbox {
    let sandbox = service::installed().unwrap();
    service::write_backend(&sandbox, "app.service", "").unwrap();
    write(&sandbox, "service", &["test"]);
    service::reload(&sandbox, &["test"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    sandbox
}

/// Cold starts and seconds up and unused by timeout.
type Curve = BTreeMap<String, (f64, f64)>;

fn counted(samples: &Samples, service: &str) -> Curve {
    let family = |name: &str| {
        let begin = format!("ondemand_whatif_{name}_total{{{service}timeout=\"");
        let of_it = samples.iter().filter_map(move |(key, value)| {
            Some((
                key.strip_prefix(&begin)?.strip_suffix("\"}")?.to_owned(),
                *value,
            ))
        });
        of_it.collect::<BTreeMap<String, f64>>()
    };
    let (cold_starts, idle) = (family("cold_starts"), family("idle_seconds"));
    let pair = |(timeout, cold_starts): (String, f64)| {
        let idle = idle[&timeout];
        (timeout, (cold_starts, idle))
    };
    cold_starts.into_iter().map(pair).collect()
}

/// The report of the only service.
fn report(sandbox: &Sandbox) -> Value {
    let report = sandbox.run(&["ondemand", "report", "--json"]).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    report["services"][0].clone()
}

fn reported(service: &Value) -> Curve {
    let pair = |row: &Value| {
        let figure = |key: &str| row[key].as_f64().unwrap();
        (figure("cold_starts"), figure("warm_idle_seconds"))
    };
    let rows = service["what_if"].as_array().unwrap().iter();
    let rows = rows.map(|row| {
        (
            row["timeout_seconds"].as_f64().unwrap().to_string(),
            pair(row),
        )
    });
    rows.chain([("auto".into(), pair(&service["learned"]))])
        .collect()
}

/// Uses it, and lets it be unused for a while.
fn use_(sandbox: &Sandbox, then: u64) {
    ask(sandbox);
    wait_state(sandbox, "app.service", "inactive").unwrap();
    idle_for(Duration::from_millis(then));
}

#[track_caller]
fn check_growth(before: &Curve, after: &Curve) {
    assert_eq!(before.len(), 25, "{before:?}");
    for (timeout, (cold_starts, idle)) in before {
        let now = after[timeout];
        assert!(
            *cold_starts <= now.0 && *idle <= now.1,
            "{before:?} {after:?}"
        );
    }
}

/// With a connection open no gap is: then all is over that the report has.
#[track_caller]
fn check_last(sandbox: &Sandbox, before: &Curve) {
    let _kept = sandbox
        .in_network(|| Kept::connect(front()).unwrap())
        .unwrap();
    let counted = wait_for("the last gap is over", SOON, || {
        let counted = counted(&scrape(sandbox).ok()?, "service=\"test\",");
        (counted["604800"].1 > before["604800"].1).then_some(counted)
    })
    .unwrap();
    check_growth(before, &counted);
    // So that the history has all.
    sandbox
        .run(&["systemctl", "stop", "ondemand.service"])
        .unwrap();
    assert_eq!(counted, reported(&report(sandbox)));
}

fn of_test(sandbox: &Sandbox) -> Curve {
    counted(&scrape(sandbox).unwrap(), "service=\"test\",")
}

#[test]
fn counters_are_the_report_over_agents() {
    require_sandbox!();
    let sandbox = prepared();
    use_(&sandbox, 800);
    use_(&sandbox, 0);
    let first = of_test(&sandbox);
    assert_eq!(
        first["1"].0, 2.0,
        "the first, and one after a second: {first:?}"
    );
    assert_eq!(first["2"].0, 1.0, "{first:?}");
    wait_for("the gap has begun", SOON, || {
        let unused = scrape(&sandbox).ok()?["ondemand_unused_seconds{service=\"test\"}"];
        (unused > 0.0).then_some(())
    })
    .unwrap();
    // A client that no agent sees, and one of the next agent.
    sandbox
        .run(&["systemctl", "stop", "ondemand.service"])
        .unwrap();
    // Within two seconds it could be the one before.
    idle_for(Duration::from_millis(2500));
    ask(&sandbox);
    service::start_agent(&sandbox).unwrap();
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    let second = of_test(&sandbox);
    check_growth(&first, &second);
    assert_eq!(second["1"].0, 3.0, "{second:?}");
    check_last(&sandbox, &second);
}

#[test]
fn counters_are_the_report_over_kills() {
    require_sandbox!();
    require_long!("the history may be five seconds behind, and each agent is killed after that");
    let sandbox = prepared();
    let (mut before, mut arrivals) = (None, 0);
    for round in 0..4 {
        use_(&sandbox, 300 * round);
        use_(&sandbox, 0);
        let now = of_test(&sandbox);
        if let Some(before) = &before {
            check_growth(before, &now);
        }
        // It knows of the gap that is not over, and of all before it.
        arrivals += 2;
        wait_for("the history has it", SOON, || {
            let report = report(&sandbox);
            let idle = reported(&report)["604800"].1;
            (report["arrivals"] == arrivals && idle > now["604800"].1 + 0.05).then_some(())
        })
        .unwrap();
        let pid = agent_pid(&sandbox);
        sandbox.run(&["kill", "-9", &pid.to_string()]).unwrap();
        if round % 2 == 0 {
            ask(&sandbox);
            arrivals += 1;
        }
        wait_next_agent(&sandbox, pid);
        wait_state(&sandbox, "app.service", "inactive").unwrap();
        before = Some(now);
    }
    check_last(&sandbox, &before.unwrap());
}

#[test]
fn the_sum_outlives_a_service() {
    require_sandbox!();
    let sandbox = prepared();
    use_(&sandbox, 300);
    use_(&sandbox, 0);
    let each = of_test(&sandbox);
    let reload = |whatif: &str, services: &[&str]| {
        write(&sandbox, whatif, services);
        sandbox.run(&["ondemand", "apply"]).unwrap();
        scrape(&sandbox).unwrap()
    };
    assert_eq!(counted(&reload("total", &["test"]), ""), each);
    assert_eq!(counted(&reload("total", &["other"]), ""), each);
    let off = reload("off", &["other"]);
    assert!(!off.keys().any(|key| key.starts_with("ondemand_whatif")));
    // By the next agent, too, and the service's own when it is back.
    service::start_agent(&sandbox).unwrap();
    assert_eq!(counted(&reload("total", &["other"]), ""), each);
    assert_eq!(
        counted(&reload("service", &["test"]), "service=\"test\","),
        each
    );
}
