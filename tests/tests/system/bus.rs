//! `org.ondemand1` on the bus: its properties, its signals, and its authorization.

use std::process::Output;

use tests::{
    client::{self, Request},
    sandbox::Sandbox,
    service::{self, CONFIG, front, on_demand, status},
    wait_for,
};

use crate::require_sandbox;

fn shell(sandbox: &Sandbox, script: &str) -> (Option<i32>, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = sandbox.command("sh").args(["-c", script]).output().unwrap();
    let said = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    (status.code(), said)
}

/// Runs a script as root: its exit status, and words that it must write.
#[track_caller]
pub fn check(sandbox: &Sandbox, script: &str, code: i32, words: &[&str]) {
    let (status, said) = shell(sandbox, script);
    assert_eq!(status, Some(code), "{script}: {said}");
    for word in words {
        assert!(said.contains(word), "{script}: no {word:?} in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn everybody_may_look_and_only_root_may_act() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    let nobody = "runuser -u nobody --";
    check(&sandbox, &format!("{nobody} ondemand status"), 0, &["test"]);
    check(
        &sandbox,
        &format!(
            "{nobody} busctl get-property org.ondemand1 /org/ondemand1/service/test \
             org.ondemand1.Service State"
        ),
        0,
        &["s \"inactive\""],
    );
    // No polkit is there.
    sandbox
        .run(&[
            "sh",
            "-c",
            "rm -f /usr/share/dbus-1/system-services/org.freedesktop.PolicyKit1.service && \
             systemctl stop polkit.service",
        ])
        .unwrap();
    sandbox
        .run(&["systemctl", "reload", "dbus.service"])
        .unwrap();
    for verb in [
        "hold test",
        "release test",
        "start test",
        "stop test",
        "reload",
    ] {
        check(
            &sandbox,
            &format!("{nobody} ondemand {verb}"),
            1,
            &["only root may do this", "polkit is not running", "sudo"],
        );
    }
    assert_eq!(status(&sandbox, "test").unwrap()["held"], false);
    // A misspelt name is reported first.
    check(
        &sandbox,
        &format!("{nobody} ondemand hold tset"),
        2,
        &["did you mean"],
    );
    // A bus that forbids it.
    sandbox
        .write(
            "/etc/dbus-1/system.d/zz.conf",
            "<busconfig><policy user=\"nobody\"><deny send_destination=\"org.ondemand1\"/></policy></busconfig>",
        )
        .unwrap();
    sandbox
        .run(&["systemctl", "reload", "dbus.service"])
        .unwrap();
    for verb in ["hold test", "status"] {
        check(
            &sandbox,
            &format!("{nobody} ondemand {verb}"),
            1,
            &["the bus denied access", "sudo"],
        );
    }
}

#[test]
fn the_bus_shows_services_and_tells_of_changes() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    let path = "/org/ondemand1/service/test";
    let listing = sandbox
        .run(&["busctl", "introspect", "org.ondemand1", path])
        .unwrap();
    for word in [
        "org.ondemand1.Service",
        ".Name",
        ".State",
        ".HeldUntil",
        "\"app.service\"",
    ] {
        assert!(listing.contains(word), "no {word} in {listing}");
    }
    let manager = sandbox
        .run(&["busctl", "introspect", "org.ondemand1", "/org/ondemand1"])
        .unwrap();
    for word in [
        ".Hold", ".Release", ".Start", ".Stop", ".Reload", ".Started", ".Stopped",
    ] {
        assert!(manager.contains(word), "no {word} in {manager}");
    }
    let tree = sandbox.run(&["busctl", "tree", "org.ondemand1"]).unwrap();
    assert!(tree.contains(path), "{tree}");
    // As the bus carries it.
    let monitor = sandbox
        .command("sh")
        .args([
            "-c",
            "busctl monitor --json=short org.ondemand1 >/run/monitor 2>/dev/null",
        ])
        .spawn();
    let mut monitor = monitor.unwrap();
    let heard = |words: &[&str]| {
        wait_for(&format!("{words:?} on the bus"), service::SOON, || {
            let text = std::fs::read_to_string(sandbox.path("/run/monitor")).ok()?;
            let hit = |line: &str| words.iter().all(|word| line.contains(word));
            text.lines().any(hit).then_some(())
        })
        .unwrap();
    };
    wait_for("the monitor listens", service::SOON, || {
        sandbox
            .run(&[
                "busctl",
                "call",
                "org.ondemand1",
                "/org/ondemand1",
                "org.freedesktop.DBus.Peer",
                "Ping",
            ])
            .ok()?;
        let text = std::fs::read_to_string(sandbox.path("/run/monitor")).ok()?;
        text.contains("Ping").then_some(())
    })
    .unwrap();
    sandbox
        .in_network(|| client::get(front(), Request::default()))
        .unwrap()
        .unwrap();
    heard(&["\"Started\"", "\"test\""]);
    heard(&["PropertiesChanged", path, "\"active\""]);
    heard(&["\"Stopped\"", "\"test\"", "\"idle\""]);
    heard(&["PropertiesChanged", path, "\"inactive\""]);
    sandbox.run(&["ondemand", "hold", "test"]).unwrap();
    heard(&[
        "PropertiesChanged",
        path,
        "HeldUntil",
        "18446744073709551615",
    ]);
    // The longest possible hold.
    let longest = u64::MAX.to_string();
    let call = [
        "busctl",
        "call",
        "org.ondemand1",
        "/org/ondemand1",
        "org.ondemand1.Manager",
    ];
    let hold = [&call[..], &["Hold", "st", "test", &longest]].concat();
    sandbox.run(&hold).unwrap();
    assert_eq!(status(&sandbox, "test").unwrap()["held"], true);
    monitor.kill().unwrap();
    monitor.wait().unwrap();
    // A service that is configured away is gone from the bus.
    service::write_config(&sandbox, "").unwrap();
    sandbox.run(&["ondemand", "reload"]).unwrap();
    wait_for("its object is gone", service::SOON, || {
        let tree = sandbox.run(&["busctl", "tree", "org.ondemand1"]).ok()?;
        (!tree.contains(path)).then_some(())
    })
    .unwrap();
}

/// The user `games` may hold services, and nothing else.
const RULE: &str = r#"
polkit.addRule(function(action, subject) {
    if (action.id == "org.ondemand1.manage" && action.lookup("verb") == "hold" &&
        action.lookup("service") == "test" && subject.user == "games")
        return polkit.Result.YES;
});
"#;

#[test]
fn polkit_may_allow_it_to_others() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    sandbox
        .write("/etc/polkit-1/rules.d/10-test.rules", RULE)
        .unwrap();
    sandbox
        .run(&["chmod", "-R", "a+rX", "/etc/polkit-1/rules.d"])
        .unwrap();
    sandbox
        .run(&["systemctl", "restart", "polkit.service"])
        .unwrap();
    let listed = sandbox.run(&["pkaction"]).unwrap();
    assert!(listed.contains("org.ondemand1.manage"), "{listed}");
    assert!(listed.contains("org.ondemand1.reload"), "{listed}");
    let hold = "ondemand hold test --for 1h";
    check(
        &sandbox,
        &format!("runuser -u games -- {hold}"),
        0,
        &["held until"],
    );
    assert_eq!(status(&sandbox, "test").unwrap()["held"], true);
    for (user, verb) in [
        ("games", "release test"),
        ("games", "reload"),
        ("nobody", "hold test"),
    ] {
        check(
            &sandbox,
            &format!("runuser -u {user} -- ondemand {verb}"),
            1,
            &["only root may do this", "polkit", "sudo"],
        );
    }
    // A call that does not allow a password prompt.
    check(
        &sandbox,
        "runuser -u games -- busctl call --allow-interactive-authorization=no org.ondemand1 \
         /org/ondemand1 org.ondemand1.Manager Release s test",
        1,
        &["authenticates for org.ondemand1.manage"],
    );
    assert_eq!(status(&sandbox, "test").unwrap()["held"], true);
}
