//! `ondemand report --prometheus`: a fleet, from its metrics alone.

mod fake;
mod hosts;
mod page;
mod stores;
mod tls;

use std::{
    fs,
    net::TcpListener,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use fake::{Fake, Faults};
use hosts::{BEGIN, DAY, HOUR, Host, MINUTE, NOW, Service, WhatIf};
use serde_json::Value;
use tests::{documents::assert_documented, require_long};

const GIB: i64 = 1 << 30;

/// Three hosts; `wiki` is on two of them.
fn fleet() -> Vec<Host> {
    let every = |hours: i64, offset: i64| {
        (0..7 * 24 / hours).map(move |number| BEGIN + offset + number * hours * HOUR)
    };
    let burst =
        (0..7 * 24).flat_map(|hour| [3, 8, 40].map(|minute| BEGIN + hour * HOUR + minute * MINUTE));
    vec![
        Host::new(
            "web1:9464",
            vec![
                Service::new("wiki", 2 * GIB, every(3, 7 * MINUTE + 11_000)),
                Service::new("llm", 12 * GIB, every(8, 95 * MINUTE)),
            ],
        ),
        Host::new(
            "web2:9464",
            vec![Service::new("wiki", GIB, every(1, 21 * MINUTE))],
        ),
        Host::new("db1:9464", vec![Service::new("forge", 4 * GIB, burst)]),
    ]
}

fn run(url: &str, more: &[&str]) -> Output {
    command(url, more).output().unwrap()
}

fn command(url: &str, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ondemand"));
    command
        .args(["report", "--prometheus", url])
        .args(more)
        .env("TZ", "UTC");
    command
}

fn json_of(url: &str, more: &[&str]) -> Value {
    let output = run(url, &[&["--json"], more].concat());
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn report(hosts: Vec<Host>, more: &[&str]) -> Value {
    let fake = Fake::start(hosts, NOW, Faults::default());
    json_of(&fake.url(), &[&["--last", "7d"], more].concat())
}

fn notes(json: &Value) -> String {
    let notes = json["notes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|note| note.as_str().unwrap());
    notes.collect::<Vec<_>>().join("\n")
}

/// Fields of all of `of`, one of `services` or `hosts`, and of the total.
fn named<'a>(json: &'a Value, of: &str, name: &str) -> &'a Value {
    let all = json[of].as_array().unwrap();
    all.iter()
        .find(|one| one["name"] == name)
        .unwrap_or_else(|| panic!("{name}: {json}"))
}

const SUMS: [&str; 7] = [
    "arrivals",
    "activations",
    "active_seconds",
    "inactive_seconds",
    "connections",
    "received_bytes",
    "sent_bytes",
];

fn sums(row: &Value) -> [f64; 7] {
    SUMS.map(|field| {
        row[field]
            .as_f64()
            .unwrap_or_else(|| panic!("{field}: {row}"))
    })
}

fn outcomes(row: &Value) -> Vec<(f64, f64, f64)> {
    let rows = row["what_if"].as_array().unwrap().iter();
    let field = |row: &Value, name: &str| row[name].as_f64().unwrap();
    rows.map(|row| {
        (
            field(row, "timeout_seconds"),
            field(row, "cold_starts"),
            field(row, "warm_idle_seconds"),
        )
    })
    .collect()
}

#[track_caller]
fn near(found: f64, expected: f64, by: f64, what: &str) {
    assert!(
        (found - expected).abs() <= by,
        "{what}: {found}, not {expected}"
    );
}

/// The report of a fleet against the sum of its hosts' own, each from its history.
#[track_caller]
fn equals_the_histories(json: &Value, hosts: &[Host]) {
    let directory = tempfile::tempdir().unwrap();
    let mut total = [0.0; 7];
    let mut what_if: Vec<(f64, f64, f64)> = Vec::new();
    let timeouts = hosts::LADDER.map(|seconds| format!("{seconds}s")).join(",");
    for host in hosts {
        let name = &host.labels[0].1;
        let path = directory.path().join(name);
        host.write_history(&path);
        let output = Command::new(env!("CARGO_BIN_EXE_ondemand"))
            .args([
                "report",
                "--json",
                "--timeouts",
                &timeouts,
                "--history",
                path.to_str().unwrap(),
            ])
            .args([
                "--since",
                &format!("@{}", BEGIN / 1000),
                "--until",
                &format!("@{}", NOW / 1000),
            ])
            .env("TZ", "UTC")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let own: Value = serde_json::from_slice(&output.stdout).unwrap();
        let of_fleet = named(json, "hosts", name);
        // As many scrape intervals as there are services.
        let by = 60.0 * host.services.len() as f64;
        for (number, field) in SUMS.iter().enumerate() {
            let by = if field.ends_with("seconds") { by } else { 0.0 };
            near(
                sums(of_fleet)[number],
                sums(&own["total"])[number],
                by,
                &format!("{name}: {field}"),
            );
            total[number] += sums(&own["total"])[number];
        }
        let given_back = "memory_gib_hours_given_back";
        let [found, expected] =
            [of_fleet, &own["total"]].map(|row| row[given_back].as_f64().unwrap());
        // The history knows memory from the first stop on.
        near(found, expected, 0.06 * expected, given_back);
        assert_eq!(of_fleet["stops_by_reason"], own["total"]["stops_by_reason"]);
        for (number, (one, other)) in outcomes(of_fleet)
            .into_iter()
            .zip(outcomes(&own["total"]))
            .enumerate()
        {
            assert_eq!((one.0, one.1), (other.0, other.1), "{name}");
            near(
                one.2,
                other.2,
                by,
                &format!("{name}: up and idle with {} s", one.0),
            );
            match what_if.get_mut(number) {
                Some(sum) => *sum = (sum.0, sum.1 + other.1, sum.2 + other.2),
                None => what_if.push(other),
            }
        }
    }
    for (number, field) in SUMS.iter().enumerate() {
        let by = if field.ends_with("seconds") {
            240.0
        } else {
            0.0
        };
        near(sums(&json["total"])[number], total[number], by, field);
    }
    let found = outcomes(&json["total"]);
    assert_eq!(found.len(), what_if.len());
    for (one, other) in found.into_iter().zip(what_if) {
        assert_eq!((one.0, one.1), (other.0, other.1));
        near(one.2, other.2, 240.0, "up and idle");
    }
}

#[test]
fn a_fleet_is_the_sum_of_its_hosts() {
    let fake = Fake::start(fleet(), NOW, Faults::default());
    let json = json_of(
        &fake.url(),
        &[
            "--last",
            "7d",
            "--memory-per-host",
            "16GiB",
            "--price-per-gib-hour",
            "0.004",
        ],
    );
    assert_documented(&json);
    assert_eq!(json["source"], "prometheus");
    assert_eq!(json["notes"], serde_json::json!([]));
    equals_the_histories(&json, &fleet());
    // By service: the two wikis are one.
    let wiki = named(&json, "services", "wiki");
    assert_eq!(wiki["arrivals"], 7 * 24 / 3 + 7 * 24);
    assert_eq!(wiki["cold_start"]["count"], wiki["activations"]);
    near(
        wiki["cold_start"]["p50_seconds"].as_f64().unwrap(),
        1.75,
        0.01,
        "median",
    );
    let waited = &json["total"]["first_byte"];
    assert_eq!(waited["count"], json["total"]["activations"]);
    near(
        waited["p50_seconds"].as_f64().unwrap(),
        1.75,
        0.01,
        "waited",
    );
    assert!(json["total"]["recommended"]["timeout_seconds"].is_f64());
    assert!(json["total"]["money_given_back"].as_f64().unwrap() > 0.0);
    assert!(json["total"]["learned"]["cold_starts"].as_u64().unwrap() > 0);
    // 19 GiB of services; the largest is up for 11 minutes of 8 hours.
    let capacity = &json["capacity"];
    assert_eq!(
        (&capacity["hosts"], &capacity["services"]),
        (&3.into(), &4.into())
    );
    assert_eq!(capacity["services_without_memory"], 0);
    near(
        capacity["memory_bytes"].as_f64().unwrap(),
        (19 * GIB) as f64,
        1e6,
        "memory",
    );
    assert_eq!(capacity["always_up_hosts"], 2);
    // Agents that say what services take, and what their hosts have.
    let mut told = fleet();
    told.iter_mut().for_each(|host| host.tells_memory = true);
    let told = report(told, &[]);
    for field in ["hosts_at_p99", "hosts_fewer", "memory_per_host_bytes"] {
        assert_eq!(told["capacity"][field], capacity[field], "{field}");
    }
    assert_eq!(told["capacity"]["memory_bytes"], 19 * GIB);
    assert!(fake.most_points() <= 11_000);
    // Fewer than a request for each metric or service.
    assert!(fake.requests() < 20, "{}", fake.requests());
}

#[test]
fn people_and_browsers_read_the_same() {
    let fake = Fake::start(fleet(), NOW, Faults::default());
    let text = String::from_utf8(run(&fake.url(), &["--last", "7d"]).stdout).unwrap();
    for line in [
        &format!("prometheus {}: 3 services, 7 d", fake.url()),
        "HOW MANY HOSTS: 4 services on 3 hosts, which take ",
        "HOST        ARRIVALS",
        "web2:9464        168",
        "SERVICE   ARRIVALS",
        "  most up (UTC): ",
        "Recommended: idle_timeout ",
    ] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
    let page =
        String::from_utf8(run(&fake.url(), &["--last", "7d", "--html", "-"]).stdout).unwrap();
    for part in [
        "<table id=\"by-host\">",
        "<td>web2:9464</td><td data-number=\"168\">168</td>",
        "<p id=\"capacity\">4 services on 3 hosts",
    ] {
        assert!(page.contains(part), "{part:?} is not in\n{page}");
    }
    assert!(page.contains("Time up of all together, by hour and weekday (UTC)"));
}

#[test]
fn services_and_hosts_can_be_chosen() {
    let json = report(fleet(), &["--match", "instance=~\"web.*\""]);
    assert_eq!(json["hosts"].as_array().unwrap().len(), 2);
    let json = report(fleet(), &["forge"]);
    assert_eq!(json["hosts"].as_array().unwrap().len(), 1);
    assert_eq!(json["total"]["arrivals"], 3 * 7 * 24);
}

#[test]
fn a_boot_takes_nothing_back() {
    // Booted in the middle of the fourth day, and twice within an hour on the sixth.
    let boots = [
        BEGIN,
        BEGIN + 80 * HOUR + 30 * MINUTE,
        BEGIN + 130 * HOUR + 31 * MINUTE,
        BEGIN + 130 * HOUR + 55 * MINUTE,
    ];
    let mut hosts = fleet();
    let steady = report(hosts.clone(), &[]);
    for host in &mut hosts {
        host.boots = boots.to_vec();
    }
    let json = report(hosts, &[]);
    assert_eq!(notes(&json), "");
    for of in ["services", "hosts"] {
        for row in json[of].as_array().unwrap() {
            let before = named(&steady, of, row["name"].as_str().unwrap());
            assert_eq!(row["connections"], before["connections"], "{}", row["name"]);
            // The first client after a boot finds it down.
            let [one, other] = [row, before].map(|row| row["activations"].as_u64().unwrap());
            assert!((other..=other + 6).contains(&one), "{one}, {other}");
            let [one, other] = [row, before].map(|row| {
                row["active_seconds"].as_f64().unwrap() + row["inactive_seconds"].as_f64().unwrap()
            });
            near(one, other, 3.0 * 2.0 * 120.0, "watched");
        }
    }
}

#[test]
fn what_is_not_as_it_should_be_is_named() {
    // A gap of a day, in which one was booted: nothing is lost but what its counters had since the last sample.
    let mut hosts = fleet();
    hosts[0].scraped = vec![(BEGIN, BEGIN + 2 * DAY), (BEGIN + 3 * DAY, NOW + DAY)];
    let json = report(hosts.clone(), &[]);
    assert!(
        notes(&json)
            .contains("web1:9464: no samples from 2025-03-04 23:59 UTC to 2025-03-06 00:00 UTC"),
        "{}",
        notes(&json)
    );
    let arrivals = |json: &Value| {
        named(json, "hosts", "web1:9464")["arrivals"]
            .as_u64()
            .unwrap()
    };
    assert_eq!(arrivals(&json), 7 * 24 / 3 + 7 * 24 / 8);

    // Came on the third day, another is gone since the fifth.
    let mut hosts = fleet();
    hosts[1].boots = vec![BEGIN + 2 * DAY];
    hosts[1].scraped = vec![(BEGIN + 2 * DAY, NOW + DAY)];
    hosts[1].services[0].watched.0 = BEGIN + 2 * DAY;
    hosts[2].scraped = vec![(BEGIN, BEGIN + 4 * DAY)];
    let json = report(hosts, &[]);
    let found = notes(&json);
    assert!(
        found.contains("web2:9464: nothing before 2025-03-05 00:0"),
        "{found}"
    );
    assert!(
        found.contains("db1:9464: nothing since 2025-03-0"),
        "{found}"
    );
    assert_eq!(named(&json, "hosts", "web2:9464")["arrivals"], 5 * 24);
    assert_eq!(named(&json, "hosts", "db1:9464")["arrivals"], 3 * 4 * 24);

    // An hour between samples, further than Prometheus looks back.
    let mut hosts = fleet();
    hosts.iter_mut().for_each(|host| host.interval = HOUR);
    let json = report(hosts, &[]);
    assert!(
        notes(&json).contains("samples are 1 h from each other"),
        "{}",
        notes(&json)
    );
    assert_eq!(
        json["total"]["arrivals"],
        7 * 24 / 3 + 7 * 24 / 8 + 7 * 24 + 3 * 7 * 24
    );

    // The same host scraped by two.
    let mut hosts = fleet();
    let mut twice = hosts[1].clone();
    twice.labels.push(("replica".into(), "b".into()));
    hosts.push(twice);
    let json = report(hosts, &[]);
    assert!(
        notes(&json).contains("web2:9464 is there twice, with no further label and with replica=b"),
        "{}",
        notes(&json)
    );
    assert_eq!(named(&json, "hosts", "web2:9464")["arrivals"], 7 * 24);
    // Two hosts of one name.
    let mut hosts = fleet();
    hosts[1].labels.push(("site".into(), "b".into()));
    hosts[1].labels[0].1 = "localhost:9464".into();
    hosts[2].labels[0].1 = "localhost:9464".into();
    hosts[2].labels.push(("site".into(), "c".into()));
    let json = report(hosts, &[]);
    assert_eq!(notes(&json), "");
    assert_eq!(
        named(&json, "hosts", "localhost:9464 (site=b)")["arrivals"],
        7 * 24
    );

    // Agents of two versions, one without what-if.
    let mut hosts = fleet();
    hosts[1].version = "0.0.9".into();
    hosts[1].what_if = WhatIf::Off;
    hosts[2].what_if = WhatIf::Total;
    let json = report(hosts, &[]);
    let found = notes(&json);
    assert!(
        found
            .contains("agents of several versions: 0.0.9 (web2:9464), 0.1.0 (db1:9464, web1:9464)"),
        "{found}"
    );
    assert!(
        found.contains("without what-if figures: web2:9464"),
        "{found}"
    );
    let host = named(&json, "hosts", "web2:9464");
    assert_eq!(
        (&host["arrivals"], &host["learned"], &host["recommended"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    assert_eq!(host["connections"], 7 * 24);
    let host = named(&json, "hosts", "db1:9464");
    assert_eq!(host["arrivals"], 3 * 7 * 24);
    assert_eq!(named(&json, "services", "forge")["arrivals"], Value::Null);
    assert_eq!(
        json["total"]["arrivals"],
        3 * 7 * 24 + 7 * 24 / 3 + 7 * 24 / 8
    );
}

#[track_caller]
fn refused(url: &str, more: &[&str], code: i32, message: &str) {
    let output = run(url, more);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert!(error.contains(message), "{error}");
    assert!(output.stdout.is_empty(), "{output:?}");
}

#[test]
fn a_server_that_does_not_answer_is_named() {
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let begin = Instant::now();
    refused(
        &format!("http://me:secret@{nobody}"),
        &[],
        1,
        &format!("http://{nobody}: no connection: Connection refused"),
    );
    assert!(
        begin.elapsed() > Duration::from_secs(3),
        "it is asked again"
    );
    let faulty = |faults: Faults| Fake::start(fleet(), NOW, faults);
    let slow = faulty(Faults {
        delay: Duration::from_secs(3),
        ..Faults::default()
    });
    refused(
        &slow.url(),
        &["--patience", "200ms"],
        1,
        "has not answered within 200 ms",
    );
    for (status, body, message) in [
        (
            422,
            r#"{"status":"error","error":"too many samples"}"#,
            "answers 422 Unprocessable Entity: too many samples; ask for less",
        ),
        (
            400,
            r#"{"status":"error","error":"parse error"}"#,
            "parse error; is --match right?",
        ),
        (404, "<html>", "is this the address of a Prometheus"),
        (200, "<html>", "no answer of Prometheus"),
        (200, r#"{"status":"success"}"#, "no answer of Prometheus"),
    ] {
        let fake = faulty(Faults {
            always: Some(("query_range", status, body)),
            ..Faults::default()
        });
        refused(&fake.url(), &["--last", "7d"], 1, message);
    }
    let fake = faulty(Faults {
        always: Some(("", 200, "{}")),
        ..Faults::default()
    });
    refused(&fake.url(), &[], 1, "does not say what time it is");
    // Nothing there.
    let fake = faulty(Faults::default());
    refused(
        &fake.url(),
        &["--match", "instance=\"web9\""],
        1,
        "no metrics of ondemand in this time that match instance=\"web9\"",
    );
    refused(
        &fake.url(),
        &["--since", "2024-01-01", "--until", "2024-02-01"],
        1,
        "no metrics of ondemand in this time",
    );
    refused(
        &fake.url(),
        &["--match", "web"],
        2,
        "--match: write what stands between { and }",
    );
    refused(
        &fake.url(),
        &["--last", "7d", "nobody"],
        2,
        "no service \"nobody\"; it has: forge, llm, wiki",
    );
    refused(
        &fake.url(),
        &["--last", "7d", "--timeouts", "7min"],
        2,
        "the metrics do not have 7 min; they have: 1 s, 1 min",
    );
    refused(&fake.url(), &["--last", "10s"], 2, "shorter than a minute");
    refused("prometheus:9090", &[], 1, "not the address of a server");
}

#[test]
fn a_server_that_has_too_much_to_do_is_asked_again() {
    let fake = Fake::start(
        fleet(),
        NOW,
        Faults {
            first: (2, 503),
            warning: Some("partial data"),
            ..Faults::default()
        },
    );
    let json = json_of(&fake.url(), &["--last", "7d"]);
    assert_eq!(notes(&json), "partial data");
    // One that cannot answer for more than a host at once, and slowly.
    let fake = Fake::start(
        fleet(),
        NOW,
        Faults {
            at_once: Some(1),
            delay: Duration::from_millis(150),
            ..Faults::default()
        },
    );
    let output = run(&fake.url(), &["--last", "7d", "--json"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let hosts = json["hosts"].as_array().unwrap().iter();
    let hosts: Vec<_> = hosts.map(|host| &host["name"]).collect();
    assert_eq!(
        hosts,
        ["db1:9464", "web1:9464", "web2:9464"],
        "{}",
        json["notes"]
    );
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("of 3 hosts read, "), "{error}");
    // One that takes GET alone.
    let fake = Fake::start(
        fleet(),
        NOW,
        Faults {
            first: (1, 405),
            ..Faults::default()
        },
    );
    assert_eq!(
        json_of(&fake.url(), &["--last", "7d"])["hosts"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
    // One that wants to know who asks.
    let wants = |wants| {
        Fake::start(
            fleet(),
            NOW,
            Faults {
                wants: Some(wants),
                ..Faults::default()
            },
        )
    };
    let fake = wants("authorization: Basic bWU6cEB4");
    let url = fake.url().replace("//", "//me:p%40x@");
    let json = json_of(&url, &["--last", "7d"]);
    assert_eq!(json["file"], fake.url());
    refused(
        &fake.url(),
        &["--last", "7d"],
        1,
        "who are you?; give a user in the address, or a token with --header-file",
    );
    let fake = wants("x-scope-orgid: team");
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "X-Scope-OrgID: team\n").unwrap();
    json_of(
        &fake.url(),
        &[
            "--last",
            "7d",
            "--header-file",
            file.path().to_str().unwrap(),
        ],
    );
}

/// The most memory that a process ever had, in bytes, and its CPU time in seconds. proc_pid_status(5), proc_pid_stat(5).
fn used(pid: u32) -> Option<(u64, f64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let peak: u64 = peak.trim().strip_suffix(" kB")?.parse().ok()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11).take(2);
    let ticks: Vec<f64> = fields.filter_map(|field| field.parse().ok()).collect();
    Some((peak * 1024, ticks.iter().sum::<f64>() / 100.0))
}

#[test]
fn a_month_of_twenty_hosts_takes_little_time_and_memory() {
    require_long!("it takes the server of the test a minute to make up so much");
    let service = |host: i64, number: i64| {
        let at = BEGIN + number * 13 * MINUTE + host * MINUTE + 30_000;
        Service::new(
            &format!("service-{number}"),
            GIB,
            (0..15).map(move |day| at + 2 * day * DAY),
        )
    };
    let host = |host: i64| {
        let services = (0..50).map(|number| service(host, number)).collect();
        Host {
            ladder: (0..24).map(|step| 1 << step).collect(),
            ..Host::new(&format!("host-{host}:9464"), services)
        }
    };
    let fake = Fake::start(
        (0..20).map(host).collect(),
        BEGIN + 30 * DAY,
        Faults::default(),
    );
    let mut child = Command::new(env!("CARGO_BIN_EXE_ondemand"))
        .args([
            "report",
            "--prometheus",
            &fake.url(),
            "--json",
            "--memory-per-host",
            "64GiB",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = child.id();
    let watcher = std::thread::spawn(move || {
        let mut last = (0, 0.0);
        while let Some(now) = used(pid) {
            last = now;
            tests::pause::load_for(Duration::from_millis(20));
        }
        last
    });
    let json: Value = serde_json::from_reader(child.stdout.take().unwrap()).unwrap();
    assert!(child.wait().unwrap().success());
    let (memory, time) = watcher.join().unwrap();
    eprintln!(
        "{time} s of CPU time, {} MB, {} requests",
        memory / 1_000_000,
        fake.requests()
    );
    assert_eq!(json["total"]["connections"], 20 * 50 * 15);
    assert_eq!(json["capacity"]["services"], 1000);
    assert!(memory < 200 << 20, "{memory} bytes");
    // The time of a debug build means little.
    let most = if cfg!(debug_assertions) { 20.0 } else { 5.0 };
    assert!(time < most, "{time} s");
}
