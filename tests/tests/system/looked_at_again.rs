//! What the agent has complained about, or does not manage, because of units: when they are right, so is `status`,
//! without a word to the agent.

use tests::{
    sandbox::Sandbox,
    service::{self, CONFIG, SOON},
    wait_for,
};

use crate::{bus::check, require_sandbox};

const FILE: &str = "/etc/ondemand/ondemand.toml";
/// Of a service whose proxy has an unmet condition.
const SKIPPED: &str = "is not met";
const RELOAD: &str = "systemctl daemon-reload";

/// Waits until `status` has the words, or has them no more.
#[track_caller]
fn says(sandbox: &Sandbox, words: &str, expected: bool, after: &str) {
    let said = || sandbox.run(&["ondemand", "status"]);
    let is_so = || (said().ok()?.contains(words) == expected).then_some(());
    wait_for(words, SOON, is_so)
        .unwrap_or_else(|error| panic!("{error}: after {after}: {:?}", said()));
}

#[test]
fn what_was_left_alone_is_managed_when_its_units_are_right() {
    require_sandbox!();
    let steered = CONFIG.replace("steer = false", "steer = true");
    let sandbox = service::on_demand(&steered, "").unwrap();
    let good = std::fs::read_to_string(sandbox.path(FILE)).unwrap();
    let two = good.clone()
        + &CONFIG
            .replace("8000", "8001")
            .replace("8080", "8081")
            .replace("app.service", "new.service")
            .replacen('\n', "\n[service.new]\n", 1);
    sandbox.write("/root/two.toml", &two).unwrap();
    sandbox.write("/root/good.toml", &good).unwrap();
    service::write_backend(&sandbox, "new.service", "--listen 127.0.0.1:8081").unwrap();
    let drop_in = |unit: &str, section: &str, line: &str| {
        let directory = format!("/etc/systemd/system/{unit}.d");
        format!(
            "mkdir -p {directory}; printf '[{section}]\\n{line}\\n' >{directory}/99-test.conf; {RELOAD}"
        )
    };
    let undo = |unit: &str| format!("rm /etc/systemd/system/{unit}.d/99-test.conf");
    let app = "/etc/systemd/system/app.service";
    let back = format!("cat /root/good.toml >{FILE}; {RELOAD}; ondemand apply");
    // What spoils it, what is said then, and what a person does about it before the daemon-reload.
    let rows = [
        // The same text, written again.
        (
            format!("touch {FILE}"),
            "has changed since it was read",
            "true".to_owned(),
        ),
        (
            format!("cp {FILE} /root/copy; mv /root/copy {FILE}"),
            "has changed since it was read",
            "true".to_owned(),
        ),
        // Units that are missing.
        (
            format!("{back}; cat /root/two.toml >{FILE}; ondemand reload"),
            "not managed: ",
            "true".to_owned(),
        ),
        (
            format!("{back}; cat /root/two.toml >{FILE}; systemctl restart ondemand"),
            "not managed: ",
            "true".to_owned(),
        ),
        // The application's own.
        (
            format!("mv {app} /root/app.service; {RELOAD}"),
            "app.service does not exist",
            format!("mv /root/app.service {app}"),
        ),
        (
            format!("mv {app} /root/app.service; systemctl mask app.service"),
            "systemd reports it as masked",
            format!("rm {app}; mv /root/app.service {app}"),
        ),
        (
            drop_in("app.service", "Unit", "StopWhenUnneeded=no"),
            "systemd does not stop app.service yet",
            undo("app.service"),
        ),
        (
            drop_in(
                "ondemand-test.service",
                "Unit",
                "ConditionPathExists=/not/there",
            ) + "; timeout 1 bash -c 'exec 3<>/dev/tcp/127.0.0.1/8000; cat <&3' || true",
            SKIPPED,
            undo("ondemand-test.service"),
        ),
    ];
    for (spoil, words, repair) in &rows {
        check(&sandbox, spoil, 0, &[]);
        says(&sandbox, words, true, spoil);
        check(&sandbox, &format!("{repair}; {RELOAD}"), 0, &[]);
        says(&sandbox, words, false, repair);
        // Its front socket, which has failed then, is started again after ten seconds.
        if *words != SKIPPED {
            says(&sandbox, "not managed", false, repair);
        }
    }
}

/// The same for a `daemon-reexec`, which ends the agent's connection.
#[test]
fn what_was_left_alone_is_managed_after_a_reexec() {
    require_sandbox!();
    let sandbox = service::on_demand(CONFIG, "").unwrap();
    let app = "/etc/systemd/system/app.service";
    check(
        &sandbox,
        &format!("mv {app} /root/app.service; {RELOAD}"),
        0,
        &[],
    );
    says(&sandbox, "app.service does not exist", true, RELOAD);
    // Only now: the agent looks at the file, too, when systemd has reloaded.
    check(&sandbox, &format!("touch {FILE}"), 0, &[]);
    says(&sandbox, "has changed since it was read", true, "touch");
    let reexec = "systemctl daemon-reexec";
    check(
        &sandbox,
        &format!("mv /root/app.service {app}; {reexec}"),
        0,
        &[],
    );
    says(&sandbox, "has changed since it was read", false, reexec);
    says(&sandbox, "not managed", false, reexec);
    check(
        &sandbox,
        &format!("mv {app} /root/app.service; {reexec}"),
        0,
        &[],
    );
    says(&sandbox, "app.service does not exist", true, reexec);
}

/// systemd looks for the files of a unit that has none when it is to be started.
#[test]
fn a_unit_that_appears_is_seen_without_a_daemon_reload() {
    require_sandbox!();
    let sandbox = service::on_demand(CONFIG, "").unwrap();
    let app = "/etc/systemd/system/app.service";
    check(
        &sandbox,
        &format!("mv {app} /root/app.service; {RELOAD}"),
        0,
        &[],
    );
    says(&sandbox, "app.service does not exist", true, RELOAD);
    let appears = format!("mv /root/app.service {app}; touch {app}; systemctl start app.service");
    check(&sandbox, &appears, 0, &[]);
    says(&sandbox, "does not exist", false, &appears);
}

/// A front socket that a person starts again.
#[test]
fn a_front_socket_that_listens_again_is_seen_at_once() {
    require_sandbox!();
    let sandbox = service::on_demand(CONFIG, "").unwrap();
    // Nobody may take the step as root but a person.
    let alone = "systemctl mask ondemand-permit.service";
    check(&sandbox, alone, 0, &[]);
    let other = std::fs::read_to_string(sandbox.path(FILE)).unwrap();
    sandbox
        .write(FILE, other.replace("127.0.0.1:8000", "127.0.0.1:8002"))
        .unwrap();
    check(&sandbox, RELOAD, 0, &[]);
    says(
        &sandbox,
        "does not listen at all of its addresses",
        true,
        RELOAD,
    );
    let restart = "systemctl restart ondemand-test.socket";
    check(&sandbox, restart, 0, &[]);
    says(
        &sandbox,
        "does not listen at all of its addresses",
        false,
        restart,
    );
}
