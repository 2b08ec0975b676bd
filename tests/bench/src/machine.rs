//! The machine of the measurement: a figure without its machine means nothing.

use std::{fs, process::Command, thread};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tests::sandbox::Sandbox;

/// The machine, and the programs that took part.
pub struct Machine {
    date: String,
    cores: usize,
    processor: String,
    kernel: String,
    /// Names with versions.
    programs: Vec<String>,
    /// The part of all CPU time that was used by others, or withheld by the hypervisor.
    others: f64,
}

/// The CPU time of a moment, to be compared with that of a later one.
pub struct Usage {
    /// Microseconds of the whole machine, idle or not.
    total: f64,
    /// Of these, those in which it was not idle.
    busy: f64,
    /// Microseconds that the sandbox used.
    ours: f64,
}

impl Usage {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// The kernel's statistics cannot be read.
    pub fn now(sandbox: &Sandbox) -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
        // user nice system idle iowait irq softirq steal, in hundredths of a second; proc(5)
        let fields: Vec<f64> = text
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .skip(1)
            .take(8)
            .filter_map(|field| field.parse().ok())
            .collect();
        let total: f64 = fields.iter().sum();
        let idle: f64 = fields.iter().skip(3).take(2).sum();
        Ok(Self {
            total: total * 1e4,
            busy: (total - idle) * 1e4,
            ours: cpu_microseconds(sandbox, "")?,
        })
    }
}

/// CPU time that a cgroup of the sandbox has used; the path starts below its root.
///
/// # Errors
///
/// There is no such group.
pub fn cpu_microseconds(sandbox: &Sandbox, group: &str) -> Result<f64> {
    let path = sandbox.path(&format!("/sys/fs/cgroup/{group}/cpu.stat"));
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    text.lines()
        .find_map(|line| line.strip_prefix("usage_usec ")?.parse().ok())
        .with_context(|| format!("usage_usec in {}", path.display()))
}

impl Machine {
    /// Reads the properties of the machine. `programs` are commands that print their version, as typed.
    pub fn look(sandbox: &Sandbox, programs: &[&str], since: &Usage) -> Self {
        let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = processor
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or("unknown processor", |(_, name)| name);
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let mut kernel = release.splitn(3, '.').take(2);
        let kernel = [kernel.next(), kernel.next()].map(Option::unwrap_or_default);
        let others = Usage::now(sandbox).map_or(f64::NAN, |now| {
            let busy = (now.busy - since.busy) - (now.ours - since.ours);
            (busy / (now.total - since.total)).max(0.0)
        });
        Self {
            date: jiff::Zoned::now().date().to_string(),
            cores: thread::available_parallelism().map_or(1, usize::from),
            processor: processor.to_owned(),
            kernel: kernel.join("."),
            programs: programs.iter().filter_map(|words| version(words)).collect(),
            others,
        }
    }

    /// One line.
    pub fn text(&self) -> String {
        format!(
            "{}: {} cores ({}), Linux {}, {}; others used {:.0} % of the machine meanwhile",
            self.date,
            self.cores,
            self.processor,
            self.kernel,
            self.programs.join(", "),
            self.others * 100.0
        )
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "date": self.date,
            "cores": self.cores,
            "processor": self.processor,
            "kernel": self.kernel,
            "programs": self.programs,
            "cpu_used_by_others": self.others,
        })
    }
}

/// From the output of `nginx -v` and the like: the name, and the first word that starts with a digit.
fn version(words: &str) -> Option<String> {
    let mut split = words.split_whitespace();
    let program = split.next()?;
    // wrk fails when it prints its version.
    let output = Command::new(program).args(split).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let number = text
        .split(|letter: char| letter.is_whitespace() || letter == '/')
        .find(|word| word.starts_with(|letter: char| letter.is_ascii_digit()))?;
    let name = match program.rsplit('/').next()? {
        "systemctl" => "systemd",
        name => name,
    };
    let number = number.split('-').next()?;
    Some(format!("{name} {number}"))
}
