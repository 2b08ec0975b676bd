//! The cost of metrics: a scrape of many services, and an agent without scrapes.

use std::time::{Duration, Instant};

use tests::{
    http,
    metrics::{address, scrape, write_config},
    pause::think,
    require_long,
    sandbox::Sandbox,
    service::{self, SOON},
    skip, wait_for,
};

use crate::{require_sandbox, scale};

/// A sandbox with this number of configured services, none of which runs. The agent is not started.
fn with_services(count: u16) -> Sandbox {
    let sandbox = service::installed().unwrap();
    let mut config = String::new();
    for index in 0..count {
        let (front, back) = (10_000 + index, 20_000 + index);
        service::write_backend(
            &sandbox,
            &format!("app{index}.service"),
            &format!("--listen 127.0.0.1:{back}"),
        )
        .unwrap();
        config += &format!(
            "[service.t{index}]\nlisten = [\"127.0.0.1:{front}\"]\nbackend = \"127.0.0.1:{back}\"\n\
             unit = \"app{index}.service\"\nsteer = false\n\n"
        );
    }
    write_config(&sandbox, &address().to_string(), &config).unwrap();
    service::reload(&sandbox, &[]).unwrap();
    sandbox
}

fn median(mut spans: Vec<Duration>) -> Duration {
    spans.sort();
    spans[spans.len() / 2]
}

#[test]
fn a_scrape_of_many_services() {
    require_sandbox!();
    let scrapes_of = |count: u16| {
        let sandbox = with_services(count);
        service::start_agent(&sandbox).unwrap();
        wait_for("the agent is scraped", SOON, || {
            let samples = scrape(&sandbox).ok()?;
            let of_state = |name: &&String| name.starts_with("ondemand_state");
            (samples.keys().filter(of_state).count() == 5 * usize::from(count)).then_some(())
        })
        .unwrap();
        let mut size = 0;
        let spans = (0..20).map(|_| {
            // Sooner it would get what the one before got.
            think(Duration::from_millis(150));
            let begin = Instant::now();
            let accept = "Accept: application/openmetrics-text\r\n";
            let reply = http::get(&sandbox, address(), "/metrics", accept).unwrap();
            size = reply.body.len();
            begin.elapsed()
        });
        let span = median(spans.collect());
        eprintln!("{count} services: {span:?}, {size} bytes");
        span
    };
    let (few, many) = if skip::is_long() {
        (100, 1000)
    } else {
        (40, 400)
    };
    let (short, long) = (scrapes_of(few), scrapes_of(many));
    // In proportion, with room for a busy machine.
    assert!(long < short * 30, "{long:?} and {short:?}");
    if cfg!(not(debug_assertions)) {
        assert!(long < Duration::from_millis(60), "{long:?}");
    }
}

/// As Prometheus asks for it.
#[test]
fn a_scrape_of_many_what_ifs_is_compressed() {
    require_sandbox!();
    require_long!("the metrics of a thousand services");
    let sandbox = with_services(1000);
    let path = "/etc/ondemand/ondemand.toml";
    let config = std::fs::read_to_string(sandbox.path(path)).unwrap();
    for (by, samples, most) in [("total", 50, 20), ("service", 50_000, 50)] {
        let config = config.replacen("[agent]\n", &format!("[agent]\nwhatif = \"{by}\"\n"), 1);
        sandbox.write(path, config).unwrap();
        service::start_agent(&sandbox).unwrap();
        let found = wait_for("the agent is scraped", SOON, || scrape(&sandbox).ok()).unwrap();
        let what_if = |name: &&String| name.starts_with("ondemand_whatif");
        assert_eq!(found.keys().filter(what_if).count(), samples);
        let ask = |accept: &str| {
            // Sooner it would get what the one before got.
            think(Duration::from_millis(150));
            let (begin, used) = (Instant::now(), scale::agent_used(&sandbox));
            let reply = http::get(&sandbox, address(), "/metrics", accept).unwrap();
            let took = begin.elapsed();
            let used = scale::agent_used(&sandbox) - used;
            let length = reply.head.lines().find_map(|line| {
                let length = line.strip_prefix("content-length: ")?;
                length.parse::<usize>().ok()
            });
            let is_gzip = reply.head.contains("content-encoding: gzip");
            (length.unwrap(), is_gzip, took, used)
        };
        let openmetrics = "Accept: application/openmetrics-text\r\n";
        let (plain, is_gzip, _, plain_used) = ask(openmetrics);
        assert!(!is_gzip);
        let compressed: Vec<_> = (0..10)
            .map(|_| ask(&format!("{openmetrics}Accept-Encoding: gzip\r\n")))
            .collect();
        assert!(
            compressed
                .iter()
                .all(|(length, is_gzip, ..)| *is_gzip && *length < 3_000_000)
        );
        let length = compressed[0].0;
        let span = median(compressed.iter().map(|(.., span, _)| *span).collect());
        let used = median(compressed.into_iter().map(|(.., used)| used).collect());
        eprintln!(
            "{by}: {} samples, {plain} bytes in {plain_used:?} of CPU, {length} compressed in {span:?}, {used:?} of CPU",
            found.len()
        );
        // Other tests take the processors, too.
        if cfg!(not(debug_assertions)) {
            assert!(used < Duration::from_millis(most), "{used:?}");
        }
        sandbox
            .run(&["systemctl", "stop", "ondemand.service"])
            .unwrap();
    }
}

#[test]
fn metrics_that_nobody_scrapes_cost_nothing() {
    require_sandbox!();
    require_long!(
        "ten seconds of an agent that does nothing; scale has the same with a hundred services"
    );
    let sandbox = with_services(100);
    let span = Duration::from_secs(10);
    let cpu_of = |address: &str| {
        let text = std::fs::read_to_string(sandbox.path("/etc/ondemand/ondemand.toml")).unwrap();
        let (_, services) = text.split_once("\n\n").unwrap();
        write_config(&sandbox, address, services).unwrap();
        service::start_agent(&sandbox).unwrap();
        let used = scale::agent_cpu(&sandbox, span);
        sandbox
            .run(&["systemctl", "stop", "ondemand.service"])
            .unwrap();
        used
    };
    let without = cpu_of("");
    let with = cpu_of("127.0.0.1:9464");
    eprintln!("{without:?} of CPU in {span:?} without an address, {with:?} with one");
    // 0.1 % of a core.
    assert!(
        with <= without + span / 1000,
        "{with:?}, {without:?} without"
    );
}
