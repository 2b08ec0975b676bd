//! A kernel that takes no more sk_lookup programs: everything works, through the proxy.

use std::{fs::File, os::fd::OwnedFd, time::Duration};

use tests::{
    bpf::{self, Hook},
    client::Request,
    sandbox::Sandbox,
    service::{self, CONFIG, front, number, status, wait_state},
};

use crate::{
    faults::said,
    require_sandbox,
    steering::{ask_with, is_steered, wait_route},
};

/// The most that a network namespace takes (`netns_bpf_max_progs`, kernel/bpf/net_namespace.c).
const MOST: usize = 64;

/// Takes all places for sk_lookup programs in the sandbox's network namespace.
fn crowd(sandbox: &Sandbox) -> Vec<OwnedFd> {
    sandbox
        .in_network(|| {
            let netns = File::open("/proc/thread-self/ns/net").unwrap();
            let program = bpf::empty(Hook::SkLookup).unwrap();
            let attach = |_| bpf::attach(&program, &netns, Hook::SkLookup);
            let links: Vec<_> = (0..MOST).map_while(|place| attach(place).ok()).collect();
            let full = attach(MOST).unwrap_err();
            assert_eq!(full.raw_os_error(), Some(nix::libc::E2BIG));
            links
        })
        .unwrap()
}

#[test]
fn without_sk_lookup_the_proxy_carries_everything() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    service::write_backend(&sandbox, "app.service", "").unwrap();
    let config = format!("[service.test]\n{CONFIG}\nignore_from = [\"10.0.0.0/8\"]\n");
    let config = config.replace("false", "true").replace("300ms", "1s");
    service::write_config(&sandbox, &config).unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    let crowd = crowd(&sandbox);
    service::start_agent(&sandbox).unwrap();

    for run in 1..=2 {
        for _ in 0..10 {
            let (_, steered) = ask_with(&sandbox, front(), Request::default()).unwrap();
            assert!(!steered);
        }
        let now = status(&sandbox, "test").unwrap();
        assert_eq!(now["route"], "proxied", "{now}");
        assert_eq!(now["accepted_connections"], 10 * run, "{now}");
        wait_state(&sandbox, "app.service", "inactive").unwrap();
        assert_eq!(number(&sandbox, "test", "starts").unwrap(), run);
    }
    for words in [
        "connections cannot be steered on this host",
        "wake_from and ignore_from have no effect",
    ] {
        assert_eq!(said(&sandbox, "ondemand.service", &[words]), 1, "{words}");
    }

    // There is room again: the next agent steers.
    drop(crowd);
    sandbox
        .run(&["systemctl", "restart", "ondemand.service"])
        .unwrap();
    ask_with(&sandbox, front(), Request::default()).unwrap();
    wait_route(&sandbox, "steered");
    assert!(is_steered(&sandbox, front()));
}

#[test]
fn without_sk_lookup_an_application_that_keeps_its_address_stays_up() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    service::write_backend(&sandbox, "app.service", "--listen 127.0.0.1:8000").unwrap();
    let config = "[service.test]\nlisten = \"127.0.0.1:8000\"\nunit = \"app.service\"\nidle_timeout = \"300ms\"\n\
                  min_uptime = \"0s\"\n";
    service::write_config(&sandbox, config).unwrap();
    let crowd = crowd(&sandbox);
    service::reload(&sandbox, &["test"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    wait_state(&sandbox, "app.service", "active").unwrap();
    let said = "no program can start it for a client";
    service::wait_journal(&sandbox, "ondemand.service", said, 1).unwrap();
    service::stays(&sandbox, "app.service", "active", Duration::from_secs(1));
    let problem = status(&sandbox, "test").unwrap()["problem"].to_string();
    assert!(problem.contains(said), "{problem}");
    // At boot nobody waits for an agent.
    sandbox
        .run(&["systemctl", "stop", "ondemand.service", "app.service"])
        .unwrap();
    let load = sandbox.run(&["systemctl", "start", "ondemand-load.service"]);
    assert!(load.is_err());
    wait_state(&sandbox, "app.service", "active").unwrap();
    drop(crowd);
    sandbox
        .run(&["systemctl", "start", "ondemand.service"])
        .unwrap();
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    assert!(is_steered(&sandbox, front()) || wait_state(&sandbox, "app.service", "active").is_ok());
}
