//! The page of `ondemand report --html`, looked at in a real browser.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use ondemand::observe::history::{Moment, Record, What, Writer};
use ondemand_core::runs::StopReason;
use serde_json::Value;
use tests::{browser::Look, require, skip};

const HOUR: i64 = 3_600_000;
/// 2026-03-02, a Monday, 00:00 UTC.
const BEGIN: i64 = 1_772_409_600_000;
const SERVICES: [&str; 3] = ["wiki", "GAME-SERVER-WITH-A-WIDE-NAME", "<b>&\"llm\""];

/// Queries the browser for its shapes with their colours and sizes, and whether anything
/// overflows.
const PROBE: &str = r##"
const shapes = figure => {
  const counts = {};
  for (const shape of figure.querySelectorAll("rect, circle, polyline, line")) {
    const box = shape.getBoundingClientRect();
    const own = shape.getAttribute("fill") || "none";
    const name = shape.tagName + " " + (own === "none" ? shape.getAttribute("stroke") : own);
    if (box.width > 0 || box.height > 0) counts[name] = (counts[name] || 0) + 1;
  }
  return counts;
};
const figures = {};
for (const figure of document.querySelectorAll("figure")) {
  const svg = figure.querySelector("svg").getBoundingClientRect();
  const written = [...figure.querySelectorAll("text")].filter(text => text.textContent.trim());
  const texts = written.map(text => text.getBoundingClientRect());
  figures[figure.id] = {
    shapes: shapes(figure),
    width: svg.width,
    letters: Math.min(...texts.map(box => box.height)),
    cut: texts.filter(box => box.left < svg.left - 1 || box.right > svg.right + 1).length,
  };
}
const result = {
  figures,
  width: innerWidth,
  scroll: document.documentElement.scrollWidth,
  ground: getComputedStyle(document.body).backgroundColor,
  bar: getComputedStyle(document.querySelector("#gaps rect[fill='var(--first)']")).fill,
  rows: document.querySelectorAll("#services tr").length,
};
tell(result);
"##;

/// The end of that week, in which the host was booted.
fn end() -> Moment {
    Moment {
        boot: "another host's".to_owned(),
        monotonic: 7 * 24 * HOUR,
        wall: BEGIN + 7 * 24 * HOUR,
    }
}

/// A week in which each service is used every day at 8, 9 and 14 o'clock; memory and CPU time as
/// systemd accounts them for each of its runs, if it does.
fn week(directory: &Path, memory: Option<i64>, cpu: Option<i64>) -> PathBuf {
    let path = directory.join("history.db");
    let mut writer = Writer::start_by(&path, end).unwrap();
    let services = SERVICES.map(str::to_owned).to_vec();
    writer.write(Record::Watched { services, at: 0 });
    let mut last = None;
    for day in 0..7 {
        for hour in [8, 9, 14] {
            let at = (day * 24 + hour) * HOUR;
            for name in SERVICES {
                for what in [
                    What::Arrived {
                        at,
                        gap: last.map(|last| at - last),
                    },
                    What::Up { started: at },
                    What::Listening { after: 1500 },
                    What::Usage {
                        started: at,
                        memory,
                        cpu,
                    },
                    What::Stopped {
                        at: at + HOUR / 2,
                        reason: StopReason::Idle,
                        connections: 1,
                        received: 100,
                        sent: 1000,
                        proxied: 0,
                        silent: 0,
                        ways: None,
                        turns: Default::default(),
                    },
                    What::Quiet { since: at + 60_000 },
                ] {
                    let name = name.to_owned();
                    writer.write(Record::Service { name, what });
                }
            }
            last = Some(at + 60_000);
        }
    }
    writer.write(Record::Ended { at: 7 * 24 * HOUR });
    writer.finish();
    path
}

fn report(history: &Path, more: &[&str]) -> Vec<u8> {
    let output = Command::new(env!("CARGO_BIN_EXE_ondemand"))
        .args(["report", "--since", "2026-03-02T00:00:00Z"])
        .args([
            "--until",
            "2026-03-09T00:00:00Z",
            "--price-per-gib-hour",
            "0.5",
        ])
        .arg("--history")
        .arg(history)
        .args(more)
        .env("TZ", "UTC")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

/// What the browser shows in a window of this width.
fn look(directory: &Path, page: &str, width: u32, dark: bool) -> Value {
    probed(directory, page, PROBE, width, dark)
}

/// What this script finds in the page, in a window of this width.
fn probed(directory: &Path, page: &str, probe: &str, width: u32, dark: bool) -> Value {
    let look = Look {
        directory,
        width,
        dark,
    };
    look.at(page, probe).unwrap()
}

#[test]
fn every_plot_has_its_data_on_any_screen() {
    require!(skip::missing(&["chromium"]));
    let directory = tempfile::tempdir().unwrap();
    let history = week(directory.path(), Some(1 << 30), Some(2_000_000));
    let page = directory.path().join("page.html");
    report(&history, &["--html", page.to_str().unwrap()]);
    let page = fs::read_to_string(page).unwrap();
    for foreign in [
        "http:", "https:", "src=", "<link", "@import", "url(", "fetch",
    ] {
        let page = page.replace("http://www.w3.org/2000/svg", "");
        assert!(
            !page.contains(foreign),
            "the page needs something else: {foreign}"
        );
    }
    // A name is text, in the data, too.
    assert!(page.contains(r#""\u003cb\u003e\u0026\"llm\"""#));
    assert!(!page.contains("<b>&"));
    let (mut grounds, mut bars) = (Vec::new(), Vec::new());
    for (width, dark) in [(390, false), (1200, false), (390, true), (1200, true)] {
        let seen = look(directory.path(), &page, width, dark);
        let count = |figure: &str, shape: &str| {
            seen["figures"][figure]["shapes"][shape]
                .as_u64()
                .unwrap_or(0)
        };
        assert_eq!(seen["width"], width, "{seen}");
        assert!(
            seen["scroll"].as_u64() <= seen["width"].as_u64(),
            "sticks out: {seen}"
        );
        // Gaps of 1 h, 5 h and 18 h, all a minute shorter.
        assert_eq!(count("gaps", "rect var(--first)"), 3, "{seen}");
        for colour in ["--first", "--second"] {
            assert_eq!(
                count("what-if", &format!("circle var({colour})")),
                24,
                "{seen}"
            );
            assert_eq!(
                count("what-if", &format!("polyline var({colour})")),
                1,
                "{seen}"
            );
        }
        // Three rows; at 8:00 to 8:30 and 9:00 to 9:30 and 14:00 to 14:30 on each day.
        assert!(count("states", "rect var(--first)") >= 3 * 7 * 3, "{seen}");
        assert_eq!(count("states", "rect var(--faint)"), 3, "{seen}");
        assert_eq!(count("week", "rect var(--first)"), 7 * 3, "{seen}");
        assert_eq!(count("week", "rect var(--faint)"), 7 * 21, "{seen}");
        for (id, figure) in seen["figures"].as_object().unwrap() {
            assert!(figure["width"].as_f64().unwrap() > 280.0, "{id}: {seen}");
            assert!(figure["letters"].as_f64().unwrap() > 13.0, "{id}: {seen}");
            assert_eq!(figure["cut"], 0, "{id}: {seen}");
        }
        assert_eq!(seen["rows"], 4, "{seen}");
        grounds.push((dark, seen["ground"].as_str().unwrap().to_owned()));
        bars.push((dark, seen["bar"].as_str().unwrap().to_owned()));
    }
    assert_eq!(grounds[0], grounds[1]);
    assert_ne!(grounds[0].1, grounds[2].1, "dark is another colour");
    assert_ne!(bars[0].1, bars[2].1, "dark is another colour");
}

/// Uses the page: sorts, searches, opens a service's plots, points at them.
const USE: &str = r##"
const $ = query => document.querySelector(query);
const names = () => [...document.querySelectorAll("#services tbody tr:not([hidden]) td:first-child")].map(cell => cell.textContent);
const head = title => [...document.querySelectorAll("#services th button")].find(button => button.textContent === title);
const type = text => { $("#search").value = text; $("#search").dispatchEvent(new Event("input")); };
const rows = id => $("#" + id).querySelectorAll("text").length;
const bars = () => $("#gaps").querySelectorAll("rect").length;
const point = (figure, shape) => {
  $(`#${figure} ${shape}`).dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
  return $(`#${figure} output`).textContent;
};
const result = { began: performance.now(), first: names().slice(0, 3), subject: $("#subject").textContent };
head("Service").click();
result.up = names().slice(0, 3);
head("Service").click();
result.down = names().slice(0, 3);
result.sorted = $("#services th[aria-sort]").getAttribute("aria-sort");
head("Arrivals").click();
result.arrivals = names().slice(0, 3);
type("LL");
result.found = names();
result.count = $("#found").textContent;
type("");
result.all = names().length;
result.bars = bars();
[...document.querySelectorAll("#services tbody tr")].find(row => row.cells[0].textContent === WANTED).click();
result.chosen = $("#subject").textContent;
result.why = $("#why").textContent;
result.bold = document.querySelectorAll("#subject b, #services b").length;
result.itsBars = bars();
result.gap = point("gaps", "rect[fill='var(--first)']");
result.timeout = point("what-if", "circle");
result.auto = $("#what-if line[stroke-dasharray] title").textContent;
result.hour = point("week", "rect[fill='var(--first)']");
result.state = $("#states") && point("states", "rect[fill='var(--first)']");
result.axes = [...document.querySelectorAll("figure text")].map(text => text.textContent);
$("#all").click();
result.back = [$("#subject").textContent, bars(), $("#all").hidden];
result.few = document.querySelectorAll("#what-if-table tr").length;
result.ended = performance.now();
tell(result);
"##;

#[test]
fn a_person_finds_each_service() {
    require!(skip::missing(&["chromium"]));
    let directory = tempfile::tempdir().unwrap();
    let history = week(directory.path(), Some(1 << 30), Some(2_000_000));
    let page = String::from_utf8(report(&history, &["--html", "-"])).unwrap();
    let [wiki, game, llm] = SERVICES;
    let wanted = serde_json::to_string(llm).unwrap().replace('<', "\\u003c");
    let seen = probed(
        directory.path(),
        &page,
        &USE.replace("WANTED", &wanted),
        1200,
        false,
    );
    let lists = |name: &str| -> Vec<String> { serde_json::from_value(seen[name].clone()).unwrap() };
    assert_eq!(seen["subject"], "All services");
    assert_eq!(lists("up"), [llm, game, wiki], "{seen}");
    assert_eq!(lists("down"), [wiki, game, llm], "{seen}");
    assert_eq!(seen["sorted"], "descending");
    assert_eq!(lists("found"), [llm], "{seen}");
    assert_eq!(seen["count"], "1 of 3 services");
    assert_eq!(seen["all"], 3);
    // Its own plots, and why its timeout would be what it is; its name is text.
    assert_eq!(seen["chosen"], llm, "{seen}");
    assert_eq!(seen["bold"], 0, "{seen}");
    assert!(
        seen["why"].as_str().unwrap().starts_with("auto: "),
        "{seen}"
    );
    assert_eq!(seen["itsBars"], seen["bars"], "all are alike");
    let value = |name: &str| seen[name].as_str().unwrap();
    assert!(
        value("gap").contains("7 gaps longer than 45 min, up to 1 h"),
        "{seen}"
    );
    assert!(
        value("timeout").starts_with("1 s: 21 cold starts, "),
        "{seen}"
    );
    assert!(
        value("auto").starts_with("auto: ") && value("auto").contains("up and idle"),
        "{seen}"
    );
    assert_eq!(value("hour"), "Mon 08:00 to 09:00: 1 arrival");
    assert!(
        value("state").starts_with(llm) && value("state").contains("up"),
        "{seen}"
    );
    let axes = lists("axes");
    for title in [
        "gaps between two uses",
        "length of the gap, up to",
        "cold starts",
        "idle timeout (dashed: auto)",
        "time",
    ] {
        assert!(axes.iter().any(|text| text == title), "{title}: {axes:?}");
    }
    assert_eq!(
        seen["back"],
        serde_json::json!(["All services", seen["bars"], true])
    );
    // The head, the best, which is the shortest, the next and the learned one.
    assert_eq!(seen["few"], 4, "{seen}");
}

/// As many as the largest trace here, each with some arrivals.
#[test]
fn a_page_of_1250_services_opens_at_once() {
    require!(skip::missing(&["chromium", "gzip"]));
    let directory = tempfile::tempdir().unwrap();
    let trace = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/data/azure2019_sample1250/trace.csv.gz"
    );
    let output = Command::new(env!("CARGO_BIN_EXE_ondemand"))
        .args(["report", "--trace", trace, "--html", "-"])
        .output()
        .unwrap();
    let page = String::from_utf8(output.stdout).unwrap();
    assert!(page.len() < 3 << 20, "{} bytes", page.len());
    let seen = probed(
        directory.path(),
        &page,
        &USE.replace("WANTED", "\"f0027\""),
        1200,
        false,
    );
    assert_eq!(seen["all"], 1250, "{}", seen["found"]);
    assert_eq!(seen["chosen"], "f0027");
    assert_eq!(seen["state"], Value::Null, "a trace has no states");
    // Of a debug build's page, on a machine that is busy with other tests.
    let opened = seen["began"].as_f64().unwrap();
    let patience = f64::from(tests::patience());
    println!(
        "drawn after {opened} ms, used in {} ms",
        seen["ended"].as_f64().unwrap() - opened
    );
    assert!(opened < 2000.0 * patience, "{opened} ms");
}

#[test]
fn the_same_figures_for_scripts() {
    let directory = tempfile::tempdir().unwrap();
    let history = week(directory.path(), Some(1 << 30), Some(2_000_000));
    let json: Value = serde_json::from_slice(&report(&history, &["--json", "wiki"])).unwrap();
    tests::documents::assert_documented(&json);
    let wiki = &json["services"][0];
    assert_eq!(json["services"].as_array().unwrap().len(), 1);
    assert_eq!(wiki["arrivals"], 21);
    assert_eq!(wiki["activations"], 21);
    assert_eq!(wiki["active_seconds"], 21.0 * 1800.0);
    assert_eq!(wiki["inactive_seconds"], 7.0 * 86_400.0 - 21.0 * 1800.0);
    assert_eq!(wiki["cold_start"]["p95_seconds"], 1.5);
    assert_eq!(wiki["cpu_seconds"], 42.0);
    assert_eq!(wiki["connections"], 21);
    // 1 GiB: from each stop to the next start, and from the last to the end.
    let hours = 7.0 * 24.0 - 8.0 - 21.0 * 0.5;
    assert_eq!(wiki["memory_gib_hours_given_back"], hours);
    assert_eq!(wiki["money_given_back"], hours * 0.5);
    let busiest = serde_json::json!({"weekday": "Mon", "hour": 8, "arrivals": 1});
    assert_eq!(wiki["busiest_hours"][0], busiest);
    // With an hour: 8 o'clock of each day and the first are cold, and 14; 9 is warm.
    let rows = wiki["what_if"].as_array().unwrap();
    let hour = rows
        .iter()
        .find(|row| row["timeout_seconds"] == 3600.0)
        .unwrap();
    assert_eq!(hour["cold_starts"], 14);
    // The gaps to 9 o'clock are 59 min, all others and the open end are longer than an hour.
    let warm = 7.0 * 3540.0 + 13.0 * 3600.0 + 3600.0;
    assert_eq!(hour["warm_idle_seconds"], warm);
}

#[test]
fn what_people_want_to_know_comes_first() {
    let directory = tempfile::tempdir().unwrap();
    let history = week(directory.path(), Some(1 << 30), Some(2_000_000));
    let more = ["--currency", "EUR", "--watts-per-cpu", "10"];
    let json: Value =
        serde_json::from_slice(&report(&history, &[&["--json"][..], &more].concat())).unwrap();
    tests::documents::assert_documented(&json);
    let (total, hours) = (&json["total"], 7.0 * 24.0);
    let close = |found: &Value, expected: f64| {
        let found = found.as_f64().unwrap();
        assert!((found - expected).abs() < 1e-9, "{found}, {expected}");
    };
    close(&total["off_ratio"], 1.0 - 21.0 * 0.5 / hours);
    let given_back = hours - 8.0 - 21.0 * 0.5;
    close(&json["services"][0]["memory_gib_less"], given_back / hours);
    close(&total["memory_gib_less"], 3.0 * given_back / hours);
    close(&total["cpu_kwh"], 3.0 * 42.0 * 10.0 / 3.6e6);
    assert_eq!(
        (&json["currency"], &json["watts_per_cpu"]),
        (&"EUR".into(), &10.0.into())
    );
    let headline = json["headline"].as_str().unwrap();
    let learned = total["learned"]["cold_starts"].as_u64().unwrap();
    for part in [
        "Off 94 % of the time",
        "2.7 GiB less memory on average",
        &format!("worth {:.2} EUR", 3.0 * given_back * 0.5),
        "63 starts",
        &format!("with auto {learned} clients would have waited"),
    ] {
        assert!(headline.contains(part), "{part:?} in {headline}");
    }
    // On top, and what a recommendation rests on before it.
    let text = String::from_utf8(report(&history, &more)).unwrap();
    assert_eq!(text.split("\n\n").nth(1), Some(headline), "{text}");
    let place = |words: &str| {
        text.find(words)
            .unwrap_or_else(|| panic!("{words:?} in {text}"))
    };
    assert!(
        place("Evidence: 60 gaps between clients in 7 d.") < place("Recommended: "),
        "{text}"
    );
    assert!(text.contains(" kWh"), "{text}");
}

#[test]
fn what_systemd_does_not_account_is_unknown() {
    let directory = tempfile::tempdir().unwrap();
    let history = week(directory.path(), None, None);
    let json: Value = serde_json::from_slice(&report(&history, &["--json"])).unwrap();
    for row in [&json["total"], &json["services"][0]] {
        for figure in [
            "cpu_seconds",
            "memory_gib_hours_given_back",
            "money_given_back",
        ] {
            assert_eq!(row[figure], Value::Null, "{figure}: {row}");
        }
        assert!(row["activations"].as_u64() >= Some(21), "{row}");
    }
    let text = String::from_utf8(report(&history, &[])).unwrap();
    for line in ["given back    unknown", "CPU used      unknown"] {
        assert!(text.contains(line), "no {line:?} in {text}");
    }
    assert!(!text.contains("0 ms") && !text.contains("0.00"), "{text}");
    let page = String::from_utf8(report(&history, &["--html", "-"])).unwrap();
    assert!(
        page.contains("unknown (systemd does not account it)"),
        "{page}"
    );
    assert!(!page.contains("0.00 GiB"), "{page}");
}
