//! SYNs that no client stands behind: a port scan must not keep a service up for ever.

use std::{
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, bind, sendto,
    setsockopt, socket, sockopt,
};
use serde_json::Value;
use tests::{
    pause::think,
    sandbox::Sandbox,
    service::{self, SOON, front, status, wait_state},
    wait_for,
};

use crate::{
    require_sandbox,
    steering::{CONFIG, is_steered, warm},
};

/// An address that swallows whatever is sent to it.
const SILENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// An address that did not send that SYN, so that the reply is reset.
const RESETS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 7);

/// A TCP header with only SYN set, from an unused port, and its checksum (RFC 9293).
pub(crate) fn syn(from: Ipv4Addr, from_port: u16, to: Ipv4Addr, to_port: u16) -> [u8; 20] {
    segment((from, from_port), (to, to_port), (0, 0), 0x02)
}

/// A TCP header with these numbers of sequence and acknowledgement, and these flags.
pub(crate) fn segment(
    (from, from_port): (Ipv4Addr, u16),
    (to, to_port): (Ipv4Addr, u16),
    (sequence, acknowledged): (u32, u32),
    flags: u8,
) -> [u8; 20] {
    let mut header = [0; 20];
    header[0..2].copy_from_slice(&from_port.to_be_bytes());
    header[2..4].copy_from_slice(&to_port.to_be_bytes());
    header[4..8].copy_from_slice(&sequence.to_be_bytes());
    header[8..12].copy_from_slice(&acknowledged.to_be_bytes());
    header[12] = 5 << 4; // five words long
    header[13] = flags;
    header[14..16].copy_from_slice(&1024_u16.to_be_bytes());
    let mut covered = Vec::from(from.octets());
    covered.extend(to.octets());
    covered.extend([0, 6, 0, 20]); // protocol, length
    covered.extend(header);
    let words = covered.chunks(2);
    let mut sum: u32 = words
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    header[16..18].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    header
}

/// A raw socket that sends as `from`, whatever host has that address.
pub(crate) fn sender(from: Ipv4Addr) -> OwnedFd {
    let raw = socket(
        AddressFamily::Inet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::Tcp,
    )
    .unwrap();
    setsockopt(&raw, sockopt::IpTransparent, &true).unwrap();
    let [a, b, c, d] = from.octets();
    bind(raw.as_raw_fd(), &SockaddrIn::new(a, b, c, d, 0)).unwrap();
    raw
}

/// Sends SYNs at an interval until it is ended. At most half a minute.
fn scan(sandbox: &Sandbox, from: Ipv4Addr, every: Duration, end: &AtomicBool, sent: &AtomicU32) {
    sandbox
        .in_network(|| {
            let raw = sender(from);
            let to = SockaddrIn::new(127, 0, 0, 1, 0);
            let start = Instant::now();
            for port in (2_000..60_000).cycle() {
                if end.load(Ordering::Relaxed) || start.elapsed() > Duration::from_secs(30) {
                    break;
                }
                let packet = syn(from, port, Ipv4Addr::LOCALHOST, front().port());
                sendto(raw.as_raw_fd(), &packet, &to, MsgFlags::empty()).unwrap();
                sent.fetch_add(1, Ordering::Relaxed);
                think(every);
            }
        })
        .unwrap();
}

/// Makes a network one that swallows whatever is sent to it.
#[track_caller]
pub(crate) fn swallow(sandbox: &Sandbox, network: &str) {
    // A half-open handshake lives for about three seconds, and its answer may leave the
    // loopback. (These files are those of the reader's network namespace.)
    sandbox
        .in_network(|| {
            let set =
                |name: &str, value| std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value);
            set("tcp_synack_retries", "1")?;
            set("conf/all/route_localnet", "1")
        })
        .unwrap()
        .unwrap();
    sandbox
        .run(&["ip", "link", "add", "hole", "type", "veth"])
        .unwrap();
    sandbox.run(&["ip", "link", "set", "hole", "up"]).unwrap();
    sandbox
        .run(&["ip", "route", "add", network, "dev", "hole"])
        .unwrap();
}

/// A scan from `from` must not keep the service up, though it continues.
#[track_caller]
fn check_stops(from: Ipv4Addr, every: Duration) -> Value {
    let config = CONFIG.replace("1h", "300ms");
    let sandbox = warm(&config, "");
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    swallow(&sandbox, &format!("{SILENT}/32"));
    let (end, sent) = (AtomicBool::new(false), AtomicU32::new(0));
    let vetoes = thread::scope(|scope| {
        scope.spawn(|| scan(&sandbox, from, every, &end, &sent));
        wait_for("the scan continues", SOON, || {
            (sent.load(Ordering::Relaxed) >= 10).then_some(())
        })
        .unwrap();
        // Under the scan it is started for a client, which is served, and stopped after it.
        let steered = is_steered(&sandbox, front());
        let active = sandbox.property("app.service", "ActiveState");
        let stopped = wait_state(&sandbox, "app.service", "inactive");
        let still = !end.swap(true, Ordering::Relaxed);
        assert!(!steered, "the first client of a start is proxied");
        assert_eq!(active.unwrap(), "active");
        let status = status(&sandbox, "test").unwrap();
        stopped.unwrap_or_else(|error| panic!("{error}: {status}"));
        assert!(still);
        eprintln!(
            "{from}: stopped after {} SYNs, vetoes {}",
            sent.load(Ordering::Relaxed),
            status["vetoes_by_reason"],
        );
        status["vetoes_by_reason"].clone()
    });
    // And the next client is served.
    is_steered(&sandbox, front());
    assert_eq!(service::number(&sandbox, "test", "count_drift").unwrap(), 0);
    vetoes
}

#[test]
fn a_scan_that_resets_what_it_opened() {
    require_sandbox!();
    check_stops(RESETS, Duration::from_millis(2));
}

#[test]
fn a_scan_that_leaves_handshakes_half_open() {
    require_sandbox!();
    const { assert!(SOON.as_secs() > 10) };
    let vetoes = check_stops(SILENT, Duration::from_millis(10));
    assert_ne!(vetoes["half-open"], 0, "{vetoes}");
}
