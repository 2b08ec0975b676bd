//! What counts the runs of a service agrees, whatever happens to the service and the agent.

use serde_json::Value;
use tests::{
    metrics::{of_test, on_demand, scrape},
    require_long,
    sandbox::{Cgroups, Sandbox},
    service::{self, CONFIG, SOON, wait_state},
    wait_for,
};

use crate::{
    metrics::{ask, kill_agent},
    require_sandbox,
};

/// What `status` counts of `test`: starts, the stops by reason, and the last start's length.
fn shown(sandbox: &Sandbox) -> ([f64; 5], Option<f64>) {
    let status = service::status(sandbox, "test").unwrap();
    let number = |value: &Value| value.as_f64().unwrap();
    let stops = |reason| number(&status["stops_by_reason"][reason]);
    let [idle, requested, external, failed] = REASONS.map(stops);
    let all = [number(&status["starts"]), idle, requested, external, failed];
    assert_eq!(number(&status["stops"]), all[1..].iter().sum::<f64>());
    (all, status["last_start_duration_seconds"].as_f64())
}

const REASONS: [&str; 4] = ["idle", "requested", "external", "failed"];

/// The same in the metrics, and the sum of all starts' lengths. `None`: a start is under way.
fn scraped(sandbox: &Sandbox) -> Option<([f64; 5], f64)> {
    let samples = scrape(sandbox).ok()?;
    let value = |name, labels: &str| of_test(&samples, name, labels);
    let stops = |reason| value("stops_total", &format!(",reason=\"{reason}\""));
    let [idle, requested, external, failed] = REASONS.map(stops);
    let starts = value("starts_total", "")?;
    let has_length = value("start_duration_seconds_count", "")? == starts;
    let all = [starts, idle?, requested?, external?, failed?];
    has_length.then_some((all, value("start_duration_seconds_sum", "")?))
}

#[test]
fn status_and_metrics_agree() {
    require_sandbox!();
    // Listens later than systemd calls it started.
    let config = CONFIG.replace("300ms", "1h");
    let sandbox = Sandbox::boot_with(Cgroups::Unified).unwrap();
    let sandbox = on_demand(sandbox, &config, "--start-delay-ms 300").unwrap();
    let app = |verb| drop(sandbox.run(&["systemctl", verb, "app.service"]));
    // What both count since this agent's start, beside what the metrics had before it.
    let mut sum = 0.0;
    let mut check = |before: [f64; 5], expected: [f64; 5], is_start: bool| {
        let all = [0, 1, 2, 3, 4].map(|place| before[place] + expected[place]);
        let agree = || {
            let (total, length) = (scraped(&sandbox)?, shown(&sandbox));
            (total.0 == all && length.0 == expected).then_some((total.1, length.1))
        };
        let (total, length) =
            wait_for("status and metrics agree", SOON, agree).unwrap_or_else(|error| {
                let found = (shown(&sandbox), scraped(&sandbox));
                panic!("{error} on {all:?}: {found:?}")
            });
        if is_start {
            let length = length.expect("the last start's length");
            let grown = total - sum;
            assert!((grown - length).abs() < 1e-6, "{grown} s, {length} s");
            assert!(length > 0.2, "until it listens: {length} s");
        }
        sum = total;
        all
    };
    let none = [0.0; 5];
    check(none, none, false);
    ask(&sandbox);
    check(none, [1.0, 0.0, 0.0, 0.0, 0.0], true);
    sandbox.run(&["ondemand", "stop", "test"]).unwrap();
    check(none, [1.0, 0.0, 1.0, 0.0, 0.0], false);
    app("start");
    check(none, [2.0, 0.0, 1.0, 0.0, 0.0], true);
    app("stop");
    check(none, [2.0, 0.0, 1.0, 1.0, 0.0], false);
    // A start that fails is none, and no stop.
    let broken = "/run/systemd/system/app.service.d/broken.conf";
    let fail = "[Service]\nExecStartPre=/bin/false\n";
    sandbox.write(broken, fail).unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    app("start");
    wait_for("the agent sees it fail", SOON, || {
        let status = service::status(&sandbox, "test").ok()?;
        (status["state"] == "failed").then_some(())
    })
    .unwrap();
    check(none, [2.0, 0.0, 1.0, 1.0, 0.0], false);
    sandbox.run(&["rm", broken]).unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    app("start");
    check(none, [3.0, 0.0, 1.0, 1.0, 0.0], true);
    app("kill");
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    check(none, [3.0, 0.0, 1.0, 2.0, 0.0], false);
    app("start");
    check(none, [4.0, 0.0, 1.0, 2.0, 0.0], true);
    sandbox
        .run(&["systemctl", "kill", "-s", "KILL", "app.service"])
        .unwrap();
    check(none, [4.0, 0.0, 1.0, 2.0, 1.0], false);

    // While the agent does not manage it, because its front socket is gone.
    let socket = |verb| drop(sandbox.run(&["systemctl", verb, "ondemand-test.socket"]));
    socket("stop");
    app("start");
    check(none, [5.0, 0.0, 1.0, 2.0, 1.0], true);
    app("stop");
    let all = check(none, [5.0, 0.0, 1.0, 3.0, 1.0], false);
    socket("start");

    // The next agent counts from its own start; the metrics continue. A run that it finds is no start of
    // its own, and a later listener is no measure of that start.
    app("start");
    check(none, [6.0, 0.0, 1.0, 3.0, 1.0], true);
    let found = [all[0] + 1.0, all[1], all[2], all[3], all[4]];
    kill_agent(&sandbox);
    check(found, none, false);
    assert_eq!(shown(&sandbox).1, None, "no start of this agent's");
    app("restart");
    check(found, [1.0, 0.0, 0.0, 1.0, 0.0], true);
}

/// Whoever counts, and however early the client of a new service is.
#[test]
fn the_first_start_of_a_new_service_is_counted_by_all() {
    require_sandbox!();
    require_long!("several services one after the other");
    let sandbox = service::installed().unwrap();
    let agent =
        "[agent]\nmetrics = \"127.0.0.1:9464\"\nhistory = \"/var/lib/ondemand/history.db\"\n";
    let mut config = agent.to_owned();
    let file = "/etc/ondemand/ondemand.toml";
    let run = |script: &str| sandbox.run(&["sh", "-c", script]).unwrap();
    for index in 0..3_u16 {
        let (name, unit) = (format!("new{index}"), format!("new{index}.service"));
        let (front, back) = (8100 + index, 8200 + index);
        service::write_backend(&sandbox, &unit, &format!("--listen 127.0.0.1:{back}")).unwrap();
        let service = CONFIG
            .replace("8000", &front.to_string())
            .replace("8080", &back.to_string())
            .replace("app.service", &unit)
            .replace("300ms", "1h");
        config += &format!("[service.{name}]\n{service}\n");
        sandbox.write(file, &config).unwrap();
        // The first is there before the agent. Of the others some are read by it before and some after the
        // client, whose front socket is not waited for by the agent.
        let last = match index {
            0 => "",
            _ if index % 2 == 1 => "ondemand reload;",
            _ => "",
        };
        run(&format!(
            "systemctl daemon-reload; {last} systemctl start ondemand-{name}.socket"
        ));
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], front));
        sandbox
            .in_network(|| tests::client::get(address, tests::client::Request::default()))
            .unwrap()
            .unwrap();
        if index == 0 {
            service::start_agent(&sandbox).unwrap();
        }
        let metric = format!("ondemand_starts_total{{service=\"{name}\"}}");
        let counted = || {
            let status = service::status(&sandbox, &name).ok()?["starts"].as_f64();
            let metric = scrape(&sandbox).ok()?.get(&metric).copied();
            let report = run("ondemand report --json");
            let report: Value = serde_json::from_str(&report).ok()?;
            let services = report["services"].as_array()?;
            let of = services.iter().find(|service| service["name"] == *name)?;
            Some([status, metric, of["activations"].as_f64()])
        };
        let agree = || (counted()? == [Some(1.0); 3]).then_some(());
        wait_for("all count one start", SOON, agree)
            .unwrap_or_else(|error| panic!("{error}: {name}: {:?}", counted()));
    }
}
