//! What `ondemand check` says of mistakes.

use tests::{
    sandbox::Sandbox,
    service::{self, CONFIG, on_demand, wait_state},
};

use crate::{bus::check, require_sandbox};

fn configure(sandbox: &Sandbox, unit: &str) {
    let config = CONFIG.replace("app.service", unit);
    service::write_config(sandbox, &format!("[service.test]\n{config}")).unwrap();
    check(sandbox, "systemctl daemon-reload", 0, &[]);
}

#[test]
fn each_mistake_has_its_next_step() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    // The host alone, with no file and with a wrong one.
    let host = ["Linux", "cgroup2", "No such file", "answers over D-Bus"];
    check(&sandbox, "ondemand check", 2, &host);
    check(
        &sandbox,
        "ondemand check --json",
        2,
        &["\"what\": \"config\"", "\"what\": \"btf\""],
    );
    let dotted = format!("[service.wiki.example]\n{CONFIG}");
    service::write_config(&sandbox, &dotted).unwrap();
    let words = ["[service.\\\"wiki.example\\\"]".replace('\\', "")];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    check(&sandbox, "ondemand check", 2, &[words[0], "Linux"]);

    // A name that is nearly right.
    service::write_backend(&sandbox, "app.service", "").unwrap();
    configure(&sandbox, "apps.service");
    let near = ["apps.service does not exist", "did you mean app.service?"];
    check(&sandbox, "ondemand check", 1, &near);

    // A unit that has failed.
    let text = "[Service]\nExecStart=/bin/sh -c 'echo the disk is gone >&2; exit 3'\n";
    sandbox
        .write("/etc/systemd/system/broken.service", text)
        .unwrap();
    configure(&sandbox, "broken.service");
    check(&sandbox, "systemctl start broken.service", 0, &[]);
    wait_state(&sandbox, "broken.service", "failed").unwrap();
    sandbox.run(&["journalctl", "--sync"]).unwrap();
    let failed = ["broken.service has failed: the disk is gone"];
    check(&sandbox, "ondemand check", 1, &failed);

    // Whose port it is: a service's, and a socket unit's.
    configure(&sandbox, "app.service");
    service::write_backend(&sandbox, "holder.service", "--listen 127.0.0.1:8000").unwrap();
    let socket = "[Socket]\nListenStream=127.0.0.1:8080\nService=holder.service\n";
    sandbox
        .write("/etc/systemd/system/other.socket", socket)
        .unwrap();
    check(&sandbox, "systemctl daemon-reload", 0, &[]);
    check(&sandbox, "systemctl start holder.service", 0, &[]);
    let listens = "until ss -ltn | grep -q 127.0.0.1:8000; do sleep 0.05; done";
    check(&sandbox, &format!("timeout 20 sh -c '{listens}'"), 0, &[]);
    let holder = ["of holder.service", "stop holder.service, or choose"];
    check(&sandbox, "ondemand check", 1, &holder);
    check(&sandbox, "systemctl stop holder.service", 0, &[]);
    let other = CONFIG
        .replace("8000", "8080")
        .replace("8080\"\nunit", "8001\"\nunit");
    service::write_config(&sandbox, &format!("[service.test]\n{other}")).unwrap();
    check(&sandbox, "systemctl daemon-reload", 0, &[]);
    check(&sandbox, "systemctl start other.socket", 0, &[]);
    let socket = [
        "is used by other.socket",
        "systemctl disable --now other.socket",
    ];
    check(&sandbox, "ondemand check", 1, &socket);
}

#[test]
fn an_mptcp_listener_is_reported() {
    require_sandbox!();
    let enabled = std::fs::read_to_string("/proc/sys/net/mptcp/enabled");
    if !enabled.is_ok_and(|enabled| enabled.trim() == "1") {
        return tests::skip::part("MPTCP is not enabled on this kernel");
    }
    let steered = CONFIG.replace("steer = false", "steer = true");
    let sandbox = on_demand(&steered, "").unwrap();
    let python = "import signal, socket\\ns = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)\\n\
                  s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\\n\
                  s.bind((\"127.0.0.1\", 8080))\\ns.listen(64)\\nsignal.pause()\\n";
    let install = format!("printf '{python}' >/usr/bin/mptcp.py");
    check(&sandbox, &install, 0, &[]);
    let unit = "[Service]\nExecStart=/usr/bin/python3 /usr/bin/mptcp.py\n";
    sandbox
        .write("/etc/systemd/system/app.service", unit)
        .unwrap();
    check(&sandbox, "systemctl daemon-reload", 0, &[]);
    check(&sandbox, "ondemand hold test", 0, &[]);
    check(&sandbox, "systemctl start app.service", 0, &[]);
    let listens = "until ss -ltn | grep -q 127.0.0.1:8080; do sleep 0.05; done";
    check(&sandbox, &format!("timeout 20 sh -c '{listens}'"), 0, &[]);
    let words = ["an MPTCP socket", "GODEBUG=multipathtcp=0"];
    check(&sandbox, "ondemand check", 0, &words);
}
