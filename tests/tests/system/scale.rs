//! What a quiet agent costs.

use std::{fs, thread, time::Duration};

use tests::{sandbox::Sandbox, service};

use crate::require_sandbox;

/// The n-th field of proc_pid_stat(5), from 1.
fn stat(pid: &str, field: usize) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The second field is the name in brackets, which may hold spaces.
    let rest = text.rsplit_once(')').unwrap().1;
    rest.split_whitespace()
        .nth(field - 3)
        .unwrap()
        .parse()
        .unwrap()
}

/// The process of the agent, as this machine sees it.
fn agent(sandbox: &Sandbox) -> String {
    let inside = sandbox.property("ondemand.service", "MainPID").unwrap();
    host_pid(sandbox.init(), &inside)
}

/// The time that the agent uses in this span, in clock ticks of 10 ms.
pub fn agent_ticks(sandbox: &Sandbox, span: Duration) -> u64 {
    let pid = agent(sandbox);
    let ticks = || stat(&pid, 14) + stat(&pid, 15);
    let before = ticks();
    thread::sleep(span);
    ticks() - before
}

#[test]
fn a_hundred_quiet_services() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    let mut config = String::new();
    let mut names = Vec::new();
    for index in 0..100 {
        let (front, back) = (10_000 + index, 11_000 + index);
        let unit = format!("app{index}.service");
        service::write_backend(&sandbox, &unit, &format!("--listen 127.0.0.1:{back}")).unwrap();
        config += &format!(
            "[service.t{index}]\nlisten = [\"127.0.0.1:{front}\"]\nbackend = \"127.0.0.1:{back}\"\n\
             unit = \"{unit}\"\nidle_timeout = \"10min\"\nsteer = false\n\n"
        );
        names.push(format!("t{index}"));
    }
    service::write_config(&sandbox, &config).unwrap();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    service::reload(&sandbox, &names).unwrap();
    // Half of them are up, and quiet.
    for index in 0..50 {
        sandbox
            .run(&["systemctl", "start", &format!("app{index}.service")])
            .unwrap();
    }
    service::start_agent(&sandbox).unwrap();
    let pid = agent(&sandbox);
    let span = Duration::from_secs(10);
    let used = agent_ticks(&sandbox, span);
    // A clock tick of accounting is 10 ms: 2 of them in 10 s are 0.2 % of a core.
    eprintln!("{used} ticks of 10 ms in {span:?}");
    assert!(used <= 2, "{used} ticks of 10 ms in {span:?}");

    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let resident: u64 = status
        .lines()
        .find_map(|line| {
            line.strip_prefix("VmRSS:")?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .unwrap();
    eprintln!("{resident} kB resident");
    assert!(resident < 25_000, "{resident} kB resident");
    // Page faults of children that were waited for: there was none.
    assert_eq!(stat(&pid, 11), 0, "the agent has started processes");
}

/// The id that this machine gives to a process of the sandbox (NSpid of proc_pid_status(5)).
fn host_pid(init: u32, inside: &str) -> String {
    let namespace = fs::read_link(format!("/proc/{init}/ns/pid")).unwrap();
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .find(|pid| {
            fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|ns| ns == namespace)
                && fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| {
                    status
                        .lines()
                        .find_map(|line| line.strip_prefix("NSpid:"))
                        .is_some_and(|ids| ids.split_whitespace().last() == Some(inside))
                })
        })
        .unwrap()
}
