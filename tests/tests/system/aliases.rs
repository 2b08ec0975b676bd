//! A unit that is configured by another of its names.

use tests::{
    client::{self, Kept, Request},
    sandbox::Sandbox,
    service::{self, CONFIG, SOON, front, number, start_agent, status, stays, wait_state},
    wait_for,
};

use crate::{bus::check, require_sandbox};

fn ask(sandbox: &Sandbox) {
    sandbox
        .in_network(|| client::get(front(), Request::default()))
        .unwrap()
        .unwrap();
}

fn configure(sandbox: &Sandbox, unit: &str) {
    let config = CONFIG.replace("app.service", unit);
    service::write_config(sandbox, &format!("[service.test]\n{config}")).unwrap();
}

fn detail(sandbox: &Sandbox, name: &str) -> String {
    let status = status(sandbox, name).unwrap();
    status["detail"].as_str().unwrap().to_owned()
}

/// `unit` is a name of the unit `own`: clients start it, it is stopped when it is idle and on request, and
/// everything says so.
#[track_caller]
fn check_works(sandbox: &Sandbox, unit: &str, own: &str) {
    let stops = number(sandbox, "test", "stops").unwrap();
    for round in 1..=2 {
        let kept = sandbox.in_network(|| Kept::connect(front())).unwrap();
        assert_eq!(status(sandbox, "test").unwrap()["state"], "active");
        drop(kept.unwrap());
        wait_state(sandbox, own, "inactive").unwrap();
        wait_for("the agent has heard of the stop", SOON, || {
            let status = status(sandbox, "test").ok()?;
            let stopped = status["stops"] == stops + round && status["state"] == "inactive";
            stopped.then_some(())
        })
        .unwrap();
    }
    check(sandbox, "timeout 20 ondemand hold test", 0, &[]);
    check(sandbox, "ondemand start test", 0, &["started"]);
    assert_eq!(status(sandbox, "test").unwrap()["state"], "active");
    check(sandbox, "ondemand release test", 0, &[]);
    check(sandbox, "timeout 20 ondemand stop test", 0, &["test:"]);
    wait_state(sandbox, own, "inactive").unwrap();
    assert_eq!(status(sandbox, "test").unwrap()["unit"], unit);
    let said = format!("{unit} is loaded, an alias of {own}");
    check(sandbox, "ondemand check", 0, &[&said]);
    // The next agent.
    ask(sandbox);
    check(sandbox, "systemctl restart ondemand.service", 0, &[]);
    wait_state(sandbox, own, "inactive").unwrap();
}

#[test]
fn by_each_kind_of_alias_it_works_the_same() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    service::write_backend(&sandbox, "app.service", "").unwrap();
    let install = "echo '[Install]\nAlias=web.service' >>/etc/systemd/system/app.service && \
                   systemctl enable app.service";
    check(&sandbox, install, 0, &[]);
    configure(&sandbox, "web.service");
    service::reload(&sandbox, &["test"]).unwrap();
    start_agent(&sandbox).unwrap();
    check_works(&sandbox, "web.service", "app.service");

    // A link of the package's.
    service::write_backend(&sandbox, "app.service", "").unwrap();
    let link = "rm /etc/systemd/system/web.service; \
                ln -s ../../../../etc/systemd/system/app.service /usr/lib/systemd/system/web.service";
    check(&sandbox, link, 0, &[]);
    check(&sandbox, "systemctl daemon-reload", 0, &[]);
    check_works(&sandbox, "web.service", "app.service");

    // A template that is an alias, and an instance.
    let units = "cd /etc/systemd/system && mv app.service app@.service && \
                 ln -s app@.service web@.service && ln -s app@two.service old@two.service";
    check(&sandbox, units, 0, &[]);
    for (unit, own) in [
        ("web@one.service", "app@one.service"),
        ("old@two.service", "app@two.service"),
    ] {
        configure(&sandbox, unit);
        check(&sandbox, "systemctl daemon-reload", 0, &[]);
        wait_for("the agent has the unit", SOON, || {
            (status(&sandbox, "test").ok()?["unit"] == unit).then_some(())
        })
        .unwrap();
        check_works(&sandbox, unit, own);
    }
}

#[test]
fn an_alias_that_comes_and_goes() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    service::write_backend(&sandbox, "app.service", "").unwrap();
    configure(&sandbox, "web.service");
    service::reload(&sandbox, &["test"]).unwrap();
    start_agent(&sandbox).unwrap();
    assert!(detail(&sandbox, "test").contains("web.service does not exist"));
    let link = "ln -s app.service /etc/systemd/system/web.service && systemctl daemon-reload";
    let unlink = "rm /etc/systemd/system/web.service && systemctl daemon-reload";
    for _ in 0..2 {
        check(&sandbox, link, 0, &[]);
        wait_for("it is managed", SOON, || {
            (!detail(&sandbox, "test").contains("not managed")).then_some(())
        })
        .unwrap();
        check_works(&sandbox, "web.service", "app.service");
        check(&sandbox, unlink, 0, &[]);
        wait_for("it is not managed", SOON, || {
            let detail = detail(&sandbox, "test");
            detail.contains("web.service does not exist").then_some(())
        })
        .unwrap();
    }
    // The name becomes that of another unit.
    service::write_backend(&sandbox, "other.service", "").unwrap();
    check(&sandbox, link, 0, &[]);
    let other = "ln -sf other.service /etc/systemd/system/web.service && systemctl daemon-reload";
    check(&sandbox, other, 0, &[]);
    wait_for("the agent has heard of it", SOON, || {
        let journal = sandbox.journal("ondemand.service");
        journal.contains("an alias of other.service").then_some(())
    })
    .unwrap();
    check_works(&sandbox, "web.service", "other.service");
    let never = sandbox.property("app.service", "ActiveEnterTimestampMonotonic");
    let stamp = never.unwrap();
    ask(&sandbox);
    wait_state(&sandbox, "other.service", "inactive").unwrap();
    let after = sandbox.property("app.service", "ActiveEnterTimestampMonotonic");
    assert_eq!(
        after.unwrap(),
        stamp,
        "the unit that had the name was started"
    );
}

#[test]
fn two_services_with_one_unit_are_refused() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    for unit in ["app.service", "web.service"] {
        service::write_backend(&sandbox, unit, "").unwrap();
    }
    let web = CONFIG
        .replace("app.service", "web.service")
        .replace("8000", "8001")
        .replace("8080", "8081");
    let both = format!("[service.test]\n{CONFIG}\n[service.web]\n{web}");
    service::write_config(&sandbox, &both).unwrap();
    service::reload(&sandbox, &["test", "web"]).unwrap();
    start_agent(&sandbox).unwrap();
    ask(&sandbox);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    // A package that takes over from another.
    let link = "ln -sf app.service /etc/systemd/system/web.service && systemctl daemon-reload";
    check(&sandbox, link, 0, &[]);
    for (name, other) in [("test", "web"), ("web", "test")] {
        wait_for("it is not managed", SOON, || {
            let detail = detail(&sandbox, name);
            let why = format!("its unit app.service is that of {other}, too");
            detail.contains(&why).then_some(())
        })
        .unwrap();
    }
    ask(&sandbox);
    stays(
        &sandbox,
        "app.service",
        "active",
        std::time::Duration::from_millis(1_200),
    );
    // The front sockets are still there.
    for socket in ["ondemand-test.socket", "ondemand-web.socket"] {
        assert_eq!(sandbox.property(socket, "LoadState").unwrap(), "loaded");
    }
    let why = ["web.service", "service.test", "app.service", "an alias"];
    check(&sandbox, "ondemand check", 2, &why);
    check(&sandbox, "ondemand reload", 2, &why);
    check(&sandbox, "systemctl reload ondemand.service", 1, &[]);
    check(&sandbox, "systemctl restart ondemand.service", 0, &[]);
    let table = sandbox.run(&["ondemand", "status"]).unwrap();
    assert!(table.starts_with("WRONG CONFIGURATION"), "{table}");
    // Without the second everything is right.
    service::write_config(&sandbox, &format!("[service.test]\n{CONFIG}")).unwrap();
    check(&sandbox, "systemctl daemon-reload", 0, &[]);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    // Nor is one of ondemand's own units an application.
    let own = "ln -sf ondemand.service /etc/systemd/system/web.service && systemctl daemon-reload";
    configure(&sandbox, "web.service");
    check(&sandbox, own, 0, &[]);
    check(
        &sandbox,
        "ondemand check",
        2,
        &["one of ondemand's own units"],
    );
}
