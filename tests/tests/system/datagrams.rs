//! Applications that receive datagrams: they are held while it is down, and sent again in their order.

use std::time::Duration;

use tests::{
    client::Request,
    datagrams::{Client, gaps},
    sandbox::Sandbox,
    service::{self, SOON, number, status, stays, wait_state},
    wait_for,
};

use crate::{
    held::{asleep, with_a_neighbour},
    require_sandbox,
    steering::parse,
    stranger::outside,
};

/// The lines of `[service.test]`.
pub(crate) const CONFIG: &str = "listen = [\"udp:0.0.0.0:8000\", \"udp:[::]:8000\"]\nunit = \"app.service\"\n\
                                 idle_timeout = \"300ms\"\nmin_uptime = \"0s\"\nstart_timeout = \"10s\"\n";

/// How long an answer may take that must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn with_udp(options: &str) -> Sandbox {
    with_a_neighbour(CONFIG, &format!("--udp [::]:8000 {options}"))
}

/// A client of the other network.
pub(crate) fn client(sandbox: &Sandbox, from_outside: bool, to: &str) -> Client {
    let to = parse(to);
    match from_outside {
        true => outside(sandbox, || Client::new(to)).unwrap(),
        false => sandbox.in_network(|| Client::new(to)).unwrap().unwrap(),
    }
}

/// The status' numbers of datagrams: all that came, those that were sent again, and those that were lost.
pub(crate) fn datagrams(sandbox: &Sandbox) -> [u64; 3] {
    let status = status(sandbox, "test").unwrap();
    ["passed", "held", "lost"].map(|key| status["datagrams"][key].as_u64().unwrap())
}

#[test]
fn a_datagram_starts_the_application_which_answers_itself() {
    require_sandbox!();
    let sandbox = with_udp("");
    for (starts, (from_outside, to)) in [
        (true, "10.77.0.1:8000"),
        (true, "[fd77::1]:8000"),
        (false, "127.0.0.1:8000"),
        (false, "[::1]:8000"),
        (false, "10.77.0.1:8000"),
    ]
    .into_iter()
    .enumerate()
    {
        asleep(&sandbox);
        let client = client(&sandbox, from_outside, to);
        client.ask(b"first", PATIENCE).unwrap();
        client.ask(b"second", PATIENCE).unwrap();
        // Also large ones, in several packets.
        client.ask(&[7; 5_000], PATIENCE).unwrap();
        assert_eq!(
            number(&sandbox, "test", "starts").unwrap(),
            starts as u64 + 1
        );
    }
    asleep(&sandbox);
    let status = status(&sandbox, "test").unwrap();
    assert_eq!(status["stops_by_reason"]["idle"], 5, "{status}");
    // The second one may come while the first is on its way.
    let [passed, held, lost] = datagrams(&sandbox);
    assert!((5..=10).contains(&held), "{held}");
    assert_eq!((passed, lost), (15, 0));
}

/// A cold start of half a second, in which a hundred datagrams come.
#[test]
fn a_start_loses_none_and_keeps_their_order() {
    require_sandbox!();
    let sandbox = with_udp("--start-delay-ms 500");
    asleep(&sandbox);
    let client = client(&sandbox, true, "10.77.0.1:8000");
    let heard = client.count(300, |_| Duration::from_millis(5), PATIENCE);
    assert_eq!(gaps(&heard, 300), (vec![], vec![]));
    assert!(datagrams(&sandbox)[1] >= 20, "{:?}", datagrams(&sandbox));
    assert_eq!(number(&sandbox, "test", "starts").unwrap(), 1);
}

/// What comes at once is more than a receiver's buffer takes.
#[test]
fn a_burst_is_sent_as_fast_as_the_application_reads() {
    require_sandbox!();
    let sandbox = with_udp("--start-delay-ms 300");
    asleep(&sandbox);
    let client = client(&sandbox, true, "10.77.0.1:8000");
    let heard = client.count(1000, |_| Duration::from_micros(100), PATIENCE);
    assert_eq!(gaps(&heard, 1000), (vec![], vec![]));
}

/// Where it connects to for no use of its own: nobody is there.
const NOBODY: &str = "10.77.0.2:9";

#[test]
fn what_is_no_datagram_of_a_client_does_not_keep_it_up() {
    require_sandbox!();
    // The answers to what it sends itself are errors of ICMP, of both kinds of hosts.
    for nobody in [NOBODY, "[fd77::2]:9", "127.0.0.1:9"] {
        let sandbox = with_udp(&format!("--udp-pushes {nobody}"));
        asleep(&sandbox);
        client(&sandbox, true, "10.77.0.1:8000")
            .ask(b"first", PATIENCE)
            .unwrap();
        asleep(&sandbox);
        assert_eq!(datagrams(&sandbox), [1, 1, 0], "{nobody}");
        stays(
            &sandbox,
            "app.service",
            "inactive",
            Duration::from_millis(500),
        );
    }
}

#[test]
fn a_connected_socket_keeps_it_up() {
    require_sandbox!();
    let sandbox = with_udp("--udp-connects");
    asleep(&sandbox);
    let client = client(&sandbox, true, "10.77.0.1:8000");
    client.ask(b"first", PATIENCE).unwrap();
    // From now on no program sees what it sends.
    stays(&sandbox, "app.service", "active", Duration::from_secs(2));
    client.ask(b"second", PATIENCE).unwrap();
    assert_eq!(number(&sandbox, "test", "vetoes").unwrap(), 0);
    client.send(b"bye");
    asleep(&sandbox);
    assert_eq!(number(&sandbox, "test", "starts").unwrap(), 1);
}

#[test]
fn a_source_that_may_be_forged_wakes_nothing() {
    require_sandbox!();
    let sandbox = with_udp("");
    // TEST-NET-1, RFC 5737: anybody may write it into a packet.
    for step in [
        "ip -n other address add 192.0.2.7/32 dev lo",
        "ip route add 192.0.2.7/32 dev near",
    ] {
        sandbox.run(&step.split(' ').collect::<Vec<_>>()).unwrap();
    }
    let public = || {
        outside(&sandbox, || {
            let socket = std::net::UdpSocket::bind("192.0.2.7:0").unwrap();
            socket.connect("10.77.0.1:8000").unwrap();
            Client::from(socket)
        })
    };
    let forged = public();
    let refused = forged.ask(b"wake", PATIENCE).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    stays(
        &sandbox,
        "app.service",
        "inactive",
        Duration::from_millis(500),
    );
    assert_eq!(number(&sandbox, "test", "starts").unwrap(), 0);
    let status_now = status(&sandbox, "test").unwrap();
    assert_eq!(status_now["datagrams"]["refused"], 1, "{status_now}");
    assert_eq!(status_now["refused_connections"], 0, "{status_now}");
    // While it is up, it is a client as any other.
    let private = client(&sandbox, true, "10.77.0.1:8000");
    private.ask(b"first", PATIENCE).unwrap();
    forged.ask(b"served", PATIENCE).unwrap();
    // And `wake_from` names others.
    asleep(&sandbox);
    let config = format!("{CONFIG}wake_from = [\"192.0.2.0/24\"]\n");
    service::write_config(&sandbox, &format!("[service.test]\n{config}")).unwrap();
    sandbox.run(&["systemctl", "reload", "ondemand"]).unwrap();
    let refused = client(&sandbox, true, "10.77.0.1:8000").ask(b"x", PATIENCE);
    assert!(refused.is_err());
    public().ask(b"wake", PATIENCE).unwrap();
}

/// As a name server has it: both kinds of clients at one port, and each wakes it and keeps it up.
#[test]
fn an_application_may_have_both_kinds_of_clients_at_one_port() {
    require_sandbox!();
    let config = CONFIG.replace("[\"udp", "[\"0.0.0.0:8000\", \"[::]:8000\", \"udp")
        + "first_client = \"held\"\n";
    let sandbox = with_a_neighbour(&config, "--udp [::]:8000 --listen [::]:8000");
    for _ in 0..2 {
        asleep(&sandbox);
        let client = client(&sandbox, true, "10.77.0.1:8000");
        client.ask(b"first", PATIENCE).unwrap();
        asleep(&sandbox);
        crate::held::peer(crate::held::ask(&sandbox, true, "10.77.0.1:8000"));
        client.ask(b"second", PATIENCE).unwrap();
    }
    // An open connection keeps it up, as ever.
    let mut kept = outside(&sandbox, || {
        let mut stream = tests::client::connect(parse("10.77.0.1:8000")).unwrap();
        let request = Request {
            keep_alive: true,
            ..Request::default()
        };
        tests::client::ask(&mut stream, request).unwrap();
        stream
    });
    stays(&sandbox, "app.service", "active", Duration::from_secs(1));
    let _ = std::io::Write::flush(&mut kept);
    drop(kept);
    asleep(&sandbox);
}

/// Nobody else can bind the port while the application is down.
#[test]
fn the_port_of_an_application_that_is_down_cannot_be_taken() {
    require_sandbox!();
    let sandbox = with_udp("");
    asleep(&sandbox);
    for address in ["0.0.0.0:8000", "127.0.0.1:8000", "[::]:8000"] {
        let words = [
            "systemd-run",
            "--wait",
            "--collect",
            "--uid=nobody",
            "--property=RuntimeMaxSec=2s",
        ];
        let thief = ["/usr/bin/test-backend", "--udp", address];
        let began = std::time::Instant::now();
        sandbox.run(&[&words[..], &thief[..]].concat()).unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(2), "{address}");
    }
    client(&sandbox, true, "10.77.0.1:8000")
        .ask(b"first", PATIENCE)
        .unwrap();
}

/// An application that was there before its service was watched is found.
#[test]
fn a_socket_that_is_older_than_the_watch_is_found() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    crate::stranger::add_neighbour(&sandbox);
    service::write_backend(&sandbox, "app.service", "--udp 0.0.0.0:8000").unwrap();
    let user = "[Service]\nUser=nobody\n";
    let place = "/etc/systemd/system/app.service.d/user.conf";
    sandbox.write(place, user).unwrap();
    sandbox.run(&["systemctl", "start", "app.service"]).unwrap();
    let before = client(&sandbox, true, "10.77.0.1:8000");
    wait_for("the application answers", SOON, || {
        before.ask(b"before", Duration::from_millis(100)).ok()
    })
    .unwrap();
    service::write_config(&sandbox, &format!("[service.test]\n{CONFIG}")).unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    sandbox.run(&["ondemand", "apply"]).unwrap();
    before.ask(b"after", PATIENCE).unwrap();
    asleep(&sandbox);
    before.ask(b"again", PATIENCE).unwrap();
    wait_state(&sandbox, "app.service", "active").unwrap();
}

/// One that comes in the middle of a stop keeps the application up, or starts it again: it is never lost.
#[test]
fn a_datagram_during_a_slow_stop_is_answered_by_the_next_run() {
    require_sandbox!();
    let sandbox = with_udp("--stop-delay-ms 400");
    for _ in 0..2 {
        asleep(&sandbox);
        let client = client(&sandbox, true, "10.77.0.1:8000");
        client.ask(b"first", PATIENCE).unwrap();
        wait_state(&sandbox, "app.service", "deactivating").unwrap();
        client.ask(b"during", PATIENCE).unwrap();
    }
    assert_eq!(number(&sandbox, "test", "starts").unwrap(), 4);
    assert_eq!(datagrams(&sandbox)[2], 0);
}

/// Nobody holds datagrams without an agent: they wait at the front socket, and the proxy sends them on in their order.
#[test]
fn without_an_agent_datagrams_wait_at_the_front_socket() {
    require_sandbox!();
    let sandbox = with_udp("--start-delay-ms 300");
    for (signal, to) in [("KILL", "10.77.0.1:8000"), ("TERM", "[fd77::1]:8000")] {
        asleep(&sandbox);
        let dead = std::time::Instant::now();
        end_agent(&sandbox, signal);
        // It is not started for that.
        if signal == "TERM" {
            stays(&sandbox, "app.service", "inactive", Duration::from_secs(1));
        }
        let client = client(&sandbox, true, to);
        let heard = client.count(100, |_| Duration::from_millis(5), PATIENCE);
        assert_eq!(gaps(&heard, 100), (vec![], vec![]), "{signal}");
        eprintln!("{signal}: after {:?}", dead.elapsed());
        if signal == "TERM" {
            service::start_agent(&sandbox).unwrap();
        }
        asleep(&sandbox);
        client.ask(b"again", PATIENCE).unwrap();
    }
    let [_, _, lost] = datagrams(&sandbox);
    assert_eq!(lost, 0);
}

/// From the first moment of a boot on: the programs are loaded, then the front sockets listen.
#[test]
fn before_the_first_agent_datagrams_wait_at_the_front_socket() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    crate::stranger::add_neighbour(&sandbox);
    service::write_backend(&sandbox, "app.service", "--udp [::]:8000").unwrap();
    service::write_config(&sandbox, &format!("[service.test]\n{CONFIG}")).unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    let load = ["systemctl", "start", "ondemand-load.service"];
    sandbox.run(&load).unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    for to in ["10.77.0.1:8000", "[fd77::1]:8000"] {
        let stop = ["systemctl", "stop", "app.service"];
        sandbox.run(&stop).unwrap();
        let client = client(&sandbox, true, to);
        let heard = client.count(100, |_| Duration::from_millis(2), PATIENCE);
        assert_eq!(gaps(&heard, 100), (vec![], vec![]), "{to}");
        // Large ones, in several packets, too.
        client.ask(&[7; 5_000], PATIENCE).unwrap();
    }
    service::start_agent(&sandbox).unwrap();
    asleep(&sandbox);
    client(&sandbox, true, "10.77.0.1:8000")
        .ask(b"again", PATIENCE)
        .unwrap();
}

fn end_agent(sandbox: &Sandbox, signal: &str) {
    let signal = format!("--signal={signal}");
    let words = ["systemctl", "kill", &signal, "ondemand.service"];
    sandbox.run(&words).unwrap();
    wait_for("the agent has ended", SOON, || {
        let state = sandbox.property("ondemand.service", "SubState").ok()?;
        (state != "running").then_some(())
    })
    .unwrap();
}

/// What an agent holds that is killed is sent by who cleans up behind it.
#[test]
fn an_agent_that_is_killed_in_a_start_loses_nothing() {
    require_sandbox!();
    let sandbox = with_udp("--start-delay-ms 700");
    for to in ["10.77.0.1:8000", "[fd77::1]:8000"] {
        asleep(&sandbox);
        let client = client(&sandbox, true, to);
        let heard = std::thread::scope(|scope| {
            let heard = scope.spawn(|| client.count(60, |_| Duration::from_millis(5), PATIENCE));
            wait_state(&sandbox, "app.service", "active").unwrap();
            end_agent(&sandbox, "KILL");
            heard.join().unwrap()
        });
        let (missing, late) = gaps(&heard, 60);
        assert_eq!(missing, Vec::<u32>::new(), "{to}: {heard:?}");
        // What it held may come behind what came at the moment of its end.
        assert!(late.len() <= 1, "{to}: {heard:?}");
        client.ask(b"again", PATIENCE).unwrap();
    }
}

/// One that fails is not started for each datagram.
#[test]
fn an_application_that_fails_is_started_seldom() {
    require_sandbox!();
    let sandbox = with_udp("--crash");
    let client = client(&sandbox, true, "10.77.0.1:8000");
    let heard = client.count(300, |_| Duration::from_millis(5), Duration::ZERO);
    assert_eq!(heard, Vec::<u32>::new());
    let failed = sandbox
        .journal("app.service")
        .matches("crashing, on request")
        .count();
    assert!(failed == 1, "{failed} starts");
    let status = status(&sandbox, "test").unwrap();
    assert_eq!(status["datagrams"]["waiting"], 300, "{status}");
}

/// One that binds another port gets no datagram, and everybody says so.
#[test]
fn an_application_that_does_not_bind_its_port_is_noticed() {
    require_sandbox!();
    let config = CONFIG.replace("300ms", "1h");
    let sandbox = with_a_neighbour(&config, "--udp [::]:9000");
    client(&sandbox, true, "10.77.0.1:8000").send(b"first");
    wait_state(&sandbox, "app.service", "active").unwrap();
    let words = "its application has not bound udp:0.0.0.0:8000, udp:[::]:8000";
    wait_for("the status says so", SOON, || {
        let status = status(&sandbox, "test").ok()?;
        status["detail"].as_str()?.contains(words).then_some(())
    })
    .unwrap();
    let found = check(&sandbox);
    assert!(
        found.contains("does not listen on udp:127.0.0.1:8000"),
        "{found}"
    );
}

fn check(sandbox: &Sandbox) -> String {
    let words = ["sh", "-c", "ondemand check || true"];
    sandbox.run(&words).unwrap()
}

#[test]
fn check_says_what_is_not_seen() {
    require_sandbox!();
    // It must not end while `check` looks.
    let config = CONFIG.replace("300ms", "1h");
    let sandbox = with_a_neighbour(&config, "--udp [::]:8000");
    let found = check(&sandbox);
    assert!(found.contains("broadcast and multicast"), "{found}");
    assert!(!found.contains("\n  error"), "{found}");
    client(&sandbox, true, "10.77.0.1:8000")
        .ask(b"first", PATIENCE)
        .unwrap();
    let found = check(&sandbox);
    assert!(found.contains("is active and listens on udp:"), "{found}");
}
