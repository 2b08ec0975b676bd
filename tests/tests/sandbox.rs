//! The sandbox itself: what the other tests rely on.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use tests::{
    pause::think,
    require_sandbox,
    sandbox::{Cgroups, Sandbox},
    service::{SOON, stays},
    source_tree, wait_for,
};

/// Nothing of a sandbox with this name and this PID 1 is on the machine.
#[track_caller]
fn check_gone(name: &str, init: u32) {
    assert!(!Path::new("/proc").join(init.to_string()).exists());
    assert!(!Path::new("/run").join(name).exists());
    let trees = fs::read_dir("/sys/fs/cgroup").into_iter().flatten();
    for tree in trees.flatten() {
        assert!(!tree.path().join(name).exists(), "{:?}/{name}", tree.path());
    }
    assert!(!Path::new("/sys/fs/cgroup").join(name).exists());
}

#[test]
fn a_systemd_runs_inside_and_nothing_is_left_behind() -> Result<()> {
    require_sandbox!(Ok(()));
    let sandbox = Sandbox::boot()?;
    assert_eq!(sandbox.run(&["cat", "/proc/1/comm"])?, "systemd\n");
    let state = sandbox.run(&["systemctl", "is-system-running", "--wait"])?;
    assert_eq!(state, "running\n");
    sandbox.run(&["ls", "/sys/kernel/btf/vmlinux"])?;
    let groups = sandbox.command("cat").arg("/proc/self/cgroup").output()?;
    let groups = String::from_utf8_lossy(&groups.stdout).into_owned();
    assert!(groups.contains("0::/enter\n"), "{groups}");
    sandbox.run(&["touch", "/usr/bin/installed-inside", "/tmp/written-inside"])?;
    sandbox.run(&["mkdir", "/sys/fs/bpf/pinned-inside"])?;
    for place in [
        "/usr/bin/installed-inside",
        "/tmp/written-inside",
        "/sys/fs/bpf/pinned-inside",
    ] {
        assert!(!Path::new(place).exists(), "{place}");
    }
    let (name, init) = (sandbox.name.clone(), sandbox.init());
    drop(sandbox);
    check_gone(&name, init);
    Ok(())
}

#[test]
fn units_have_memory_accounted() -> Result<()> {
    require_sandbox!(Ok(()));
    let sandbox = Sandbox::boot_with(Cgroups::Accounted)?;
    let memory = sandbox.property("dbus.service", "MemoryCurrent")?;
    assert!(memory.parse::<u64>().with_context(|| memory.clone())? > 0);
    let (name, init) = (sandbox.name.clone(), sandbox.init());
    drop(sandbox);
    check_gone(&name, init);
    Ok(())
}

#[test]
fn what_failed_is_told() -> Result<()> {
    require_sandbox!(Ok(()));
    let sandbox = Sandbox::boot()?;
    let unit = "[Service]\nExecStart=/bin/sh -c 'echo very sad; exit 3'\n";
    sandbox.write("/etc/systemd/system/sad.service", unit)?;
    sandbox.run(&["systemctl", "daemon-reload"])?;
    sandbox.run(&["systemctl", "start", "sad"])?;
    wait_for("sad.service fails", SOON, || {
        (sandbox.property("sad.service", "ActiveState").ok()? == "failed").then_some(())
    })?;
    let journal = sandbox.journal("sad.service");
    assert!(journal.contains("very sad\n"), "{journal}");
    let error = sandbox.run(&["ls", "/no/such"]).unwrap_err().to_string();
    assert!(
        error.contains("/no/such") && error.contains("No such file"),
        "{error}"
    );
    Ok(())
}

#[test]
fn two_at_once_have_networks_of_their_own() -> Result<()> {
    require_sandbox!(Ok(()));
    let echo = |sandbox: &Sandbox| {
        sandbox.in_network(|| -> Result<String> {
            let listener = TcpListener::bind("127.0.0.1:7777")?;
            let mut client = TcpStream::connect("127.0.0.1:7777")?;
            client.write_all(sandbox.name.as_bytes())?;
            drop(client);
            let mut heard = String::new();
            listener.accept()?.0.read_to_string(&mut heard)?;
            Ok(heard)
        })?
    };
    let (one, two) = (Sandbox::boot()?, Sandbox::boot()?);
    assert_eq!(echo(&one)?, one.name);
    assert_eq!(echo(&two)?, two.name);
    Ok(())
}

#[test]
fn a_killed_command_takes_its_program_along() -> Result<()> {
    require_sandbox!(Ok(()));
    let sandbox = Sandbox::boot()?;
    let running = || {
        let pids = sandbox.run(&["sh", "-c", "pgrep -x sleep || true"]).ok()?;
        Some(pids.lines().count())
    };
    let mut child = sandbox.command("sleep").arg("1000").spawn()?;
    wait_for("sleep runs", SOON, || (running()? == 1).then_some(()))?;
    child.kill()?;
    child.wait()?;
    wait_for("sleep ends", SOON, || (running()? == 0).then_some(()))
}

#[test]
fn a_kept_one_outlives_its_owner_until_it_is_ended() -> Result<()> {
    require_sandbox!(Ok(()));
    let sandbox = Sandbox::boot_kept(Cgroups::Unified)?;
    let (name, init, end) = (sandbox.name.clone(), sandbox.init(), sandbox.end_command());
    drop(sandbox);
    let enter = Command::new(source_tree().join("tests/sandbox.sh"))
        .args([
            "enter",
            &format!("/run/{name}"),
            "systemctl",
            "is-active",
            "dbus",
        ])
        .output()?;
    let ended = Command::new("sh").args(["-c", &end]).status()?;
    assert_eq!(String::from_utf8_lossy(&enter.stdout), "active\n");
    assert!(ended.success(), "{end}");
    wait_for("the kept sandbox ends", SOON, || {
        (!Path::new("/run").join(&name).exists()).then_some(())
    })?;
    check_gone(&name, init);
    Ok(())
}

#[test]
fn a_signal_to_no_process_ends_nobody_outside() -> Result<()> {
    require_sandbox!(Ok(()));
    let sandbox = Sandbox::boot()?;
    // kill(2) takes it for the caller's process group.
    assert!(sandbox.run(&["sh", "-c", "kill -KILL 0"]).is_err());
    Ok(())
}

#[test]
fn a_unit_that_was_restarted_has_not_stayed() -> Result<()> {
    require_sandbox!(Ok(()));
    let sandbox = Sandbox::boot()?;
    let unit = "[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart=/bin/sleep 1000\n";
    sandbox.write("/etc/systemd/system/quiet.service", unit)?;
    sandbox.run(&["systemctl", "daemon-reload"])?;
    sandbox.run(&["systemctl", "start", "quiet"])?;
    stays(
        &sandbox,
        "quiet.service",
        "active",
        Duration::from_millis(300),
    );
    let seen = thread::scope(|scope| {
        let observer = scope.spawn(|| stays(&sandbox, "quiet.service", "active", SOON));
        while !observer.is_finished() {
            think(Duration::from_millis(300));
            // It is active again before this returns.
            let _ = sandbox.run(&["systemctl", "restart", "quiet"]);
        }
        observer.join().is_err()
    });
    assert!(seen);
    Ok(())
}
