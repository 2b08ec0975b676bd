//! `cargo xtask pictures`: the pictures of the documents, of what the program shows in a private system.

mod film;
mod page;
mod terminal;

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use film::Film;
use terminal::{LINE, Span};
use tests::{
    browser, built,
    client::{self, Request},
    sandbox::{Cgroups, Sandbox},
    service, source_tree,
    terminal::Terminal,
    wait_for,
};

use crate::{
    command::{Step, run},
    household::{ACTIVITY, clients, set_up},
};

/// For what should happen soon.
const SOON: Duration = Duration::from_secs(30);

/// Lines and columns.
const TOP: (u16, u16) = (16, 80);
/// The film's terminal, and how much of it is seen.
const ADOPT: (u16, u16) = (60, 104);
const SEEN: usize = 30;

/// Makes the pictures: `ondemand top` with clients, the live page, the reports of a trace and of a
/// fleet, and `ondemand adopt`, which moves.
///
/// # Errors
///
/// Chromium is missing or fails, or another step fails.
pub fn make() -> Result<()> {
    let directory = source_tree().join("xtask/pictures");
    fs::create_dir_all(&directory)?;
    adopt(&directory)?;
    household(&directory)?;
    page::shoot(&directory)?;
    report(&directory)?;
    // A fleet is made up by the test that looks at its page.
    run(
        &Step::new(&["cargo", "test", "-p", "ondemand", "--test", "report_fleet"])
            .args(&["page::"])
            .env("ONDEMAND_PICTURES", &directory.display().to_string()),
    )?;
    println!("written: {}", directory.display());
    Ok(())
}

fn household(directory: &Path) -> Result<()> {
    let sandbox = set_up()?;
    let mut top = Terminal::open(&sandbox, TOP, "exec ondemand top")?;
    println!("running clients for {} s", ACTIVITY.as_secs());
    clients(&sandbox, Instant::now() + ACTIVITY)?;
    let lines = terminal::screen(&top.sent(), TOP);
    top.send("q")?;
    top.end()?;
    let svg = source_tree().join("target/top.svg");
    let (width, height) = (700.0, f64::from(TOP.0) * LINE + 24.0);
    let mut text = terminal::head(width, height) + "<g transform=\"translate(14 12)\">";
    for (number, spans) in lines.iter().enumerate() {
        text += &terminal::line(spans, number as f64 * LINE);
    }
    fs::write(&svg, text + "</g></svg>")?;
    let size = (width as u32, height as u32);
    browser::shoot(&svg, size, &directory.join("top.png"))?;
    Ok(())
}

/// Half a minute is too short for a history: the report is of five days of a home web server.
fn report(directory: &Path) -> Result<()> {
    let report = source_tree().join("target/report.html");
    let output = Command::new(built("ondemand")?)
        .current_dir(source_tree())
        .args(["report", "--trace", "tests/data/web_home_2015/trace.csv.gz"])
        .arg("--html")
        .arg(&report)
        .output()
        .context("run ondemand report")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    browser::shoot(&report, (900, 1400), &directory.join("report.png"))
}

/// From a unit that runs to a service that its client starts, as a terminal shows it.
fn adopt(directory: &Path) -> Result<()> {
    let sandbox = Sandbox::boot_with(Cgroups::Accounted)?;
    service::prepare(&sandbox)?;
    service::write_wiki(&sandbox)?;
    let address = ([127, 0, 0, 1], 8000).into();
    wait_for("the wiki answers", SOON, || {
        let get = || client::get(address, Request::default()).ok();
        sandbox.in_network(get).ok()?
    })?;

    let mut film = Film::new(ADOPT.1, SEEN);
    let command = "ondemand adopt wiki.service";
    let mut terminal = Terminal::open(&sandbox, ADOPT, command)?;
    terminal.wait("[y/N]")?;
    let plan = lines(&terminal);
    film.command(command);
    film.output(&plan, false, 5.0);
    terminal.send("y\n")?;
    terminal.end()?;
    let all = lines(&terminal);
    let question = plan.last().and_then(|line| line.last());
    let column = question.map_or(0, |span| span.column + span.width() as u16 + 1);
    film.go_on(Span::plain(column, "y"));
    film.output(&all[plan.len()..], true, 3.0);
    film.gap();

    show(&sandbox, &mut film, "ondemand stop wiki", 1.0)?;
    show(&sandbox, &mut film, "ondemand status", 3.0)?;
    show(&sandbox, &mut film, "curl http://localhost:8000/", 2.0)?;
    show(&sandbox, &mut film, "ondemand status", 0.0)?;
    let path = directory.join("adopt.svg");
    fs::write(&path, film.svg()).with_context(|| format!("write {}", path.display()))
}

/// A command and all of its output.
fn show(sandbox: &Sandbox, film: &mut Film, command: &str, reading: f64) -> Result<()> {
    film.command(command);
    let mut terminal = Terminal::open(sandbox, ADOPT, command)?;
    terminal.end()?;
    film.output(&lines(&terminal), false, reading);
    film.gap();
    Ok(())
}

/// The lines of a terminal down to the last that has something.
fn lines(terminal: &Terminal<'_>) -> Vec<Vec<Span>> {
    let mut lines = terminal::screen(&terminal.sent(), ADOPT);
    let last = lines.iter().rposition(|spans| !spans.is_empty());
    lines.truncate(last.map_or(0, |last| last + 1));
    lines
}
