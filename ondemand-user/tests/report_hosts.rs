//! `ondemand report --trace --hosts`: how many hosts would carry a trace.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};
use tests::{documents::assert_documented, require, skip};

const HEAD: &str = "timestamp_seconds,service,memory_bytes,start_seconds\n";
/// a: 0 to 10 and 50 to 60 s. b: 5 to 15 s. The last line is the end.
const ROWS: &str = "0,a,6442450944,2\n5,b,5368709120,4\n50,a,,\n100,a,,\n";
const PLAN: [&str; 8] = [
    "--trace",
    "-",
    "--timeouts",
    "10s",
    "--hosts",
    "2",
    "--memory-per-host",
    "10GiB",
];

fn report(arguments: &[&str], input: &[u8]) -> Output {
    let program = Path::new(env!("CARGO_BIN_EXE_ondemand"));
    tests::calling::call(program, &[&["report"], arguments].concat(), input).unwrap()
}

fn json_of(arguments: &[&str], input: &str) -> Value {
    let output = report(&[arguments, &["--json"]].concat(), input.as_bytes());
    assert!(output.status.success(), "{output:?}");
    let json = serde_json::from_slice(&output.stdout).unwrap();
    assert_documented(&json);
    json
}

#[test]
fn a_plan_that_can_be_computed_by_hand() {
    const GIB: u64 = 1 << 30;
    let plan = json_of(&PLAN, &(HEAD.to_owned() + ROWS))["plan"].take();
    assert_eq!(plan["hosts"], 2);
    assert_eq!(plan["memory_per_host_bytes"], 10 * GIB);
    assert_eq!(plan["memory_bytes"], 11 * GIB);
    assert_eq!(plan["always_up_hosts"], 2);
    let fixed = &plan["policies"][0];
    assert_eq!(fixed["timeout_seconds"], 10.0);
    assert_eq!(fixed["cold_starts"], 4);
    let waited = json!({"clients": 4, "seconds": 10.0, "p50_seconds": 2.0, "p99_seconds": 4.0});
    assert_eq!(fixed["waited"], waited);
    let mean = (20 * 6 + 10 * 5) as f64 * GIB as f64 / 100.0;
    assert_eq!(
        fixed["up"],
        json!({"mean_bytes": mean, "p50_bytes": 0, "p99_bytes": 11 * GIB, "max_bytes": 11 * GIB})
    );
    assert_eq!(
        (&fixed["hosts_at_p99"], &fixed["hosts_fewer"]),
        (&json!(2), &json!(0))
    );
    assert_eq!(fixed["fewest_placed_hosts"], 2);
    // 5 s of 100 with 11 GiB on the one host.
    let placed = json!([
        {"hosts": 2, "over_ratio": 0.0, "worst_over_ratio": 0.0, "carried": true},
        {"hosts": 1, "over_ratio": 0.05, "worst_over_ratio": 0.05, "carried": false},
    ]);
    assert_eq!(fixed["placed"], placed);
    assert_eq!(plan["policies"][1]["timeout_seconds"], Value::Null);
    assert_eq!(plan["policies"].as_array().unwrap().len(), 2);

    // On one host each of the three starts takes the room of the other service.
    let budget = plan["budget"].as_array().unwrap();
    let figures = |of: &Value| [of["hosts"].clone(), of["cold_starts"].clone()];
    assert_eq!(budget.len(), 2);
    assert_eq!(figures(&budget[0]), [json!(2), json!(2)]);
    assert_eq!(figures(&budget[1]), [json!(1), json!(3)]);
    let waited = json!({"clients": 3, "seconds": 8.0, "p50_seconds": 2.0, "p99_seconds": 4.0});
    assert_eq!(budget[1]["waited"], waited);
    let up = &budget[1]["up"];
    let mean = (5 * 6 + 45 * 5 + 50 * 6) as f64 * GIB as f64 / 100.0;
    assert_eq!(up["mean_bytes"], mean);
    assert_eq!(up["max_bytes"], 6 * GIB);
    assert_eq!(budget[1]["over_ratio"], 0.0);
    assert_eq!(budget[1]["carried"], true);
    // The learned timeout has two cold starts.
    assert_eq!(plan["budget_hosts"], 2);

    // What the trace does not say.
    let bare = "timestamp_seconds,service\n0,a\n5,b\n50,a\n100,a\n";
    let more = ["--memory", "5GiB", "--start-duration", "1s"];
    let plan = json_of(&[&PLAN[..], &more].concat(), bare)["plan"].take();
    assert_eq!(plan["policies"][0]["waited"]["seconds"], 4.0);
    assert_eq!(plan["policies"][0]["fewest_placed_hosts"], 1);
    // Of one service alone.
    let plan = json_of(&[&PLAN[..], &["b"]].concat(), &(HEAD.to_owned() + ROWS))["plan"].take();
    assert_eq!(plan["memory_bytes"], 5 * GIB);
    assert_eq!(plan["policies"][0]["cold_starts"], 1);
    // Without the option nothing is planned.
    assert_eq!(json_of(&["--trace", "-"], bare)["plan"], Value::Null);
}

#[test]
fn people_and_browsers_read_the_same() {
    let input = HEAD.to_owned() + ROWS;
    let output = report(&PLAN, input.as_bytes());
    let text = String::from_utf8(output.stdout).unwrap();
    for line in [
        "HOW MANY HOSTS: 2 hosts of 10.0 GiB; the services take 11.0 GiB, 2 hosts if they are always up",
        "            10 s           4          10 s       2 s       4 s     0.0 MiB    11.0 GiB            2          2",
        "with auto 2 of 2 hosts would carry at p99 what is up at the same time; with a budget 2 of 2 hosts",
        "(tried: 2, 1)",
        ">              2           2           6 s       2 s       4 s    11.0 GiB    11.0 GiB        0.0 %",
        "               1           3           8 s       2 s       4 s     6.0 GiB     6.0 GiB        0.0 %",
        "at worst; with a budget 2 of 2 hosts have no more cold starts than with auto.",
    ] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
    let output = report(&[&PLAN[..], &["--html", "-"]].concat(), input.as_bytes());
    let page = String::from_utf8(output.stdout).unwrap();
    for part in [
        "<table id=\"hosts\">",
        "<td>11.0 GiB</td><td>2</td><td>2</td></tr>",
        "<table id=\"budget\">",
        "<tr class=\"chosen\"><td>2</td><td>2</td><td>6 s</td>",
    ] {
        assert!(page.contains(part), "{part:?} is not in\n{page}");
    }
}

#[test]
fn what_cannot_be_planned_says_why() {
    #[track_caller]
    fn check(arguments: &[&str], rows: &str, code: i32, message: &str) {
        let output = report(arguments, rows.as_bytes());
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
        assert!(error.contains(message), "{arguments:?}: {error}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
    let rows = |rows: &str| HEAD.to_owned() + rows;
    check(
        &PLAN,
        &rows("0,a,1,\n1,b,,\n"),
        2,
        "what service \"b\" takes is not known",
    );
    check(
        &PLAN,
        "timestamp_seconds,service\n0,a\n",
        2,
        "add a column \"memory_bytes\"",
    );
    check(
        &PLAN,
        &rows("0,a,20000000000,\n"),
        2,
        "a host of 10.0 GiB is too small for service \"a\", which takes 18.6 GiB",
    );
    for memory in ["0", "-1", "1GiB", "99999999999999999999"] {
        let message =
            format!("standard input:2: the memory_bytes {memory:?} is not a number of bytes");
        check(&PLAN, &rows(&format!("0,a,{memory},1\n")), 1, &message);
    }
    check(
        &PLAN,
        &rows("0,a,1,-2\n"),
        1,
        "standard input:2: start_seconds: the time -2",
    );
    check(&PLAN, "", 1, "standard input: is empty");
    check(&PLAN, HEAD, 1, "standard input: no arrivals");
    check(&PLAN[..6], "", 2, "--memory-per-host <SIZE>");
    check(
        &["--trace", "-", "--memory-per-host", "1G"],
        "",
        2,
        "--hosts <N>",
    );
    check(
        &["--hosts", "1", "--memory-per-host", "1G"],
        "",
        2,
        "--trace <FILE>",
    );
    check(&["--trace", "-", "--memory", "1G"], "", 2, "--hosts <N>");
    check(
        &["--trace", "-", "--hosts", "0", "--memory-per-host", "1G"],
        "",
        2,
        "0 is not in 1..=10000",
    );
    check(
        &["--trace", "-", "--hosts", "1", "--memory-per-host", "16"],
        "",
        2,
        "write it like",
    );
}

/// Sums over all functions are those of the rest of the report, which has the reference of its own.
#[test]
fn hours_of_azure_functions_add_up() {
    require!(skip::missing(&["gzip"]));
    let tree = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data");
    let trace = PathBuf::from(tree).join("azure2019_sample1250/trace.csv.gz");
    let unpacked = Command::new("gzip").arg("-dc").arg(trace).output().unwrap();
    let text = String::from_utf8(unpacked.stdout).unwrap();
    let part: Vec<&str> = text.lines().take(50_000).collect();
    let arguments = [
        "--trace",
        "-",
        "--timeouts",
        "1min,10min,1h",
        "--hosts",
        "40",
        "--memory-per-host",
        "8GiB",
        "--memory",
        "256MiB",
    ];
    let json = json_of(&arguments, &part.join("\n"));
    let what_if = json["total"]["what_if"].as_array().unwrap();
    let outcomes = what_if.iter().chain([&json["total"]["learned"]]);
    let policies = json["plan"]["policies"].as_array().unwrap();
    assert_eq!(policies.len(), 4);
    let mut hosts = Vec::new();
    for (policy, outcome) in policies.iter().zip(outcomes) {
        assert_eq!(policy["cold_starts"], outcome["cold_starts"]);
        let up = outcome["warm_idle_seconds"].as_f64().unwrap() * f64::from(1 << 28);
        let mean = policy["up"]["mean_bytes"].as_f64().unwrap();
        let length = json["seconds"].as_f64().unwrap();
        assert!((mean * length / up - 1.0).abs() < 1e-9, "{policy}");
        let whole = &policy["placed"][0];
        let expected = (&json!(40), &json!(true));
        assert_eq!((&whole["hosts"], &whole["carried"]), expected);
        hosts.push(policy["hosts_at_p99"].as_u64().unwrap());
    }
    let services = json["services"].as_array().unwrap().len() as u64;
    assert_eq!(json["plan"]["always_up_hosts"], services.div_ceil(32));
    assert!(hosts[..3].is_sorted(), "{hosts:?}");
    assert!(hosts[3] < services.div_ceil(32), "{hosts:?}");
}
