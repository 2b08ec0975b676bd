//! Front sockets: who may connect to a path, and what the proxy behind it sees.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::SocketAddr,
    os::unix::net::UnixStream,
    process::Output,
};

use tests::{
    client::{self, Request},
    sandbox::Sandbox,
    service::{CONFIG, SOON, on_demand, wait_state},
};

use crate::require_sandbox;

/// A client that prints the first line of the answer, or its error's number.
const CLIENT: &str = "
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.settimeout(20)
try:
    s.connect(sys.argv[1])
except OSError as error:
    print('errno', error.errno)
    sys.exit(1)
s.sendall(b'GET / HTTP/1.0\\r\\nHost: x\\r\\n\\r\\n')
print(s.recv(100).split(b'\\r')[0].decode())
";
const FRONT: &str = "/run/front.sock";
const SERVED: &str = "HTTP/1.1 200 OK";

/// `CONFIG` between Unix sockets.
fn between_paths(backend: &str, lines: &str) -> String {
    CONFIG
        .replace("\"127.0.0.1:8000\"", &format!("{FRONT:?}"))
        .replace("\"127.0.0.1:8080\"", &format!("{backend:?}"))
        + lines
}

fn shell(sandbox: &Sandbox, script: &str) -> Output {
    sandbox.command("sh").args(["-c", script]).output().unwrap()
}

/// What a client of this user gets.
fn ask_as(sandbox: &Sandbox, uid: u32) -> String {
    sandbox.write("/client.py", CLIENT).unwrap();
    let script =
        format!("setpriv --reuid={uid} --regid={uid} --clear-groups python3 /client.py {FRONT}");
    let output = shell(sandbox, &script);
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A client of root's that has its answer and stays, so that proxy and application do.
fn hold(sandbox: &Sandbox) -> UnixStream {
    let mut stream = UnixStream::connect(sandbox.path(FRONT)).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    stream.read_exact(&mut [0]).unwrap();
    stream
}

/// The proxy that runs sees the backend's directory, its own, the bus, its program and libraries; and
/// makes no socket of the IP families.
fn is_confined(sandbox: &Sandbox) {
    let unit = "ondemand-test.service";
    let root = format!("/proc/{}/root", sandbox.main_pid(unit).unwrap());
    let sees = |path: &str| sandbox.run(&["stat", &format!("{root}{path}")]).is_ok();
    for path in [
        "/run/app/b.sock",
        "/run/dbus/system_bus_socket",
        "/usr/bin/ondemand",
    ] {
        assert!(sees(path), "{path}");
    }
    for path in [
        "/etc/hostname",
        "/etc/ondemand/ondemand.toml",
        "/run/front.sock",
        "/run/ondemand",
        "/usr/bin/sh",
        "/var/lib",
        "/home",
        "/root",
    ] {
        assert!(!sees(path), "the proxy sees {path}");
    }
    let families = sandbox.property(unit, "RestrictAddressFamilies").unwrap();
    let mut families: Vec<&str> = families.split(' ').collect();
    families.sort_unstable();
    assert_eq!(families, ["AF_NETLINK", "AF_UNIX"]);
    // The filter is in force, for a program with the same directives, which has the right to.
    let properties = [
        "--property=RestrictAddressFamilies=AF_UNIX AF_NETLINK",
        "--property=NoNewPrivileges=yes",
    ];
    let program = "import socket; socket.socket(socket.AF_UNIX); socket.socket(socket.AF_INET)";
    let run = [
        &["systemd-run", "--wait", "--pipe", "--quiet"][..],
        &properties,
        &["python3", "-c", program],
    ]
    .concat();
    let error = sandbox.run(&run).unwrap_err();
    assert!(
        format!("{error:#}").contains("Address family not supported"),
        "{error:#}"
    );
    let pid = sandbox.main_pid(unit).unwrap();
    let status = sandbox
        .run(&["cat", &format!("/proc/{pid}/status")])
        .unwrap();
    assert!(status.contains("\nSeccomp:\t2\n"), "{status}");
}

#[test]
fn a_private_unix_socket_stays_private() {
    require_sandbox!();
    // The application's own socket: nobody but its owner may connect.
    let config = between_paths("/run/app/b.sock", "");
    let sandbox = on_demand(&config, "--listen /run/app/b.sock").unwrap();
    let private = "[Service]\nRuntimeDirectory=app\nUser=nobody\nUMask=0177\n";
    sandbox
        .write("/etc/systemd/system/app.service.d/private.conf", private)
        .unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    const EACCES: &str = "errno 13";
    assert_eq!(ask_as(&sandbox, 1234), EACCES);
    assert_eq!(
        sandbox
            .property("app.service", "ActiveEnterTimestamp")
            .unwrap(),
        "",
        "a stranger started it"
    );
    assert_eq!(ask_as(&sandbox, 0), SERVED);
    let held = hold(&sandbox);
    is_confined(&sandbox);
    let own = sandbox.run(&["stat", "--format=%a %U", "/run/app/b.sock"]);
    assert_eq!(own.unwrap().trim(), "600 nobody");
    drop(held);
    let path = sandbox.path("/etc/ondemand/ondemand.toml");
    let text = fs::read_to_string(path).unwrap();
    for (mode, uid, expected) in [
        ("socket_mode = \"0666\"", 1234, SERVED),
        (
            "socket_mode = \"0660\"\nsocket_group = \"www-data\"",
            33,
            SERVED,
        ),
        (
            "socket_mode = \"0660\"\nsocket_group = \"www-data\"",
            1235,
            EACCES,
        ),
        ("socket_user = \"www-data\"", 33, SERVED),
    ] {
        sandbox
            .write("/etc/ondemand/ondemand.toml", format!("{text}\n{mode}\n"))
            .unwrap();
        sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
        sandbox
            .run(&["systemctl", "restart", "ondemand-test.socket"])
            .unwrap_or_else(|error| {
                panic!("{error:#}\n{}", sandbox.journal("ondemand-test.socket"))
            });
        assert_eq!(ask_as(&sandbox, uid), expected, "{mode}");
        let held = hold(&sandbox);
        let check = shell(&sandbox, "ondemand check");
        drop(held);
        let check = String::from_utf8_lossy(&check.stdout).into_owned();
        // Of a group or all: more than the application lets in.
        let is_wider = mode.starts_with("socket_mode");
        let warns = check.contains("is open to more users than /run/app/b.sock (0600)");
        assert_eq!(warns, is_wider, "{check}");
    }
}

#[test]
fn an_address_that_comes_later() {
    require_sandbox!();
    // TEST-NET-1, RFC 5737.
    let late = SocketAddr::from(([192, 0, 2, 7], 8000));
    let config = CONFIG.replace("127.0.0.1:8000", &late.to_string());
    let sandbox = on_demand(&config, "").unwrap();
    let state = sandbox.property("ondemand-test.socket", "ActiveState");
    assert_eq!(state.unwrap(), "active");
    let check = || -> Vec<(String, String)> {
        let output = shell(&sandbox, "ondemand check --json");
        let found: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
        let text =
            |finding: &serde_json::Value, key: &str| finding[key].as_str().unwrap().to_owned();
        let listen = found.iter().filter(|finding| finding["what"] == "listen");
        listen
            .map(|finding| (text(finding, "level"), text(finding, "message")))
            .collect()
    };
    let found = check();
    assert!(
        matches!(&found[..], [(level, message)]
            if level == "warning" && message.contains("192.0.2.7 is not an address of this host yet")),
        "{found:?}"
    );
    let ask = || {
        sandbox
            .in_network(|| client::get(late, Request::default()))
            .unwrap()
    };
    assert!(ask().is_err(), "nobody has the address");
    sandbox
        .run(&["ip", "addr", "add", "192.0.2.7/32", "dev", "lo"])
        .unwrap();
    ask().unwrap();
    let found = check();
    assert!(
        matches!(&found[..], [(level, _)] if level == "ok"),
        "{found:?}"
    );
}

#[test]
fn a_directory_that_is_newer_than_the_proxy() {
    require_sandbox!();
    // Made by the application, long after its proxy has started, and removed at its end.
    let config = between_paths("/run/late/b.sock", "");
    let sandbox = on_demand(&config, "--listen /run/late/b.sock").unwrap();
    let late = "[Service]\nExecStartPre=/bin/sleep 1\nExecStartPre=/bin/mkdir /run/late\n\
                ExecStopPost=/bin/rm -r /run/late\n";
    sandbox
        .write("/etc/systemd/system/app.service.d/late.conf", late)
        .unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    for round in 1..=3 {
        assert_eq!(ask_as(&sandbox, 0), SERVED, "round {round}");
        // One more process for the wait, which ends with the first look at the directory.
        let journal = sandbox.journal("ondemand-test.service");
        let again = journal.matches("is newer than this process").count();
        assert_eq!(again, round, "{journal}");
        wait_state(&sandbox, "app.service", "inactive").unwrap();
    }
    // An application that listens where its proxy can never look: one more try, then the usual end.
    let hidden = "[Service]\nTemporaryFileSystem=/run/late\nExecStartPre=\nExecStopPost=\n";
    sandbox
        .write("/etc/systemd/system/app.service.d/late.conf", hidden)
        .unwrap();
    let path = sandbox.path("/etc/ondemand/ondemand.toml");
    let text = fs::read_to_string(path).unwrap();
    let short = text.replace("start_timeout = \"10s\"", "start_timeout = \"2s\"");
    sandbox.write("/etc/ondemand/ondemand.toml", short).unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    assert_ne!(ask_as(&sandbox, 0), SERVED);
    let journal = sandbox.journal("ondemand-test.service");
    assert_eq!(
        journal.matches("is newer than this process").count(),
        4,
        "{journal}"
    );
}

#[test]
fn a_program_that_no_proxy_can_execute() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    let program = || {
        let output = shell(&sandbox, "ondemand check --json");
        let found: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
        let finding = found
            .into_iter()
            .find(|it| it["what"] == "program")
            .unwrap();
        (output.status.code(), finding)
    };
    let (_, found) = program();
    assert_eq!(found["level"], "ok", "{found}");
    let generator = "/usr/lib/systemd/system-generators/ondemand-generator";
    for (place, why) in [
        ("/root/bin", "/root is hidden"),
        ("/var/tmp", "/var/tmp is hidden"),
        (
            "/opt/private",
            "no permission to execute or enter /opt/private",
        ),
    ] {
        let moved = format!(
            "umask 077; mkdir -p /opt && chmod 755 /opt && mkdir -p {place} && \
             cp /usr/bin/ondemand {place}/ondemand && chmod 755 {place}/ondemand && \
             ln -sf {place}/ondemand {generator}"
        );
        assert!(shell(&sandbox, &moved).status.success());
        let (code, found) = program();
        assert_eq!(
            (code, &found["level"]),
            (Some(1), &"error".into()),
            "{found}"
        );
        assert!(found["message"].as_str().unwrap().contains(why), "{found}");
        let next = found["next"].as_str().unwrap();
        assert!(
            next.starts_with(&format!("install -m 755 {place}/ondemand /usr/bin/")),
            "{next}"
        );
        // It complains, where nothing takes the kernel's log on its standard error, and writes the units.
        let run = shell(
            &sandbox,
            &format!(
                "unshare --mount sh -c 'mkdir /units; {generator} /units /units /units; ls /units; rm -r /units'"
            ),
        );
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        let wrote = String::from_utf8_lossy(&run.stdout).into_owned();
        assert!(
            said.contains("no proxy can run") && said.contains(why),
            "{said}"
        );
        assert!(wrote.contains("ondemand-test.service"), "{wrote}");
    }
}
