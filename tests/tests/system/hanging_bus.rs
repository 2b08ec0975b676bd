//! A bus, or a PID 1, that does not answer and does not fail either: the first client waits two seconds for it at
//! most.

use std::time::Duration;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tests::{
    client::{self, Answer, Loss, Request},
    patience,
    sandbox::Sandbox,
    service::{self, CONFIG, SOON, wait_journal, wait_state},
    wait_for,
};

use crate::require_sandbox;

/// What a client waits for the bus at most, and what the rest of a start takes on a busy machine.
fn most() -> Duration {
    Duration::from_secs(2) + Duration::from_secs(1) * patience()
}

/// A process that is stopped as long as this lives.
struct Stopped(Pid);

impl Stopped {
    /// A process of the sandbox, as this machine sees it.
    fn new(pid: u32) -> Self {
        let pid = Pid::from_raw(pid.try_into().unwrap());
        kill(pid, Signal::SIGSTOP).unwrap();
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // The sandbox, and the process with it, may have ended.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// The process of a unit, as this machine sees it: the last number of `NSpid` is that inside.
fn outside(sandbox: &Sandbox, unit: &str) -> u32 {
    let inside = sandbox.main_pid(unit).unwrap().to_string();
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let here = namespace(&sandbox.init().to_string()).unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().into_string().ok());
    let is_it = |pid: &String| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        ids.and_then(|ids| ids.split_whitespace().next_back()) == Some(&inside)
            && namespace(pid).as_ref() == Some(&here)
    };
    pids.find(is_it).unwrap().parse().unwrap()
}

fn ask(sandbox: &Sandbox) -> Result<Answer, Loss> {
    sandbox
        .in_network(|| client::get(service::front(), Request::default()))
        .unwrap()
}

/// A first client of an application with these options, while the bus hangs.
#[track_caller]
fn cold_start(options: &str, user: &str, least: Duration) {
    let sandbox = service::on_demand(CONFIG, options).unwrap();
    if !user.is_empty() {
        let place = "/etc/systemd/system/app.service.d/user.conf";
        sandbox
            .write(place, format!("[Service]\nUser={user}\n"))
            .unwrap();
        sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    }
    let stopped = Stopped::new(outside(&sandbox, "dbus.service"));
    let answer = ask(&sandbox).unwrap();
    drop(stopped);
    let took = answer.took;
    println!("{options:?} {user:?}: {took:?}");
    assert!(took < least + most(), "{options}, {user}: {took:?}");
    let words = "systemd does not answer, relying on the listener alone";
    let journal = wait_journal(&sandbox, "ondemand-test.service", words, 1).unwrap();
    assert_eq!(journal.matches(words).count(), 1, "{journal}");
    // Everything works again.
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    ask(&sandbox).unwrap();
}

#[test]
fn a_bus_that_hangs_holds_the_first_client_two_seconds() {
    require_sandbox!();
    cold_start("", "", Duration::ZERO);
    // One that listens later waits for nothing else.
    cold_start("--start-delay-ms 2500", "", Duration::from_millis(2500));
    // Whose listener it is was asked, too.
    cold_start("", "nobody", Duration::ZERO);
}

#[test]
fn an_application_that_is_up_is_used_while_the_bus_hangs() {
    require_sandbox!();
    let sandbox = service::on_demand(&CONFIG.replace("300ms", "1h"), "").unwrap();
    sandbox.run(&["systemctl", "start", "app.service"]).unwrap();
    wait_for("it listens", SOON, || {
        let sockets = sandbox.run(&["ss", "-Hltn", "sport = :8080"]).ok()?;
        (!sockets.is_empty()).then_some(())
    })
    .unwrap();
    let _stopped = Stopped::new(outside(&sandbox, "dbus.service"));
    let took = ask(&sandbox).unwrap().took;
    assert!(took < most(), "{took:?}");
    // Later clients of the same proxy wait for nobody.
    let took = ask(&sandbox).unwrap().took;
    assert!(took < most() / 4, "{took:?}");
}

#[test]
fn a_pid_1_that_hangs_holds_the_first_client_two_seconds() {
    require_sandbox!();
    let sandbox = service::on_demand(CONFIG, "--start-delay-ms 3000").unwrap();
    let took = std::thread::scope(|scope| {
        let client = scope.spawn(|| ask(&sandbox));
        wait_state(&sandbox, "ondemand-test.service", "active").unwrap();
        wait_state(&sandbox, "app.service", "active").unwrap();
        let _stopped = Stopped::new(sandbox.init());
        client.join().unwrap().unwrap().took
    });
    assert!(took < Duration::from_secs(3) + most(), "{took:?}");
    wait_state(&sandbox, "app.service", "inactive").unwrap();
}
