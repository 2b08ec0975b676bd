//! The programs and pins in the kernel are removed under a running agent: it goes on as far as it
//! can, notices, logs it, and the next agent replaces them. No client is lost and nothing in use is
//! stopped.

use std::{ffi::CString, os::unix::ffi::OsStringExt as _, process::Output, time::Duration};

use nix::libc;
use ondemand_ebpf::LAYOUT_VERSION;
use tests::{
    client::{Kept, Request},
    pause::idle_for,
    require_long,
    sandbox::Sandbox,
    service::{self, front, number, wait_state},
};

use crate::{
    faults::{agent_pid, run_of_app, said, shell, under_load, wait_next_agent, wait_said},
    require_sandbox,
    steering::{CONFIG, ask_with, is_steered, wait_route},
};

/// The path for all but the agent, which has its directory at another place, too.
fn pins() -> String {
    format!("/sys/fs/bpf/ondemand/v{LAYOUT_VERSION}")
}

/// The service is steered, and becomes idle after a second. The agent checks its pins whenever it
/// feeds the watchdog, every 1.5 seconds here.
fn set_up() -> Sandbox {
    let sandbox = service::installed().unwrap();
    let place = "/etc/systemd/system/ondemand.service.d/watchdog.conf";
    sandbox
        .write(place, "[Service]\nWatchdogSec=3s\nRestartSec=200ms\n")
        .unwrap();
    service::write_backend(&sandbox, "app.service", "").unwrap();
    let config = CONFIG.replace("1h", "1s");
    service::write_config(&sandbox, &format!("[service.test]\n{config}")).unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    sandbox
}

fn ask(sandbox: &Sandbox) {
    ask_with(sandbox, front(), Request::default()).unwrap();
}

/// Detaches a program, as `bpftool link detach` does; to the link it is the same when its cgroup
/// or its network namespace goes away.
fn detach(sandbox: &Sandbox, program: &str) {
    const BPF_OBJ_GET: libc::c_int = 7;
    const BPF_LINK_DETACH: libc::c_int = 34;
    let path = sandbox.path(&format!("{}/link_{program}", pins()));
    let path = CString::new(path.into_os_string().into_vec()).unwrap();
    let call = |command: libc::c_int, first: u64| {
        // `union bpf_attr`, include/uapi/linux/bpf.h: a path, or the descriptor of a link.
        let attributes = [first, 0, 0, 0];
        // SAFETY: the attributes have the given size, and the path outlives the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                command,
                attributes.as_ptr(),
                size_of_val(&attributes),
            )
        };
        assert!(result >= 0, "{}", std::io::Error::last_os_error());
        result as libc::c_int
    };
    let link = call(BPF_OBJ_GET, path.as_ptr() as u64);
    call(BPF_LINK_DETACH, link as u64);
    // SAFETY: just opened, and used no more.
    unsafe { libc::close(link) };
}

/// Something happens to the agent's objects in the kernel: it logs what, and the next one starts
/// at once.
#[track_caller]
fn check(sandbox: &Sandbox, fault: impl FnOnce(), words: &[&str]) {
    let before = agent_pid(sandbox);
    fault();
    wait_said(sandbox, 1, words);
    wait_next_agent(sandbox, before);
    wait_route(sandbox, "steered");
}

#[test]
fn pins_and_links_are_taken_away() {
    require_sandbox!();
    let sandbox = set_up();
    ask(&sandbox);
    wait_route(&sandbox, "steered");
    let run = run_of_app(&sandbox);
    let mut kept = sandbox
        .in_network(|| Kept::connect(front()))
        .unwrap()
        .unwrap();
    under_load(&sandbox, Duration::from_millis(30), || {
        let before = number(&sandbox, "test", "accepted_connections").unwrap();
        let remove = || {
            shell(&sandbox, "rm -r /sys/fs/bpf/ondemand");
            assert!(is_steered(&sandbox, front()), "the agent holds the links");
            let now = number(&sandbox, "test", "accepted_connections");
            // Unless it has noticed by now.
            assert!(now.map_or(true, |now| now > before));
        };
        check(
            &sandbox,
            remove,
            &[
                &format!("/run/ondemand-bpf/v{LAYOUT_VERSION}/"),
                "was removed or replaced",
                "the programs are loaded again",
            ],
        );
        let words = ["the program connections is no longer attached"];
        check(&sandbox, || detach(&sandbox, "connections"), &words);
        let words = ["the program steering is no longer attached"];
        check(&sandbox, || detach(&sandbox, "steering"), &words);
        let words = ["counters restart at zero", "link_connections"];
        let while_none_runs = || {
            shell(&sandbox, "systemctl stop ondemand.service");
            shell(&sandbox, &format!("rm {}/link_connections", pins()));
            service::start_agent(&sandbox).unwrap();
        };
        check(&sandbox, while_none_runs, &words);
        let words = ["counters restart at zero", "COUNTERS"];
        let while_none_runs = || {
            shell(&sandbox, "systemctl stop ondemand.service");
            shell(&sandbox, &format!("rm {}/COUNTERS", pins()));
            service::start_agent(&sandbox).unwrap();
        };
        check(&sandbox, while_none_runs, &words);
    });
    // A connection from before all of this is known to the last of these agents.
    idle_for(Duration::from_millis(1500));
    assert_eq!(run_of_app(&sandbox), run, "it was stopped while in use");
    kept.ask().unwrap();
    drop(kept);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    ask(&sandbox);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    assert_eq!(
        said(&sandbox, "ondemand.service", &["test: stopped after"]),
        2
    );
}

fn run(sandbox: &Sandbox, line: &str) -> Output {
    sandbox.command("sh").args(["-c", line]).output().unwrap()
}

#[test]
fn a_second_agent_one_that_is_elsewhere_and_no_bpf_file_system() {
    require_sandbox!();
    require_long!("the short suite takes pins and links away");
    let sandbox = set_up();
    ask(&sandbox);
    wait_route(&sandbox, "steered");
    let app = run_of_app(&sandbox);
    let mut kept = sandbox
        .in_network(|| Kept::connect(front()))
        .unwrap()
        .unwrap();

    // A second one would open gates that the first has closed.
    let second = run(&sandbox, "timeout 10 ondemand agent --dry-run");
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1), "{text}");
    assert!(text.contains("another agent is running"), "{text}");

    // An agent in another network namespace sees no client there. It takes over the pins.
    shell(
        &sandbox,
        "systemctl stop ondemand.service; ip netns add other",
    );
    let line = "timeout 4 nsenter --net=/run/netns/other ondemand agent";
    let elsewhere = run(&sandbox, line);
    let text = String::from_utf8_lossy(&elsewhere.stderr).into_owned();
    let why = "its front socket does not listen at all of its addresses";
    assert!(text.contains(why), "{text}");
    assert_eq!(run_of_app(&sandbox), app, "it was stopped while in use");
    kept.ask().unwrap();
    service::start_agent(&sandbox).unwrap();
    // The programs were loaded anew: they must see that somebody accepts at the application's listener.
    ask(&sandbox);
    wait_route(&sandbox, "steered");
    assert!(is_steered(&sandbox, front()));

    // The running agent goes on, or exits; the next one repeatedly reports what is missing, until it
    // exists.
    let before = agent_pid(&sandbox);
    under_load(&sandbox, Duration::from_millis(50), || {
        shell(
            &sandbox,
            "umount --lazy /sys/fs/bpf; systemctl kill --signal=KILL ondemand.service",
        );
        wait_said(
            &sandbox,
            8, // more often than systemd has patience for by default
            &[
                "/sys/fs/bpf is not a BPF file system",
                "mount -t bpf bpf /sys/fs/bpf",
            ],
        );
        shell(&sandbox, "mount -t bpf bpf /sys/fs/bpf");
        wait_next_agent(&sandbox, before);
    });
    kept.ask().unwrap();
    assert_eq!(run_of_app(&sandbox), app, "it was stopped while in use");
    drop(kept);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    ask(&sandbox);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
}
