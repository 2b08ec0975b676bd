//! A wrong configuration is seen, stops nothing, and is right again as soon as it is corrected.

use serde_json::Value;
use tests::{
    client::{self, Request},
    metrics::{self, scrape},
    sandbox::{Cgroups, Sandbox},
    service::{self, CONFIG, SOON, front, wait_state},
    skip, wait_for,
};

use crate::{bus::check, require_sandbox};

const FILE: &str = "/etc/ondemand/ondemand.toml";

fn set_up() -> Sandbox {
    let sandbox = Sandbox::boot_with(Cgroups::Unified).unwrap();
    metrics::on_demand(sandbox, CONFIG, "").unwrap()
}

fn good() -> String {
    format!(
        "[agent]\nmetrics = \"{}\"\nhistory = \"\"\n\n[service.test]\n{CONFIG}",
        metrics::address()
    )
}

/// The service is served, and stopped when it is idle.
fn works(sandbox: &Sandbox) {
    let answer = sandbox.in_network(|| client::get(front(), Request::default()));
    answer.unwrap().unwrap();
    wait_state(sandbox, "app.service", "inactive").unwrap();
}

/// Whether the configuration's file is in force, everywhere that it is said.
#[track_caller]
fn is_said(sandbox: &Sandbox, word: Option<&str>) {
    let samples = scrape(sandbox).unwrap();
    let metric = samples["ondemand_config_last_reload_successful"];
    assert_eq!(metric, f64::from(u8::from(word.is_none())), "{word:?}");
    assert!(samples.contains_key("ondemand_config_last_reload_success_timestamp_seconds"));
    let table = sandbox.run(&["ondemand", "status"]).unwrap();
    let first = table.lines().next().unwrap().to_owned();
    let status = sandbox.property("ondemand.service", "StatusText").unwrap();
    let json = sandbox.run(&["ondemand", "status", "--json"]).unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    let json = &json["configuration"];
    let property = sandbox
        .run(&[
            "busctl",
            "get-property",
            "org.ondemand1",
            "/org/ondemand1",
            "org.ondemand1.Manager",
            "ConfigurationError",
        ])
        .unwrap();
    let journal = sandbox.journal("ondemand.service");
    let Some(word) = word else {
        assert!(!table.contains("WRONG"), "{table}");
        assert!(!status.contains("WRONG"), "{status}");
        assert_eq!(json["last_reload_successful"], true, "{json}");
        assert_eq!(json["error"], Value::Null, "{json}");
        assert_eq!(property.trim(), "s \"\"");
        return;
    };
    for said in [&first, &status, &property] {
        assert!(said.contains("WRONG CONFIGURATION"), "{said}");
        assert!(said.contains(word), "no {word:?} in {said}");
    }
    assert!(journal.contains(word), "no {word:?} in {journal}");
    assert_eq!(json["last_reload_successful"], false, "{json}");
    assert!(json["error"].as_str().unwrap().contains(word), "{json}");
}

#[test]
fn a_wrong_configuration_is_seen_and_the_last_good_one_is_in_force() {
    require_sandbox!();
    let sandbox = set_up();
    works(&sandbox);
    is_said(&sandbox, None);
    let unknown = good().replace("steer = false", "stear = false");
    let write = |text: &str| format!("cat >{FILE} <<'END'\n{text}\nEND\n");
    let rows: &[(&str, &str)] = &[
        (&write("[service.test]\nlisten = ["), "ondemand.toml:2"),
        (&write(&unknown), "stear"),
        (&format!("rm {FILE}"), "No such file"),
        (&format!("rm {FILE}; mkdir {FILE}"), "Is a directory"),
        (&format!("rm {FILE}; mkfifo {FILE}"), "a pipe or a device"),
        // Root can read it, and the agent's user cannot.
        (&format!("chmod 600 {FILE}"), "Permission denied"),
        ("chmod 700 /etc/ondemand", "Permission denied"),
    ];
    // What is there instead of a file is the reader's own test, too.
    let is_usual = |(_, word): &&(&str, &str)| {
        !["Is a directory", "a pipe"]
            .iter()
            .any(|it| word.starts_with(it))
    };
    let rows = rows.iter().filter(|row| skip::is_long() || is_usual(row));
    for (index, (spoil, word)) in rows.enumerate() {
        check(&sandbox, spoil, 0, &[]);
        let begin = std::time::Instant::now();
        check(&sandbox, "ondemand reload", 2, &[word]);
        check(&sandbox, "systemctl reload ondemand.service", 1, &[]);
        is_said(&sandbox, Some(word));
        works(&sandbox);
        // So it is for the next agent, which has not seen the file when it was good.
        if index == 0 {
            let rule = "/etc/polkit-1/rules.d/50-ondemand.rules";
            check(&sandbox, &format!("rm {rule}"), 0, &[]);
        }
        check(&sandbox, "systemctl restart ondemand.service", 0, &[]);
        is_said(&sandbox, Some(word));
        let first = sandbox.run(&["ondemand", "status"]).unwrap();
        assert!(first.contains("a copy is in force"), "{first}");
        works(&sandbox);
        check(
            &sandbox,
            &format!("chmod 755 /etc/ondemand; rm -rf {FILE}; {}", write(&good())),
            0,
            &[],
        );
        check(&sandbox, "ondemand reload", 0, &[]);
        check(&sandbox, "systemctl reload ondemand.service", 0, &[]);
        is_said(&sandbox, None);
        eprintln!("{word}: {:.1?}", begin.elapsed());
    }
    // The agent has read its configuration, but may not do all that follows from it.
    let rules = "/etc/polkit-1/rules.d";
    check(&sandbox, &format!("mv {rules} {rules}.away"), 0, &[]);
    check(&sandbox, "systemctl reload ondemand.service", 1, &[]);
    let journal = sandbox.journal("ondemand.service");
    assert!(journal.contains("polkit 0.106 or later is not installed"));
    is_said(&sandbox, None);
    check(&sandbox, &format!("mv {rules}.away {rules}"), 0, &[]);
    check(&sandbox, "systemctl reload ondemand.service", 0, &[]);
    // Nothing on demand is no mistake.
    check(&sandbox, &format!(": >{FILE}"), 0, &[]);
    check(&sandbox, "systemctl reload ondemand.service", 0, &[]);
    let status = sandbox.run(&["ondemand", "status"]).unwrap();
    assert!(status.contains("no service is configured"), "{status}");
}

#[test]
fn an_agent_without_any_good_configuration_waits_for_one() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    service::write_backend(&sandbox, "app.service", "").unwrap();
    let start = "systemctl start ondemand.service";
    check(&sandbox, start, 1, &[]);
    let said = |word: &str| {
        let what = format!("{word} in the journal");
        wait_for(&what, SOON, || {
            let journal = sandbox.journal("ondemand.service");
            journal.contains(word).then_some(())
        })
        .unwrap();
    };
    said("No such file");
    sandbox.write(FILE, "[service.test]\nlisten = [").unwrap();
    said("ondemand.toml:2");
    let status = wait_for("the status names it", SOON, || {
        let status = sandbox.property("ondemand.service", "StatusText").ok()?;
        status.contains("ondemand.toml:2").then_some(status)
    });
    assert!(
        status
            .unwrap()
            .contains("waiting for a valid configuration")
    );
    let config = good();
    sandbox.write(FILE, config).unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    wait_state(&sandbox, "ondemand.service", "active").unwrap();
    works(&sandbox);
    is_said(&sandbox, None);
}

/// To edit the file and `systemctl daemon-reload` is all there is.
#[test]
fn a_daemon_reload_is_enough() {
    require_sandbox!();
    let sandbox = set_up();
    works(&sandbox);
    service::write_backend(&sandbox, "new.service", "--listen 127.0.0.1:8082").unwrap();
    let new = CONFIG
        .replace("app.service", "new.service")
        .replace("8000", "8001")
        .replace("8080", "8082");
    let both = format!("{}\n[service.new]\n{new}", good());
    sandbox.write(FILE, both).unwrap();
    check(&sandbox, "systemctl daemon-reload", 0, &[]);
    wait_state(&sandbox, "ondemand-new.socket", "active").unwrap();
    let ask = || {
        let front = std::net::SocketAddr::from(([127, 0, 0, 1], 8001));
        sandbox.in_network(|| client::get(front, Request::default()))
    };
    ask().unwrap().unwrap();
    wait_state(&sandbox, "new.service", "inactive").unwrap();
    check(&sandbox, "ondemand check", 0, &["these services only"]);
    // A changed value, and a service that is gone.
    let changed = good().replace("300ms", "1h");
    sandbox.write(FILE, &changed).unwrap();
    check(&sandbox, "systemctl daemon-reload", 0, &[]);
    wait_for("the agent has the new value", SOON, || {
        let all = service::statuses(&sandbox).ok()?;
        (all["test"]["idle_timeout_seconds"] == 3600.0 && all.len() == 1).then_some(())
    })
    .unwrap();
    let rule = "cat /etc/polkit-1/rules.d/50-ondemand.rules";
    assert!(!sandbox.run(&["sh", "-c", rule]).unwrap().contains("new."));
    // What was forgotten is said.
    sandbox.write(FILE, good()).unwrap();
    let table = sandbox.run(&["ondemand", "status"]).unwrap();
    let first = table.lines().next().unwrap();
    assert!(first.contains("run `systemctl daemon-reload`"), "{table}");
    // A mistake is seen, and corrected.
    let wrong = good().replace("steer = false", "stear = false");
    sandbox.write(FILE, wrong).unwrap();
    check(&sandbox, "systemctl daemon-reload", 0, &[]);
    let said = |words: &str, expected: bool| {
        wait_for(words, SOON, || {
            let table = sandbox.run(&["ondemand", "status"]).ok()?;
            (table.contains(words) == expected).then_some(())
        })
        .unwrap();
    };
    said("WRONG CONFIGURATION", true);
    is_said(&sandbox, Some("stear"));
    sandbox.write(FILE, good()).unwrap();
    check(&sandbox, "systemctl daemon-reload", 0, &[]);
    said("WRONG CONFIGURATION", false);
    is_said(&sandbox, None);
    works(&sandbox);
    // What has not changed is not read again.
    let journal = sandbox.journal("ondemand.service");
    let read = journal.matches("read the configuration again").count();
    check(&sandbox, "systemctl daemon-reload", 0, &[]);
    works(&sandbox);
    let journal = sandbox.journal("ondemand.service");
    assert_eq!(
        journal.matches("read the configuration again").count(),
        read
    );
}

/// As after a crash, or a reboot, with a mistake that nobody has seen yet.
#[test]
fn an_agent_that_is_killed_with_a_wrong_configuration_comes_back() {
    require_sandbox!();
    let sandbox = set_up();
    works(&sandbox);
    let wrong = good().replace("steer = false", "stear = false");
    sandbox.write(FILE, wrong).unwrap();
    for _ in 0..2 {
        let before = sandbox.main_pid("ondemand.service").unwrap();
        let kill = "systemctl kill --kill-who=main --signal=KILL ondemand.service";
        check(&sandbox, kill, 0, &[]);
        wait_for("the next agent", SOON, || {
            let next = sandbox.main_pid("ondemand.service").ok()?;
            let state = sandbox.property("ondemand.service", "ActiveState").ok()?;
            (next != before && state == "active").then_some(())
        })
        .unwrap();
        is_said(&sandbox, Some("stear"));
        works(&sandbox);
    }
    sandbox.write(FILE, good()).unwrap();
    check(&sandbox, "systemctl reload ondemand.service", 0, &[]);
    is_said(&sandbox, None);
}

/// A service in a file of its own, with all that is done with a configuration: systemd's units, the agent's reading of
/// it, a mistake in it, the copies for a mistake, and its removal.
#[test]
fn a_service_has_a_file_of_its_own() {
    require_sandbox!();
    let sandbox = set_up();
    let file = "/etc/ondemand/conf.d/other.toml";
    service::write_backend(&sandbox, "other.service", "--listen 127.0.0.1:8090").unwrap();
    let good = CONFIG
        .replace("8000", "8001")
        .replace("8080", "8090")
        .replace("app.service", "other.service");
    let good = format!("[service.other]\n{good}");
    sandbox.write(file, &good).unwrap();
    let table = sandbox.run(&["ondemand", "status"]).unwrap();
    assert!(table.starts_with(&format!("{FILE} has changed")), "{table}");
    let reload = || sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    reload();
    let other = std::net::SocketAddr::from(([127, 0, 0, 1], 8001));
    let serves = || {
        let get = || client::get(other, Request::default());
        wait_for("the other service is served", SOON, || {
            sandbox.in_network(get).unwrap().ok()
        })
        .unwrap();
        wait_state(&sandbox, "other.service", "inactive").unwrap();
        works(&sandbox);
    };
    serves();
    assert_eq!(service::statuses(&sandbox).unwrap().len(), 2);
    is_said(&sandbox, None);

    // Nothing changes for the services of either file, also for a new agent and a new boot's generator.
    sandbox
        .write(file, good.replace("unit =", "unti ="))
        .unwrap();
    reload();
    let word = "conf.d/other.toml";
    wait_for("the mistake is seen", SOON, || {
        let json = sandbox.run(&["ondemand", "status", "--json"]).ok()?;
        let json: Value = serde_json::from_str(&json).ok()?;
        let error = json["configuration"]["error"].as_str()?;
        error.contains("unti").then_some(())
    })
    .unwrap();
    is_said(&sandbox, Some(word));
    serves();
    sandbox
        .run(&["systemctl", "restart", "ondemand.service"])
        .unwrap();
    is_said(&sandbox, Some(word));
    serves();
    let both = [FILE, file].map(|file| sandbox.run(&["cat", file]).unwrap());
    sandbox
        .write("/etc/ondemand/conf.d/twice.toml", &good)
        .unwrap();
    let check = sandbox.command("ondemand").arg("check").output().unwrap();
    assert_eq!(check.status.code(), Some(2), "{both:?}");
    sandbox
        .run(&["rm", "/etc/ondemand/conf.d/twice.toml"])
        .unwrap();

    sandbox.write(file, &good).unwrap();
    reload();
    wait_for("it is correct again", SOON, || {
        let json = sandbox.run(&["ondemand", "status", "--json"]).ok()?;
        let json: Value = serde_json::from_str(&json).ok()?;
        let wrong = ["error", "units_error"].map(|key| !json["configuration"][key].is_null());
        (wrong == [false, false]).then_some(())
    })
    .unwrap();
    is_said(&sandbox, None);
    sandbox.run(&["rm", file]).unwrap();
    sandbox.run(&["ondemand", "apply"]).unwrap();
    assert_eq!(service::statuses(&sandbox).unwrap().len(), 1);
    wait_state(&sandbox, "ondemand-other.socket", "inactive").unwrap();
    works(&sandbox);
}
