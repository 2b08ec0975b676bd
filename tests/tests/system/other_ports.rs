//! A unit listens at more addresses than are configured: their connections are use of the service.

use std::time::Duration;

use tests::{
    client::{self, Request},
    sandbox::Sandbox,
    service::{self, number, stays, wait_state},
};

use crate::{require_sandbox, steering::parse};

const OTHER: &str = "127.0.0.1:8022";
/// In both layouts: the lines of `[service.test]` without the backend, and options of the application.
const LAYOUTS: [(&str, &str); 2] = [
    ("", "--listen 127.0.0.1:8000"),
    ("backend = \"127.0.0.1:8080\"\n", "--listen 127.0.0.1:8080"),
];

fn config(layout: &str) -> String {
    format!(
        "[service.test]\nlisten = \"127.0.0.1:8000\"\nunit = \"app.service\"\nidle_timeout = \"300ms\"\n\
         min_uptime = \"0s\"\nstart_timeout = \"10s\"\n{layout}"
    )
}

fn set_up(options: &str) -> Sandbox {
    let sandbox = service::installed().unwrap();
    let options = format!("{options} --also {OTHER}");
    service::write_backend(&sandbox, "app.service", &options).unwrap();
    sandbox
}

fn keep(sandbox: &Sandbox, to: &str) -> std::net::TcpStream {
    let request = Request {
        keep_alive: true,
        ..Request::default()
    };
    sandbox
        .in_network(|| {
            let mut stream = client::connect(parse(to)).unwrap();
            client::ask(&mut stream, request).unwrap();
            stream
        })
        .unwrap()
}

#[test]
fn a_client_at_another_port_of_the_unit_keeps_it_up() {
    require_sandbox!();
    for (layout, options) in LAYOUTS {
        let sandbox = set_up(options);
        service::write_config(&sandbox, &config(layout)).unwrap();
        service::reload(&sandbox, &["test"]).unwrap();
        service::start_agent(&sandbox).unwrap();
        drop(keep(&sandbox, "127.0.0.1:8000"));
        let kept = keep(&sandbox, OTHER);
        stays(
            &sandbox,
            "app.service",
            "active",
            Duration::from_millis(900),
        );
        let open = number(&sandbox, "test", "open_connections").unwrap();
        assert_eq!(open, 1);
        drop(kept);
        wait_state(&sandbox, "app.service", "inactive").unwrap();
        assert_eq!(number(&sandbox, "test", "count_drift").unwrap(), 0);
    }
}

/// The listener, and the connection, are older than the programs.
#[test]
fn so_does_one_that_was_there_before_the_agent() {
    require_sandbox!();
    for (layout, options) in LAYOUTS {
        let sandbox = set_up(options);
        sandbox.run(&["systemctl", "start", "app.service"]).unwrap();
        service::write_config(&sandbox, "").unwrap();
        tests::wait_for("it listens", service::SOON, || {
            let connected = sandbox.in_network(|| client::connect(parse(OTHER)));
            connected.unwrap().ok()
        })
        .unwrap();
        let before = keep(&sandbox, OTHER);
        service::write_config(&sandbox, &config(layout)).unwrap();
        sandbox.run(&["ondemand", "apply"]).unwrap();
        service::start_agent(&sandbox).unwrap();
        stays(
            &sandbox,
            "app.service",
            "active",
            Duration::from_millis(900),
        );
        let next = keep(&sandbox, OTHER);
        drop(before);
        stays(
            &sandbox,
            "app.service",
            "active",
            Duration::from_millis(900),
        );
        drop(next);
        wait_state(&sandbox, "app.service", "inactive").unwrap();
    }
}

/// Workers of an application that talk to each other are no clients.
#[test]
fn the_units_own_connections_to_itself_are_no_use() {
    require_sandbox!();
    for (layout, options) in LAYOUTS {
        let sandbox = set_up(options);
        let script = "exec 3<>/dev/tcp/127.0.0.1/8022; exec sleep 1000";
        let worker = format!(
            "[Service]\nExecStartPost=/bin/bash -c 'sleep 0.2; (setsid /bin/bash -c \"{script}\" &) '\n"
        );
        let place = "/etc/systemd/system/app.service.d/worker.conf";
        sandbox.write(place, worker).unwrap();
        service::write_config(&sandbox, &config(layout)).unwrap();
        service::reload(&sandbox, &["test"]).unwrap();
        service::start_agent(&sandbox).unwrap();
        drop(keep(&sandbox, "127.0.0.1:8000"));
        let linked = || {
            let words = [
                "sh",
                "-c",
                "ss -Htn state established dport = :8022 | wc -l",
            ];
            sandbox.run(&words).unwrap().trim() == "1"
        };
        tests::wait_for("the worker is connected", service::SOON, || {
            linked().then_some(())
        })
        .unwrap();
        wait_state(&sandbox, "app.service", "inactive").unwrap();
    }
}

/// It is between its SYN and its accepted connection.
#[test]
fn a_half_open_handshake_at_another_port_vetoes_a_stop() {
    require_sandbox!();
    for (layout, options) in LAYOUTS {
        // The listeners receive no final ACK.
        let sandbox = set_up(&format!("{options} --late-ack 100 --notify"));
        service::write_config(&sandbox, &config(layout).replace("300ms", "1h")).unwrap();
        service::reload(&sandbox, &["test"]).unwrap();
        service::start_agent(&sandbox).unwrap();
        sandbox.run(&["ondemand", "start", "test"]).unwrap();
        let half_open = sandbox
            .in_network(|| client::connect(parse(OTHER)).unwrap())
            .unwrap();
        let refused = sandbox.run(&["ondemand", "stop", "test"]).unwrap_err();
        let words = "kept: 1 handshake half open";
        assert!(format!("{refused:#}").contains(words), "{refused:#}");
        drop(half_open);
    }
}
