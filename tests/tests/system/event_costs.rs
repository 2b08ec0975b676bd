//! What an event of one service costs the agent, the kernel and PID 1, in numbers that do not depend on the machine.

use std::{collections::BTreeSet, fs, process::Stdio};

use tests::{
    client::{self, Request},
    sandbox::Sandbox,
    service::{self, CONFIG, front, on_demand, wait_state},
    wait_for,
};

use crate::require_sandbox;

const AGENT: &str = "ondemand.service";
const SYSTEMD: &str = "org.freedesktop.systemd1";
const WALKS: &str = "walking the host's socket tables";

/// The states after a stop; and before it the memory, twice, and the CPU time, for the metrics and the history.
const MOST_CALLS: usize = 12;

fn ask(sandbox: &Sandbox) {
    sandbox
        .in_network(|| client::get(front(), Request::default()))
        .unwrap()
        .unwrap();
}

/// The unique names of the agent's connections to the bus.
pub fn connections(sandbox: &Sandbox) -> BTreeSet<String> {
    let pid = sandbox.main_pid(AGENT).unwrap().to_string();
    let list = sandbox.run(&["busctl", "list", "--no-legend"]).unwrap();
    let mut found = BTreeSet::new();
    for line in list.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [name, of, ..] = words[..]
            && name.starts_with(':')
            && of == pid
        {
            found.insert(name.to_owned());
        }
    }
    found
}

/// The names of the calls to PID 1 that one of these connections made, in the order of their arrival at the bus,
/// until the last of `until`.
fn calls(sandbox: &Sandbox, of: &BTreeSet<String>, act: impl FnOnce()) -> Vec<String> {
    let script = format!("exec busctl monitor --json=short {SYSTEMD} >/run/calls 2>/run/monitor");
    let mut monitor = sandbox.command("sh");
    let monitor = monitor.args(["-c", &script]).stdin(Stdio::null()).spawn();
    let mut monitor = monitor.unwrap();
    wait_for("the bus is watched", service::SOON, || {
        let text = fs::read_to_string(sandbox.path("/run/monitor")).ok()?;
        text.contains("Monitoring").then_some(())
    })
    .unwrap();
    act();
    // A call that is seen after all that came of the act.
    let mark = ["busctl", "call", SYSTEMD, "/org/freedesktop/systemd1"];
    let method = ["org.freedesktop.systemd1.Manager", "GetUnit", "s", AGENT];
    sandbox.run(&[&mark[..], &method[..]].concat()).unwrap();
    let messages = || {
        let text = fs::read_to_string(sandbox.path("/run/calls")).ok()?;
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let lines: Vec<serde_json::Value> = lines.collect();
        let is_mark = |message: &serde_json::Value| message["member"] == "GetUnit";
        lines.iter().any(is_mark).then_some(lines)
    };
    let messages = wait_for("the bus has carried the mark", service::SOON, messages).unwrap();
    monitor.kill().unwrap();
    monitor.wait().unwrap();
    let mut found = Vec::new();
    for message in messages {
        let sender = message["sender"].as_str().unwrap_or_default();
        if message["type"] == "method_call" && of.contains(sender) {
            found.push(message["member"].as_str().unwrap_or_default().to_owned());
        }
    }
    found
}

#[test]
fn a_stop_asks_pid_1_a_few_questions() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    let agent = connections(&sandbox);
    // Signals that come later than the states cost one more reading, on a busy machine: the quietest of some cycles.
    let mut fewest: Option<Vec<String>> = None;
    for stops in 1..=8 {
        let cycle = || {
            ask(&sandbox);
            wait_state(&sandbox, "app.service", "inactive").unwrap();
            let known = || service::number(&sandbox, "test", "stops").ok();
            let stopped = || (known()? == stops).then_some(());
            wait_for("the agent knows that", service::SOON, stopped).unwrap();
        };
        let calls = calls(&sandbox, &agent, cycle);
        let count = |member: &str| calls.iter().filter(|it| *it == member).count();
        assert_eq!(count("StopUnit"), 1, "{calls:?}");
        // With all properties of a unit PID 1 looks for files; with those of a service it reads some of its cgroup.
        assert_eq!(count("GetAll"), 0, "{calls:?}");
        if fewest.as_ref().is_none_or(|it| calls.len() < it.len()) {
            fewest = Some(calls);
        }
        if fewest.as_ref().is_some_and(|it| it.len() < MOST_CALLS) {
            return;
        }
    }
    panic!("never less than {MOST_CALLS} calls: {fewest:?}");
}

/// From the agent's next start on.
fn log_more(sandbox: &Sandbox) {
    let place = format!("/etc/systemd/system/{AGENT}.d/says-more.conf");
    let drop_in = "[Service]\nEnvironment=ONDEMAND_LOG=debug\n";
    sandbox.write(&place, drop_in).unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
}

#[test]
fn a_listener_that_is_closed_walks_no_socket_tables() {
    require_sandbox!();
    let steered = CONFIG
        .replace("steer = false", "steer = true")
        .replace("300ms", "1h");
    let sandbox = on_demand(&steered, "").unwrap();
    sandbox.run(&["systemctl", "stop", AGENT]).unwrap();
    log_more(&sandbox);
    // Listeners that were closed while no agent ran are nothing new, either.
    for _ in 0..5 {
        sandbox.run(&["systemctl", "start", "app.service"]).unwrap();
        sandbox.run(&["systemctl", "stop", "app.service"]).unwrap();
    }
    service::start_agent(&sandbox).unwrap();
    let walks = || sandbox.journal(AGENT).matches(WALKS).count();
    // To find the listeners and connections that are older than the watch.
    assert_eq!(walks(), 2, "{}", sandbox.journal(AGENT));
    for _ in 0..5 {
        sandbox.run(&["systemctl", "start", "app.service"]).unwrap();
        sandbox.run(&["systemctl", "stop", "app.service"]).unwrap();
    }
    let stopped = || (service::number(&sandbox, "test", "stops").ok()? == 5).then_some(());
    wait_for("the agent knows of the stops", service::SOON, stopped).unwrap();
    assert_eq!(walks(), 2, "{}", sandbox.journal(AGENT));
}

#[test]
fn a_reload_does_what_has_changed() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    let table = |index: u16, timeout: &str, backend: u16| {
        format!(
            "[service.t{index}]\nlisten = [\"127.0.0.1:{}\"]\nbackend = \"127.0.0.1:{backend}\"\n\
             unit = \"app{index}.service\"\nidle_timeout = \"{timeout}\"\nmin_uptime = \"0s\"\n",
            8000 + index
        )
    };
    for index in 0..8 {
        let options = format!("--listen 127.0.0.1:{}", 9000 + index);
        service::write_backend(&sandbox, &format!("app{index}.service"), &options).unwrap();
    }
    let names = ["t0", "t1", "t2", "t3", "t4", "t5", "t6", "t7"];
    let of = |timeout: &str, backend: u16| -> String {
        let others = (1..8).map(|index| table(index, "1h", 9000 + index));
        table(0, timeout, backend) + &others.collect::<String>()
    };
    service::write_config(&sandbox, &of("1h", 9000)).unwrap();
    service::reload(&sandbox, &names).unwrap();
    log_more(&sandbox);
    service::start_agent(&sandbox).unwrap();
    let agent = connections(&sandbox);
    let walks = || sandbox.journal(AGENT).matches(WALKS).count();
    let before = walks();
    let reload = |config: &str| {
        service::write_config(&sandbox, config).unwrap();
        calls(&sandbox, &agent, || {
            sandbox.run(&["ondemand", "reload"]).unwrap();
            // What follows from it is done when the next question is answered.
            service::statuses(&sandbox).unwrap();
        })
    };
    // Root renews the permissions, and that is all of a reload without a change.
    let same = reload(&of("1h", 9000));
    assert_eq!(same.len(), 1, "{same:?}");
    // Four units: two lists, and what only the units themselves have; the address rules of two.
    let timeout = reload(&of("500ms", 9000));
    assert!(timeout.len() < 40, "{} calls: {timeout:?}", timeout.len());
    assert_eq!(walks(), before, "{}", sandbox.journal(AGENT));
    // At another address there may be a listener already.
    reload(&of("500ms", 9100));
    assert_eq!(walks(), before + 2, "{}", sandbox.journal(AGENT));
    reload(&of("500ms", 9000));
    let front = std::net::SocketAddr::from(([127, 0, 0, 1], 8000));
    let get = || client::get(front, Request::default());
    sandbox.in_network(get).unwrap().unwrap();
    wait_state(&sandbox, "app0.service", "inactive").unwrap();
}
