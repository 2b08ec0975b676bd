//! `ondemand adopt` of an application that is not where its clients connect: a container with a published port, and what was
//! moved aside.

use std::{fs, path::Path};

use serde_json::Value;
use tests::{
    built, require,
    sandbox::Sandbox,
    service::{self, SOON, status, wait_state},
    skip, wait_for,
};

use crate::{
    adopt::{install_section, is_there, output, said, served},
    require_sandbox,
    runtimes::{example, program, with_docker},
};

const UNIT: &str = "wiki-docker.service";
const PATH: &str = "/etc/systemd/system/wiki-docker.service";

fn refused(sandbox: &Sandbox, words: &[&str]) -> String {
    let output = output(sandbox, &[&["ondemand", "adopt"], words].concat());
    let said = said(&output);
    assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
    said
}

/// Makes the times of the service short, and sees it stopped, and started again by a client.
fn stops_and_starts(sandbox: &Sandbox, name: &str, unit: &str) {
    let file = format!("/etc/ondemand/conf.d/{name}.toml");
    let text = fs::read_to_string(sandbox.path(&file)).unwrap();
    let short = text.replace("\"10min\"", "\"300ms\"\nmin_uptime = \"0s\"");
    sandbox.write(&file, short).unwrap();
    // Before a proxy was started with the longer time.
    sandbox.run(&["ondemand", "apply"]).unwrap();
    served(sandbox);
    wait_state(sandbox, unit, "inactive").unwrap();
    served(sandbox);
    wait_for("it is stopped again", SOON * 2, || {
        let now = status(sandbox, name).ok()?;
        (now["state"] == "inactive" && now["starts"].as_u64()? > 0).then_some(())
    })
    .unwrap();
}

/// What the message says is done to the letter, and is all that there is to do.
#[test]
fn a_published_port_is_moved_by_the_words_of_the_message() {
    require_sandbox!();
    require!(skip::missing(&["/usr/bin/python3", "bash"]));
    let sandbox = with_docker();
    let text = example("docker.service").replace("127.0.0.1:18000:8000", "8000:8000");
    sandbox.write(PATH, text).unwrap();
    install_section(&sandbox, UNIT, "multi-user.target");
    let enable = ["systemctl", "enable", "--now", UNIT];
    sandbox.run(&enable).unwrap();
    served(&sandbox);
    // Its sockets are not the unit's own on a host with a Docker.
    let list = sandbox.run(&["ondemand", "adopt", "--json"]).unwrap();
    let list: Vec<Value> = serde_json::from_str(&list).unwrap();
    let entry = list.iter().find(|entry| entry["unit"] == UNIT).unwrap();
    let why = entry["not_proposed"].as_str().unwrap();
    assert!(why.contains("says what to move"), "{entry}");

    let said = refused(&sandbox, &[UNIT, "--yes"]);
    assert!(!is_there(&sandbox, "/etc/ondemand"));
    served(&sandbox);
    let code: Vec<&str> = said.split('`').collect();
    let at = code.iter().position(|it| it.ends_with(": write ")).unwrap();
    let (new, old) = (code[at + 1], code[at + 3]);
    assert_eq!((old, new), ("8000:8000", "127.0.0.1:18000:8000"), "{said}");
    let text = fs::read_to_string(sandbox.path(PATH)).unwrap();
    sandbox.write(PATH, text.replace(old, new)).unwrap();
    let command = code[at + 5];
    assert!(command.contains("&& ondemand adopt"), "{said}");
    sandbox
        .run(&["sh", "-c", &format!("{command} --yes")])
        .unwrap();

    stops_and_starts(&sandbox, "wiki-docker", UNIT);
    let now = status(&sandbox, "wiki-docker").unwrap();
    assert_eq!(now["route"], "proxied", "{now}");
    let output = output(&sandbox, &["ondemand", "abandon", "wiki-docker", "--yes"]);
    let said = self::said(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("move it back there"), "{said}");
    wait_state(&sandbox, UNIT, "active").unwrap();

    // Once more, with what it says of one that is moved already.
    let said = refused(&sandbox, &[UNIT, "--yes"]);
    let command = said
        .split('`')
        .find(|it| it.starts_with("ondemand "))
        .unwrap();
    sandbox
        .run(&["sh", "-c", &format!("{command} --yes")])
        .unwrap();
    served(&sandbox);
}

/// podman's monitor is in the unit's cgroup whether or not it holds a port.
#[test]
fn containers_are_known_by_who_holds_their_port() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    let monitor = "/usr/bin/conmon";
    sandbox
        .install(&built("test-backend").unwrap(), monitor)
        .unwrap();
    sandbox
        .install(Path::new("/bin/sleep"), "/opt/conmon")
        .unwrap();
    let podman = "#!/bin/sh\n/opt/conmon infinity &\nexec test-backend --listen 0.0.0.0:8000\n";
    program(&sandbox, "/usr/bin/podman", podman);
    for (unit, start) in [
        ("native", "/usr/bin/podman run --network=host wiki"),
        ("script", "/bin/sh -c 'exec conmon --listen 0.0.0.0:8002'"),
    ] {
        let text = format!("[Service]\nExecStart={start}\nSuccessExitStatus=143\n");
        let path = format!("/etc/systemd/system/{unit}.service");
        sandbox.write(&path, text).unwrap();
        sandbox.run(&["systemctl", "start", unit]).unwrap();
    }
    served(&sandbox);
    let said = wait_for("its port is open", SOON, || {
        let said = refused(&sandbox, &["script", "--yes"]);
        said.contains("conmon").then_some(said)
    })
    .unwrap();
    for part in [
        "0.0.0.0:8002 (conmon)",
        "-p 127.0.0.1:18002:PORT",
        "--listen 0.0.0.0:8002 --backend 127.0.0.1:18002",
    ] {
        assert!(said.contains(part), "{said}");
    }
    sandbox
        .run(&["ondemand", "adopt", "native", "--yes"])
        .unwrap();
    served(&sandbox);
    assert_eq!(status(&sandbox, "native").unwrap()["route"], "native");
}

/// An application that was moved aside by hand.
#[test]
fn what_was_moved_aside_is_adopted_with_both_addresses() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    service::write_backend(&sandbox, "app.service", "--listen 127.0.0.1:8080").unwrap();
    install_section(&sandbox, "app.service", "multi-user.target");
    sandbox
        .run(&["systemctl", "enable", "--now", "app.service"])
        .unwrap();
    let pid = sandbox.main_pid("app.service").unwrap();
    let words = |listen| {
        [
            "app",
            "--yes",
            "--listen",
            listen,
            "--backend",
            "127.0.0.1:8080",
        ]
    };
    // It is ready by the time that this comes back.
    let busy = refused(&sandbox, &words("0.0.0.0:8080"));
    assert!(
        busy.contains("is in use") || busy.contains("overlap"),
        "{busy}"
    );

    let ablated = built("ondemand-ablated").unwrap();
    sandbox
        .install(&ablated, "/usr/bin/ondemand-ablated")
        .unwrap();
    sandbox.write("/run/dies-at", "enabled").unwrap();
    let killed = output(
        &sandbox,
        &[
            &[
                "/usr/bin/env",
                "ONDEMAND_DIES_AT=/run/dies-at",
                "ondemand-ablated",
                "adopt",
            ],
            &words("127.0.0.1:8000")[..],
        ]
        .concat(),
    );
    assert!(
        !killed.status.success() && !is_there(&sandbox, "/run/dies-at"),
        "{}",
        said(&killed)
    );
    // The next one knows both by what was written.
    sandbox.run(&["ondemand", "adopt", "app", "--yes"]).unwrap();
    assert_eq!(sandbox.main_pid("app.service").unwrap(), pid);
    stops_and_starts(&sandbox, "app", "app.service");
    sandbox
        .run(&["ondemand", "abandon", "app", "--yes"])
        .unwrap();
    wait_state(&sandbox, "app.service", "active").unwrap();
}
