//! A private Prometheus, in the network of a sandbox.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::{http, sandbox::Sandbox, service::SOON, source_tree, target_directory, wait_for};

/// `prometheus` or `promtool`: this machine's own, or what `cargo xtask setup` unpacked.
///
/// # Errors
///
/// Neither is there.
pub fn program(name: &str) -> Result<PathBuf> {
    let unpacked = target_directory()?.join("prometheus/usr/bin").join(name);
    let places = [Path::new("/usr/bin").join(name), unpacked];
    let found = places.into_iter().find(|path| path.exists());
    found.with_context(|| format!("{name} is not there: run `cargo xtask setup` first"))
}

/// Why one of them cannot be run here, if so.
pub fn unavailable() -> Option<String> {
    let missing = ["prometheus", "promtool"].map(|name| program(name).err());
    missing
        .into_iter()
        .flatten()
        .next()
        .map(|error| error.to_string())
}

/// Where the files for Prometheus are.
pub fn shipped() -> PathBuf {
    source_tree().join("units/prometheus")
}

/// Runs promtool with these words, `input` on its standard input.
///
/// # Errors
///
/// It finds something wrong; what it wrote is in the message.
pub fn promtool(words: &[&str], input: &str) -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), input)?;
    let output = Command::new(program("promtool")?)
        .args(words)
        .stdin(fs::File::open(file.path())?)
        .current_dir(shipped())
        .output()
        .context("run promtool")?;
    ensure!(
        output.status.success(),
        "promtool {words:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// A running Prometheus. Dropping it, or dying, ends it.
pub struct Prometheus<'s> {
    sandbox: &'s Sandbox,
    server: Child,
    directory: TempDir,
    address: SocketAddr,
}

impl<'s> Prometheus<'s> {
    /// Starts one that scrapes the sandbox's agent twice a second, with the scrape configuration
    /// and the rules that are shipped.
    ///
    /// # Errors
    ///
    /// It does not start; what it wrote is in the message.
    pub fn start(sandbox: &'s Sandbox) -> Result<Self> {
        Self::scraping(sandbox, &["localhost:9464"])
    }

    /// The same for these agents, as they are reached from the sandbox.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn scraping(sandbox: &'s Sandbox, agents: &[&str]) -> Result<Self> {
        let directory = tempfile::tempdir().context("create a directory")?;
        let config = fs::read_to_string(shipped().join("prometheus.yml"))?;
        let rules = shipped().join("ondemand.rules.yml");
        let config = config
            .replace("15s", "500ms")
            .replace(
                "- localhost:9464",
                &format!("- {}", agents.join("\n          - ")),
            )
            .replace("- ondemand.rules.yml", &format!("- {}", rules.display()));
        let file = directory.path().join("prometheus.yml");
        fs::write(&file, config)?;
        let log = fs::File::create(directory.path().join("log"))?;
        let address = SocketAddr::from(([127, 0, 0, 1], 9090));
        let server = Command::new("nsenter")
            .arg(format!("--net=/proc/{}/ns/net", sandbox.init()))
            .args(["--", "setpriv", "--pdeathsig", "KILL", "--"])
            .arg(program("prometheus")?)
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                directory.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start Prometheus")?;
        let this = Self {
            server,
            directory,
            address,
            sandbox,
        };
        wait_for("Prometheus answers", SOON, || this.query("vector(1)").ok()).with_context(
            || fs::read_to_string(this.directory.path().join("log")).unwrap_or_default(),
        )?;
        Ok(this)
    }

    /// The result of a query now: a vector.
    ///
    /// # Errors
    ///
    /// It does not answer, or does not understand the query.
    pub fn query(&self, query: &str) -> Result<Vec<Value>> {
        let answer = self.api(&format!("query?query={}", http::encode(query)))?;
        let result = answer.pointer("/data/result").and_then(Value::as_array);
        result.cloned().with_context(|| answer.to_string())
    }

    /// The number that a query returns. `None`: it returns nothing.
    ///
    /// # Errors
    ///
    /// Like [`Prometheus::query`].
    pub fn number(&self, query: &str) -> Result<Option<f64>> {
        let result = self.query(query)?;
        let first = result.first();
        let text = first.and_then(|first| first.pointer("/value/1")?.as_str());
        text.map(|text| text.parse().with_context(|| text.to_owned()))
            .transpose()
    }

    /// What `/api/v1/…` answers.
    ///
    /// # Errors
    ///
    /// It does not answer, or with an error.
    pub fn api(&self, path: &str) -> Result<Value> {
        let reply = http::get(self.sandbox, self.address, &format!("/api/v1/{path}"), "")?;
        ensure!(reply.status == 200, "{path}: {reply:?}");
        serde_json::from_str(&reply.body).with_context(|| reply.body.clone())
    }
}

impl Drop for Prometheus<'_> {
    fn drop(&mut self) {
        // Either it ends, or it has ended.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
