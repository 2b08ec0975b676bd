//! What is done to the agent meanwhile.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use tests::{client::Random, process::Process, sandbox::Sandbox};

use super::{SERVICES, configure};

/// From one to the next, on average.
const GAP: Duration = Duration::from_millis(700);

/// Something that must not matter to any client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Upset {
    /// SIGKILL; systemd starts it again a second later.
    Kill,
    /// `systemctl restart`.
    Restart,
    /// Another configuration, with other timeouts, and with one service more or fewer.
    Reload,
    /// systemd generates all units again.
    DaemonReload,
    /// `ondemand stop`, which is refused while a client is connected.
    Stop,
    /// `ondemand start`.
    Start,
    /// `ondemand hold`, for a second.
    Hold,
    /// A reader.
    Look,
}

/// The first [`ENDING`] end the agent.
const ALL: [Upset; 8] = [
    Upset::Kill,
    Upset::Restart,
    Upset::Reload,
    Upset::DaemonReload,
    Upset::Stop,
    Upset::Start,
    Upset::Hold,
    Upset::Look,
];
const ENDING: usize = 2;

/// How often each was done.
pub type Upsets = BTreeMap<Upset, u64>;

/// Does one after the other until it is time to end. `rough`: agents are ended, too.
///
/// # Errors
///
/// The configuration cannot be written.
pub fn upset(sandbox: &Sandbox, rough: bool, seed: u64, end: Instant) -> Result<Upsets> {
    let mut random = Random::new(seed);
    let mut done = Upsets::new();
    loop {
        let next = Instant::now() + random.gap(GAP);
        if next >= end {
            return Ok(done);
        }
        thread::sleep(next.saturating_duration_since(Instant::now()));
        let mut choose = |count: usize| (random.unit() * count as f64) as usize;
        let upset = match rough {
            // However short it is, one agent is killed.
            true if done.is_empty() => Upset::Kill,
            true => ALL[choose(ALL.len())],
            false => ALL[ENDING + choose(ALL.len() - ENDING)],
        };
        let name = SERVICES[choose(SERVICES.len())].name;
        let changed = choose(4);
        if carry_out(sandbox, upset, name, changed)? {
            *done.entry(upset).or_default() += 1;
        }
    }
}

/// Whether it was done: much of it is refused, or finds no agent, and that is no error.
fn carry_out(sandbox: &Sandbox, upset: Upset, name: &str, changed: usize) -> Result<bool> {
    let run = |words: &[&str]| sandbox.run(words).is_ok();
    Ok(match upset {
        Upset::Kill => Process::agent(sandbox).and_then(Process::kill).is_ok(),
        Upset::Restart => run(&["systemctl", "restart", "ondemand.service"]),
        Upset::Reload => {
            configure(sandbox, changed & 1 != 0, changed & 2 != 0)?;
            run(&["systemctl", "reload", "ondemand.service"])
        }
        Upset::DaemonReload => run(&["systemctl", "daemon-reload"]),
        Upset::Stop => run(&["ondemand", "stop", name]),
        Upset::Start => run(&["ondemand", "start", name]),
        Upset::Hold => run(&["ondemand", "hold", name, "--for", "1s"]),
        Upset::Look => run(&["ondemand", "status"]) && tests::metrics::scrape(sandbox).is_ok(),
    })
}
