//! `silent_after`: open connections without a byte are no use.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
    time::{Duration, Instant},
};

use tests::{
    built,
    client::{self, Kept, Request},
    pause::observe_for,
    process::Process,
    require_long,
    sandbox::Sandbox,
    service::{self, CONFIG, SOON, front, number, on_demand, status, stays, wait_state},
    skip, wait_for,
};

use crate::require_sandbox;

const SILENT: &str = "silent_after = \"2s\"\n";
const SILENCE: Duration = Duration::from_secs(2);

/// The lines of a service whose clients are steered, or proxied.
fn config(steered: bool) -> String {
    CONFIG.replace("steer = false", &format!("steer = {steered}")) + SILENT
}

/// A client that stays, after one that has shown that somebody accepts.
fn stays_connected(sandbox: &Sandbox, steered: bool) -> Kept {
    let connect = || {
        sandbox
            .in_network(|| Kept::connect(front()))
            .unwrap()
            .unwrap()
    };
    if steered {
        let ask = || client::get(front(), Request::default());
        sandbox.in_network(ask).unwrap().unwrap();
        wait_for("it is steered", SOON, || {
            (status(sandbox, "test").ok()?["route"] == "steered").then_some(())
        })
        .unwrap();
    }
    let kept = connect();
    let legs = status(sandbox, "test").unwrap();
    assert_eq!(legs["steered"]["accepted"], u64::from(steered), "{legs}");
    kept
}

#[test]
fn a_silent_connection_does_not_keep_it_up() {
    require_sandbox!();
    for steered in [true, false] {
        let sandbox = on_demand(&config(steered), "").unwrap();
        let mut kept = stays_connected(&sandbox, steered);
        let start = Instant::now();
        check_list(&sandbox, steered);
        wait_state(&sandbox, "app.service", "inactive").unwrap();
        let took = start.elapsed();
        assert!(
            took >= SILENCE - Duration::from_millis(500),
            "{steered}: {took:?}"
        );
        assert!(took < 3 * SILENCE, "{steered}: {took:?}");
        let end = status(&sandbox, "test").unwrap();
        assert_eq!(end["stops_by_reason"]["idle"], 1, "{end}");
        assert_eq!(end["count_drift"], 0, "{end}");
        assert_eq!(end["vetoes"], 0, "{end}");
        // Of the proxied client both connections are closed, by the proxy.
        let (unit, words) = match steered {
            true => ("ondemand.service", "closed 1 silent connection"),
            false => ("ondemand-test.service", "closing 1 silent connection"),
        };
        service::wait_journal(&sandbox, unit, words, 1).unwrap();
        kept.ask().expect_err("it was closed");
        // The next client has the next run.
        sandbox
            .in_network(|| client::get(front(), Request::default()))
            .unwrap()
            .unwrap();
    }
}

#[test]
fn a_byte_now_and_then_is_use() {
    require_sandbox!();
    require_long!("it waits for several times of silence");
    for steered in [true, false] {
        let sandbox = on_demand(&config(steered), "").unwrap();
        let mut kept = stays_connected(&sandbox, steered);
        let mut last = Instant::now();
        observe_for(3 * SILENCE, || {
            if last.elapsed() > SILENCE / 2 {
                kept.ask().unwrap();
                last = Instant::now();
            }
        });
        let now = status(&sandbox, "test").unwrap();
        assert_eq!(
            (&now["state"], &now["starts"]),
            (&"active".into(), &1.into()),
            "{now}"
        );
        assert_eq!(now["vetoes"], 0, "{now}");
        wait_state(&sandbox, "app.service", "inactive").unwrap();
    }
}

#[test]
fn without_it_a_silent_connection_keeps_it_up() {
    require_sandbox!();
    let plain = config(true).replace(SILENT, "");
    let sandbox = on_demand(&plain, "").unwrap();
    let mut kept = stays_connected(&sandbox, true);
    stays(&sandbox, "app.service", "active", 2 * SILENCE);
    kept.ask().unwrap();
}

/// While the veto program runs a byte comes, which the last look sees.
#[test]
fn a_byte_that_comes_during_a_stop_is_a_veto() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    let program = "#!/bin/sh\ntouch /run/asked/now\nsleep 1\n";
    sandbox.write("/usr/local/bin/slow-veto", program).unwrap();
    sandbox
        .run(&["chmod", "755", "/usr/local/bin/slow-veto"])
        .unwrap();
    sandbox.run(&["mkdir", "-m", "777", "/run/asked"]).unwrap();
    service::write_backend(&sandbox, "app.service", "").unwrap();
    let config = config(true) + "veto = \"/usr/local/bin/slow-veto\"\n";
    service::write_config(&sandbox, &format!("[service.test]\n{config}")).unwrap();
    let writable = "[Service]\nReadWritePaths=/run/asked\n";
    sandbox
        .write(
            "/etc/systemd/system/ondemand.service.d/asked.conf",
            writable,
        )
        .unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    let mut kept = stays_connected(&sandbox, true);
    wait_for("its veto program runs", SOON, || {
        sandbox.run(&["rm", "/run/asked/now"]).ok()
    })
    .unwrap();
    kept.ask().unwrap();
    wait_for("the stop is vetoed", SOON, || {
        (number(&sandbox, "test", "vetoes").ok()? > 0).then_some(())
    })
    .unwrap();
    kept.ask().unwrap();
    assert_eq!(number(&sandbox, "test", "starts").unwrap(), 1);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
}

/// Walks over the sockets of the host, for the times of their last bytes.
const WALKS: &str = "walking the host's socket tables: clients";

#[test]
fn ten_thousand_silent_connections_cost_two_walks() {
    require_sandbox!();
    let count = if skip::is_long() { 10_000 } else { 2_000 };
    let sandbox = service::installed().unwrap();
    let holder = "/usr/bin/test-holder";
    sandbox
        .install(&built("test-holder").unwrap(), holder)
        .unwrap();
    let unit =
        format!("[Service]\nExecStart={holder} --listen 127.0.0.1:8080\nLimitNOFILE=65536\n");
    sandbox
        .write("/etc/systemd/system/app.service", unit)
        .unwrap();
    sandbox
        .write(
            "/etc/systemd/system/ondemand.service.d/says-more.conf",
            "[Service]\nEnvironment=ONDEMAND_LOG=debug\n",
        )
        .unwrap();
    let config = config(true).replace("\"2s\"", "\"10s\"");
    service::write_config(&sandbox, &format!("[service.test]\n{config}")).unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    // The first one shows that somebody accepts.
    let hold = |connections: usize| {
        let words = format!("--connect {} --connections {connections}", service::FRONT);
        let mut command = sandbox.command(holder);
        command.args(words.split(' ')).args(["--from", "127.1.0.1"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.spawn().unwrap()
    };
    let mut first = hold(1);
    wait_for("it is steered", SOON, || {
        (status(&sandbox, "test").ok()?["route"] == "steered").then_some(())
    })
    .unwrap();
    drop(first.stdin.take());
    first.wait().unwrap();
    let mut all = hold(count);
    let mut line = String::new();
    BufReader::new(all.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "held\n");
    let agent = Process::agent(&sandbox).unwrap();
    let ticks = || agent.stat(14).unwrap() + agent.stat(15).unwrap();
    let (before, memory, start) = (ticks(), agent.memory().unwrap().resident, Instant::now());
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    let (took, after) = (start.elapsed(), agent.memory().unwrap().resident);
    let share = (ticks() - before) as f64 / 100.0 / took.as_secs_f64();
    let walks = sandbox.journal("ondemand.service").matches(WALKS).count();
    let more = (after - memory) / 1e6;
    let percent = share * 100.0;
    println!(
        "{count} silent connections: {walks} walks, {percent:.2} % of a core, {more:.2} MB more"
    );
    // When they could be silent for long enough; and before the lease is released.
    assert_eq!(walks, 2);
    // Of a debug build; one with optimizations takes a third.
    assert!(percent < 2.0, "{percent} % of a core");
    assert!(more < 1.0, "{more} MB");
    assert!(took >= Duration::from_secs(9), "{took:?}");
    let end = status(&sandbox, "test").unwrap();
    assert_eq!(end["vetoes"], 0, "{end}");
    service::wait_journal(&sandbox, "ondemand.service", " silent connections", 1).unwrap();
    drop(all.stdin.take());
    all.wait().unwrap();
}

/// `ondemand status NAME` lists the client.
#[track_caller]
fn check_list(sandbox: &Sandbox, steered: bool) {
    let text = sandbox
        .run(&["ondemand", "status", "test", "--json"])
        .unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let service = &json["services"][0];
    assert_eq!(service["clients"].as_array().unwrap().len(), 1, "{text}");
    assert_eq!(service["clients_left_out"], 0, "{text}");
    let client = &service["clients"][0];
    assert_eq!(
        client["way"],
        if steered { "steered" } else { "proxied" },
        "{text}"
    );
    assert!(
        client["address"]
            .as_str()
            .unwrap()
            .starts_with("127.0.0.1:"),
        "{text}"
    );
    assert!(
        client["since"].as_str().unwrap().starts_with("20"),
        "{text}"
    );
    let (open, silent) = (&client["open_seconds"], &client["silent_seconds"]);
    let (open, silent) = (open.as_f64().unwrap(), silent.as_f64().unwrap());
    assert!(silent <= open + 0.1 && open < SOON.as_secs_f64(), "{text}");
    wait_for("people get a list", SOON, || {
        let text = sandbox.run(&["ondemand", "status", "test"]).ok()?;
        text.contains("SILENT FOR").then_some(())
    })
    .unwrap();
    let unknown = sandbox.run(&["ondemand", "status", "tset"]).unwrap_err();
    assert!(
        format!("{unknown:#}").contains("did you mean"),
        "{unknown:#}"
    );
}
