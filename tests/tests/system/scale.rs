//! What a quiet agent costs.

use std::{fs, time::Duration};

use tests::{pause::idle_for, process::Process, require_long, sandbox::Sandbox, service};

use crate::require_sandbox;

/// The CPU time that the agent has used.
pub fn agent_used(sandbox: &Sandbox) -> Duration {
    let path = sandbox.path("/sys/fs/cgroup/system.slice/ondemand.service/cpu.stat");
    let text = fs::read_to_string(path).unwrap();
    let micros = text
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "));
    Duration::from_micros(micros.unwrap().parse().unwrap())
}

/// The CPU time that the agent uses in this span.
pub fn agent_cpu(sandbox: &Sandbox, span: Duration) -> Duration {
    let before = agent_used(sandbox);
    idle_for(span);
    agent_used(sandbox) - before
}

#[test]
fn a_hundred_quiet_services() {
    require_sandbox!();
    require_long!("a hundred services for seconds");
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
    let agent = Process::agent(&sandbox).unwrap();
    // Page faults of children that were waited for. What systemd 257 became the agent in may have
    // had some.
    let faults_of_children = || agent.stat(11).unwrap();
    let before = faults_of_children();
    let span = Duration::from_secs(10);
    let used = agent_cpu(&sandbox, span);
    eprintln!("{used:?} of CPU in {span:?}");
    // 0.2 % of a core.
    assert!(used <= span / 500, "{used:?} of CPU in {span:?}");

    // The pages of its program's file, which debug information and every new library make more, are no memory that it
    // takes from anybody.
    let memory = agent.memory().unwrap();
    let [resident, own] = [memory.resident, memory.anonymous].map(|bytes| bytes as u64 / 1024);
    eprintln!("{resident} kB resident, {own} kB of them its own");
    // Of these, 4 MB are what the loader relocates in a debug build.
    assert!(own < 12_000, "{own} kB of its own");
    // The limits of its unit are several times what it has.
    let limit = |name: &str| -> u64 {
        let value = sandbox.property("ondemand.service", name).unwrap();
        value.parse().unwrap_or_else(|_| panic!("{name}={value}"))
    };
    let pid = sandbox.main_pid("ondemand.service").unwrap();
    let count = |directory: &str| {
        let names = sandbox.run(&["ls", &format!("/proc/{pid}/{directory}")]);
        names.unwrap().lines().count() as u64
    };
    let (threads, descriptors) = (count("task"), count("fd"));
    eprintln!("{threads} threads, {descriptors} descriptors");
    assert!(resident << 10 < limit("MemoryMax") / 8);
    assert!(threads < limit("TasksMax") / 8, "{threads} threads");
    assert!(descriptors < limit("LimitNOFILE") / 8, "{descriptors}");
    let after = faults_of_children();
    assert_eq!(before, after, "the agent has started processes");
}
