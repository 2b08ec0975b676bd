//! `ondemand wait-room`: waits until there is room for a service in its group. Its unit starts before the application, so PID 1
//! has a job for that meanwhile, and no start of it, by whomever, gets past it. The agent decides; without one there is
//! room.

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::Result;
use ondemand_core::{config::room_unit, measure::unit::ActiveState, words::Span};
use tokio::time::{sleep, timeout};

use crate::{
    bus::names::AgentProxy,
    systemd::{Known, Systemd},
};

/// The agent's unit.
const AGENT: &str = "ondemand.service";
/// How long one question waits. An agent that was killed is noticed at once, one that hangs when this is over.
const TURN: Duration = Duration::from_secs(5);
/// How much longer its answer may take, and how long the bus or PID 1 may.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long an agent that is to be there may take until it answers: it is started again after a second.
const GRACE: Duration = Duration::from_secs(5);
/// How many agents may end one after the other without an answer: more are one that this question ends.
const MOST_ENDS: u32 = 4;
/// What the bus says when the agent ends while it is asked.
const ENDED: &str = "org.freedesktop.DBus.Error.NoReply";
/// The pause between two questions that have failed.
const PAUSE: Duration = Duration::from_millis(100);
/// A wait longer than this is logged.
const WORTH_SAYING: Duration = Duration::from_secs(1);

/// There was no room in time.
#[derive(Clone, Copy, Debug)]
pub struct NoRoom(pub(super) Duration);

impl std::error::Error for NoRoom {}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "no service of its group was idle within {} (start_timeout), so it is not started; `ondemand status` shows what \
             is up",
            Span(self.0)
        )
    }
}

/// Waits.
///
/// # Errors
///
/// [`NoRoom`], and nothing else: whatever fails, the application starts as it does without an agent.
pub async fn run(name: &str, start_timeout: Duration) -> Result<()> {
    let begin = Instant::now();
    let (mut alone_since, mut ends) = (None, 0);
    loop {
        let left = start_timeout.saturating_sub(begin.elapsed());
        if left.is_zero() {
            return Err(NoRoom(start_timeout).into());
        }
        let turn = left.min(TURN);
        let answer = timeout(turn + PATIENCE, ask(name, turn)).await;
        let error = match answer {
            Ok(Ok(true)) => {
                if begin.elapsed() > WORTH_SAYING {
                    log::info!("{name}: there was room after {}", Span(begin.elapsed()));
                }
                return Ok(());
            }
            Ok(Ok(false)) => {
                (alone_since, ends) = (None, 0);
                continue;
            }
            Ok(Err(error)) => {
                if has_ended(&error) && ends < MOST_ENDS {
                    (alone_since, ends) = (None, ends + 1);
                }
                error
            }
            Err(_) => anyhow::anyhow!("no reply"),
        };
        let since = *alone_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= GRACE || !is_to_be_there().await {
            log::warn!(
                "{name}: starting whatever else of its group is up, since the agent does not say: {error:#}"
            );
            return Ok(());
        }
        sleep(PAUSE).await;
    }
}

async fn ask(name: &str, within: Duration) -> Result<bool> {
    let systemd = Systemd::connect().await?;
    let agent = AgentProxy::new(systemd.connection()).await?;
    let within = u64::try_from(within.as_micros()).unwrap_or(u64::MAX);
    Ok(agent.wait_room(name, within).await?)
}

fn has_ended(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<zbus::Error>() {
        Some(zbus::Error::MethodError(name, _, _)) => name.as_str() == ENDED,
        Some(zbus::Error::FDO(error)) => matches!(**error, zbus::fdo::Error::NoReply(_)),
        _ => false,
    }
}

/// Whether the application of a service is down because no other one of its group has made room: what waits for that still does,
/// or has given up.
pub(super) async fn is_lacking(name: &str) -> bool {
    let unit = room_unit(name);
    let look = async {
        let systemd = Systemd::connect().await?;
        let mut known = Known::default();
        known.apply(&systemd.state(&unit).await?);
        anyhow::Ok(matches!(
            known.unit.state,
            ActiveState::Activating | ActiveState::Failed
        ))
    };
    matches!(timeout(PATIENCE, look).await, Ok(Ok(true)))
}

/// Whether the agent runs, or is started again in a moment.
async fn is_to_be_there() -> bool {
    let look = async {
        let systemd = Systemd::connect().await?;
        let mut known = Known::default();
        known.apply(&systemd.state(AGENT).await?);
        anyhow::Ok(!known.unit.is_settled_down())
    };
    matches!(timeout(PATIENCE, look).await, Ok(Ok(true)))
}
