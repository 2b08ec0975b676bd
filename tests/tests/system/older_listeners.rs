//! Listeners that are older than the programs: no sock_ops program is called for them, so their end is seen when the last
//! descriptor is closed, and nothing tells of a shutdown(2) before that.

use tests::{
    client::{self, Request},
    sandbox::Sandbox,
    service::{self, SOON, wait_state},
    wait_for,
};

use crate::{own_address, own_address_changes::kill_agent, require_sandbox, steering::wait_route};

const OWN: &str = "listen = \"127.0.0.1:8000\"\nunit = \"app.service\"\nidle_timeout = \"1h\"\nmin_uptime = \"0s\"\n\
                   start_timeout = \"10s\"\nfirst_client = \"held\"\n";

/// An application that is up before the programs are loaded, and clients meet it.
#[track_caller]
fn older(config: &str, options: &str, route: &str) -> Sandbox {
    let sandbox = service::installed().unwrap();
    service::write_backend(&sandbox, "app.service", options).unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    sandbox.run(&["systemctl", "start", "app.service"]).unwrap();
    wait_for("it listens", SOON, || {
        let listeners = sandbox
            .run(&["ss", "-Hltn", "sport = :8000 or sport = :8080"])
            .ok()?;
        (!listeners.is_empty()).then_some(())
    })
    .unwrap();
    service::write_config(&sandbox, &format!("[service.test]\n{config}")).unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    sandbox.run(&["ondemand", "apply"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    wait_for("clients meet it", SOON, || {
        ask(&sandbox, "").then_some(())?;
        (service::status(&sandbox, "test").ok()?["route"] == route).then_some(())
    })
    .unwrap();
    sandbox
}

/// Whether a client is served.
fn ask(sandbox: &Sandbox, query: &'static str) -> bool {
    let request = Request {
        query,
        ..Request::default()
    };
    let answer = sandbox.in_network(|| client::get(service::front(), request));
    answer.unwrap().is_ok()
}

/// It shuts its listeners down one after the other, and ends with the last. The kernel alone, without an agent, must know then that
/// nobody listens.
#[test]
fn one_that_shuts_its_listeners_down_is_known_to_be_gone() {
    require_sandbox!();
    for workers in [1, 2] {
        let options = format!("--listen 127.0.0.1:8000 --workers {workers}");
        let sandbox = older(OWN, &options, "native");
        for left in (1..workers).rev() {
            assert!(ask(&sandbox, "close"));
            wait_for("the others serve all", SOON, || {
                let listeners = sandbox.run(&["ss", "-Hltn", "sport = :8000"]).ok()?;
                (listeners.lines().count() == left).then_some(())
            })
            .unwrap();
            for _ in 0..20 {
                assert!(ask(&sandbox, ""));
            }
        }
        assert!(own_address::is_native(&sandbox, "127.0.0.1:8000"));
        kill_agent(&sandbox);
        assert!(ask(&sandbox, "close"));
        wait_state(&sandbox, "app.service", "inactive").unwrap();
        assert!(ask(&sandbox, ""), "{workers} workers: by the front socket");
        let state = sandbox.property("ondemand-test.service", "ActiveState");
        assert_eq!(state.unwrap(), "active", "the proxy has served");
        wait_for("clients meet the next run", SOON, || {
            own_address::is_native(&sandbox, "127.0.0.1:8000").then_some(())
        })
        .unwrap();
    }
}

/// The same where clients are steered: those that are left are found.
#[test]
fn another_of_several_workers_is_steered_to() {
    require_sandbox!();
    let config = OWN.replace("unit =", "backend = \"127.0.0.1:8080\"\nunit =");
    let sandbox = older(&config, "--listen 127.0.0.1:8080 --workers 3", "steered");
    for _ in 0..2 {
        assert!(ask(&sandbox, "close"));
        for _ in 0..20 {
            assert!(ask(&sandbox, ""));
        }
        wait_route(&sandbox, "steered");
    }
    wait_for("it is stopped", SOON, || {
        sandbox.run(&["ondemand", "stop", "test"]).ok()
    })
    .unwrap();
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    assert!(ask(&sandbox, ""));
    wait_route(&sandbox, "steered");
    // Its listeners are those of a new run now, which the programs see.
    assert!(ask(&sandbox, "close"));
    for _ in 0..20 {
        assert!(ask(&sandbox, ""));
    }
}
