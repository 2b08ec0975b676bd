//! A process, as proc(5) shows it from outside.

use std::fs;

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tests::sandbox::Sandbox;

/// A process of the sandbox, by the number that this machine gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(i32);

/// Its memory, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// What is in RAM, the program's own file included.
    pub resident: f64,
    /// The most that it ever was.
    pub peak: f64,
    /// What is in RAM and in no file: what grows if something leaks.
    pub anonymous: f64,
}

impl Process {
    /// The main process of the agent.
    ///
    /// # Errors
    ///
    /// It does not run.
    pub fn agent(sandbox: &Sandbox) -> Result<Self> {
        let inside = sandbox.property("ondemand.service", "MainPID")?;
        // The kernel writes the numbers of whoever reads.
        let path = sandbox.path("/sys/fs/cgroup/system.slice/ondemand.service/cgroup.procs");
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let is_main = |pid: &i32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            field(&status, "NSpid")
                .is_some_and(|ids| ids.split_whitespace().last() == Some(&inside))
        };
        let mut pids = text.lines().filter_map(|line| line.parse().ok());
        let main = pids.find(is_main).map(Self);
        main.with_context(|| format!("no process {inside} of the agent in {}", path.display()))
    }

    /// What it uses.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn memory(self) -> Result<Memory> {
        let path = format!("/proc/{}/status", self.0);
        let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let bytes = |name: &str| -> Result<f64> {
            let value = field(&status, name).with_context(|| format!("{name} in {path}"))?;
            let kibibytes = value.trim_end_matches("kB").trim().parse::<f64>();
            Ok(kibibytes.with_context(|| format!("{name} in {path}"))? * 1024.0)
        };
        Ok(Memory {
            resident: bytes("VmRSS")?,
            peak: bytes("VmHWM")?,
            anonymous: bytes("RssAnon")?,
        })
    }

    /// How many descriptors are open.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn descriptors(self) -> Result<usize> {
        let path = format!("/proc/{}/fd", self.0);
        let open = fs::read_dir(&path).with_context(|| format!("list {path}"))?;
        Ok(open.count())
    }

    /// Kills it (SIGKILL).
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn kill(self) -> Result<()> {
        kill(Pid::from_raw(self.0), Signal::SIGKILL)
            .with_context(|| format!("kill the process {}", self.0))
    }
}

/// The value behind `name:` in a file of proc(5).
pub fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
}
