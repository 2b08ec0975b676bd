//! `cargo xtask run --report` and `cargo xtask pictures`: three services with clients of
//! different habits in a private systemd, and ondemand's report of them.

use std::{
    fs,
    io::Write as _,
    num::NonZeroU16,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tests::{
    browser, built,
    client::{self, Random, Request},
    sandbox::{Cgroups, Sandbox},
    service, source_tree, wait_for,
};

use crate::command::{Step, run};

/// The duration of the clients.
const ACTIVITY: Duration = Duration::from_secs(25);
const SOON: Duration = Duration::from_secs(30);

/// Name, options of its application, idle timeout, milliseconds between its clients.
const SERVICES: [(&str, &str, &str, u64); 3] = [
    ("llm", "--start-delay-ms 700", "2s", 4_000),
    ("preview", "--start-delay-ms 80", "1s", 1_800),
    ("wiki", "--start-delay-ms 150", "1500ms", 700),
];

fn set_up() -> Result<Sandbox> {
    let sandbox = Sandbox::boot_with(Cgroups::Accounted)?;
    service::prepare(&sandbox)?;
    let mut config = String::new();
    for (index, (name, options, idle, _)) in SERVICES.into_iter().enumerate() {
        let (front, back) = (8000 + index, 8080 + index);
        service::write_backend(
            &sandbox,
            &format!("{name}.service"),
            &format!("--listen 127.0.0.1:{back} {options}"),
        )?;
        config += &format!(
            "[service.{name}]\nlisten = [\"127.0.0.1:{front}\"]\n\
             backend = \"127.0.0.1:{back}\"\nunit = \"{name}.service\"\n\
             idle_timeout = \"{idle}\"\nmin_uptime = \"0s\"\n\n"
        );
    }
    sandbox.write("/etc/ondemand/ondemand.toml", config)?;
    service::reload(&sandbox, &SERVICES.map(|(name, ..)| name))?;
    service::start_agent(&sandbox)?;
    Ok(sandbox)
}

/// Clients of all services until `end`; returns the number of responses.
fn clients(sandbox: &Sandbox, end: Instant) -> Result<u32> {
    sandbox.in_network(|| {
        thread::scope(|scope| {
            let loads: Vec<_> = SERVICES
                .iter()
                .enumerate()
                .map(|(index, (.., gap))| {
                    scope.spawn(move || {
                        let address = ([127, 0, 0, 1], 8000 + index as u16).into();
                        let mut random = Random::new(index as u64 + 7);
                        let mut answered = 0;
                        while Instant::now() < end {
                            let request = Request {
                                download: 200_000,
                                ..Request::default()
                            };
                            client::get(address, request)
                                .map_err(|loss| anyhow::anyhow!("a request was lost: {loss}"))?;
                            answered += 1;
                            let pause = random.gap(Duration::from_millis(*gap));
                            thread::sleep(pause.min(end.saturating_duration_since(Instant::now())));
                        }
                        anyhow::Ok(answered)
                    })
                })
                .collect();
            let mut all = 0;
            for load in loads {
                all += load
                    .join()
                    .map_err(|_| anyhow::anyhow!("a client panicked"))??;
            }
            Ok(all)
        })
    })?
}

/// Real activity, and the report of it; also as a page, in `target/report.html`.
///
/// # Errors
///
/// A request was lost, or the report does not show what happened.
pub fn report() -> Result<()> {
    println!("boots a private systemd with three services: llm, preview, wiki");
    let sandbox = set_up()?;
    println!("running clients for {} s, with pauses", ACTIVITY.as_secs());
    let answered = clients(&sandbox, Instant::now() + ACTIVITY)?;
    println!("{answered} requests were answered, none was lost; waits until all is quiet\n");
    for (name, ..) in SERVICES {
        service::wait_state(&sandbox, &format!("{name}.service"), "inactive")?;
    }
    let words = [
        "ondemand",
        "report",
        "--price-per-gib-hour",
        "0.005",
        "--cold-start-cost",
        "2s",
        "--timeouts",
        "1s,2s,3s,5s,10s,30s",
    ];
    print!("{}", sandbox.run(&words)?);
    let inside = "/run/report.html";
    sandbox.run(&[&words[..], &["--html", inside]].concat())?;
    let page = source_tree().join("target/report.html");
    fs::copy(sandbox.path(inside), &page).with_context(|| format!("write {}", page.display()))?;
    println!("\nthe same as a page: {}", page.display());
    Ok(())
}

/// Makes the pictures of the documents: `ondemand top` with clients, the live page, the report of a trace and of a fleet.
///
/// # Errors
///
/// Chromium is missing or fails, or another step fails.
pub fn pictures() -> Result<()> {
    let sandbox = set_up()?;
    let mut screen = Screen::open(&sandbox)?;
    println!("running clients for {} s", ACTIVITY.as_secs());
    clients(&sandbox, Instant::now() + ACTIVITY)?;
    let top = screen.html();
    screen.close()?;
    drop(screen);
    let directory = source_tree().join("xtask/pictures");
    fs::create_dir_all(&directory)?;
    let live = directory.join("page.png");
    sandbox
        .in_network(|| browser::shoot_address("http://127.0.0.1:9464/", (900, 1000), &live))??;
    drop(sandbox);
    // Half a minute is too short for a history: the report is of five days of a home web server.
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
    let page = source_tree().join("target/top.html");
    fs::write(&page, top)?;
    browser::shoot(&page, (760, 420), &directory.join("top.png"))?;
    browser::shoot(&report, (900, 1400), &directory.join("report.png"))?;
    // A fleet is made up by the test that looks at its page.
    run(
        &Step::new(&["cargo", "test", "-p", "ondemand", "--test", "report_fleet"])
            .args(&["page::"])
            .env("ONDEMAND_PICTURES", &directory.display().to_string()),
    )?;
    println!("written: {}", directory.display());
    Ok(())
}

/// `ondemand top` on a terminal of 80 columns.
struct Screen<'a> {
    sandbox: &'a Sandbox,
    script: std::process::Child,
}

const COLUMNS: NonZeroU16 = NonZeroU16::new(80).unwrap();
const LINES: NonZeroU16 = NonZeroU16::new(16).unwrap();
/// Where script(1) writes what the terminal was sent.
const TYPESCRIPT: &str = "/run/top.typescript";

impl<'a> Screen<'a> {
    fn open(sandbox: &'a Sandbox) -> Result<Self> {
        let command = format!("stty rows {LINES} cols {COLUMNS}; exec ondemand top");
        let script = sandbox
            .command("script")
            .args(["--quiet", "--flush", "--command", &command, TYPESCRIPT])
            .env("TERM", "xterm-256color")
            .env("SHELL", "/bin/sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("run script")?;
        Ok(Self { sandbox, script })
    }

    /// What is on the screen, as a page.
    fn html(&self) -> String {
        let bytes = fs::read(self.sandbox.path(TYPESCRIPT)).unwrap_or_default();
        // The first line is script's own.
        let begin = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(0);
        let mut terminal = vt100::Parser::new(LINES, COLUMNS, 0);
        terminal.process(&bytes[begin..]);
        let mut page = String::from(
            "<!doctype html><meta charset=utf-8><body style='margin:0;background:#16181d'>\
             <pre style='margin:12px;font:14px/1.3 monospace;color:#d5d8de'>",
        );
        for row in 0..LINES.get() {
            for column in 0..COLUMNS.get() {
                if let Some(cell) = terminal.screen().cell(row, column) {
                    page += &span(cell);
                }
            }
            page.push('\n');
        }
        page + "</pre>"
    }

    fn close(&mut self) -> Result<()> {
        let stdin = self.script.stdin.as_mut().context("the terminal")?;
        stdin.write_all(b"q")?;
        wait_for("ondemand top ends", SOON, || self.script.try_wait().ok()?)?;
        Ok(())
    }
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

fn span(cell: &vt100::Cell) -> String {
    let (mut front, mut back) = (
        color(cell.fgcolor(), "#d5d8de"),
        color(cell.bgcolor(), "#16181d"),
    );
    if cell.inverse() {
        std::mem::swap(&mut front, &mut back);
    }
    let weight = if cell.bold() { "bold" } else { "normal" };
    let dim = if cell.dim() { ";opacity:.6" } else { "" };
    let text = match cell.contents() {
        "" => " ",
        "<" => "&lt;",
        "&" => "&amp;",
        text => text,
    };
    format!("<span style='color:{front};background:{back};font-weight:{weight}{dim}'>{text}</span>")
}

/// xterm's colours: the first sixteen are those of its palette.
fn color(color: vt100::Color, default: &str) -> String {
    const PALETTE: [&str; 16] = [
        "#2b2e36", "#e06c75", "#98c379", "#e5c07b", "#61afef", "#c678dd", "#56b6c2", "#d5d8de",
        "#7f848e", "#e06c75", "#98c379", "#e5c07b", "#61afef", "#c678dd", "#56b6c2", "#ffffff",
    ];
    match color {
        vt100::Color::Default => default.to_owned(),
        vt100::Color::Rgb(red, green, blue) => format!("rgb({red},{green},{blue})"),
        vt100::Color::Idx(index) => match PALETTE.get(usize::from(index)) {
            Some(color) => (*color).to_owned(),
            None => default.to_owned(),
        },
    }
}
