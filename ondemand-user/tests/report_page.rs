//! The page of `ondemand report --html`, looked at in a real browser.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use ondemand::observe::history::{Moment, Record, What, Writer};
use ondemand_core::runs::StopReason;
use serde_json::Value;
use tests::{require, skip};

const HOUR: i64 = 3_600_000;
/// 2026-03-02, a Monday, 00:00 UTC.
const BEGIN: i64 = 1_772_409_600_000;
const SERVICES: [&str; 3] = ["wiki", "GAME-SERVER-WITH-A-WIDE-NAME", "<b>&\"llm\""];

/// Queries the browser for its shapes with their colours and sizes, and whether anything
/// overflows.
const PROBE: &str = r##"<script>
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
top.document.body.textContent = "RESULT" + JSON.stringify(result) + "END";
</script>"##;

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
                        silent: 0,
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
    let copy = directory.join(format!("page-{width}-{dark}.html"));
    // In a frame, because the browser makes no window as narrow as a phone.
    let page = page.replace("</body>", &format!("{PROBE}</body>"));
    let page = page.replace('&', "&amp;").replace('"', "&quot;");
    let frame = format!(
        "<!doctype html><body><iframe style=\"width:{width}px;height:1000px;border:0\" \
         srcdoc=\"{page}\"></iframe></body>"
    );
    fs::write(&copy, frame).unwrap();
    let output = Command::new("chromium")
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
        ])
        .args(["--no-first-run", "--disable-background-networking"])
        .args(["--disable-component-update", "--disable-sync", "--dump-dom"])
        .arg(format!(
            "--user-data-dir={}",
            directory.join("profile").display()
        ))
        .arg("--window-size=1300,1000")
        .args(dark.then_some("--blink-settings=preferredColorScheme=0"))
        .arg(format!("file://{}", copy.display()))
        .output()
        .expect("run chromium");
    let text = String::from_utf8_lossy(&output.stdout);
    let json = text
        .split_once("RESULT")
        .and_then(|(_, rest)| rest.split_once("END"))
        .unwrap_or_else(|| panic!("chromium shows no page: {output:?}"))
        .0;
    // In a DOM that is written out as text these are escaped.
    let json = json
        .replace("&amp;", "&")
        .replace("&lt;", "<")
        .replace("&gt;", ">");
    serde_json::from_str(&json).unwrap()
}

#[test]
fn every_plot_has_its_data_on_any_screen() {
    require!(skip::missing(&["chromium"]));
    let directory = tempfile::tempdir().unwrap();
    let history = week(directory.path(), Some(1 << 30), Some(2_000_000));
    let page = directory.path().join("page.html");
    report(&history, &["--html", page.to_str().unwrap()]);
    let page = fs::read_to_string(page).unwrap();
    for foreign in ["http:", "https:", "<script", "<link", "@import", "url("] {
        let page = page.replace("http://www.w3.org/2000/svg", "");
        assert!(
            !page.contains(foreign),
            "the page needs something else: {foreign}"
        );
    }
    assert!(page.contains("&lt;b&gt;&amp;&quot;llm&quot;"));
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
                21,
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
            assert!(figure["letters"].as_f64().unwrap() > 10.0, "{id}: {seen}");
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
