//! A process, as proc(5) shows it from outside.

use std::fs;

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::sandbox::Sandbox;

/// A process of a sandbox, by its process id on this machine.
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
    /// Its process id on this machine.
    pub fn id(self) -> i32 {
        self.0
    }

    /// The main process of the agent.
    ///
    /// # Errors
    ///
    /// It does not run.
    pub fn agent(sandbox: &Sandbox) -> Result<Self> {
        let inside = sandbox.main_pid("ondemand.service")?.to_string();
        // The kernel writes the process ids of the reader's namespace.
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

    /// The n-th field of proc_pid_stat(5), counted from 1; one behind the name, which is the second.
    ///
    /// # Errors
    ///
    /// It has ended, or that field is no number.
    pub fn stat(self, field: usize) -> Result<u64> {
        let path = format!("/proc/{}/stat", self.0);
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        // The name is in brackets, and may hold spaces.
        let value = text.rsplit_once(')').and_then(|(_, rest)| {
            let place = field.checked_sub(3)?;
            rest.split_whitespace().nth(place)?.parse().ok()
        });
        value.with_context(|| format!("field {field} in {path}"))
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
