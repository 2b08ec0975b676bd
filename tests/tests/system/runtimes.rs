//! Containers and machines: the examples that ship are right, and what this machine can run serves its clients. The others
//! are emulated: a program in the runtime's place does what it does to addresses, processes and exit statuses.

use std::{fs, path::Path, process::Command};

use serde_json::Value;
use tests::{
    built,
    client::{self, Request},
    require, require_long,
    sandbox::Sandbox,
    service::{self, SOON, front, status, wait_state},
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

fn example(name: &str) -> String {
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
    let config = example(config);
    let name = config.split_once("unit = \"").unwrap().1;
    let name = name.split('"').next().unwrap().to_owned();
    let text = match unit.ends_with(".container") {
        true => quadlet(&example(unit)),
        false => example(unit),
    };
    sandbox
        .write(&format!("/etc/systemd/system/{name}"), text)
        .unwrap();
    let config = config
        .lines()
        .filter(|line| !line.starts_with("idle_timeout") && !line.starts_with("#"))
        .collect::<Vec<_>>()
        .join("\n");
    let config = format!("{config}\nidle_timeout = \"300ms\"\nmin_uptime = \"0s\"\n");
    service::write_config(sandbox, &config).unwrap();
    service::reload(sandbox, &["wiki"]).unwrap();
    name
}

/// What `ondemand check` finds of the service.
fn findings(sandbox: &Sandbox, what: &str) -> Vec<(String, String)> {
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

/// Starts it for a client and lets it stop, some times. Its unit has not failed in between.
fn serves(sandbox: &Sandbox, unit: &str, rounds: usize) {
    for round in 0..rounds {
        let answer = sandbox
            .in_network(|| client::get(front(), Request::default()))
            .unwrap();
        answer.unwrap_or_else(|loss| {
            panic!("{round}: {loss}: {}", sandbox.journal(unit));
        });
        wait_for("it has stopped", SOON * 2, || {
            let state = sandbox.property(unit, "ActiveState").ok()?;
            assert_ne!(state, "failed", "{}", sandbox.journal(unit));
            (state == "inactive").then_some(())
        })
        .unwrap();
    }
    let status = status(sandbox, "wiki").unwrap();
    assert_eq!(status["starts"], rounds, "{status}");
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
fn program(sandbox: &Sandbox, path: &str, text: &str) {
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
/usr/bin/docker-proxy &
outside=$!
trap 'kill $inside $outside; rm -f /run/docker.pid; exit 143' TERM
echo $$ >/run/docker.pid
wait $inside
"#;
const FORWARDER: &str = r#"#!/usr/bin/python3
import asyncio
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
    await (await asyncio.start_server(both, "127.0.0.1", 18000)).serve_forever()
asyncio.run(main())
"#;

#[test]
fn a_container_of_docker_behind_its_forwarder() {
    require_sandbox!();
    require!(skip::missing(&["/usr/bin/python3", "bash"]));
    let sandbox = service::installed().unwrap();
    add_neighbour(&sandbox);
    program(&sandbox, "/usr/bin/docker", DOCKER);
    program(&sandbox, "/usr/bin/docker-proxy", FORWARDER);
    let daemon = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n";
    sandbox
        .write("/etc/systemd/system/docker.service", daemon)
        .unwrap();
    let unit = install(&sandbox, "docker.toml", "docker.service");
    service::start_agent(&sandbox).unwrap();
    serves(&sandbox, &unit, 3);
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

/// A tree with the test backend as /usr/bin/wiki, and the libraries that it needs.
fn tree(directory: &Path) {
    let backend = built("test-backend").unwrap();
    let output = Command::new("ldd").arg(&backend).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let libraries = text.split_whitespace().filter(|word| word.starts_with('/'));
    for (from, to) in libraries
        .map(|path| (Path::new(path), path))
        .chain([(backend.as_path(), "/usr/bin/wiki")])
    {
        let to = directory.join(to.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    }
}

#[test]
fn a_real_container_of_systemd_nspawn() {
    require_long!("boots containers");
    require_sandbox!();
    require!(skip::missing(&["systemd-nspawn", "ldd"]));
    let sandbox = service::installed().unwrap();
    let root = sandbox.path("/var/lib/machines/wiki");
    tree(&root);
    sandbox
        .write("/var/lib/machines/wiki/etc/os-release", "ID=wiki\n")
        .unwrap();
    fs::create_dir_all(root.join("usr/lib")).unwrap();
    let unit = install(&sandbox, "nspawn.toml", "nspawn.service");
    let path = format!("/etc/systemd/system/{unit}");
    let text =
        example("nspawn.service").replace("/usr/bin/wiki", "/usr/bin/wiki --listen 0.0.0.0:8000");
    sandbox.write(&path, text).unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    serves(&sandbox, &unit, 3);
}

#[test]
fn real_containers_of_podman() {
    require_long!("runs containers of podman");
    require_sandbox!();
    require!(skip::missing(&[
        "podman", "crun", "conmon", "iptables", "ldd", "tar"
    ]));
    for (config, example_unit, route) in [
        ("podman.toml", "podman.service", "native"),
        (
            "podman-published.toml",
            "podman-published.service",
            "proxied",
        ),
    ] {
        let sandbox = service::installed().unwrap();
        for (file, text) in [
            (
                "policy.json",
                "{\"default\":[{\"type\":\"insecureAcceptAnything\"}]}",
            ),
            (
                "storage.conf",
                "[storage]\ndriver = \"vfs\"\nrunroot = \"/run/containers\"\ngraphroot = \"/var/lib/containers\"\n",
            ),
            (
                "containers.conf",
                "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\nlog_driver = \"k8s-file\"\n\
                 [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n",
            ),
        ] {
            let path = format!("/etc/containers/{file}");
            sandbox.write(&path, text).unwrap();
        }
        let image = tempfile::tempdir().unwrap();
        tree(image.path());
        let archive = sandbox.path("/var/wiki.tar");
        let packed = Command::new("tar")
            .arg("-C")
            .arg(image.path())
            .arg("-cf")
            .arg(&archive)
            .arg(".")
            .status();
        assert!(packed.unwrap().success());
        // As the first process of a container it ends by SIGTERM only if it handles that (pid_namespaces(7)).
        let command =
            "CMD [\"/usr/bin/wiki\",\"--listen\",\"0.0.0.0:8000\",\"--stop-delay-ms\",\"1\"]";
        let import = [
            "podman",
            "import",
            "--change",
            command,
            "/var/wiki.tar",
            "localhost/wiki",
        ];
        sandbox.run(&import).unwrap();
        let unit = install(&sandbox, config, example_unit);
        // For a cgroup of the container's own crun raises a limit (RLIMIT_MEMLOCK), which not every root may.
        let path = format!("/etc/systemd/system/{unit}");
        let text = example(example_unit).replace("--cgroups=split", "--cgroups=disabled");
        sandbox.write(&path, text).unwrap();
        sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
        service::start_agent(&sandbox).unwrap();
        serves(&sandbox, &unit, 3);
        sandbox
            .run(&["ondemand", "hold", "wiki", "--start"])
            .unwrap();
        wait_for("it is used as expected", SOON, || {
            sandbox
                .in_network(|| client::get(front(), Request::default()))
                .ok()?
                .ok()?;
            let now = status(&sandbox, "wiki").ok()?;
            (now["route"] == route).then_some(())
        })
        .unwrap_or_else(|error| panic!("{error:#}: {}", status(&sandbox, "wiki").unwrap()));
        let found = findings(&sandbox, "runtime");
        assert!(found.iter().all(|(level, _)| level == "ok"), "{found:?}");
        sandbox.run(&["ondemand", "release", "wiki"]).unwrap();
        wait_state(&sandbox, &unit, "inactive").unwrap();
    }
}
