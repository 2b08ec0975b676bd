//! Clients of a service that is down are held by the kernel, and meet the application itself.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{MsgFlags, SockType, SockaddrIn, getsockname, getsockopt, sendto, sockopt},
};
use tests::{
    client::{self, Answer, Loss, Request},
    pause::think,
    process::Process,
    sandbox::Sandbox,
    service::{self, SOON, stays, wait_state},
    wait_for,
};

use crate::{
    require_sandbox,
    scans::{sender, syn},
    steering::parse,
    stranger::{add_neighbour, outside},
};

/// After so long a client goes to the front socket.
const PATIENCE: Duration = Duration::from_secs(1);

/// The lines of `[service.test]`: an application that listens for both families.
const CONFIG: &str = "listen = [\"0.0.0.0:8000\", \"[::]:8000\"]\nbackend = \"127.0.0.1:8080\"\n\
                      unit = \"app.service\"\nidle_timeout = \"300ms\"\nmin_uptime = \"0s\"\n\
                      start_timeout = \"10s\"\nfirst_client = \"held\"\n";

/// A sandbox with the service, and a neighbour.
pub(crate) fn with_a_neighbour(config: &str, options: &str) -> Sandbox {
    let sandbox = service::installed().unwrap();
    add_neighbour(&sandbox);
    service::write_backend(&sandbox, "app.service", options).unwrap();
    service::write_config(&sandbox, &format!("[service.test]\n{config}")).unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    sandbox
}

pub(crate) fn ask(sandbox: &Sandbox, from_outside: bool, to: &str) -> Result<Answer, Loss> {
    let to = parse(to);
    match from_outside {
        true => outside(sandbox, || client::get(to, Request::default())),
        false => sandbox
            .in_network(|| client::get(to, Request::default()))
            .unwrap(),
    }
}

#[track_caller]
pub(crate) fn peer(answer: Result<Answer, Loss>) -> SocketAddr {
    parse(answer.unwrap().header("X-Peer").unwrap())
}

pub(crate) fn asleep(sandbox: &Sandbox) {
    wait_state(sandbox, "app.service", "inactive").unwrap();
}

/// Whether the proxy was ever started.
fn was_proxied(sandbox: &Sandbox) -> bool {
    let stamp = sandbox.property("ondemand-test.service", "InactiveExitTimestampMonotonic");
    stamp.unwrap() != "0"
}

#[test]
fn the_first_client_meets_the_application() {
    require_sandbox!();
    let sandbox = with_a_neighbour(CONFIG, "--listen [::]:8080");
    for (from_outside, to, expected) in [
        (true, "10.77.0.1:8000", "10.77.0.2"),
        (true, "[fd77::1]:8000", "fd77::2"),
        (false, "127.0.0.1:8000", "127.0.0.1"),
        (false, "[::1]:8000", "::1"),
        (false, "10.77.0.1:8000", "10.77.0.1"),
    ] {
        asleep(&sandbox);
        let peer = peer(ask(&sandbox, from_outside, to));
        let expected: IpAddr = expected.parse().unwrap();
        assert_eq!(peer.ip().to_canonical(), expected, "{to}");
        assert!(
            !was_proxied(&sandbox),
            "{to}: {}",
            sandbox.journal("ondemand.service")
        );
    }
    let status = service::status(&sandbox, "test").unwrap();
    assert_eq!(status["starts"], 5, "{status}");
    assert_eq!(status["front"]["accepted"], 0, "{status}");
    assert_eq!(status["steered"]["accepted"], 5, "{status}");
    asleep(&sandbox);
    let status = service::status(&sandbox, "test").unwrap();
    assert_eq!(status["stops_by_reason"]["idle"], 5, "{status}");
}

fn held_clients(sandbox: &Sandbox) -> (u64, u64) {
    let status = service::status(sandbox, "test").unwrap();
    let number = |name: &str| status["held_clients"][name].as_u64().unwrap();
    (number("to_application"), number("to_front"))
}

/// Without a word in the configuration the first start of a boot shows that the application accepts connections,
/// and is ready as soon as it listens.
#[test]
fn by_default_the_first_start_is_watched() {
    require_sandbox!();
    let config = CONFIG.replace("first_client = \"held\"\n", "");
    let sandbox = with_a_neighbour(&config, "--listen 127.0.0.1:8080");
    let ask = || {
        asleep(&sandbox);
        wait_state(&sandbox, "ondemand-test.service", "inactive").unwrap();
        peer(ask(&sandbox, true, "10.77.0.1:8000")).ip().to_string()
    };
    assert_eq!(ask(), "10.77.0.1");
    assert_eq!(ask(), "10.77.0.2");
    // The next agent knows it, too.
    asleep(&sandbox);
    sandbox
        .run(&["systemctl", "restart", "ondemand.service"])
        .unwrap();
    let peer = peer(crate::held::ask(&sandbox, true, "10.77.0.1:8000"));
    assert_eq!(peer.ip().to_string(), "10.77.0.2");
    assert_eq!(held_clients(&sandbox), (1, 0));
}

/// It listens, and loses what comes in its first moments: only the proxy tries again.
#[test]
fn by_default_nobody_is_held_for_one_that_listens_too_early() {
    require_sandbox!();
    let config = CONFIG.replace("first_client = \"held\"\n", "");
    let options = "--listen 127.0.0.1:8080 --unready-ms 300 --unready reset";
    let sandbox = with_a_neighbour(&config, options);
    for _ in 0..3 {
        asleep(&sandbox);
        wait_state(&sandbox, "ondemand-test.service", "inactive").unwrap();
        let peer = peer(ask(&sandbox, false, "127.0.0.1:8000"));
        assert_eq!(peer.ip().to_string(), "127.0.0.1");
    }
    assert_eq!(held_clients(&sandbox), (0, 0));
}

/// The connection is made after a second at most, and the answer comes when there is one.
#[test]
fn a_start_that_takes_longer_is_the_proxys() {
    require_sandbox!();
    let options = "--listen 127.0.0.1:8080 --start-delay-ms 2000";
    let sandbox = with_a_neighbour(CONFIG, options);
    let (connected, answer) = outside(&sandbox, || {
        let begin = Instant::now();
        let mut stream = client::connect(parse("10.77.0.1:8000")).unwrap();
        let connected = begin.elapsed();
        (connected, client::ask(&mut stream, Request::default()))
    });
    assert_eq!(peer(answer).ip().to_string(), "10.77.0.1");
    assert!(connected >= PATIENCE / 2, "{connected:?}");
    assert!(connected < PATIENCE * 2, "{connected:?}");
    assert_eq!(held_clients(&sandbox), (0, 1));
    let held = &service::status(&sandbox, "test").unwrap()["held_clients"];
    assert_eq!(held["late"], 1, "{held}");
    assert!(held["seconds"].as_f64().unwrap() >= 1.0, "{held}");
}

/// A start that fails is the front socket's matter, as it was before: the client's connection is closed.
#[test]
fn a_start_that_fails_is_the_proxys() {
    require_sandbox!();
    let config = CONFIG.replace("start_timeout = \"10s\"", "start_timeout = \"2s\"");
    let sandbox = with_a_neighbour(&config, "--crash --notify");
    let begin = Instant::now();
    let lost = ask(&sandbox, true, "10.77.0.1:8000").unwrap_err();
    assert!(begin.elapsed() < SOON, "{lost:?}");
    assert_eq!(held_clients(&sandbox).0, 0);
}

#[test]
fn an_agent_that_dies_or_hangs_holds_nobody() {
    require_sandbox!();
    let sandbox = with_a_neighbour(CONFIG, "--listen 127.0.0.1:8080 --start-delay-ms 600");
    let send = |signal: &str| {
        let signal = format!("--signal={signal}");
        let unit = "ondemand.service";
        sandbox
            .run(&["systemctl", "kill", "--kill-who=main", &signal, unit])
            .unwrap();
    };
    for signal in ["SIGKILL", "SIGTERM", "SIGSTOP"] {
        asleep(&sandbox);
        let begin = Instant::now();
        let answer = thread::scope(|scope| {
            let client = scope.spawn(|| ask(&sandbox, true, "10.77.0.1:8000"));
            wait_state(&sandbox, "app.service", "active").unwrap();
            send(signal);
            client.join().unwrap()
        });
        let took = begin.elapsed();
        answer.unwrap_or_else(|loss| panic!("{signal}: {loss:?}"));
        assert!(took < PATIENCE * 8, "{signal}: {took:?}");
        if signal == "SIGSTOP" {
            // The next clients do not wait for it either.
            ask(&sandbox, true, "10.77.0.1:8000").unwrap();
            send("SIGCONT");
        } else {
            // SIGTERM is a clean end.
            service::start_agent(&sandbox).unwrap();
        }
    }
}

/// The queue of the application's listener has room for 128 of them. `ONDEMAND_BURST` is another number of clients.
#[test]
fn many_at_once_find_room_one_after_the_other() {
    require_sandbox!();
    let set = std::env::var("ONDEMAND_BURST").ok();
    let clients = set.map_or(300, |text| text.parse().unwrap());
    let options = "--listen 127.0.0.1:8080 --start-delay-ms 300 --backlog 128";
    let sandbox = with_a_neighbour(CONFIG, options);
    let took: Vec<Duration> = outside(&sandbox, || {
        thread::scope(|scope| {
            let ask = || {
                let begin = Instant::now();
                let answer = client::get(parse("10.77.0.1:8000"), Request::default());
                (peer(answer).ip().to_string(), begin.elapsed())
            };
            let all: Vec<_> = (0..clients).map(|_| scope.spawn(ask)).collect();
            let all = all.into_iter().map(|client| client.join().unwrap());
            all.map(|(peer, took)| {
                assert_eq!(peer, "10.77.0.2");
                took
            })
            .collect()
        })
    });
    let mut took = took;
    took.sort();
    let slowest = took[clients - 1];
    let p99 = took[clients * 99 / 100];
    eprintln!("of {clients}: p99 {p99:?}, the slowest {slowest:?}");
    assert_eq!(held_clients(&sandbox).1, 0);
    // Nobody had to send again what met a full queue.
    assert!(
        clients > 300 || slowest < Duration::from_millis(1200),
        "{slowest:?}"
    );
}

/// A SYN may have a forged source: one of a public network wakes nothing, unless it is listed.
#[test]
fn who_may_be_forged_is_not_held() {
    require_sandbox!();
    let listed = format!("{CONFIG}wake_from = [\"203.0.113.0/25\"]\n");
    for (config, last, is_woken) in [(CONFIG, 2, false), (&listed, 2, true)] {
        let sandbox = with_a_neighbour(config, "--listen 127.0.0.1:8080");
        for step in [
            "ip address add 203.0.113.1/24 dev near",
            "ip -n other address add 203.0.113.2/24 dev far",
        ] {
            sandbox.run(&step.split(' ').collect::<Vec<_>>()).unwrap();
        }
        let from = Ipv4Addr::new(203, 0, 113, last);
        let to = Ipv4Addr::new(203, 0, 113, 1);
        outside(&sandbox, || {
            let raw = sender(from);
            let packet = syn(from, 999, to, 8000);
            let place = SockaddrIn::new(203, 0, 113, 1, 0);
            sendto(raw.as_raw_fd(), &packet, &place, MsgFlags::empty()).unwrap();
        });
        if is_woken {
            wait_for("it is started", SOON, || {
                (service::number(&sandbox, "test", "starts").unwrap() > 0).then_some(())
            })
            .unwrap();
            continue;
        }
        stays(&sandbox, "app.service", "inactive", Duration::from_secs(1));
        // Who completes the handshake is served, by the proxy.
        let answer = outside(&sandbox, || {
            client::get(parse("203.0.113.1:8000"), Request::default())
        });
        assert_eq!(peer(answer).ip(), IpAddr::from(to));
        assert_eq!(held_clients(&sandbox), (0, 0));
    }
}

/// A client that gives up leaves no trace at the application.
#[test]
fn a_client_that_gives_up_is_not_sent_on() {
    require_sandbox!();
    let sandbox = with_a_neighbour(CONFIG, "--listen 127.0.0.1:8080 --start-delay-ms 700");
    outside(&sandbox, || {
        let (from, to) = (Ipv4Addr::new(10, 77, 0, 2), Ipv4Addr::new(10, 77, 0, 1));
        let raw = sender(from);
        let place = SockaddrIn::new(10, 77, 0, 1, 0);
        for flags in [0x02, 0x04] {
            let packet = crate::scans::segment((from, 999), (to, 8000), (7, 0), flags);
            sendto(raw.as_raw_fd(), &packet, &place, MsgFlags::empty()).unwrap();
            think(Duration::from_millis(100));
        }
    });
    wait_state(&sandbox, "app.service", "active").unwrap();
    asleep(&sandbox);
    let status = service::status(&sandbox, "test").unwrap();
    assert_eq!(status["accepted_connections"], 0, "{status}");
    assert_eq!(status["held_clients"]["gave_up"], 1, "{status}");
    assert_eq!(held_clients(&sandbox), (0, 0));
}

/// What an agent that was taken over could send over IPv4 does not leave the host.
#[test]
fn the_raw_sockets_are_bound_to_the_loopback_or_only_listen() {
    require_sandbox!();
    let sandbox = with_a_neighbour(CONFIG, "--listen 127.0.0.1:8080");
    let agent = Process::agent(&sandbox).unwrap();
    // SAFETY: plain integers; the result is checked.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, agent.id(), 0) };
    assert!(pidfd >= 0, "{}", std::io::Error::last_os_error());
    let entries = std::fs::read_dir(format!("/proc/{}/fd", agent.id())).unwrap();
    let (mut devices, mut listening) = (Vec::new(), 0);
    for entry in entries {
        let entry = entry.unwrap();
        let link = std::fs::read_link(entry.path()).unwrap_or_default();
        if !link.to_string_lossy().starts_with("socket:") {
            continue;
        }
        let number: i32 = entry.file_name().to_str().unwrap().parse().unwrap();
        // SAFETY: plain integers; the result is checked.
        let copy = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd, number, 0) };
        let Ok(copy @ 0..) = i32::try_from(copy) else {
            continue;
        };
        // SAFETY: just made, and owned here.
        let socket = unsafe { OwnedFd::from_raw_fd(copy) };
        let kind = getsockopt(&socket, sockopt::SockType);
        if kind == Ok(SockType::Raw) && getsockname::<SockaddrIn>(socket.as_raw_fd()).is_ok() {
            match option(&socket, libc::SOL_SOCKET, libc::SO_PROTOCOL, None) {
                Ok(libc::IPPROTO_ICMP) => {
                    only_listens(&socket);
                    listening += 1;
                }
                _ => devices.push(getsockopt(&socket, sockopt::BindToDevice).unwrap()),
            }
        }
    }
    // SAFETY: it is not used any more.
    drop(unsafe { OwnedFd::from_raw_fd(pidfd as i32) });
    let devices: Vec<_> = devices.iter().map(|name| name.to_string_lossy()).collect();
    assert_eq!((devices, listening), (vec!["lo".into()], 1));
}

/// Reads an option, or sets it.
fn option(socket: &OwnedFd, level: i32, name: i32, set: Option<i32>) -> Result<i32, Errno> {
    let mut value = set.unwrap_or(0);
    let mut len = size_of::<i32>() as libc::socklen_t;
    let (place, socket) = ((&raw mut value).cast(), socket.as_raw_fd());
    // SAFETY: the value has this length, and lives during the call.
    let result = unsafe {
        match set {
            Some(_) => libc::setsockopt(socket, level, name, place, len),
            None => libc::getsockopt(socket, level, name, place, &mut len),
        }
    };
    Errno::result(result).map(|_| value)
}

/// A socket that sees the packets of ICMP keeps none of them, for good, and sends no packet with a header of its own.
fn only_listens(socket: &OwnedFd) {
    assert_eq!(
        option(socket, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, Some(0)),
        Err(Errno::EPERM)
    );
    option(socket, libc::IPPROTO_IP, libc::IP_HDRINCL, Some(1)).unwrap();
    let packet = syn([10, 77, 0, 2].into(), 4000, [10, 77, 0, 2].into(), 80);
    let to = SockaddrIn::from(std::net::SocketAddrV4::new([10, 77, 0, 2].into(), 0));
    let sent = sendto(socket.as_raw_fd(), &packet, &to, MsgFlags::MSG_NOSIGNAL);
    assert_eq!(sent, Err(Errno::EPIPE));
}

/// The unit of an earlier version gives the agent no right to send packets.
#[test]
fn without_the_capability_nobody_is_held_and_check_says_so() {
    require_sandbox!();
    let sandbox = with_a_neighbour(CONFIG, "--listen 127.0.0.1:8080");
    let check = || {
        let words = ["sh", "-c", "ondemand check || true"];
        sandbox.run(&words).unwrap()
    };
    assert!(check().contains("can be held"), "{}", check());
    let drop_in = "/etc/systemd/system/ondemand.service.d/old.conf";
    let text = "[Service]\nCapabilityBoundingSet=\nAmbientCapabilities=\n";
    sandbox.write(drop_in, text).unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    sandbox
        .run(&["systemctl", "restart", "ondemand.service"])
        .unwrap();
    let peer = peer(ask(&sandbox, true, "10.77.0.1:8000"));
    assert_eq!(peer.ip().to_string(), "10.77.0.1");
    let found = check();
    assert!(found.contains("without CAP_NET_RAW"), "{found}");
}

/// What clients of an ended connection send, or a killed agent has left, does not count as somebody who is held.
#[test]
fn stray_packets_leave_room_for_clients() {
    require_sandbox!();
    let sandbox = with_a_neighbour(CONFIG, "--listen 127.0.0.1:8080");
    let strays = || {
        outside(&sandbox, || {
            let (from, to) = (Ipv4Addr::new(10, 77, 0, 2), Ipv4Addr::new(10, 77, 0, 1));
            let raw = sender(from);
            let place = SockaddrIn::new(10, 77, 0, 1, 0);
            // More than are held for a service, and more than for all of them.
            for port in 2_000..12_000 {
                let packet = crate::scans::segment((from, port), (to, 8000), (7, 9), 0x10);
                // A full queue of the device is no error of the test's.
                let _ = sendto(raw.as_raw_fd(), &packet, &place, MsgFlags::empty());
            }
        });
    };
    let held = || {
        asleep(&sandbox);
        think(PATIENCE);
        let peer = peer(ask(&sandbox, true, "10.77.0.1:8000"));
        assert_eq!(peer.ip().to_string(), "10.77.0.2");
    };
    strays();
    held();
    asleep(&sandbox);
    strays();
    let words = ["systemctl", "kill", "--signal=KILL", "ondemand.service"];
    sandbox.run(&words).unwrap();
    service::start_agent(&sandbox).unwrap();
    wait_for("the next agent answers", SOON, || {
        service::status(&sandbox, "test").ok()
    })
    .unwrap();
    held();
    assert_eq!(held_clients(&sandbox), (1, 0));
}
