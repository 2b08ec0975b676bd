//! The page of a fleet, looked at and used in a real browser.

use std::{fs, path::PathBuf};

use serde_json::json;
use tests::{
    browser::{self, Look},
    require, skip,
};

use crate::{
    fake::{Fake, Faults},
    fleet,
    hosts::NOW,
    run,
};

/// Makes a page of these hosts.
fn page() -> String {
    let mut hosts = fleet();
    for host in &mut hosts {
        host.tells_memory = true;
        host.ladder = ondemand_core::replay::LADDER
            .map(|seconds| seconds as i64)
            .into();
    }
    let fake = Fake::start(hosts, NOW, Faults::default());
    let more = ["--last", "7d", "--memory-per-host", "16GiB", "--html", "-"];
    let page = String::from_utf8(run(&fake.url(), &more).stdout).unwrap();
    // The picture should show an address that somebody could have.
    page.replace(&fake.url(), "http://prometheus:9090")
}

/// Sorts, searches, and opens a service's plots.
const USE: &str = r##"
const $ = query => document.querySelector(query);
const column = (table, place) => [...document.querySelectorAll(`#${table} tbody tr:not([hidden])`)].map(row => row.cells[place].textContent);
const head = (table, title) => [...document.querySelectorAll(`#${table} th button`)].find(button => button.textContent === title);
const figures = [...document.querySelectorAll("figure")];
const result = { subject: $("#subject").textContent, figures: figures.map(figure => figure.id) };
result.first = column("services", 0);
head("services", "Service").click();
result.services = column("services", 0);
head("by-host", "Host").click();
result.hosts = column("by-host", 0);
head("by-host", "Arrivals").click();
result.arrivals = column("by-host", 1);
head("by-host", "Arrivals").click();
result.fewest = column("by-host", 1);
result.sorted = $("#by-host th[aria-sort]").getAttribute("aria-sort");
head("by-host", "Given back").click();
result.back = column("by-host", 0);
[...document.querySelectorAll("#services tbody tr")].find(row => row.cells[0].textContent === "wiki").click();
result.chosen = $("#subject").textContent;
result.bars = $("#gaps").querySelectorAll("rect").length;
const state = $("#states rect[fill='var(--first)']");
state.dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
result.state = $("#states output").textContent;
const hour = $("#week rect[fill='var(--first)']");
hour.dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
result.hour = $("#week output").textContent;
$("#all").click();
result.all = $("#subject").textContent;
$("#search").value = "ki";
$("#search").dispatchEvent(new Event("input"));
result.found = column("services", 0);
result.scroll = document.documentElement.scrollWidth;
result.width = innerWidth;
result.empty = figures.filter(figure => !figure.querySelector("svg")).map(figure => figure.id);
tell(result);
"##;

#[test]
fn a_person_finds_each_host_and_service() {
    require!(skip::missing(&["chromium"]));
    let page = page();
    let directory = tempfile::tempdir().unwrap();
    for (width, dark) in [(390, false), (1200, false), (390, true)] {
        let look = Look {
            directory: directory.path(),
            width,
            dark,
        };
        let seen = look.at(&page, USE).unwrap();
        assert_eq!(seen["subject"], "All services", "{seen}");
        assert_eq!(
            seen["figures"],
            json!(["gaps", "what-if", "states", "week"])
        );
        assert_eq!(seen["empty"], json!([]));
        assert_eq!(seen["services"], json!(["forge", "llm", "wiki"]));
        // By the memory that was given back.
        assert_eq!(seen["first"], json!(["llm", "forge", "wiki"]), "{seen}");
        let hosts = json!(["db1:9464", "web1:9464", "web2:9464"]);
        assert_eq!(seen["hosts"], hosts);
        assert_eq!(seen["arrivals"], json!(["504", "168", "77"]), "{seen}");
        assert_eq!(seen["fewest"], json!(["77", "168", "504"]), "{seen}");
        assert_eq!(seen["sorted"], "ascending");
        let back = json!(["web1:9464", "db1:9464", "web2:9464"]);
        assert_eq!(seen["back"], back, "{seen}");
        assert_eq!(seen["chosen"], "wiki");
        assert!(seen["bars"].as_u64() > Some(0), "{seen}");
        let state = seen["state"].as_str().unwrap();
        assert!(state.starts_with("wiki"), "{seen}");
        let hour = seen["hour"].as_str().unwrap();
        assert!(
            hour.starts_with("Mon 00:00 to 01:00: ") && hour.ends_with(" up"),
            "{seen}"
        );
        assert_eq!(seen["all"], "All services");
        assert_eq!(seen["found"], json!(["wiki"]));
        assert!(
            seen["scroll"].as_u64() <= seen["width"].as_u64(),
            "sticks out: {seen}"
        );
    }
    // `cargo xtask pictures` has it made.
    if let Some(directory) = std::env::var_os("ONDEMAND_PICTURES").map(PathBuf::from) {
        let file = directory.join("fleet.html");
        fs::write(&file, &page).unwrap();
        let picture = directory.join("fleet.png");
        browser::shoot(&file, (900, 1500), &picture).unwrap();
        fs::remove_file(file).unwrap();
    }
}
