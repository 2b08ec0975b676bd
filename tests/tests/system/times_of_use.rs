//! Times in which a service is kept up.

use std::time::Duration;

use tests::{
    built,
    client::{self, Request},
    sandbox::Sandbox,
    service::{self, CONFIG, SOON, front, stays, wait_state},
    wait_for,
};

use crate::require_sandbox;

/// By how many milliseconds the wall clock is ahead: see `ondemand::ablation`. No namespace has one.
const AHEAD: &str = "/etc/ondemand-wall-ahead";

fn write(sandbox: &Sandbox, keep_up: &str) {
    let services = format!("[service.test]\n{CONFIG}keep_up = {keep_up}\n");
    service::write_config(sandbox, &services).unwrap();
}

fn reload(sandbox: &Sandbox, keep_up: &str) {
    write(sandbox, keep_up);
    sandbox.run(&["ondemand", "reload"]).unwrap();
}

fn is_kept(sandbox: &Sandbox) -> bool {
    service::status(sandbox, "test").unwrap()["kept_up"] == true
}

/// A sandbox with one service whose agent does not run yet, where the wall clock can be set.
fn prepared(keep_up: &str) -> Sandbox {
    in_week(&format!("[service.test]\n{CONFIG}keep_up = {keep_up}\n"))
}

/// The same with this configuration.
pub fn in_week(config: &str) -> Sandbox {
    let sandbox = service::installed().unwrap();
    service::write_backend(&sandbox, "app.service", "").unwrap();
    let program = built("ondemand-ablated").unwrap();
    sandbox.install(&program, "/usr/bin/ondemand").unwrap();
    let drop_in = format!("[Service]\nEnvironment=ONDEMAND_WALL_AHEAD={AHEAD} TZ=UTC\n");
    let place = "/etc/systemd/system/ondemand.service.d/wall.conf";
    sandbox.write(place, drop_in).unwrap();
    let path = "/etc/ondemand/ondemand.toml";
    sandbox.write(path, config).unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    sandbox
}

/// 2026-03-02, a Monday, in seconds since 1970.
pub const MONDAY: i64 = 1_772_409_600;

/// Sets the wall clock to so many seconds of a week, of which Monday is the first day.
pub fn set(sandbox: &Sandbox, seconds: i64) {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
    let ahead = (MONDAY + seconds) * 1000 - i64::try_from(now).unwrap();
    sandbox.write(AHEAD, ahead.to_string()).unwrap();
}

#[test]
fn it_is_up_in_its_times_of_use_and_only_then() {
    require_sandbox!();
    let sandbox = prepared("\"Mon..Fri 08:00-18:00\"");
    let eight = 8 * 3600;
    set(&sandbox, eight - 4);
    service::start_agent(&sandbox).unwrap();
    assert!(!is_kept(&sandbox));
    // It is up before its first client.
    wait_state(&sandbox, "app.service", "active").unwrap();
    assert!(is_kept(&sandbox));
    let idle = Duration::from_millis(1200);
    stays(&sandbox, "app.service", "active", idle);
    let table = sandbox.run(&["ondemand", "status"]).unwrap();
    assert!(table.contains("kept up until 18:00"), "{table}");
    let refused = sandbox.run(&["ondemand", "stop", "test"]).unwrap_err();
    assert!(
        format!("{refused:#}").contains("kept up until 18:00"),
        "{refused:#}"
    );
    // Stopped by hand it stays down, also for the next agent, until a client comes.
    sandbox.run(&["systemctl", "stop", "app.service"]).unwrap();
    sandbox
        .run(&["systemctl", "restart", "ondemand.service"])
        .unwrap();
    stays(&sandbox, "app.service", "inactive", idle);
    let answer = sandbox.in_network(|| client::get(front(), Request::default()));
    answer.unwrap().unwrap();
    stays(&sandbox, "app.service", "active", idle);

    // The clock is set, which the agent finds when a minute is over; here it is the next agent.
    set(&sandbox, 18 * 3600 - 4);
    sandbox
        .run(&["systemctl", "restart", "ondemand.service"])
        .unwrap();
    assert!(is_kept(&sandbox));
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    assert!(!is_kept(&sandbox));
}

#[test]
fn times_of_use_come_and_go_with_the_configuration() {
    require_sandbox!();
    let sandbox = prepared("\"Tue\"");
    set(&sandbox, 3600);
    service::start_agent(&sandbox).unwrap();
    assert!(!is_kept(&sandbox));
    reload(&sandbox, "\"Mon\"");
    wait_state(&sandbox, "app.service", "active").unwrap();
    stays(
        &sandbox,
        "app.service",
        "active",
        Duration::from_millis(1200),
    );
    reload(&sandbox, "[\"Tue\", \"22:00-00:30\"]");
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    // A mistake changes nothing.
    write(&sandbox, "\"Mon\"");
    sandbox.run(&["ondemand", "reload"]).unwrap();
    wait_state(&sandbox, "app.service", "active").unwrap();
    write(&sandbox, "\"Monday to Friday\"");
    assert!(sandbox.run(&["ondemand", "reload"]).is_err());
    wait_for("the mistake is shown", SOON, || {
        let text = sandbox.run(&["ondemand", "status"]).ok()?;
        text.contains("service.test.keep_up").then_some(())
    })
    .unwrap();
    assert!(is_kept(&sandbox));
}
