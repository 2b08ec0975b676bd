//! An agent whose maps have another layout than those that it finds.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use tests::{
    client::{self, Request},
    pause::think,
    service::{self, SOON, front, number, status, stays, wait_state},
    wait_for,
};

use crate::{
    require_sandbox,
    steering::{CONFIG, is_steered, wait_route, warm},
};

#[test]
fn pins_of_another_layout_are_replaced_under_load() {
    require_sandbox!();
    let config = CONFIG.replace("1h", "1s");
    let sandbox = warm(&config, "");
    let mut held = sandbox
        .in_network(|| client::connect(front()).unwrap())
        .unwrap();
    let keep = Request {
        keep_alive: true,
        ..Request::default()
    };
    sandbox
        .in_network(|| client::ask(&mut held, keep).unwrap())
        .unwrap();
    // As if the previous agent had been of another version: its programs keep running.
    sandbox
        .run(&["systemctl", "stop", "ondemand.service"])
        .unwrap();
    let pins = sandbox.run(&["ls", "/sys/fs/bpf/ondemand"]).unwrap();
    let ours = format!("/sys/fs/bpf/ondemand/{}", pins.trim());
    sandbox
        .run(&["mv", &ours, "/sys/fs/bpf/ondemand/v0"])
        .unwrap();
    assert!(is_steered(&sandbox, front()));

    let end = AtomicBool::new(false);
    let lost = thread::scope(|scope| {
        let clients = scope.spawn(|| {
            sandbox
                .in_network(|| {
                    let (mut lost, mut done) = (Vec::new(), 0);
                    while !end.load(Ordering::Relaxed) {
                        match client::get(front(), Request::default()) {
                            Ok(_) => done += 1,
                            Err(loss) => lost.push(loss),
                        }
                        think(Duration::from_millis(1));
                    }
                    eprintln!("{done} requests meanwhile");
                    (done, lost)
                })
                .unwrap()
        });
        let started = service::start_agent(&sandbox);
        if started.is_ok() {
            wait_route(&sandbox, "steered");
        }
        // Let the clients see the new one's work.
        let is_back = wait_for("clients are steered again", SOON, || {
            is_steered(&sandbox, front()).then_some(())
        });
        end.store(true, Ordering::Relaxed);
        started.unwrap();
        is_back.unwrap();
        clients.join().unwrap()
    });
    assert!(lost.1.is_empty(), "lost: {:?}", lost.1);
    assert!(lost.0 > 0);
    let pins = sandbox.run(&["ls", "/sys/fs/bpf/ondemand"]).unwrap();
    assert_eq!(format!("/sys/fs/bpf/ondemand/{}", pins.trim()), ours);

    // Earlier connections are not forgotten, and stay open.
    wait_for("the others are gone", SOON, || {
        (number(&sandbox, "test", "open_connections").ok()? == 1).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {:?}", status(&sandbox, "test")));
    let longer_than_idle_timeout = Duration::from_millis(1500);
    stays(&sandbox, "app.service", "active", longer_than_idle_timeout);
    sandbox
        .in_network(|| client::ask(&mut held, keep).unwrap())
        .unwrap();
    drop(held);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    assert_eq!(number(&sandbox, "test", "count_drift").unwrap(), 0);
}

/// A proxy that always has clients would run the old program for ever.
#[test]
fn a_proxy_of_the_program_before_leaves_when_it_has_no_connection() {
    require_sandbox!();
    let steered = service::CONFIG.replace("300ms", "1h");
    let sandbox = service::on_demand(&steered, "").unwrap();
    let proxy = "ondemand-test.service";
    let keep = Request {
        keep_alive: true,
        ..Request::default()
    };
    let ask = |stream: &mut _| sandbox.in_network(|| client::ask(stream, keep).unwrap());
    let mut held = sandbox
        .in_network(|| client::connect(front()).unwrap())
        .unwrap();
    ask(&mut held).unwrap();
    let before = sandbox.main_pid(proxy).unwrap();
    let quiet = sandbox.run(&["ondemand", "check"]).unwrap();
    assert!(!quiet.contains("before an upgrade"), "{quiet}");
    let get = || {
        sandbox
            .in_network(|| client::get(front(), Request::default()))
            .unwrap()
            .unwrap();
    };

    // cp(1) could not write to a program that runs.
    let upgrade = "cp /usr/bin/ondemand /root/new && ! cp /root/new /usr/bin/ondemand 2>/dev/null && install -m 755 \
                   /root/new /usr/bin/ondemand && touch -d '-1 min' /usr/bin/ondemand";
    sandbox.run(&["sh", "-c", upgrade]).unwrap();
    let said = |words: &[&str]| {
        for command in ["status", "check"] {
            let text = sandbox.run(&["ondemand", command]).unwrap();
            for word in words {
                assert!(text.contains(word), "{command}: no {word} in {text}");
            }
        }
    };
    said(&["from before an upgrade", proxy, "ondemand.service"]);
    // It has a connection.
    get();
    ask(&mut held).unwrap();
    assert_eq!(sandbox.main_pid(proxy).unwrap(), before);
    // Clients that come one after the other, without a pause, have the next one, and none is lost.
    drop(held);
    wait_for("a proxy of the new program", SOON, || {
        get();
        (sandbox.main_pid(proxy).ok()? != before).then_some(())
    })
    .unwrap();
    sandbox
        .run(&["systemctl", "restart", "ondemand.service"])
        .unwrap();
    get();
    for command in ["status", "check"] {
        let text = sandbox.run(&["ondemand", command]).unwrap();
        assert!(!text.contains("before an upgrade"), "{text}");
    }
}
