//! `ondemand report --trace` against a reference that does it the slow and obvious way.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tests::{require, skip};

/// The timeouts of the comparison, in minutes.
const MINUTES: [u64; 5] = [1, 5, 10, 20, 60];

fn data(trace: &str) -> PathBuf {
    let tree = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data");
    PathBuf::from(tree).join(trace).join("trace.csv.gz")
}

fn report(arguments: &[&str], input: &[u8]) -> Output {
    let program = Path::new(env!("CARGO_BIN_EXE_ondemand"));
    tests::calling::call(program, &[&["report"], arguments].concat(), input).unwrap()
}

/// Arrivals by service, whole seconds, and the last of all.
fn arrivals(trace: &str) -> (BTreeMap<String, Vec<u64>>, u64) {
    let unpacked = Command::new("gzip").arg("-dc").arg(data(trace)).output();
    let text = String::from_utf8(unpacked.unwrap().stdout).unwrap();
    let mut services: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut end = 0;
    for line in text.lines().skip(1) {
        let (time, service) = line.split_once(',').unwrap();
        end = time.parse().unwrap();
        services.entry(service.to_owned()).or_default().push(end);
    }
    (services, end)
}

/// A second-by-second simulation: is it up when the next client connects?
fn naive(arrivals: &[u64], end: u64, timeout: u64) -> (u64, u64) {
    let (mut cold_starts, mut warm_idle) = (0, 0);
    let mut up_until = None;
    for (i, now) in arrivals.iter().enumerate() {
        if up_until.is_none_or(|until| *now > until) {
            cold_starts += 1;
        }
        up_until = Some(now + timeout);
        let next = arrivals.get(i + 1).copied().unwrap_or(end);
        warm_idle += next.min(now + timeout) - now;
    }
    (cold_starts, warm_idle)
}

fn row(service: &Value, seconds: u64) -> &Value {
    let rows = service["what_if"].as_array().unwrap();
    let is_it = |row: &&Value| row["timeout_seconds"] == seconds as f64;
    rows.iter().find(is_it).unwrap()
}

#[track_caller]
fn equals_the_reference(trace: &str) {
    let (services, end) = arrivals(trace);
    let timeouts = MINUTES.map(|minutes| format!("{minutes}min")).join(",");
    let path = data(trace);
    let path = path.to_str().unwrap();
    let output = report(&["--trace", path, "--json", "--timeouts", &timeouts], b"");
    assert!(output.status.success(), "{output:?}");
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let reported = json["services"].as_array().unwrap();
    assert_eq!(reported.len(), services.len());
    for minutes in MINUTES {
        let mut total = (0, 0);
        for service in reported {
            let name = service["name"].as_str().unwrap();
            let expected = naive(&services[name], end, 60 * minutes);
            let row = row(service, 60 * minutes);
            let found = (
                row["cold_starts"].as_u64().unwrap(),
                row["warm_idle_seconds"].as_f64().unwrap(),
            );
            assert_eq!(
                found,
                (expected.0, expected.1 as f64),
                "{name}, {minutes} min"
            );
            total = (total.0 + expected.0, total.1 + expected.1);
        }
        let row = row(&json["total"], 60 * minutes);
        assert_eq!(row["cold_starts"], total.0);
        assert_eq!(row["warm_idle_seconds"], total.1 as f64);
    }
}

/// Seconds of a field of `learned`.
fn learned(service: &Value, field: &str) -> f64 {
    let found = service["learned"][field].as_f64();
    found.unwrap_or_else(|| panic!("{field} in {}", service["learned"]))
}

/// What the learned timeout would have meant is consistent, for each service and in all.
#[track_caller]
fn learned_adds_up(trace: &str, most: (f64, f64)) {
    const COST: u64 = 300;
    let (services, end) = arrivals(trace);
    let path = data(trace);
    let path = path.to_str().unwrap();
    let output = report(
        &["--trace", path, "--json", "--cold-start-cost", "5min"],
        b"",
    );
    assert!(output.status.success(), "{output:?}");
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let fields = [
        "cold_starts",
        "warm_idle_seconds",
        "cost_seconds",
        "optimum_seconds",
        "best_fixed_cost_seconds",
    ];
    let mut sums = [0.0; 5];
    for service in json["services"].as_array().unwrap() {
        let arrivals = &services[service["name"].as_str().unwrap()];
        let [cold, warm, cost, optimum, best] = fields.map(|field| learned(service, field));
        assert_eq!(cost, warm + cold * COST as f64, "{service}");
        // The first client waits whoever decides.
        let gaps = arrivals
            .windows(2)
            .map(|pair| (pair[1] - pair[0]).min(COST));
        assert_eq!(optimum, (COST + gaps.sum::<u64>()) as f64);
        assert!(cost >= optimum, "{service}");
        assert!(warm <= (end - arrivals[0]) as f64, "{service}");
        let costs = service["what_if"].as_array().unwrap().iter();
        let costs = costs.map(|row| row["cost_seconds"].as_f64().unwrap());
        assert_eq!(best, costs.fold(f64::INFINITY, f64::min));
        assert!(
            service["learned"]["reason"]
                .as_str()
                .is_some_and(|reason| reason.contains(": "))
        );
        for (sum, figure) in sums.iter_mut().zip([cold, warm, cost, optimum, best]) {
            *sum += figure;
        }
    }
    let total = &json["total"];
    assert_eq!(fields.map(|field| learned(total, field)), sums);
    let ratios = ["ratio_to_optimum", "ratio_to_best_fixed"].map(|field| learned(total, field));
    assert_eq!(ratios, [sums[2] / sums[3], sums[2] / sums[4]]);
    assert!(ratios[0] <= most.0 && ratios[1] <= most.1, "{ratios:?}");
}

#[test]
fn what_is_learned_of_azure_functions_adds_up() {
    require!(skip::missing(&["gzip"]));
    learned_adds_up("azure2019_sample1250", (1.08, 1.02));
}

#[test]
fn what_is_learned_of_a_home_web_server_adds_up() {
    require!(skip::missing(&["gzip"]));
    learned_adds_up("web_home_2015", (1.38, 1.02));
}

#[test]
fn a_learned_timeout_keeps_within_its_bounds() {
    let mut rows = "timestamp_seconds,service\n".to_owned();
    for hour in 0..40 {
        rows += &format!("{},a\n", 3600 * hour);
    }
    let timeout = |more: &[&str]| {
        let output = report(
            &[&["--trace", "-", "--json"], more].concat(),
            rows.as_bytes(),
        );
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        learned(&json["services"][0], "timeout_seconds")
    };
    assert!(timeout(&[]) < 60.0);
    assert_eq!(timeout(&["--idle-timeout-min", "2min"]), 120.0);
    assert_eq!(timeout(&["--idle-timeout-max", "1s"]), 1.0);
    let bounds = ["--idle-timeout-min", "10s", "--idle-timeout-max", "9s"];
    let arguments = [&["--trace", "-"][..], &bounds].concat();
    check(
        &arguments,
        &rows,
        2,
        "--idle-timeout-max: 9 s is less than the shortest, 10 s",
    );
}

#[test]
fn every_azure_function_equals_the_reference() {
    require!(skip::missing(&["gzip"]));
    equals_the_reference("azure2019_sample1250");
}

#[test]
fn a_home_web_server_equals_the_reference() {
    require!(skip::missing(&["gzip"]));
    equals_the_reference("web_home_2015");
}

#[track_caller]
fn check(arguments: &[&str], input: &str, code: i32, message: &str) {
    let output = report(arguments, input.as_bytes());
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
    assert!(error.contains(message), "{arguments:?}: {error}");
    assert!(!error.contains("panicked"), "{error}");
    assert_eq!(output.stdout.is_empty(), code != 0, "{arguments:?}");
}

#[test]
fn what_cannot_be_replayed_says_why() {
    let rows = |rows: &str| format!("timestamp_seconds,service\n{rows}");
    let stdin = ["--trace", "-"];
    check(&stdin, "", 1, "standard input: is empty");
    check(
        &stdin,
        "0,a\n",
        1,
        "standard input:1: no column \"timestamp_seconds\"",
    );
    check(
        &stdin,
        &rows("5,a\n4,a\n"),
        1,
        "standard input:3: 4 is earlier than",
    );
    check(
        &stdin,
        &rows("5,a\n\n-4,a\n"),
        1,
        "standard input:4: the time -4 is negative",
    );
    check(
        &stdin,
        &rows("5,a\nfive,a\n"),
        1,
        "standard input:3: the time \"five\" is not a number",
    );
    check(
        &stdin,
        &rows("5,a\n,a\n"),
        1,
        "standard input:3: the time is missing",
    );
    check(
        &["--trace", "/nonexistent.csv"],
        "",
        1,
        "open the trace /nonexistent.csv: No such file",
    );
    check(&["--trace", "/"], "", 1, "/ is a directory");
    check(
        &["--trace", "-", "b"],
        &rows("5,a\n"),
        2,
        "no service \"b\"; it has: a",
    );
    check(
        &["--trace", "-", "--timeouts", "soon"],
        "",
        2,
        "not a time span",
    );
    let many: Vec<String> = (0..50).map(|second| format!("{second}s")).collect();
    let many = many.join(",");
    check(
        &["--trace", "-", "--timeouts", &many],
        "",
        2,
        "--timeouts: 50 timeouts",
    );
    // Compressed, but without the suffix.
    let output = report(&stdin, &fs::read(data("web_home_2015")).unwrap());
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("compressed with gzip"), "{error}");
    require!(skip::missing(&["gzip"]));
    let broken = tempfile::NamedTempFile::with_suffix(".csv.gz").unwrap();
    let whole = fs::read(data("web_home_2015")).unwrap();
    fs::write(broken.path(), &whole[..whole.len() / 2]).unwrap();
    let path = broken.path().to_str().unwrap();
    check(&["--trace", path], "", 1, "");
    fs::write(broken.path(), "no gzip at all").unwrap();
    check(&["--trace", path], "", 1, "gzip cannot decompress");
}

/// The most memory that a process ever had. Bytes.
fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim()
        .strip_suffix(" kB")
        .unwrap()
        .parse::<u64>()
        .unwrap()
        * 1024
}

/// The CPU time that a process took: other load does not matter to it. proc_pid_stat(5).
fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    let fields = after_name.split_whitespace().skip(11).take(2);
    let ticks: u64 = fields.map(|field| field.parse::<u64>().unwrap()).sum();
    ticks as f64 / 100.0
}

#[test]
fn a_long_trace_takes_little_memory_and_time() {
    // The time of a debug build means nothing.
    let millions = if cfg!(debug_assertions) { 1 } else { 8 };
    let mut child = Command::new(env!("CARGO_BIN_EXE_ondemand"))
        .args(["report", "--trace", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"timestamp_seconds,service\n").unwrap();
    let mut number = 0_u64;
    let mut block = String::new();
    for _ in 0..millions * 100 {
        block.clear();
        for _ in 0..10_000 {
            let (time, service) = (number as f64 / 8.0, number * 2_654_435_761 % 1000);
            block += &format!("{time:.3},service-{service}\n");
            number += 1;
        }
        input.write_all(block.as_bytes()).unwrap();
    }
    let memory = peak_memory(child.id());
    // The pipe is short: it has read nearly all of it.
    let rate = number as f64 / cpu_seconds(child.id());
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert!(memory < 100 << 20, "{memory} bytes");
    eprintln!("{rate:.0} arrivals/s, {memory} bytes of memory");
    assert!(cfg!(debug_assertions) || rate > 1e6, "{rate} arrivals/s");
}

#[test]
fn people_read_the_same_figures() {
    let output = report(
        &[
            "--trace",
            "-",
            "--timeouts",
            "1min,10min",
            "--cold-start-cost",
            "5min",
        ],
        b"timestamp_seconds,service\n0,wiki\n30,wiki\n600,llm\n690,wiki\n",
    );
    let text = String::from_utf8(output.stdout).unwrap();
    for line in [
        "trace -: 2 services, 11 min 30 s",
        "from 0 s to 690 s of the trace",
        "With auto, 3 of 4 clients would wait for a start, at ",
        "           1 min             3        2 min 30 s       17 min 30 s",
        "          10 min             3            12 min            27 min",
        "Recommended: none yet, for lack of evidence: 2 gaps between clients, of 10; 11 min 30 s watched, of 50 min.",
        "busiest hours (as in the trace, whose first day is Thu): Thu 00h (4)",
        "SERVICE   ARRIVALS",
    ] {
        if !text.contains(line) {
            panic!("{line:?} is not in\n{text}");
        }
    }
}
