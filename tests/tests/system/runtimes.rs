//! Containers and machines: the examples that ship are right, and serve their clients with a program in the runtime's place that
//! does what it does to addresses, processes and exit statuses. `runtimes_real.rs` and `libvirt.rs` have the runtimes themselves.

use std::{fs, thread};

use serde_json::Value;
use tests::{
    client::{self, Request},
    require,
    sandbox::Sandbox,
    service::{self, SOON, front, number, status},
    skip, source_tree, wait_for,
};

use crate::{require_sandbox, stranger::add_neighbour};

/// An example's configuration and its unit, and what `check` says of it.
const EXAMPLES: [(&str, &str, &str); 6] = [
    (
        "podman.toml",
        "podman.service",
        "podman in the host's network: clients meet it natively",
    ),
    (
        "podman-published.toml",
        "podman-published.service",
        "(published: 127.0.0.1:18000)",
    ),
    (
        "quadlet.toml",
        "quadlet.container",
        "a Quadlet of podman with a network of its own",
    ),
    (
        "docker.toml",
        "docker.service",
        "a container of Docker with a network of its own",
    ),
    (
        "nspawn.toml",
        "nspawn.service",
        "systemd-nspawn in the host's network",
    ),
    (
        "machine.toml",
        "machine.service",
        "a virtual machine with a network of its own",
    ),
];

pub fn example(name: &str) -> String {
    let path = source_tree().join("units/examples").join(name);
    fs::read_to_string(path).unwrap()
}

/// What podman's generator makes of a Quadlet (podman-systemd.unit(5)): Debian 12's podman has none.
fn quadlet(text: &str) -> String {
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or_default()
    };
    let (_, service) = text.split_once("[Service]").unwrap();
    format!(
        "[Unit]\nSourcePath=/etc/containers/systemd/wiki.container\nRequiresMountsFor=%t/containers\n[Service]{service}\
         Environment=PODMAN_SYSTEMD_UNIT=%n\nKillMode=mixed\nDelegate=yes\nType=notify\nNotifyAccess=all\n\
         SyslogIdentifier=%N\nExecStop=/usr/bin/podman rm -v -f -i --cidfile=%t/%N.cid\n\
         ExecStart=/usr/bin/podman run --name=systemd-%N --cidfile=%t/%N.cid --replace --rm --cgroups=split \
         --sdnotify=conmon -d --publish {} {}\n",
        value("PublishPort="),
        value("Image=")
    )
}

/// Puts an example in its place, with short times.
fn install(sandbox: &Sandbox, config: &str, unit: &str) -> String {
    let text = match unit.ends_with(".container") {
        true => quadlet(&example(unit)),
        false => example(unit),
    };
    install_unit(sandbox, config, &text)
}

/// The same with this text of its unit.
pub fn install_unit(sandbox: &Sandbox, config: &str, text: &str) -> String {
    let name = unit_of(config);
    sandbox
        .write(&format!("/etc/systemd/system/{name}"), text)
        .unwrap();
    configure(sandbox, config);
    name
}

/// The unit of an example's configuration.
pub fn unit_of(config: &str) -> String {
    let config = example(config);
    let name = config.split_once("unit = \"").unwrap().1;
    name.split('"').next().unwrap().to_owned()
}

/// Brings an example's configuration into force, with short times.
pub fn configure(sandbox: &Sandbox, config: &str) {
    let config = example(config);
    let config = config
        .lines()
        .filter(|line| !line.starts_with("idle_timeout") && !line.starts_with("#"))
        .collect::<Vec<_>>()
        .join("\n");
    let config = format!("{config}\nidle_timeout = \"300ms\"\nmin_uptime = \"0s\"\n");
    service::write_config(sandbox, &config).unwrap();
    service::reload(sandbox, &["wiki"]).unwrap();
}

/// What `ondemand check` finds of the service.
pub fn findings(sandbox: &Sandbox, what: &str) -> Vec<(String, String)> {
    let text = sandbox
        .run(&["sh", "-c", "ondemand check --json || true"])
        .unwrap();
    let all: Vec<Value> = serde_json::from_str(&text).unwrap();
    let words = |it: &Value| {
        let level = it["level"].as_str().unwrap().to_owned();
        (level, format!("{} {}", it["message"], it["next"]))
    };
    all.iter()
        .filter(|it| it["what"] == what)
        .map(words)
        .collect()
}

/// The clients of each start.
const CLIENTS: usize = 3;

/// Starts it for some clients at once and lets it stop, some times. Its unit has not failed in between.
pub fn serves(sandbox: &Sandbox, unit: &str, rounds: u64) {
    let before = number(sandbox, "wiki", "starts").unwrap();
    for round in 0..rounds {
        let answers = sandbox.in_network(|| {
            let ask = || client::get(front(), Request::default());
            thread::scope(|scope| {
                let clients = [(); CLIENTS].map(|()| scope.spawn(ask));
                clients.map(|client| client.join().unwrap())
            })
        });
        for answer in answers.unwrap() {
            answer.unwrap_or_else(|loss| {
                panic!("{round}: {loss}: {}", sandbox.journal(unit));
            });
        }
        wait_for("it has stopped", SOON * 2, || {
            let state = sandbox.property(unit, "ActiveState").ok()?;
            assert_ne!(state, "failed", "{}", sandbox.journal(unit));
            (state == "inactive").then_some(())
        })
        .unwrap_or_else(|error| {
            let status = sandbox.run(&["ondemand", "status", "wiki"]);
            panic!("{error:#}: {status:?}\n{}", sandbox.journal(unit))
        });
    }
    let status = status(sandbox, "wiki").unwrap();
    assert_eq!(status["starts"], before + rounds, "{status}");
    assert_eq!(status["stops_by_reason"]["failed"], 0, "{status}");
}

#[test]
fn the_examples_are_what_check_asks_for() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    for (config, unit, words) in EXAMPLES {
        let name = install(&sandbox, config, unit);
        let found = findings(&sandbox, "runtime");
        assert_eq!(found.len(), 1, "{config}: {found:?}");
        let (level, text) = &found[0];
        assert!(level == "ok" && text.contains(words), "{config}: {found:?}");
        // Its drop-in is there: the generator has taken it.
        let stops = sandbox.property(&name, "StopWhenUnneeded").unwrap();
        assert_eq!(stops, "yes", "{config}");
    }
    let name = install(&sandbox, "docker.toml", "compose.service");
    let compose = findings(&sandbox, "runtime");
    assert!(
        compose[0].1.contains("a compose project"),
        "{name}: {compose:?}"
    );
}

/// A program of this text in the sandbox.
pub(crate) fn program(sandbox: &Sandbox, path: &str, text: &str) {
    sandbox.write(path, text).unwrap();
    sandbox.run(&["chmod", "755", path]).unwrap();
}

/// `docker run` as its daemon does it: the container in another network, the published port with a process that carries
/// each connection there, and the status of an application that SIGTERM ends.
const DOCKER: &str = r#"#!/bin/bash
case $1 in
  stop) kill -TERM "$(cat /run/docker.pid)"; while [ -e /run/docker.pid ]; do read -rt 0.02 <> <(:); done; exit 0 ;;
esac
ip netns exec other /usr/bin/test-backend --listen 10.77.0.2:8000 --unready 503 --unready-ms 700 &
inside=$!
published=127.0.0.1:18000:8000
while [ $# -gt 0 ]; do [ "$1" = -p ] && published=$2; shift; done
/usr/bin/docker-proxy "${published%:*}" &
outside=$!
trap 'kill $inside $outside; rm -f /run/docker.pid; exit 143' TERM
echo $$ >/run/docker.pid
wait $inside
"#;
const FORWARDER: &str = r#"#!/usr/bin/python3
import asyncio, sys
host, _, port = sys.argv[1].rpartition(":")
async def one(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
async def both(reader, writer):
    there = await asyncio.open_connection("10.77.0.2", 8000)
    await asyncio.gather(one(reader, there[1]), one(there[0], writer), return_exceptions=True)
async def main():
    await (await asyncio.start_server(both, host or "0.0.0.0", int(port))).serve_forever()
asyncio.run(main())
"#;

/// A sandbox with a docker that runs one container.
pub(crate) fn with_docker() -> Sandbox {
    let sandbox = service::installed().unwrap();
    add_neighbour(&sandbox);
    program(&sandbox, "/usr/bin/docker", DOCKER);
    program(&sandbox, "/usr/bin/docker-proxy", FORWARDER);
    let daemon = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n";
    sandbox
        .write("/etc/systemd/system/docker.service", daemon)
        .unwrap();
    sandbox
}

#[test]
fn a_container_of_docker_behind_its_forwarder() {
    require_sandbox!();
    require!(skip::missing(&["/usr/bin/python3", "bash"]));
    let sandbox = with_docker();
    let unit = install(&sandbox, "docker.toml", "docker.service");
    service::start_agent(&sandbox).unwrap();
    serves(&sandbox, &unit, if skip::is_long() { 3 } else { 1 });
    let status = status(&sandbox, "wiki").unwrap();
    assert_eq!(status["route"], "proxied", "{status}");
    // Without the status of the example each stop would be a failure.
    let text = example("docker.service").replace("SuccessExitStatus=143", "");
    let path = format!("/etc/systemd/system/{unit}");
    sandbox.write(&path, text).unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    let found = findings(&sandbox, "runtime");
    let warned = |(level, text): &(String, String)| {
        level == "warning" && text.contains("SuccessExitStatus=143")
    };
    assert!(found.iter().any(warned), "{found:?}");
}

/// `virsh` with one machine, which has an address of its own, and goes down in order in a moment.
const VIRSH: &str = r#"#!/bin/bash
case $1 in
  start) systemctl start inside.service ;;
  shutdown) systemctl stop --no-block inside.service ;;
  destroy) touch /run/destroyed; systemctl kill --signal=KILL inside.service ;;
  domstate) systemctl is-active inside.service | grep -q '^inactive' && echo "shut off" || echo running ;;
esac
"#;
const INSIDE: &str = "[Service]\nExecStart=/bin/ip netns exec other /usr/bin/test-backend --listen 10.77.0.2:8000 \
                      --start-delay-ms 700 --stop-delay-ms 300\n";

#[test]
fn a_virtual_machine_goes_down_in_order() {
    require_sandbox!();
    require!(skip::missing(&["bash"]));
    let sandbox = service::installed().unwrap();
    add_neighbour(&sandbox);
    program(&sandbox, "/usr/bin/virsh", VIRSH);
    sandbox
        .write("/etc/systemd/system/inside.service", INSIDE)
        .unwrap();
    let daemon = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n";
    sandbox
        .write("/etc/systemd/system/libvirtd.service", daemon)
        .unwrap();
    let text = example("machine.service").replace("sleep 1", "sleep 0.1");
    let unit = install_unit(&sandbox, "machine.toml", &text);
    let config = fs::read_to_string(sandbox.path("/etc/ondemand/ondemand.toml")).unwrap();
    let config = config
        .replace("192.168.122.10", "10.77.0.2")
        .replace("0.0.0.0:80\"", "127.0.0.1:8000\"");
    sandbox
        .write("/etc/ondemand/ondemand.toml", config)
        .unwrap();
    service::reload(&sandbox, &[]).unwrap();
    sandbox
        .run(&["systemctl", "restart", "ondemand-wiki.socket"])
        .unwrap();
    service::start_agent(&sandbox).unwrap();
    serves(&sandbox, &unit, if skip::is_long() { 3 } else { 1 });
    assert!(!sandbox.path("/run/destroyed").exists(), "it was cut");
    let machine = sandbox.property("inside.service", "ActiveState").unwrap();
    assert_eq!(machine, "inactive");
}
