//! A service under test in a sandbox: its unit, its configuration, its agent.

use std::{collections::BTreeMap, fs, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{built, patience, pause::observe_for, sandbox::Sandbox, source_tree, wait_for};

/// How long anything that should happen soon may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

/// The default front address of tests.
pub const FRONT: &str = "127.0.0.1:8000";

/// The front address, parsed.
pub fn front() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8000))
}

/// The default lines of `[service.test]`.
pub const CONFIG: &str = r#"
listen = ["127.0.0.1:8000"]
backend = "127.0.0.1:8080"
unit = "app.service"
idle_timeout = "300ms"
min_uptime = "0s"
start_timeout = "10s"
steer = false
"#;

/// A sandbox with `ondemand` installed, and no service yet.
///
/// # Errors
///
/// The sandbox does not boot, or `ondemand` was not built.
pub fn installed() -> Result<Sandbox> {
    let sandbox = Sandbox::boot()?;
    prepare(&sandbox)?;
    Ok(sandbox)
}

/// Installs `ondemand` and the test backend.
///
/// # Errors
///
/// Something was not built, or cannot be installed.
pub fn prepare(sandbox: &Sandbox) -> Result<()> {
    sandbox.install(&built("test-backend")?, "/usr/bin/test-backend")?;
    sandbox.install_ondemand(&built("ondemand")?)
}

/// Installs the example's application, enabled, and starts it.
///
/// # Errors
///
/// It cannot be written or started.
pub fn write_wiki(sandbox: &Sandbox) -> Result<()> {
    let examples = source_tree().join("units/examples");
    let unit = fs::read_to_string(examples.join("wiki.service")).context("read wiki.service")?;
    sandbox.write(
        "/etc/systemd/system/wiki.service",
        format!("{unit}\n[Install]\nWantedBy=multi-user.target\n"),
    )?;
    sandbox.install(&examples.join("wiki.py"), "/usr/local/bin/wiki.py")?;
    sandbox.run(&["systemctl", "daemon-reload"])?;
    sandbox.run(&["systemctl", "enable", "--now", "wiki.service"])?;
    Ok(())
}

/// Writes a unit that runs the test backend with these options, as `Type=simple`.
///
/// # Errors
///
/// It cannot be written.
pub fn write_backend(sandbox: &Sandbox, unit: &str, options: &str) -> Result<()> {
    let kind = if options.contains("--notify") {
        "notify"
    } else {
        "simple"
    };
    sandbox.write(
        &format!("/etc/systemd/system/{unit}"),
        format!(
            "[Unit]\nDescription=application under test\n[Service]\nType={kind}\n\
             ExecStart=/usr/bin/test-backend {options}\nTimeoutStopSec=20s\nLimitNOFILE=65536\n"
        ),
    )
}

/// Writes a socket unit that passes this address to an application. Nothing limits how often it starts that.
///
/// # Errors
///
/// It cannot be written.
pub fn write_own_socket(sandbox: &Sandbox, unit: &str, listen: &str) -> Result<()> {
    let socket = unit.replace(".service", ".socket");
    let text = format!(
        "[Socket]\nListenStream={listen}\nBacklog=4096\nTriggerLimitIntervalSec=0\n[Install]\nWantedBy=sockets.target\n"
    );
    sandbox.write(&format!("/etc/systemd/system/{socket}"), text)
}

/// Writes the configuration; `services` holds `[service.…]` tables. The usual start timeout is
/// longer where everything is (see [`patience`]).
///
/// # Errors
///
/// It cannot be written.
pub fn write_config(sandbox: &Sandbox, services: &str) -> Result<()> {
    let agent = "[agent]\nmetrics = \"\"\nhistory = \"\"\n\n";
    let timeout = format!("start_timeout = \"{}s\"", 10 * patience());
    let services = services.replace("start_timeout = \"10s\"", &timeout);
    sandbox.write("/etc/ondemand/ondemand.toml", format!("{agent}{services}"))
}

/// Reloads systemd, so that the generator runs, and starts the front sockets.
///
/// # Errors
///
/// systemd refuses.
pub fn reload(sandbox: &Sandbox, names: &[&str]) -> Result<()> {
    sandbox.run(&["systemctl", "daemon-reload"])?;
    for name in names {
        let socket = format!("ondemand-{name}.socket");
        sandbox.run(&["systemctl", "start", &socket])?;
    }
    Ok(())
}

/// A sandbox in which one service, `test`, is on demand: `config` are the lines of its
/// table, `backend` the options of its application. The agent runs.
///
/// # Errors
///
/// Any step fails.
pub fn on_demand(config: &str, backend: &str) -> Result<Sandbox> {
    let sandbox = installed()?;
    write_backend(&sandbox, "app.service", backend)?;
    write_config(&sandbox, &format!("[service.test]\n{config}"))?;
    reload(&sandbox, &["test"])?;
    start_agent(&sandbox)?;
    Ok(sandbox)
}

/// Starts the agent; `systemctl start` returns when it is ready.
///
/// # Errors
///
/// It does not start; its journal is in the message.
pub fn start_agent(sandbox: &Sandbox) -> Result<()> {
    sandbox
        .run(&["systemctl", "start", "ondemand.service"])
        .with_context(|| sandbox.journal("ondemand.service"))?;
    Ok(())
}

/// The entry of a service in `ondemand status --json`.
///
/// # Errors
///
/// The agent does not answer, or does not know the service.
pub fn status(sandbox: &Sandbox, name: &str) -> Result<Value> {
    let mut all = statuses(sandbox)?;
    all.remove(name)
        .with_context(|| format!("no service {name} in {all:?}"))
}

/// The same of all services, by name.
///
/// # Errors
///
/// The agent does not answer.
pub fn statuses(sandbox: &Sandbox) -> Result<BTreeMap<String, Value>> {
    let text = sandbox.run(&["ondemand", "status", "--json"])?;
    let value: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    let services = value["services"].as_array().context("services")?;
    let named = |service: &Value| Some((service["name"].as_str()?.to_owned(), service.clone()));
    Ok(services.iter().filter_map(named).collect())
}

/// A number of a service's status.
///
/// # Errors
///
/// As for [`status`], or there is no such number.
pub fn number(sandbox: &Sandbox, name: &str, key: &str) -> Result<u64> {
    let status = status(sandbox, name)?;
    status
        .get(key)
        .and_then(Value::as_u64)
        .with_context(|| format!("{key} in {status}"))
}

/// Waits until a unit is in a state.
///
/// # Errors
///
/// It is not, in time.
pub fn wait_state(sandbox: &Sandbox, unit: &str, state: &str) -> Result<()> {
    wait_for(&format!("{unit} becomes {state}"), SOON, || {
        let now = sandbox.property(unit, "ActiveState").ok()?;
        (now == state).then_some(())
    })
    .with_context(|| {
        let units = sandbox.run(&["systemctl", "list-units", "--all", "--no-pager"]);
        let status = sandbox.run(&["ondemand", "status", "--json"]);
        let journal = sandbox.journal("ondemand.service");
        format!(
            "{}\n{}\n{journal}",
            units.unwrap_or_default(),
            status.unwrap_or_default()
        )
    })
}

/// Observes for this span that a unit is in a state and does not leave it.
///
/// # Panics
///
/// It is not, or leaves it.
#[track_caller]
pub fn stays(sandbox: &Sandbox, unit: &str, state: &str, span: Duration) {
    // With the time of its last change: a state that was left in between has not lasted.
    let properties = "--property=ActiveState,StateChangeTimestampMonotonic";
    let show = || sandbox.run(&["systemctl", "show", properties, unit]);
    let first = show().expect("systemd answers");
    let expected = format!("ActiveState={state}");
    assert!(
        first.lines().any(|line| line == expected),
        "{unit}: {first}"
    );
    observe_for(span, || {
        let now = show().expect("systemd answers");
        assert_eq!(now, first, "{unit} did not stay {state}");
    });
}

/// Waits until the words are in a unit's journal this number of times, and returns the journal.
///
/// # Errors
///
/// They are not in time; the journal is in the message.
pub fn wait_journal(sandbox: &Sandbox, unit: &str, words: &str, times: usize) -> Result<String> {
    let what = format!("{words:?} in the journal of {unit}, {times} times");
    wait_for(&what, SOON, || {
        let journal = sandbox.journal(unit);
        (journal.matches(words).count() >= times).then_some(journal)
    })
    .with_context(|| sandbox.journal(unit))
}
