//! A private, real systemd: see `sandbox.sh`.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    os::unix::{
        fs::{PermissionsExt as _, symlink},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{sched::CloneFlags, unistd::geteuid};

use crate::{skip, source_tree};

/// A running systemd with its own everything. Dropping it, or dying, ends it.
pub struct Sandbox {
    supervisor: Child,
    /// `sandbox.sh` keeps its files here.
    state: PathBuf,
    /// Open for as long as the sandbox shall live.
    lifeline: Option<ChildStdin>,
    /// Whether it outlives this process.
    kept: bool,
    init: u32,
    /// Its name, also that of its cgroup.
    pub name: String,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Which hierarchy of cgroups a sandbox has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cgroups {
    /// Only cgroup2, as in current distributions.
    Unified,
    /// The controllers where this machine has them, so that memory is accounted.
    Accounted,
}

/// What `sandbox.sh` runs, beside what every Linux has.
const PROGRAMS: [&str; 5] = ["nsenter", "unshare", "setpriv", "pivot_root", "ip"];

/// Why no sandbox can be booted here, if so.
pub fn unavailable() -> Option<String> {
    let cgroup2 = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    let reason = if !geteuid().is_root() {
        Some("booting a private systemd needs root")
    } else if !cgroup2
        .iter()
        .any(|tree| Path::new(tree).join("cgroup.controllers").exists())
    {
        Some("no cgroup2 is mounted (mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified)")
    } else if !Path::new("/usr/lib/systemd/systemd").exists() {
        Some("systemd is not installed (the package systemd)")
    } else if !Path::new("/usr/bin/dbus-daemon").exists() {
        Some("D-Bus is not installed (the package dbus)")
    } else if !Path::new("/usr/lib/polkit-1/polkitd").exists() {
        Some("polkit is not installed (the package polkitd)")
    } else {
        None
    };
    reason
        .map(str::to_owned)
        .or_else(|| skip::missing(&PROGRAMS))
}

impl Sandbox {
    /// Boots one; it takes about a second.
    ///
    /// # Errors
    ///
    /// The machine lacks something, or systemd does not start; its output is in the message.
    pub fn boot() -> Result<Self> {
        Self::boot_with(Cgroups::Unified)
    }

    /// Boots one with a choice of cgroups.
    ///
    /// # Errors
    ///
    /// As for [`Sandbox::boot`].
    pub fn boot_with(cgroups: Cgroups) -> Result<Self> {
        Self::boot_as(cgroups, false)
    }

    /// Boots one that outlives this process, until [`Sandbox::end_command`] is run.
    ///
    /// # Errors
    ///
    /// Like [`Sandbox::boot`].
    pub fn boot_kept(cgroups: Cgroups) -> Result<Self> {
        Self::boot_as(cgroups, true)
    }

    /// What a person types to end a sandbox that is kept.
    pub fn end_command(&self) -> String {
        format!("echo > {}/end", self.state.display())
    }

    fn boot_as(cgroups: Cgroups, kept: bool) -> Result<Self> {
        if let Some(reason) = unavailable() {
            bail!("{reason}");
        }
        let host_is_hybrid = !Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let mode = if cgroups == Cgroups::Accounted && host_is_hybrid {
            "hybrid"
        } else {
            "unified"
        };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ondemand-box-{}-{number}", std::process::id());
        let state = Path::new("/run").join(&name);
        let mut supervisor = Command::new(script())
            .arg(&state)
            .arg(mode)
            .args(kept.then_some("kept"))
            .process_group(0) // a Ctrl-C is for its owner, which then ends it in order
            .stdin(if kept { Stdio::null() } else { Stdio::piped() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("run tests/sandbox.sh")?;
        let lifeline = supervisor.stdin.take();
        let mut line = String::new();
        if let Some(stdout) = supervisor.stdout.take() {
            BufReader::new(stdout)
                .read_line(&mut line)
                .context("read from tests/sandbox.sh")?;
        }
        let Some(init) = line
            .strip_prefix("ready ")
            .and_then(|pid| pid.trim().parse().ok())
        else {
            let output = supervisor.wait_with_output()?;
            bail!("{}", String::from_utf8_lossy(&output.stderr));
        };
        Ok(Self {
            supervisor,
            state,
            lifeline,
            kept,
            init,
            name,
        })
    }

    /// The process id of its PID 1, as this machine sees it.
    pub fn init(&self) -> u32 {
        self.init
    }

    /// A program to be run inside all of its namespaces, in a cgroup of the sandbox. Killing
    /// the child kills the program; no other signal reaches it.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(script());
        command.arg("enter").arg(&self.state).arg(program);
        tidy(&mut command);
        command
    }

    /// Runs a program inside and returns its standard output. It stays in this process's cgroup: a
    /// move takes the kernel tens of milliseconds, too long for a frequent query.
    ///
    /// # Errors
    ///
    /// It failed; its output is in the message.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let (program, arguments) = words.split_first().context("no program to run")?;
        let mut command = Command::new("nsenter");
        command
            .args(["--all", "--target", &self.init.to_string(), "--"])
            .arg(program)
            .args(arguments)
            // kill(1) with the process 0, of a unit that has none, would otherwise end the caller.
            .process_group(0);
        let output = tidy(&mut command)
            .output()
            .with_context(|| format!("run {words:?}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "{words:?}: {}\n{text}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(text)
    }

    /// Where this machine sees a file of the sandbox.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.init))
    }

    /// Writes a file, and the directories that it needs.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn write(&self, inside: &str, contents: impl AsRef<[u8]>) -> Result<()> {
        let path = self.path(inside);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        }
        fs::write(&path, contents).with_context(|| format!("write {}", path.display()))
    }

    /// Copies a program of this machine to a place inside, and makes it executable.
    ///
    /// # Errors
    ///
    /// It cannot be read or written.
    pub fn install(&self, program: &Path, inside: &str) -> Result<()> {
        let bytes = fs::read(program).with_context(|| format!("read {}", program.display()))?;
        // A running program cannot be written to, but it can be replaced.
        let path = self.path(inside);
        let _ = fs::remove_file(&path);
        self.write(inside, bytes)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("make {} executable", path.display()))
    }

    /// Installs `ondemand` where a package would: program, generator, the agent's unit, the
    /// bus policy and polkit's actions.
    ///
    /// # Errors
    ///
    /// Something cannot be written, or systemd cannot be reloaded.
    pub fn install_ondemand(&self, program: &Path) -> Result<()> {
        self.install(program, "/usr/bin/ondemand")?;
        let units = source_tree().join("units");
        for (file, place) in [
            (
                "ondemand.service",
                "/usr/lib/systemd/system/ondemand.service",
            ),
            (
                "ondemand-permit.service",
                "/usr/lib/systemd/system/ondemand-permit.service",
            ),
            (
                "ondemand-load.service",
                "/usr/lib/systemd/system/ondemand-load.service",
            ),
            (
                "org.ondemand1.conf",
                "/usr/share/dbus-1/system.d/org.ondemand1.conf",
            ),
            (
                "org.ondemand1.policy",
                "/usr/share/polkit-1/actions/org.ondemand1.policy",
            ),
            (
                "sysusers.d/ondemand.conf",
                "/usr/lib/sysusers.d/ondemand.conf",
            ),
            (
                "modules-load.d/ondemand.conf",
                "/usr/lib/modules-load.d/ondemand.conf",
            ),
        ] {
            let from = units.join(file);
            let text = fs::read(&from).with_context(|| format!("read {}", from.display()))?;
            self.write(place, text)?;
        }
        let generator = self.path("/usr/lib/systemd/system-generators/ondemand-generator");
        let _ = fs::remove_file(&generator);
        symlink("/usr/bin/ondemand", &generator).context("install the generator")?;
        self.run(&["systemd-sysusers", "ondemand.conf"])?;
        self.run(&["systemctl", "reload", "dbus.service"])?;
        self.run(&["systemctl", "daemon-reload"])?;
        Ok(())
    }

    /// A property of a unit, as `systemctl show` prints it.
    ///
    /// # Errors
    ///
    /// systemd does not answer.
    pub fn property(&self, unit: &str, property: &str) -> Result<String> {
        let value = self.run(&["systemctl", "show", "--property", property, "--value", unit])?;
        Ok(value.trim().to_owned())
    }

    /// The process id of a unit's main process, as inside.
    ///
    /// # Errors
    ///
    /// systemd does not answer, or the unit has none: a signal to 0 would reach its sender.
    pub fn main_pid(&self, unit: &str) -> Result<u32> {
        let pid = self.property(unit, "MainPID")?.parse()?;
        ensure!(pid != 0, "{unit} has no main process");
        Ok(pid)
    }

    /// The journal of a unit, complete up to now, messages only; empty if it cannot be read.
    pub fn journal(&self, unit: &str) -> String {
        // What the unit wrote may still be on its way. Without it there is less to read: no error.
        let _ = self.run(&["journalctl", "--sync"]);
        self.run(&["journalctl", "--output=cat", "--no-pager", "--unit", unit])
            .unwrap_or_default()
    }

    /// Runs `work` on a thread in the network namespace of the sandbox: the sockets that it
    /// makes are there.
    ///
    /// # Errors
    ///
    /// The namespace cannot be entered.
    ///
    /// # Panics
    ///
    /// If `work` does.
    pub fn in_network<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let path = format!("/proc/{}/ns/net", self.init);
        let namespace = File::open(&path).with_context(|| format!("open {path}"))?;
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                nix::sched::setns(&namespace, CloneFlags::CLONE_NEWNET)
                    .context("enter the network namespace")?;
                Ok(work())
            });
            match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

/// What must not reach a program inside, and what it need not print.
fn tidy(command: &mut Command) -> &mut Command {
    command
        .env_remove("NOTIFY_SOCKET")
        .env("SYSTEMD_COLORS", "0")
        .env("SYSTEMD_PAGER", "")
        .stdin(Stdio::null())
        .current_dir("/")
}

fn script() -> PathBuf {
    source_tree().join("tests/sandbox.sh")
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!(
                "--- the agent's journal in {}:\n{}",
                self.name,
                self.journal("ondemand.service")
            );
        }
        if self.kept {
            return;
        }
        drop(self.lifeline.take());
        // Nothing to be done about an error here: the supervisor reports its own.
        let _ = self.supervisor.wait();
    }
}
