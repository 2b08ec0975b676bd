//! A client of the network that finds an application asleep is not a local client for it: the proxy
//! connects from an address of the host, and from loopback only for clients that came over loopback.

use std::{
    fs::File,
    net::{IpAddr, SocketAddr},
    thread,
};

use nix::sched::{CloneFlags, setns};
use tests::{
    client::{self, Answer, Loss, Request},
    sandbox::Sandbox,
    service::{self, wait_state},
};

use crate::{require_sandbox, steering::parse};

/// Two listeners each, so that a client of either family is taken to a backend of either family.
fn config(backend: &str) -> String {
    format!(
        "[service.test]\nlisten = [\"0.0.0.0:8000\", \"[::]:8000\"]\nbackend = \"{backend}\"\n\
         unit = \"app.service\"\nidle_timeout = \"200ms\"\nmin_uptime = \"0s\"\nstart_timeout = \"10s\"\n\
         first_client = \"proxied\"\n"
    )
}

/// Adds a second network, which reaches the sandbox's through the interface `near`.
pub(crate) fn add_neighbour(sandbox: &Sandbox) {
    for step in [
        "ip netns add other",
        "ip link add near type veth peer name far netns other",
        "ip address add 10.77.0.1/24 dev near",
        "ip address add fd77::1/64 dev near nodad",
        "sysctl -q -w net.ipv6.conf.near.accept_dad=0",
        "ip link set near up",
        "ip -n other address add 10.77.0.2/24 dev far",
        "ip -n other address add fd77::2/64 dev far nodad",
        "ip netns exec other sysctl -q -w net.ipv6.conf.far.accept_dad=0",
        "ip -n other link set far up",
    ] {
        sandbox.run(&step.split(' ').collect::<Vec<_>>()).unwrap();
    }
}

/// A sandbox with the service, and a neighbour.
fn with_a_neighbour(backend: &str) -> Sandbox {
    let sandbox = service::installed().unwrap();
    add_neighbour(&sandbox);
    let options = format!("--listen {backend}");
    service::write_backend(&sandbox, "app.service", &options).unwrap();
    service::write_config(&sandbox, &config(backend)).unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    sandbox
}

/// Runs `work` on a thread in the other network: the sockets that it makes are there.
pub(crate) fn outside<T: Send>(sandbox: &Sandbox, work: impl FnOnce() -> T + Send) -> T {
    let namespace = File::open(sandbox.path("/run/netns/other")).unwrap();
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        client.join().unwrap()
    })
}

/// One request from the other network.
fn ask_from_outside(sandbox: &Sandbox, to: SocketAddr) -> Result<Answer, Loss> {
    outside(sandbox, || client::get(to, Request::default()))
}

fn ask_from_inside(sandbox: &Sandbox, to: SocketAddr) -> Result<Answer, Loss> {
    sandbox
        .in_network(|| client::get(to, Request::default()))
        .unwrap()
}

/// The address that the application saw.
#[track_caller]
fn seen(answer: Result<Answer, Loss>) -> IpAddr {
    let answer = answer.unwrap();
    parse(answer.header("X-Peer").unwrap()).ip().to_canonical()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn asleep(sandbox: &Sandbox) {
    wait_state(sandbox, "app.service", "inactive").unwrap();
    wait_state(sandbox, "ondemand-test.service", "inactive").unwrap();
}

#[test]
fn the_application_sees_where_a_cold_client_arrived() {
    require_sandbox!();
    let sandbox = with_a_neighbour("127.0.0.1:8080");
    let cold = |to: &str| {
        asleep(&sandbox);
        seen(ask_from_outside(&sandbox, parse(to)))
    };
    assert_eq!(cold("10.77.0.1:8000"), ip("10.77.0.1"));
    // The host's address of the backend's family.
    assert_eq!(cold("[fd77::1]:8000"), ip("10.77.0.1"));
    for (to, expected) in [
        ("127.0.0.1:8000", "127.0.0.1"),
        ("[::1]:8000", "127.0.0.1"),
        ("10.77.0.1:8000", "10.77.0.1"),
    ] {
        asleep(&sandbox);
        assert_eq!(seen(ask_from_inside(&sandbox, parse(to))), ip(expected));
    }
    // Without an address that is not loopback no client of the network is served as a local one.
    asleep(&sandbox);
    sandbox
        .run(&[
            "ip",
            "address",
            "flush",
            "dev",
            "near",
            "scope",
            "global",
            "to",
            "10.77.0.0/24",
        ])
        .unwrap();
    let loss = ask_from_outside(&sandbox, parse("[fd77::1]:8000")).unwrap_err();
    assert!(matches!(loss, Loss::Closed | Loss::Receive(_)), "{loss}");
    let reason = "no address of the backend's family";
    service::wait_journal(&sandbox, "ondemand-test.service", reason, 1).unwrap();
    asleep(&sandbox);
    let local = ask_from_inside(&sandbox, parse("[::1]:8000"));
    assert_eq!(seen(local), ip("127.0.0.1"));
}

#[test]
fn the_application_sees_where_a_cold_client_arrived_over_ipv6() {
    require_sandbox!();
    let sandbox = with_a_neighbour("[::1]:8080");
    let cold = |to: &str| {
        asleep(&sandbox);
        seen(ask_from_outside(&sandbox, parse(to)))
    };
    assert_eq!(cold("[fd77::1]:8000"), ip("fd77::1"));
    assert_eq!(cold("10.77.0.1:8000"), ip("fd77::1"));
    // Link-local: the application sees this address or another of the host's, never loopback.
    let text = sandbox
        .run(&[
            "ip", "-6", "-o", "address", "show", "dev", "near", "scope", "link",
        ])
        .unwrap();
    let address = text.split_whitespace().nth(3).unwrap();
    let address = address.split('/').next().unwrap().to_owned();
    let far = sandbox
        .run(&[
            "ip",
            "netns",
            "exec",
            "other",
            "cat",
            "/sys/class/net/far/ifindex",
        ])
        .unwrap();
    let over_link = cold(&format!("[{address}%{}]:8000", far.trim()));
    assert!(
        [ip("fd77::1"), ip(&address)].contains(&over_link),
        "{over_link}"
    );
    asleep(&sandbox);
    let local = ask_from_inside(&sandbox, parse("[::1]:8000"));
    assert_eq!(seen(local), ip("::1"));
}
