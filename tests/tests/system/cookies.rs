//! SYN cookies: the front socket's are answered by clients at any time, also when the gate has opened
//! meanwhile. The application's listener knows nothing of them.

use std::{
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

use nix::sys::socket::{MsgFlags, SockaddrIn, recv, sendto, setsockopt, sockopt};
use tests::{
    pause::think,
    sandbox::Sandbox,
    service::{SOON, front, on_demand, status, wait_state},
    wait_for,
};

use crate::{
    require_sandbox,
    scans::{segment, sender, syn},
    steering::{CONFIG, is_steered, wait_route},
};

const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);
const PORT: u16 = 40_000;

fn send(raw: &OwnedFd, segment: &[u8; 20]) {
    let to = SockaddrIn::new(127, 0, 0, 1, 0);
    sendto(raw.as_raw_fd(), segment, &to, MsgFlags::empty()).unwrap();
}

/// The next segment from the front for this client: its flags and its sequence number.
fn answer(raw: &OwnedFd) -> (u8, u32) {
    let mut packet = [0; 128];
    loop {
        let length = recv(raw.as_raw_fd(), &mut packet, MsgFlags::empty()).unwrap();
        let tcp = &packet[usize::from(packet[0] & 15) * 4..length];
        let port = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
        if (port(0), port(2)) == (front().port(), PORT) {
            return (
                tcp[13],
                u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]),
            );
        }
    }
}

/// A client that has had a cookie, and has not answered yet.
fn with_a_cookie(sandbox: &Sandbox) -> (OwnedFd, u32) {
    sandbox
        .in_network(|| {
            let raw = sender(CLIENT);
            let patience = nix::sys::time::TimeVal::new(20, 0);
            setsockopt(&raw, sockopt::ReceiveTimeout, &patience).unwrap();
            send(
                &raw,
                &syn(CLIENT, PORT, Ipv4Addr::LOCALHOST, front().port()),
            );
            let (flags, sequence) = answer(&raw);
            assert_eq!(flags & 0x17, 0x12, "SYN and ACK");
            (raw, sequence)
        })
        .unwrap()
}

#[test]
fn the_gate_waits_for_the_cookies_of_the_front_socket() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    let always = "echo 2 > /proc/sys/net/ipv4/tcp_syncookies";
    sandbox.run(&["sh", "-c", always]).unwrap();
    let (raw, sequence) = with_a_cookie(&sandbox);
    // Another client starts the application, and is served.
    assert!(!is_steered(&sandbox, front()));
    wait_state(&sandbox, "ondemand-test.target", "active").unwrap();
    // The first one's network is slow.
    think(Duration::from_millis(500));
    assert_eq!(status(&sandbox, "test").unwrap()["route"], "proxied");
    let ack = segment(
        (CLIENT, PORT),
        (Ipv4Addr::LOCALHOST, front().port()),
        (1, sequence.wrapping_add(1)),
        0x10,
    );
    send(&raw, &ack);
    wait_for("it is connected", SOON, || {
        (status(&sandbox, "test").ok()?["front"]["accepted"] == 2).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {}", status(&sandbox, "test").unwrap()));
    // No cookie is outstanding any more.
    wait_route(&sandbox, "steered");
    assert!(is_steered(&sandbox, front()));
}
