//! `ready`: what an operator says of when an application is ready. Its first clients see nothing but its answers.

use std::{
    thread,
    time::{Duration, Instant},
};

use tests::{
    client::{self, Answer, Loss, Request},
    sandbox::Sandbox,
    service::{self, CONFIG, SOON, front, on_demand, status, wait_journal, wait_state},
    skip, wait_for,
};

use crate::{require_sandbox, steering::parse};

const READY: &str = "ready = \"http://127.0.0.1:8080/health\"\n";

fn ask(sandbox: &Sandbox) -> Result<Answer, Loss> {
    sandbox
        .in_network(|| client::get(front(), Request::default()))
        .unwrap()
}

/// The lines of a service whose application can be steered to.
fn steered() -> String {
    CONFIG.replace("steer = false", "steer = true")
}

/// A way of not being ready, and for how long, here and in the long test.
const WAYS: [(&str, &str, u64, u64); 3] = [
    ("busy", "--unready 503 --unready-ms", 1_500, 6_000),
    ("reset", "--unready reset --unready-ms", 1_500, 3_000),
    ("late", "--start-delay-ms", 1_500, 5_000),
];
/// Clients of each start.
const CLIENTS: u64 = 3;

#[test]
fn first_clients_see_nothing_but_the_answers_of_an_application() {
    require_sandbox!();
    let (rounds, is_long) = if skip::is_long() {
        (50, true)
    } else {
        (1, false)
    };
    let sandbox = service::installed().unwrap();
    let (mut services, mut config) = (Vec::new(), String::new());
    for (way, options, short, long) in WAYS {
        let unready = if is_long { long } else { short };
        for first in ["held", "proxied"] {
            let place = services.len();
            let (name, unit) = (format!("{way}-{first}"), format!("{way}-{first}.service"));
            let (to, at) = (
                format!("127.0.0.1:{}", 8000 + place),
                format!("127.0.0.1:{}", 8100 + place),
            );
            service::write_backend(
                &sandbox,
                &unit,
                &format!("--listen {at} {options} {unready}"),
            )
            .unwrap();
            config += &format!(
                "[service.{name}]\nlisten = [\"{to}\"]\nbackend = \"{at}\"\nunit = \"{unit}\"\n\
                 idle_timeout = \"300ms\"\nmin_uptime = \"0s\"\nstart_timeout = \"30s\"\n\
                 first_client = \"{first}\"\nready = \"http://{at}/health\"\n"
            );
            services.push((name, unit, parse(&to), unready));
        }
    }
    service::write_config(&sandbox, &config).unwrap();
    let names: Vec<&str> = services.iter().map(|(name, ..)| name.as_str()).collect();
    service::reload(&sandbox, &names).unwrap();
    service::start_agent(&sandbox).unwrap();
    thread::scope(|scope| {
        for (name, unit, to, unready) in &services {
            let sandbox = &sandbox;
            scope.spawn(move || {
                for round in 0..rounds {
                    let answers = sandbox.in_network(|| {
                        thread::scope(|scope| {
                            let clients = [(); CLIENTS as usize]
                                .map(|()| scope.spawn(|| client::get(*to, Request::default())));
                            clients.map(|client| client.join().unwrap())
                        })
                    });
                    for answer in answers.unwrap() {
                        let answer =
                            answer.unwrap_or_else(|loss| panic!("{name}, {round}: {loss}"));
                        let took = answer.took;
                        assert!(
                            took >= Duration::from_millis(*unready / 2),
                            "{name}: {took:?}"
                        );
                        assert!(
                            answer.head.starts_with("HTTP/1.1 200"),
                            "{name}: {}",
                            answer.head
                        );
                    }
                    wait_state(sandbox, unit, "inactive").unwrap();
                }
            });
        }
    });
    for (name, _, _, unready) in &services {
        let status = status(&sandbox, name).unwrap();
        println!(
            "{name}: {} clients of {} starts",
            CLIENTS * rounds,
            status["starts"]
        );
        let clients = status["front"]["accepted"].as_u64().unwrap()
            + status["steered"]["accepted"].as_u64().unwrap();
        assert_eq!(clients, CLIENTS * rounds, "{status}");
        // The proxy's attempts are connections; what the agent asks is none. The proxy of a machine so busy that the agent
        // does not answer it in a second asks itself.
        let connections = status["accepted_connections"].as_u64().unwrap();
        let own = if is_long { rounds / 10 } else { 0 };
        assert!((clients..=clients + own).contains(&connections), "{status}");
        assert_eq!(status["ignored"]["accepted"], 0, "{status}");
        assert_eq!(status["starts"], rounds, "{status}");
        let took = status["last_start_duration_seconds"].as_f64().unwrap();
        assert!(took >= *unready as f64 / 2_000.0, "{status}");
        assert!(
            status["ready"].is_null() && status["not_ready"].is_null(),
            "{status}"
        );
    }
}

#[test]
fn held_clients_meet_an_application_that_is_ready_soon() {
    require_sandbox!();
    let config = steered() + READY + "first_client = \"held\"\n";
    let sandbox = on_demand(&config, "--unready 503 --unready-ms 300").unwrap();
    for start in 1..=3 {
        let answer = ask(&sandbox).unwrap();
        assert!(
            answer.took >= Duration::from_millis(250),
            "{:?}",
            answer.took
        );
        let now = status(&sandbox, "test").unwrap();
        assert_eq!(now["steered"]["accepted"], start, "{now}");
        assert_eq!(now["accepted_connections"], start, "{now}");
        wait_state(&sandbox, "app.service", "inactive").unwrap();
    }
    let stamp = sandbox.property("ondemand-test.service", "InactiveExitTimestampMonotonic");
    assert_eq!(stamp.unwrap(), "0", "its proxy was started");
}

#[test]
fn the_questions_are_no_use() {
    require_sandbox!();
    // Never ready, asked often, and stopped all the same. Then one that is ready, without a client.
    for (options, is_ready) in [("--unready 503 --unready-ms 600000", false), ("", true)] {
        let config = steered().replace("300ms", "1500ms") + READY;
        let sandbox = on_demand(&config, options).unwrap();
        sandbox.run(&["systemctl", "start", "app.service"]).unwrap();
        let seen = wait_for("it was asked", SOON, || {
            let status = status(&sandbox, "test").ok()?;
            let why = status["not_ready"].as_str().unwrap_or_default();
            (why.contains("503") || status["ready"] == true).then_some(status)
        });
        let seen = seen.unwrap();
        assert_eq!(seen["ready"], is_ready, "{seen}");
        let why = seen["not_ready"].as_str().unwrap_or_default();
        assert_eq!(why.contains("/health answers 503"), !is_ready, "{seen}");
        assert_eq!(
            seen["detail"].as_str().unwrap().contains("503"),
            !is_ready,
            "{seen}"
        );
        wait_state(&sandbox, "app.service", "inactive").unwrap();
        let end = status(&sandbox, "test").unwrap();
        assert_eq!(end["stops_by_reason"]["idle"], 1, "{end}");
        assert_eq!(end["vetoes"], 0, "{end}");
        assert_eq!(end["accepted_connections"], 0, "{end}");
        for leg in ["front", "steered", "back", "ignored"] {
            assert_eq!(end[leg]["accepted"], 0, "{end}");
        }
        assert_eq!(end["older_connections"], 0, "{end}");
    }
}

#[test]
fn the_gate_opens_when_it_is_ready() {
    require_sandbox!();
    let sandbox = on_demand(
        &(steered().replace("300ms", "1h") + READY),
        "--unready 503 --unready-ms 1500",
    )
    .unwrap();
    sandbox
        .run(&["systemctl", "start", "ondemand-test.target"])
        .unwrap();
    let start = Instant::now();
    wait_for("its gate is open", SOON, || {
        let status = status(&sandbox, "test").ok()?;
        let is_ready = status["ready"] == true;
        let is_steered = status["route"] == "steered";
        assert!(is_ready || !is_steered, "{status}");
        is_steered.then_some(())
    })
    .unwrap();
    // What was answered to the question shows that somebody accepts: no client was needed for that.
    assert!(start.elapsed() >= Duration::from_millis(1_000));
    ask(&sandbox).unwrap();
    let end = status(&sandbox, "test").unwrap();
    assert_eq!(end["front"]["accepted"], 0, "{end}");
}

/// Its clients are closed after `start_timeout`, and the reason is in the journals and in the status.
#[track_caller]
fn check_never(ready: &str, options: &str, why: &str) {
    let config = CONFIG
        .replace("\"10s\"", "\"1500ms\"")
        .replace("300ms", "1h")
        + ready;
    let sandbox = on_demand(&config, options).unwrap();
    let start = Instant::now();
    let answer = ask(&sandbox);
    let is_closed = matches!(answer, Err(Loss::Closed | Loss::Receive(_)));
    assert!(is_closed, "{ready}: {answer:?}");
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(1_400), "{ready}: {took:?}");
    assert!(took < Duration::from_secs(9), "{ready}: {took:?}");
    wait_journal(&sandbox, "ondemand-test.service", why, 1).unwrap();
    wait_journal(&sandbox, "ondemand-test.service", "not ready after", 1).unwrap();
    wait_journal(&sandbox, "ondemand.service", "it is not ready after", 1).unwrap();
    let status = wait_for("it is in the status", SOON, || {
        let status = status(&sandbox, "test").ok()?;
        status["problem"].as_str()?.contains(why).then_some(status)
    });
    let status = status.unwrap();
    assert_eq!(status["ready"], false, "{status}");
    // It is not stopped for that.
    assert_eq!(status["state"], "active", "{status}");
}

#[test]
fn an_application_that_is_never_ready() {
    require_sandbox!();
    let never = |way: &str| format!("--unready {way} --unready-ms 600000");
    check_never(READY, &never("503"), "answers 503");
    check_never(READY, &never("silent"), "not answer");
    let status = format!("{READY}ready_status = 200\n");
    check_never(
        &status,
        &never("redirect"),
        "answers 302 to /, which is not followed",
    );
    if skip::is_long() {
        // Five seconds are the limit.
        check_never(&SLOW.replace("SLOW", "6000"), "", "not answer");
        check_never(READY, &never("garbage"), "not HTTP");
        check_never(READY, &never("endless"), "16 KiB");
        // Whether it has read the request decides what the kernel sends.
        check_never(READY, &never("close"), "s connections");
        check_never(
            "ready = \"http://127.0.0.1:8081/\"\n",
            "",
            "refuses connections",
        );
        let tcp = "ready = \"tcp:127.0.0.1:8080\"\n";
        check_never(tcp, &never("reset"), "resets connections");
    }
}

const SLOW: &str = "ready = \"http://127.0.0.1:8080/health?wait=SLOW\"\n";

#[test]
fn an_answer_that_takes_its_time() {
    require_sandbox!();
    let config = CONFIG.to_owned() + &SLOW.replace("SLOW", "1500");
    let sandbox = on_demand(&config, "").unwrap();
    let answer = ask(&sandbox).unwrap();
    assert!(answer.took >= Duration::from_millis(1_500), "{answer:?}");
}

#[test]
fn a_redirect_is_an_answer() {
    require_sandbox!();
    let sandbox = on_demand(
        &(CONFIG.to_owned() + READY),
        "--unready redirect --unready-ms 600000",
    )
    .unwrap();
    let answer = ask(&sandbox);
    assert!(
        matches!(&answer, Err(Loss::Status(status)) if status.contains("302")),
        "{answer:?}"
    );
}

#[test]
fn without_an_agent_the_proxy_asks() {
    require_sandbox!();
    let sandbox = on_demand(
        &(CONFIG.to_owned() + READY),
        "--unready 503 --unready-ms 1500",
    )
    .unwrap();
    sandbox
        .run(&["systemctl", "stop", "ondemand.service"])
        .unwrap();
    let answer = ask(&sandbox).unwrap();
    assert!(answer.head.starts_with("HTTP/1.1 200"), "{}", answer.head);
    assert!(
        answer.took >= Duration::from_millis(750),
        "{:?}",
        answer.took
    );
}
