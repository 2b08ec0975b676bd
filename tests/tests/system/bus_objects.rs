//! `org.ondemand1` as desktops use it: all objects at once, methods on objects, signals for who listens.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
};

use serde_json::Value;
use tests::{
    built,
    client::{self, Request},
    sandbox::Sandbox,
    service::{self, CONFIG, front, on_demand, wait_state},
    wait_for,
};

use crate::{bus::check, require_sandbox};

const OBJECT: &str = "/org/ondemand1/service/test";

/// Calls a method and returns its reply.
fn call(sandbox: &Sandbox, words: &str) -> Value {
    let line = format!("busctl --json=short call org.ondemand1 {words}");
    let said = sandbox.run(&["sh", "-c", &line]).unwrap();
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{line}: {error}: {said}"))
}

fn of_service(sandbox: &Sandbox, method: &str) -> Value {
    call(sandbox, &format!("{OBJECT} org.ondemand1.Service {method}"))
}

const OBJECTS: &str = "/org/ondemand1 org.freedesktop.DBus.ObjectManager GetManagedObjects";

#[test]
fn objects_have_their_properties_and_methods() {
    require_sandbox!();
    let sandbox = on_demand(&CONFIG.replace("300ms", "1h"), "").unwrap();
    let all = call(&sandbox, OBJECTS);
    let listed = &all["data"][0][OBJECT]["org.ondemand1.Service"];
    assert_eq!(listed["Listen"]["data"][0], "127.0.0.1:8000", "{all}");
    assert_eq!(listed["IdleTimeoutReason"]["data"], "configured", "{all}");
    let properties =
        format!("{OBJECT} org.freedesktop.DBus.Properties GetAll s org.ondemand1.Service");
    let read = call(&sandbox, &properties);
    let names = |value: &Value| {
        let all = value.as_object().unwrap();
        let names = all
            .iter()
            .map(|(name, value)| (name.clone(), value["type"].clone()));
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(listed), names(&read["data"][0]));
    assert!(names(listed).len() > 20, "{listed}");

    assert_eq!(of_service(&sandbox, "Start")["data"][0], true);
    wait_state(&sandbox, "app.service", "active").unwrap();
    let mut held = sandbox
        .in_network(|| client::connect(front()).unwrap())
        .unwrap();
    let keep = Request {
        keep_alive: true,
        ..Request::default()
    };
    sandbox
        .in_network(|| client::ask(&mut held, keep).unwrap())
        .unwrap();
    let clients = of_service(&sandbox, "Clients");
    assert_eq!(clients["type"], "a(sstt)t", "{clients}");
    let client = held.local_addr().unwrap().to_string();
    assert_eq!(clients["data"][0][0][0], client.as_str(), "{clients}");
    of_service(&sandbox, "Hold t 0");
    assert_eq!(service::status(&sandbox, "test").unwrap()["held"], true);
    assert_eq!(of_service(&sandbox, "Release")["data"][0], true);

    // Every user may look, and only root may act.
    let nobody = "runuser -u nobody -- busctl call org.ondemand1";
    check(&sandbox, &format!("{nobody} {OBJECTS}"), 0, &[OBJECT]);
    let service = format!("{nobody} {OBJECT} org.ondemand1.Service");
    // They are not listed for each who asks, but soon again.
    let clients = format!("{service} Clients");
    let clients: Vec<&str> = clients.split(' ').collect();
    wait_for("they are listed", service::SOON, || {
        sandbox.run(&clients).ok()
    })
    .unwrap();
    for method in ["Start", "Stop", "Release", "Hold t 0", "Inhibit s why"] {
        check(&sandbox, &format!("{service} {method}"), 1, &["denied"]);
    }
    check(
        &sandbox,
        &format!("busctl call org.ondemand1 {OBJECT} org.ondemand1.Service Stop"),
        1,
        &["connection"],
    );
    drop(held);
    // The proxy's connection may be a moment older than its client's end.
    let stop = ["busctl", "call", "org.ondemand1", OBJECT];
    let stop = [&stop[..], &["org.ondemand1.Service", "Stop"]].concat();
    wait_for("it is stopped", service::SOON, || sandbox.run(&stop).ok()).unwrap();
    wait_state(&sandbox, "app.service", "inactive").unwrap();
}

/// A client that has read all objects, and stays.
fn listener(sandbox: &Sandbox) -> Child {
    let program = built("test-stranger").unwrap();
    sandbox.install(&program, "/usr/bin/test-stranger").unwrap();
    let mut child = sandbox
        .command("test-stranger")
        .args(["--method", "GetManagedObjects", "--stays"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "ok 1\n");
    child
}

#[test]
fn signals_about_everything_are_made_for_who_listens() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    let mut monitor = sandbox
        .command("sh")
        .args([
            "-c",
            "exec busctl monitor --json=short --match \"type='signal',sender='org.ondemand1'\" >/run/monitor 2>/dev/null",
        ])
        .spawn()
        .unwrap();
    let count = |words: &[&str]| {
        let text = std::fs::read_to_string(sandbox.path("/run/monitor")).unwrap_or_default();
        let hit = |line: &&str| words.iter().all(|word| line.contains(word));
        text.lines().filter(hit).count()
    };
    let heard = |words: &[&str], times: usize| {
        let hear = || (count(words) >= times).then_some(());
        wait_for(&format!("{words:?} on the bus"), service::SOON, hear).unwrap();
    };
    // A hold has a signal for everyone: when one is heard, the monitor listens.
    wait_for("the monitor listens", service::SOON, || {
        sandbox.run(&["ondemand", "hold", "test"]).ok()?;
        sandbox.run(&["ondemand", "release", "test"]).ok()?;
        (count(&["HeldUntil"]) > 0).then_some(())
    })
    .unwrap();
    let run = |times: usize| {
        sandbox
            .in_network(|| client::get(front(), Request::default()))
            .unwrap()
            .unwrap();
        heard(&["\"Stopped\"", "\"idle\""], times);
    };
    let details = ["PropertiesChanged", OBJECT, "\"AcceptedConnections\""];
    run(1);
    assert_eq!(count(&details), 0, "nobody listens");

    let mut listener = listener(&sandbox);
    run(2);
    heard(&details, 1);
    heard(&["PropertiesChanged", OBJECT, "\"IdleSinceUSec\""], 1);
    heard(&["PropertiesChanged", OBJECT, "\"Stops\""], 1);
    drop(listener.stdin.take());
    listener.wait().unwrap();

    // The bus tells of its end, before the next client comes or soon after.
    let mut times = 2;
    wait_for("nobody is told any more", service::SOON, || {
        let before = count(&details);
        times += 1;
        run(times);
        (count(&details) == before).then_some(())
    })
    .unwrap();

    // Services come and go.
    let other = CONFIG.replace("app.", "other.").replace("80", "90");
    service::write_backend(&sandbox, "other.service", "").unwrap();
    service::write_config(
        &sandbox,
        &format!("[service.test]\n{CONFIG}\n[service.other]\n{other}"),
    )
    .unwrap();
    sandbox.run(&["ondemand", "reload"]).unwrap();
    heard(&["\"InterfacesAdded\"", "service/other", "\"Listen\""], 1);
    service::write_config(&sandbox, &format!("[service.test]\n{CONFIG}")).unwrap();
    sandbox.run(&["ondemand", "reload"]).unwrap();
    heard(&["\"InterfacesRemoved\"", "service/other"], 1);
    monitor.kill().unwrap();
    monitor.wait().unwrap();
}
