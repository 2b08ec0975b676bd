//! `ondemand wait-listening`: waits until the backend listens.
//!
//! It is also the first phase of a proxy, which holds the front socket's descriptors while its
//! clients wait in their queues. If the backend does not become ready, the waiting connections are
//! closed: otherwise PID 1 would find them at the socket and restart the proxy as fast as it
//! can.

mod bus;
mod clients;
mod elsewhere;
mod first_try;
mod ready;
pub mod room;
mod unseen;

use std::{
    ffi::OsString,
    fmt,
    os::unix::process::CommandExt as _,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use bus::Bus;
pub use clients::Clients;
use elsewhere::Elsewhere;
use first_try::FirstTry;
use ondemand_core::{
    config::Ready,
    measure::{
        Ktime,
        unit::{ActiveState, Unit},
    },
    readiness::{Decision, Seen, Why, decide},
};
use ready::Readiness;
use unseen::Unseen;

use crate::{
    host::{clock, complaints::Complaints},
    kernel::sockets::listening::{self, Application},
    proxy::stranger::Guard,
};

/// The first and the longest pause between two looks.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause while the agent reports the kernel's event: the looks are only for what the
/// agent does not report, such as a failed unit.
const TOLD_PAUSE: Duration = Duration::from_millis(250);
/// A wait longer than this is logged.
const WORTH_SAYING: Duration = Duration::from_secs(1);
/// The backend's socket listens in a directory that is hidden from this process, because systemd made
/// the process's view of the file system before the directory. The clients keep waiting: the next
/// process sees it.
#[derive(Clone, Copy, Debug)]
pub struct OutOfSight;

impl std::error::Error for OutOfSight {}

impl fmt::Display for OutOfSight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the directory of the backend's socket is newer than this process; the next one sees it")
    }
}

/// What to wait for.
#[derive(Clone, Debug)]
pub struct Awaited {
    /// The service's name, for messages.
    pub name: String,
    /// The application's unit.
    pub unit: String,
    /// Where the application listens.
    pub application: Application,
    /// When it is ready. `None`: when it listens.
    pub ready: Option<Ready>,
    /// Whether it starts after the application of another service.
    pub chained: bool,
    /// How long the first client is held.
    pub start_timeout: Duration,
}

impl Awaited {
    /// What protects its clients from strangers.
    pub fn guard(&self) -> Guard {
        Guard::new(&self.unit, &self.application.backend)
    }
}

/// Waits until the unit is active and the application listens, then executes `command`, if any.
///
/// # Errors
///
/// The backend failed, or did not become ready within `start_timeout`, or `command` cannot be
/// executed. Clients that waited at inherited sockets (sd_listen_fds(3)) are closed by then.
pub fn run(awaited: &Awaited, command: &[OsString]) -> Result<()> {
    let clients = Clients::inherited();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the event loop")?
        .block_on(wait_for_backend(awaited, &clients, &awaited.guard()))?;
    become_command(command).inspect_err(|_| let_go(&awaited.name, &clients))
}

/// Waits until the unit is active, the application listens, and is ready. Returns what is left of `start_timeout`.
///
/// # Errors
///
/// It failed, or did not become ready within `start_timeout`. `clients` are closed by then.
pub async fn wait_for_backend(
    awaited: &Awaited,
    clients: &Clients,
    guard: &Guard,
) -> Result<Duration> {
    let first_try = FirstTry::begin(!awaited.application.backend.is_tcp());
    let watched = watch(awaited, &first_try, guard).await;
    match &watched {
        Err(error) if error.is::<OutOfSight>() => {}
        Err(_) => {
            first_try.end();
            let_go(&awaited.name, clients);
        }
        Ok(_) => first_try.end(),
    }
    watched
}

fn let_go(name: &str, clients: &Clients) {
    let [connections, datagrams] = clients.let_go();
    if connections > 0 {
        let waiting = ondemand_core::words::counted(connections, "waiting connection");
        log::warn!("{name}: closed {waiting}");
    }
    if datagrams > 0 {
        let waiting = ondemand_core::words::counted(datagrams, "waiting datagram");
        log::warn!("{name}: dropped {waiting}");
    }
}

/// Does not return if it succeeds, unless there is no command.
fn become_command(command: &[OsString]) -> Result<()> {
    let Some((program, arguments)) = command.split_first() else {
        return Ok(());
    };
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("run {}", program.display()))
}

async fn watch(awaited: &Awaited, first_try: &FirstTry, guard: &Guard) -> Result<Duration> {
    let Awaited {
        name,
        unit,
        application,
        start_timeout,
        ..
    } = awaited;
    let start_timeout = *start_timeout;
    let mut readiness = Readiness::new(name, awaited.ready.as_ref(), awaited.chained);
    let backend = &application.backend;
    let start = Instant::now();
    let mut bus = Bus::new(name, unit);
    let mut pause = FIRST_PAUSE;
    let (mut told, mut may_be_told) = (None, true);
    let mut was_silent = false;
    let mut elsewhere = Elsewhere::new(backend);
    let mut unseen = Unseen::default();
    let mut complaints = Complaints::default();
    let mut stranger = None;
    let taken = loop {
        // The unit's state is read after the listener was found: the listener of a backend that
        // is being stopped must not be taken for that of the next one.
        let mut looked = application.is_listening();
        let mut listening = matches!(looked, Ok(true));
        bus.look();
        if listening {
            let before = stranger.take();
            if let Err(error) = guard.look().await {
                listening = false;
                if before.is_none() {
                    log::warn!("{name}: {error}");
                }
                stranger = Some(error);
            }
        }
        if !listening && first_try.may_look_again() {
            let is_out_of_sight = listening::is_out_of_sight(backend).unwrap_or_else(|error| {
                looked = Err(error);
                unseen.may_be_out_of_sight()
            });
            if is_out_of_sight {
                first_try.look_again();
                bail!(OutOfSight);
            }
        }
        let state = bus.unit().await;
        if may_be_told && let Some(future) = bus.tells_of_listening() {
            (told, may_be_told) = (Some(future), false);
        }
        let mut was_tried = true;
        if let Some(error) = complaints.follow((), &looked) {
            log::warn!(
                "{name}: {unit} counts as ready when it is active and {backend} can be connected to, because \
                 whether that listens is unknown: {error:#}"
            );
        }
        if looked.is_err() {
            let answer = unseen.answers(backend, state.as_ref()).await;
            was_tried = answer.is_some();
            listening = answer == Some(true);
        } else if !listening && stranger.is_none() && elsewhere.answers(state.as_ref()).await {
            listening = true;
        }
        if listening && state.as_ref().is_none_or(Unit::is_settled_up) {
            readiness.ask(&bus, start_timeout.saturating_sub(first_try.elapsed()));
        } else {
            readiness.forget();
        }
        let seen = Seen {
            listening,
            ready: readiness.is_ready(),
            was_silent,
            unit: state,
            blind: bus.blind(),
            hangs: bus.hangs(),
            waited: first_try.elapsed(),
        };
        was_silent |= was_tried && !listening;
        match decide(&seen, start_timeout) {
            Decision::Go => break taken(&seen, clock::now()),
            Decision::Wait => {}
            Decision::GiveUp(why) => {
                if why == Why::NotReady {
                    readiness.last_word().await;
                    if readiness.is_ready() {
                        continue;
                    }
                }
                if is_down(why) && room::is_lacking(name).await {
                    let error = anyhow::Error::new(room::NoRoom(start_timeout));
                    return Err(error.context(format!("{name}: {unit} was not started")));
                }
                let stranger = stranger.map_or_else(String::new, |error| format!("; {error}"));
                let unknown = looked.map_or_else(
                    |error| format!("; whether it listens is unknown, and it cannot be connected to: {error:#}"),
                    |_| String::new(),
                );
                let unready = match why {
                    Why::NotReady => readiness.why(),
                    _ => String::new(),
                };
                bail!(
                    "{name}: the backend did not become ready: {}{unready}{stranger}{unknown}; see journalctl -u {unit}",
                    why.text(unit, backend, start_timeout)
                )
            }
        }
        // Without the kernel's answer the agent does not know of a listener that is older than the question.
        let longest = if (told.is_some() && looked.is_ok()) || readiness.is_asked() {
            TOLD_PAUSE
        } else {
            LONGEST_PAUSE
        };
        tokio::select! {
            result = async { told.as_mut()?.as_mut().await.err() }, if told.is_some() => {
                if let Some(error) = result {
                    log::info!("{name}: the agent does not report the listener, polling for it: {error}");
                }
                told = None;
                pause = FIRST_PAUSE;
            }
            () = readiness.answer(), if readiness.is_asked() => pause = FIRST_PAUSE,
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(longest),
        }
    };
    let waited = start.elapsed();
    if waited > WORTH_SAYING {
        log::info!(
            "{name}: {unit} was ready at {backend} after {:.1} s",
            waited.as_secs_f64()
        );
    }
    Ok(start_timeout.saturating_sub(taken))
}

/// Whether the unit did not even begin to start.
fn is_down(why: Why) -> bool {
    matches!(why, Why::Down | Why::Slow(ActiveState::Inactive))
}

/// How much of `start_timeout` is over: since the clients wait, or since a unit that was up before is
/// active.
fn taken(seen: &Seen, now: Ktime) -> Duration {
    let active = seen.unit.and_then(|unit| unit.active_enter);
    let active = active.and_then(|since| now.since(since));
    seen.waited.max(active.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_that_was_up_before_has_used_up_its_start() {
        let seconds = Duration::from_secs;
        let at = |second: u64| Ktime::from_nanos(second * 1_000_000_000);
        let unit = |active_enter| Unit {
            state: ActiveState::Active,
            active_enter,
            ..Unit::default()
        };
        let seen = |unit, waited| Seen {
            listening: true,
            ready: true,
            was_silent: false,
            blind: Duration::ZERO,
            hangs: false,
            unit,
            waited,
        };
        assert_eq!(taken(&seen(None, seconds(3)), at(100)), seconds(3));
        let starting = Some(unit(Some(at(99))));
        assert_eq!(taken(&seen(starting, seconds(3)), at(100)), seconds(3));
        let up = Some(unit(Some(at(10))));
        assert_eq!(taken(&seen(up, seconds(0)), at(100)), seconds(90));
        assert_eq!(
            taken(&seen(Some(unit(None)), seconds(1)), at(100)),
            seconds(1)
        );
    }
}
