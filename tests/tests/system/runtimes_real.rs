//! The examples of containers with the runtimes themselves, where this machine has them and can run them.

use std::{fs, path::Path, process::Command};

use tests::{
    built,
    client::{self, Request},
    require, require_long,
    sandbox::{Cgroups, Sandbox},
    service::{self, SOON, front, status, wait_state},
    skip, wait_for,
};

use crate::{
    require_sandbox,
    runtimes::{configure, example, findings, install_unit, serves, unit_of},
    stranger::add_neighbour,
};

/// Podman's generator of units, since version 4.4.
const QUADLET: &str = "/usr/libexec/podman/quadlet";
/// What runs a container. As its first process it ends by SIGTERM only if it handles that (pid_namespaces(7)), and then as JVMs
/// do, with a status that systemd calls a failure. It takes a moment until it listens.
const COMMAND: &str = r#"CMD ["/usr/bin/wiki","--listen","0.0.0.0:8000","--start-delay-ms","300","--stop-delay-ms","1","--stop-status","143"]"#;

/// A tree with the test backend as /usr/bin/wiki, and the libraries that it needs.
pub fn tree(directory: &Path) {
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

/// Makes an image of it, with podman or Docker.
fn import(sandbox: &Sandbox, runtime: &str, image: &str) {
    let files = tempfile::tempdir().unwrap();
    tree(files.path());
    let archive = sandbox.path("/var/wiki.tar");
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(files.path()).arg("-cf").arg(&archive);
    assert!(tar.arg(".").status().unwrap().success());
    let import = [
        runtime,
        "import",
        "--change",
        COMMAND,
        "/var/wiki.tar",
        image,
    ];
    sandbox.run(&import).unwrap();
}

/// The example of systemd-nspawn: its unit, and the text of that.
fn install_nspawn(sandbox: &Sandbox) -> (String, String) {
    let root = sandbox.path("/var/lib/machines/wiki");
    tree(&root);
    sandbox
        .write("/var/lib/machines/wiki/etc/os-release", "ID=wiki\n")
        .unwrap();
    fs::create_dir_all(root.join("usr/lib")).unwrap();
    let text = example("nspawn.service")
        .replace("/usr/bin/wiki\n", "/usr/bin/wiki --listen 0.0.0.0:8000\n");
    (install_unit(sandbox, "nspawn.toml", &text), text)
}

#[test]
fn a_real_container_of_systemd_nspawn() {
    require_long!("boots containers");
    require_sandbox!();
    require!(skip::missing(&["systemd-nspawn", "ldd"]));
    let sandbox = service::installed().unwrap();
    let (unit, native) = install_nspawn(&sandbox);
    service::start_agent(&sandbox).unwrap();
    serves(&sandbox, &unit, 3);
    is_used(&sandbox, &unit, "native");
    // With a network of its own.
    add_neighbour(&sandbox);
    let path = format!("/etc/systemd/system/{unit}");
    let own = native.replace(
        "--quiet",
        "--quiet --network-namespace-path=/run/netns/other",
    );
    sandbox.write(&path, own).unwrap();
    let file = "/etc/ondemand/ondemand.toml";
    let config = fs::read_to_string(sandbox.path(file)).unwrap();
    // The wildcard stands for each address.
    let config = config.replace("0.0.0.0:8000", "127.0.0.1:8000");
    let config = config + "backend = \"10.77.0.2:8000\"\nsteer = false\n";
    sandbox.write(file, config).unwrap();
    sandbox.run(&["ondemand", "apply"]).unwrap();
    serves(&sandbox, &unit, 3);
    is_used(&sandbox, &unit, "proxied");
}

#[test]
fn the_memory_of_a_container_is_that_of_its_unit() {
    require_long!("boots a container");
    require_sandbox!();
    require!(skip::missing(&["systemd-nspawn", "ldd"]));
    let sandbox = Sandbox::boot_with(Cgroups::Accounted).unwrap();
    service::prepare(&sandbox).unwrap();
    let (unit, _) = install_nspawn(&sandbox);
    service::start_agent(&sandbox).unwrap();
    sandbox
        .run(&["ondemand", "hold", "wiki", "--start"])
        .unwrap();
    let memory = sandbox.property(&unit, "MemoryCurrent").unwrap();
    if memory.parse::<u64>().is_err() {
        skip::say("memory is not accounted here");
        return;
    }
    let grow = Request {
        query: "grow=64",
        ..Request::default()
    };
    let answer = sandbox.in_network(|| client::get(front(), grow));
    answer.unwrap().unwrap();
    wait_for("its memory is seen", SOON, || {
        let bytes = status(&sandbox, "wiki").ok()?["memory_bytes"].as_u64()?;
        (bytes > 64 << 20).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}: {}", status(&sandbox, "wiki").unwrap()));
}

/// A sandbox with an image of podman's, this program under it, and who makes its cgroups.
fn with_podman(program: &str, manager: &str) -> Sandbox {
    let sandbox = service::installed().unwrap();
    // Whatever this machine has of cgroups: no controller is needed.
    let containers = format!(
        "[containers]\npids_limit = 0\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\nlog_driver = \"k8s-file\"\n\
         [engine]\nruntime = \"{program}\"\ncgroup_manager = \"{manager}\"\nevents_logger = \"file\"\n"
    );
    for (file, text) in [
        (
            "policy.json",
            "{\"default\":[{\"type\":\"insecureAcceptAnything\"}]}",
        ),
        (
            "storage.conf",
            "[storage]\ndriver = \"vfs\"\nrunroot = \"/run/containers\"\ngraphroot = \"/var/lib/containers\"\n",
        ),
        ("containers.conf", &containers),
    ] {
        let path = format!("/etc/containers/{file}");
        sandbox.write(&path, text).unwrap();
    }
    import(&sandbox, "podman", "localhost/wiki");
    sandbox
}

/// Its clients come this way, and `check` has nothing against it.
pub fn is_used(sandbox: &Sandbox, unit: &str, route: &str) {
    sandbox
        .run(&["ondemand", "hold", "wiki", "--start"])
        .unwrap();
    wait_for("it is used as expected", SOON, || {
        sandbox
            .in_network(|| client::get(front(), Request::default()))
            .ok()?
            .ok()?;
        let now = status(sandbox, "wiki").ok()?;
        (now["route"] == route).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}: {}", status(sandbox, "wiki").unwrap()));
    let found = findings(sandbox, "runtime");
    assert!(found.iter().all(|(level, _)| level == "ok"), "{found:?}");
    sandbox.run(&["ondemand", "release", "wiki"]).unwrap();
    wait_state(sandbox, unit, "inactive").unwrap();
}

#[test]
fn real_containers_of_podman() {
    require_long!("runs containers of podman");
    require_sandbox!();
    require!(skip::missing(&[
        "podman", "runc", "crun", "conmon", "iptables", "ldd", "tar"
    ]));
    let examples = [
        ("podman.toml", "podman.service", "native"),
        (
            "podman-published.toml",
            "podman-published.service",
            "proxied",
        ),
    ];
    // In the unit's cgroup, as the examples have it; in a scope of systemd's, as without that; in one of podman's own; in that of
    // podman itself, which only crun knows.
    let layouts = [
        ("--cgroups=split", "runc", "cgroupfs"),
        ("--cgroups=enabled", "runc", "systemd"),
        ("--cgroups=enabled", "runc", "cgroupfs"),
        ("--cgroups=disabled", "crun", "cgroupfs"),
    ];
    for (config, unit, route) in examples {
        for (layout, program, manager) in layouts {
            let sandbox = with_podman(program, manager);
            let text = example(unit).replace("--cgroups=split", layout);
            let unit = install_unit(&sandbox, config, &text);
            service::start_agent(&sandbox).unwrap();
            serves(&sandbox, &unit, 3);
            is_used(&sandbox, &unit, route);
            println!("{unit}: {layout} with {program}, by {manager}, {route}");
        }
    }
}

#[test]
fn first_clients_of_a_container_see_nothing_but_its_answers() {
    require_long!("starts a container fifty times");
    require_sandbox!();
    require!(skip::missing(&[
        "podman", "runc", "conmon", "iptables", "ldd", "tar"
    ]));
    let sandbox = with_podman("runc", "cgroupfs");
    let text = example("podman-published.service");
    let unit = install_unit(&sandbox, "podman-published.toml", &text);
    service::start_agent(&sandbox).unwrap();
    serves(&sandbox, &unit, 50);
}

#[test]
fn a_real_quadlet() {
    require_long!("runs a container of podman");
    require_sandbox!();
    require!(skip::missing(&["podman", "runc", "conmon", "ldd", "tar"]));
    if !Path::new(QUADLET).exists() {
        skip::say("this podman has no Quadlets; cargo xtask test --long --root, with Debian 13");
        return;
    }
    let sandbox = with_podman("runc", "cgroupfs");
    let generator = "/usr/lib/systemd/system-generators/podman-system-generator";
    sandbox.install(Path::new(QUADLET), generator).unwrap();
    let quadlet = example("quadlet.container");
    sandbox
        .write("/etc/containers/systemd/wiki.container", quadlet)
        .unwrap();
    configure(&sandbox, "quadlet.toml");
    let unit = unit_of("quadlet.toml");
    let path = sandbox.property(&unit, "FragmentPath").unwrap();
    assert!(path.starts_with("/run/systemd/generator/"), "{path}");
    service::start_agent(&sandbox).unwrap();
    serves(&sandbox, &unit, 3);
    is_used(&sandbox, &unit, "proxied");
}

#[test]
fn real_containers_of_docker() {
    require_long!("runs containers of Docker");
    require_sandbox!();
    require!(skip::missing(&[
        "dockerd",
        "docker",
        "docker-compose",
        "containerd",
        "iptables",
        "ldd",
        "tar"
    ]));
    let sandbox = service::installed().unwrap();
    let daemon = r#"{"storage-driver": "vfs", "exec-opts": ["native.cgroupdriver=cgroupfs"]}"#;
    sandbox.write("/etc/docker/daemon.json", daemon).unwrap();
    sandbox
        .run(&["systemctl", "start", "docker.service"])
        .unwrap_or_else(|error| panic!("{error:#}: {}", sandbox.journal("docker.service")));
    import(&sandbox, "docker", "wiki");
    let run = example("docker.service");
    let start = run.replace(
        "run --rm --name=wiki -p 127.0.0.1:18000:8000 wiki",
        "start -a wiki",
    );
    assert_ne!(run, start);
    let compose = "services:\n  wiki:\n    image: wiki\n    ports: [\"127.0.0.1:18000:8000\"]\n";
    sandbox.write("/srv/wiki/compose.yaml", compose).unwrap();
    let has_plugin = sandbox.run(&["docker", "compose", "version"]).is_ok();
    let project = match has_plugin {
        true => example("compose.service"),
        false => example("compose.service").replace("docker compose", "docker-compose"),
    };
    for (way, text) in [("run", run), ("start -a", start), ("compose", project)] {
        if way == "start -a" {
            let create = "docker create --name=wiki -p 127.0.0.1:18000:8000 wiki";
            let create: Vec<&str> = create.split(' ').collect();
            sandbox.run(&create).unwrap();
        }
        let unit = install_unit(&sandbox, "docker.toml", &text);
        sandbox
            .run(&["systemctl", "restart", "ondemand.service"])
            .unwrap();
        serves(&sandbox, &unit, 3);
        is_used(&sandbox, &unit, "proxied");
        println!("Docker: {way}");
        if way == "start -a" {
            sandbox.run(&["docker", "rm", "wiki"]).unwrap();
        }
    }
    // Without the status of the example each stop would be a failure.
    let text = example("docker.service").replace("SuccessExitStatus=143", "");
    let unit = install_unit(&sandbox, "docker.toml", &text);
    sandbox
        .run(&["systemctl", "reload", "ondemand.service"])
        .unwrap();
    sandbox
        .in_network(|| client::get(front(), Request::default()))
        .unwrap()
        .unwrap();
    wait_state(&sandbox, &unit, "failed").unwrap();
    let found = findings(&sandbox, "runtime");
    let warned = |(level, text): &(String, String)| {
        level == "warning" && text.contains("SuccessExitStatus=143")
    };
    assert!(found.iter().any(warned), "{found:?}");
}
