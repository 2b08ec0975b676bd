//! An agent whose clock is not the kernel's: in a time namespace it is behind, or ahead.

use std::{
    fs::File,
    io::Read as _,
    process::{Child, Stdio},
    time::Duration,
};

use tests::{
    client::{Kept, Request},
    pause::{load_for, observe_for},
    require_long,
    sandbox::Sandbox,
    service::{self, SOON, front, stays, wait_state},
    wait_for,
};

use crate::{
    faults::{run_of_app, shell, under_load},
    require_sandbox,
    steering::{CONFIG, ask_with},
};

/// An agent that is not a unit, with its log in a file.
struct Agent {
    child: Child,
    said: std::path::PathBuf,
}

impl Agent {
    /// `seconds`: how much its CLOCK_MONOTONIC and CLOCK_BOOTTIME are ahead.
    fn start(sandbox: &Sandbox, seconds: i32) -> Self {
        let said = sandbox.path(&format!("/run/said{seconds}"));
        let mut command = sandbox.command("unshare");
        command
            .args(["--time", "--monotonic", &seconds.to_string()])
            .args(["--boottime", &seconds.to_string()])
            .args(["--fork", "--kill-child", "ondemand", "agent"])
            .stderr(File::create(&said).unwrap())
            .stdout(Stdio::null());
        let agent = Self {
            child: command.spawn().unwrap(),
            said,
        };
        agent.wait_said("watching 1 service");
        agent
    }

    fn said(&self) -> String {
        let mut text = String::new();
        File::open(&self.said)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        text
    }

    #[track_caller]
    fn wait_said(&self, words: &str) {
        wait_for(&format!("the agent logs {words:?}"), SOON, || {
            self.said().contains(words).then_some(())
        })
        .unwrap_or_else(|error| panic!("{error}: {}", self.said()));
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_agent_whose_clock_is_behind_or_ahead() {
    require_sandbox!();
    require_long!("history_clock has steps of the clock");
    let sandbox = service::installed().unwrap();
    service::write_backend(&sandbox, "app.service", "").unwrap();
    let config = CONFIG.replace("1h", "300ms");
    service::write_config(&sandbox, &format!("[service.test]\n{config}")).unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    let ask = || ask_with(&sandbox, front(), Request::default()).unwrap();

    // Everything that it sees lies in its future: it stops nothing until its clock has reached
    // these moments, and the next periodic look.
    let behind = Agent::start(&sandbox, -4);
    ask();
    behind.wait_said("its use is unknown: the clock ran backwards");
    let first = run_of_app(&sandbox);
    stays(&sandbox, "app.service", "active", Duration::from_secs(1)); // several idle timeouts
    assert_eq!(run_of_app(&sandbox), first);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    drop(behind);

    // Everything was long ago: open connections still count, and no client is lost.
    let ahead = Agent::start(&sandbox, 86_400);
    ask();
    let mut kept = sandbox
        .in_network(|| Kept::connect(front()))
        .unwrap()
        .unwrap();
    let second = run_of_app(&sandbox);
    under_load(&sandbox, Duration::from_millis(100), || {
        observe_for(Duration::from_secs(1), || {
            assert_eq!(run_of_app(&sandbox), second, "it was stopped while in use");
        });
    });
    kept.ask().unwrap();
    assert_eq!(run_of_app(&sandbox), second, "it was stopped while in use");
    drop(kept);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    under_load(&sandbox, Duration::from_millis(100), || {
        load_for(Duration::from_millis(1500));
    });
    drop(ahead);
    shell(&sandbox, "systemctl start ondemand.service");
    wait_state(&sandbox, "app.service", "inactive").unwrap();
}
