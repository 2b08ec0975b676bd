//! The usual alternative: a timer, and a script that runs `ss` and `systemctl`.

use std::{
    fs,
    process::{Child, Command},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tests::sandbox::Sandbox;

use crate::{fleet::Member, machine::cpu_microseconds};

/// One tick of the timer of one service: `checker TIMEOUT_MS UNIT PORT`.
const EACH: &str = r#"#!/bin/bash
state=/run/checker-$2
now=${EPOCHREALTIME/[.,]/}
if [ "$(systemctl is-active "$2")" != active ]; then
    [ ! -e "$state" ] || rm "$state"
    exit
fi
if [ ! -e "$state" ] || ss -Htn state established "( sport = :$3 )" | grep -q .; then
    echo "$now" >"$state"
    exit
fi
read -r since <"$state"
if ((now - since >= $1 * 1000)); then systemctl stop "$2"; fi
"#;

/// One tick for all services in a file: `checker-all TIMEOUT_MS FILE`.
const ALL: &str = r#"#!/bin/bash
state=/run/checker-all
now=${EPOCHREALTIME/[.,]/}
declare -A since busy
while read -r unit at; do since[$unit]=$at; done 2>/dev/null <"$state"
while read -r _ _ local _; do busy[${local##*:}]=1; done < <(ss -Htn state established)
mapfile -t lines <"$2"
mapfile -t active < <(systemctl is-active "${lines[@]%% *}")
for i in "${!lines[@]}"; do
    read -r unit port <<<"${lines[i]}"
    if [ "${active[i]}" != active ]; then continue; fi
    if [ -z "${since[$unit]}" ] || [ -n "${busy[$port]}" ]; then since[$unit]=$now; fi
    if ((now - since[$unit] >= $1 * 1000)); then systemctl stop "$unit"; continue; fi
    echo "$unit ${since[$unit]}"
done >"$state.new"
mv "$state.new" "$state"
"#;

/// `ticks COUNT PAUSE each|all TIMEOUT_MS FILE`: what the timers start, again and again.
const TICKS: &str = r#"#!/bin/bash
for ((tick = 0; tick < $1; tick++)); do
    if [ "$3" = all ]; then
        /usr/bin/checker-all "$4" "$5"
    else
        while read -r unit port; do /usr/bin/checker "$4" "$unit" "$port"; done <"$5"
    fi
    [ "$2" = 0 ] || sleep "$2"
done
"#;

/// Which script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    /// A timer and a script's run for each service.
    Each,
    /// One for all.
    All,
}

impl Script {
    fn word(self) -> &'static str {
        match self {
            Self::Each => "each",
            Self::All => "all",
        }
    }
}

/// What ticks have cost.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// CPU time in microseconds: the scripts' own, not what systemd does for them.
    pub cpu: f64,
    /// Processes.
    pub processes: f64,
}

/// Installs the scripts.
///
/// # Errors
///
/// They cannot be written.
pub fn install(sandbox: &Sandbox) -> Result<()> {
    for (name, text) in [("checker", EACH), ("checker-all", ALL), ("ticks", TICKS)] {
        let path = format!("/usr/bin/{name}");
        sandbox.write(&path, text)?;
        sandbox.run(&["chmod", "755", &path])?;
    }
    Ok(())
}

/// The command for this number of ticks that watch these services.
fn command(
    sandbox: &Sandbox,
    script: Script,
    (ticks, pause): (u32, Duration),
    timeout: Duration,
    members: &[&Member],
) -> Result<Command> {
    let list = "/run/checker-list";
    // What an earlier one remembered of its services is not true any more.
    sandbox.run(&["sh", "-c", "rm -f /run/checker-*"])?;
    let line = |member: &&Member| format!("{} {}\n", member.unit(), member.backend);
    sandbox.write(list, members.iter().map(line).collect::<String>())?;
    let mut command = sandbox.command("/usr/bin/ticks");
    command.args([
        ticks.to_string(),
        pause.as_secs_f64().to_string(),
        script.word().to_owned(),
        timeout.as_millis().to_string(),
        list.to_owned(),
    ]);
    Ok(command)
}

/// Measures this number of ticks, one right after the other. `others` counts processes and threads
/// that start meanwhile and are not the script's.
///
/// # Errors
///
/// A script fails.
pub fn measure(
    sandbox: &Sandbox,
    script: Script,
    ticks: u32,
    members: &[&Member],
    others: impl Fn() -> u64,
) -> Result<Cost> {
    let never = Duration::from_secs(3600);
    let run = |ticks| -> Result<Cost> {
        let before = (cpu(sandbox)?, processes(sandbox)?, others());
        let mut command = command(sandbox, script, (ticks, Duration::ZERO), never, members)?;
        let status = command.status().context("run the checker script")?;
        ensure!(status.success(), "the checker script failed: {status}");
        Ok(Cost {
            cpu: cpu(sandbox)? - before.0,
            processes: processes_since(sandbox, before.1)? - (others() - before.2) as f64,
        })
    };
    // The second one is what it takes to get there.
    let (all, none) = (run(ticks)?, run(0)?);
    Ok(Cost {
        cpu: (all.cpu - none.cpu) / f64::from(ticks),
        processes: (all.processes - none.processes) / f64::from(ticks),
    })
}

/// Ticks every `pause` until the result is dropped.
///
/// # Errors
///
/// The script cannot be run.
pub fn keep_on(
    sandbox: &Sandbox,
    script: Script,
    pause: Duration,
    timeout: Duration,
    members: &[&Member],
) -> Result<Ticking> {
    let mut command = command(sandbox, script, (u32::MAX, pause), timeout, members)?;
    let child = command.spawn().context("run the checker script")?;
    Ok(Ticking(child))
}

/// A checker script at work.
pub struct Ticking(Child);

impl Drop for Ticking {
    fn drop(&mut self) {
        // It may have ended by itself, which is no reason to end here.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// CPU time of all that was run with [`Sandbox::command`].
fn cpu(sandbox: &Sandbox) -> Result<f64> {
    let group = "enter";
    if !sandbox.path(&format!("/sys/fs/cgroup/{group}")).exists() {
        return Ok(0.0);
    }
    cpu_microseconds(sandbox, group)
}

/// The number of the youngest process or thread of the sandbox, which counts on without gaps.
///
/// # Errors
///
/// It cannot be read.
pub fn processes(sandbox: &Sandbox) -> Result<i64> {
    // proc(5): of the reader's own namespace, so that it has to be read inside.
    let text = sandbox.run(&["cat", "/proc/sys/kernel/ns_last_pid"])?;
    text.trim().parse().context("ns_last_pid")
}

/// How many processes and threads began in the sandbox since that number was read, without the
/// one that reads it.
///
/// # Errors
///
/// As for [`processes`].
pub fn processes_since(sandbox: &Sandbox, before: i64) -> Result<f64> {
    /// After the last number the kernel continues here (kernel/pid.c).
    const RESERVED: i64 = 300;
    let text = fs::read_to_string("/proc/sys/kernel/pid_max").context("read pid_max")?;
    let numbers: i64 = text.trim().parse::<i64>().context("pid_max")? - RESERVED;
    Ok(((processes(sandbox)? - before).rem_euclid(numbers) - 1) as f64)
}
