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

/// Many services, so that those who are up are asked whom they pin, and not each application.
const MANY: u16 = 120;

/// What PID 1 is asked for is read from the files only where they say the same.
#[test]
fn many_services_are_checked_with_few_questions() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    let mut config = String::new();
    for index in 0..MANY {
        let unit = format!("app{index}.service");
        let (front, back) = (8000 + index, 9000 + index);
        service::write_backend(&sandbox, &unit, &format!("--listen 127.0.0.1:{back}")).unwrap();
        config += &format!(
            "[service.t{index}]\nlisten = [\"127.0.0.1:{front}\"]\nbackend = \"127.0.0.1:{back}\"\n\
             unit = \"{unit}\"\nsteer = true\n\n"
        );
    }
    let write = |name: &str, text: &str| {
        sandbox
            .write(&format!("/etc/systemd/system/{name}"), text)
            .unwrap();
    };
    write(
        "needs.service",
        "[Unit]\nRequires=app1.service\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n",
    );
    write(
        "app2.service.d/60-own.conf",
        "[Unit]\nStopWhenUnneeded=no\n",
    );
    write(
        "app3.service.d/rules.conf",
        "[Service]\nIPAddressDeny=192.0.2.0/24\n",
    );
    write(
        "app4.service",
        "[Service]\nExecStart=/bin/sleep 1h\nSlice=walled.slice\n",
    );
    write("walled.slice", "[Slice]\nIPAddressDeny=192.0.2.0/24\n");
    write(
        "ondemand-t5.service.d/user.conf",
        "[Service]\nUser=missing\n",
    );
    write("ondemand-t6.socket.d/late.conf", "[Socket]\nBacklog=7\n");
    service::write_config(&sandbox, &config).unwrap();
    check(
        &sandbox,
        "systemctl daemon-reload; systemctl start needs.service",
        0,
        &[],
    );
    let all = [
        "app1.service is never stopped while these units need it: needs.service",
        "app2.service has StopWhenUnneeded=no",
        "IPAddressDeny= of app3.service would drop",
        "IPAddressDeny= of walled.slice would drop",
        "ondemand-t5.service cannot run: its user missing does not exist",
    ];
    check(&sandbox, "ondemand check", 1, &all);
    let stale = "systemd has not loaded all of them";
    let of_stale = |count: usize| {
        let script = format!("ondemand check | grep -c '{stale}'");
        check(
            &sandbox,
            &script,
            i32::from(count == 0),
            &[&format!("{count}\n")],
        );
    };
    of_stale(0);
    // What has changed since, in each way.
    check(
        &sandbox,
        "rm -r /etc/systemd/system/ondemand-t6.socket.d",
        0,
        &[],
    );
    of_stale(1);
    check(&sandbox, "systemctl daemon-reload", 0, &[]);
    of_stale(0);
    write("ondemand-t7.target.d/x.conf", "[Unit]\nDescription=x\n");
    check(&sandbox, "touch /etc/systemd/system/app8.service", 0, &[]);
    write("app3.service.d/rules.conf", "[Service]\n");
    of_stale(3);
    check(&sandbox, "systemctl daemon-reload", 0, &[]);
    of_stale(0);

    tests::require!(tests::skip::missing(&["strace"]));
    let count = "strace -f -e trace=sendmsg -o /root/trace ondemand check >/root/found; grep -c sendmsg /root/trace";
    let sent = sandbox.run(&["sh", "-c", count]).unwrap();
    let sent: u32 = sent.trim().parse().unwrap();
    // Some 200 are about the host, and those who are up.
    let most = 400 + 2 * u32::from(MANY);
    println!("{sent} messages for {MANY} services");
    assert!(sent < most, "{sent} messages for {MANY} services");
}
