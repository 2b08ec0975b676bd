//! Backends that nobody of this host's network listens at: they are ready when they can be connected to.

use std::net::SocketAddr;

use tests::{
    client::{self, Request},
    service::{self, wait_state},
};

use crate::{require_sandbox, stranger::add_neighbour};

#[test]
fn an_application_in_another_network_is_started_and_stopped() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    add_neighbour(&sandbox);
    // Its unit is active long before it listens.
    let options = "--listen 10.77.0.2:8080 --start-delay-ms 400";
    service::write_backend(&sandbox, "app.service", options).unwrap();
    sandbox
        .write(
            "/etc/systemd/system/app.service.d/net.conf",
            "[Service]\nNetworkNamespacePath=/run/netns/other\n",
        )
        .unwrap();
    service::write_config(
        &sandbox,
        "[service.test]\nlisten = [\"127.0.0.1:8000\"]\nbackend = \"10.77.0.2:8080\"\nunit = \"app.service\"\n\
         idle_timeout = \"300ms\"\nmin_uptime = \"0s\"\nstart_timeout = \"10s\"\n",
    )
    .unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    let check = sandbox.command("ondemand").arg("check").output().unwrap();
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(
        said.contains("10.77.0.2 is not an address of this host"),
        "{said}"
    );
    assert!(check.status.success(), "it is no error: {said}");
    for _ in 0..3 {
        let front = SocketAddr::from(([127, 0, 0, 1], 8000));
        let answer = sandbox
            .in_network(|| client::get(front, Request::default()))
            .unwrap()
            .unwrap();
        assert!(answer.header("X-Peer").unwrap().starts_with("10.77.0.1:"));
        wait_state(&sandbox, "app.service", "inactive").unwrap();
    }
}
