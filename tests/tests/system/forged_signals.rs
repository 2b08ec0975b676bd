//! The bus delivers a signal that any user sends to a connection by its unique name, whatever that one subscribed
//! to.

use tests::{
    client::{self, Request},
    service::{CONFIG, front, on_demand, wait_journal},
    skip,
};

use crate::{event_costs::connections, require_sandbox};

const AGENT: &str = "ondemand.service";

#[test]
fn only_pid_1_and_the_bus_are_believed() {
    require_sandbox!();
    tests::require!(skip::missing(&["dbus-send"]));
    let sandbox = on_demand(CONFIG, "").unwrap();
    let reloads = || sandbox.journal(AGENT).matches("reload").count();
    let before = reloads();
    let signals: [(&str, &str, &[&str]); 4] = [
        (
            "/org/freedesktop/DBus",
            "org.freedesktop.DBus.NameOwnerChanged",
            &["string:org.freedesktop.systemd1", "string::1.1", "string:"],
        ),
        (
            "/org/freedesktop/DBus",
            "org.freedesktop.DBus.NameLost",
            &["string:org.ondemand1"],
        ),
        (
            "/org/freedesktop/systemd1",
            "org.freedesktop.systemd1.Manager.Reloading",
            &["boolean:false"],
        ),
        (
            "/org/freedesktop/systemd1/unit/app_2eservice",
            "org.freedesktop.DBus.Properties.PropertiesChanged",
            &["string:org.freedesktop.systemd1.Unit"],
        ),
    ];
    let agent = connections(&sandbox);
    assert!(agent.len() > 1, "{agent:?}");
    for connection in agent {
        let to = format!("--dest={connection}");
        for (path, member, body) in signals {
            let nobody = ["runuser", "-u", "nobody", "--", "dbus-send", "--system"];
            let signal = ["--type=signal", &to, path, member];
            sandbox
                .run(&[&nobody[..], &signal[..], body].concat())
                .unwrap();
        }
    }
    // What the agent does next comes after what it was sent.
    sandbox
        .in_network(|| client::get(front(), Request::default()))
        .unwrap()
        .unwrap();
    wait_journal(&sandbox, AGENT, "test: stopped", 1).unwrap();
    let journal = sandbox.journal(AGENT);
    for words in [
        "systemd does not answer",
        "could not parse a signal",
        "not on the bus",
    ] {
        assert!(!journal.contains(words), "{journal}");
    }
    assert_eq!(reloads(), before, "{journal}");
}
