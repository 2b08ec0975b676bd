//! Chromium, without a window.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::sandbox::Sandbox;

/// No network but that of the page, nothing of an earlier run.
const OPTIONS: [&str; 8] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];

fn browser(mut command: Command, directory: &Path) -> Command {
    let profile = directory.join("profile");
    command
        .args(OPTIONS)
        .arg(format!("--user-data-dir={}", profile.display()));
    command
}

/// What a script finds in a page: it calls `tell(VALUE)`.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// Where files of this look may be.
    pub directory: &'a Path,
    /// Of the window, in pixels.
    pub width: u32,
    /// Whether the person prefers dark pages.
    pub dark: bool,
}

impl Look<'_> {
    /// What `probe` tells, the program at the end of this page, which is in no network. A probe ends with `tell(VALUE)`.
    ///
    /// # Errors
    ///
    /// Chromium cannot be run, or shows no page.
    pub fn at(&self, page: &str, probe: &str) -> Result<Value> {
        let probe = format!(
            "<script>const tell = value => {{ top.document.body.textContent = \"RESULT\" + JSON.stringify(value) + \"END\"; \
             }};\n{probe}</script>"
        );
        // A page whose body is never closed is whole, too.
        let page = match page.contains("</body>") {
            true => page.replace("</body>", &format!("{probe}</body>")),
            false => format!("{page}{probe}"),
        };
        let page = page.replace('&', "&amp;").replace('"', "&quot;");
        // In a frame, because the browser makes no window as narrow as a phone.
        let frame = format!(
            "<!doctype html><body><iframe style=\"width:{}px;height:1000px;border:0\" srcdoc=\"{page}\"></iframe></body>",
            self.width
        );
        let file = self
            .directory
            .join(format!("page-{}-{}.html", self.width, self.dark));
        fs::write(&file, frame).context("write the page")?;
        let output = browser(Command::new("chromium"), self.directory)
            .args(["--dump-dom", "--window-size=1300,1000"])
            .args(
                self.dark
                    .then_some("--blink-settings=preferredColorScheme=0"),
            )
            .arg(format!("file://{}", file.display()))
            .output()
            .context("run chromium")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let json = text
            .split_once("RESULT")
            .and_then(|(_, rest)| rest.split_once("END"))
            .with_context(|| format!("chromium shows no page: {output:?}"))?
            .0;
        // In a DOM that is written out as text these are escaped.
        let json = json
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&amp;", "&");
        serde_json::from_str(&json).context("parse what the page tells")
    }
}

/// A page as its own script has left it.
#[derive(Clone, Debug)]
pub struct Visited {
    /// The document, written out.
    pub dom: String,
    /// What the browser says about it: errors of scripts and of the page's policy.
    pub complaints: String,
}

/// Visits an address in the network of a sandbox for this time of the page's own clock, which waits for answers.
///
/// # Errors
///
/// Chromium cannot be run.
pub fn visit(sandbox: &Sandbox, directory: &Path, url: &str, millis: u32) -> Result<Visited> {
    let output = sandbox.in_network(|| {
        browser(Command::new("chromium"), directory)
            .args(["--dump-dom", "--enable-logging=stderr", "--log-level=0"])
            .arg(format!("--virtual-time-budget={millis}"))
            .arg(url)
            .output()
            .context("run chromium")
    })??;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    // Messages of pages; others are about buses and devices that a test has not.
    let complaints = text(&output.stderr);
    let complaints: Vec<&str> = complaints
        .lines()
        .filter(|line| line.contains("CONSOLE") && !line.contains("source: chrome://"))
        .collect();
    Ok(Visited {
        dom: text(&output.stdout),
        complaints: complaints.join("\n"),
    })
}

/// Makes a picture of a page, as large as this window, in pixels.
///
/// # Errors
///
/// Chromium cannot be run, or makes none.
pub fn shoot(page: &Path, size: (u32, u32), picture: &Path) -> Result<()> {
    shoot_address(&format!("file://{}", page.display()), size, picture)
}

/// The same of an address that this thread's network reaches.
///
/// # Errors
///
/// As of [`shoot`].
pub fn shoot_address(url: &str, (width, height): (u32, u32), picture: &Path) -> Result<()> {
    let profile = tempfile::tempdir().context("a directory for Chromium")?;
    let output = browser(Command::new("chromium"), profile.path())
        .args(["--hide-scrollbars", "--force-device-scale-factor=1.5"])
        // Its scripts may ask for something and wait for the answer.
        .arg("--virtual-time-budget=10000")
        .arg(format!("--window-size={width},{height}"))
        .arg(format!("--screenshot={}", picture.display()))
        .arg(url)
        .output()
        .context("run chromium (cargo xtask setup installs it)")?;
    ensure!(
        picture.exists(),
        "chromium made no picture: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
