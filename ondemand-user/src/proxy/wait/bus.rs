//! What systemd says of the backend's unit, over a bus that may be away or hang.

use std::{
    pin::Pin,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use ondemand_core::measure::unit::Unit;
use tokio::time::timeout;

use super::ready::Known as Ready;
use crate::{
    bus::names::AgentProxy,
    systemd::{Known, Systemd},
};

/// How long a client waits for a reply, with the connection to the bus: usually some milliseconds. After this
/// time the bus, or PID 1, hangs, and the listener alone decides.
const PATIENCE: Duration = Duration::from_millis(1300);
/// How long each look waits for it afterwards.
const GLANCE: Duration = Duration::from_millis(5);
/// After this time without a reply another connection is made.
const ABANDONED: Duration = Duration::from_secs(10);
/// The pause between two attempts to reach the bus.
const PAUSE: Duration = Duration::from_millis(500);

/// How much sooner than the proxy the agent gives up.
const EARLY: Duration = Duration::from_millis(50);

/// Completes when the backend listens, or with the reason why the agent cannot report it.
pub type Told = Pin<Box<dyn Future<Output = zbus::Result<()>>>>;

/// The connection to systemd, if there is one.
pub struct Bus {
    /// The service's name, for messages.
    name: String,
    unit: String,
    systemd: Option<Systemd>,
    asked: Option<Question>,
    /// The last failure.
    failed: Option<Instant>,
    /// The first question since the last reply that was not answered in time, or failed.
    blind_since: Option<Instant>,
    was_logged: bool,
}

/// One that is not answered yet.
struct Question {
    since: Instant,
    /// It was asked before the present look.
    is_old: bool,
    answer: Pin<Box<dyn Future<Output = Result<Answer>>>>,
}

enum Answer {
    Connected(Systemd),
    Unit(Box<Unit>),
}

impl Bus {
    /// Before the first question about a unit.
    pub fn new(name: &str, unit: &str) -> Self {
        Self {
            name: name.to_owned(),
            unit: unit.to_owned(),
            systemd: None,
            asked: None,
            failed: None,
            blind_since: None,
            was_logged: false,
        }
    }

    /// Begins a look: its time counts from here, whatever else it waits for before [`Self::unit`].
    pub fn look(&mut self) {
        let is_early = self.failed.is_some_and(|at| at.elapsed() < PAUSE);
        match &mut self.asked {
            Some(question) => question.is_old = true,
            None if is_early => {}
            None => self.ask(Instant::now()),
        }
    }

    fn ask(&mut self, since: Instant) {
        let (systemd, unit) = (self.systemd.clone(), self.unit.clone());
        let answer = async move {
            let Some(systemd) = systemd else {
                return Ok(Answer::Connected(Systemd::connect().await?));
            };
            let mut known = Known::default();
            known.apply(&systemd.state(&unit).await?);
            Ok(Answer::Unit(Box::new(known.unit)))
        };
        self.asked = Some(Question {
            since,
            is_old: false,
            answer: Box::pin(answer),
        });
    }

    /// The unit's state at a time after [`Self::look`]; `None` if systemd does not answer.
    pub async fn unit(&mut self) -> Option<Unit> {
        loop {
            let question = self.asked.as_mut()?;
            let limit = match self.blind_since {
                Some(_) => GLANCE,
                None => PATIENCE.saturating_sub(question.since.elapsed()),
            };
            let (since, is_old) = (question.since, question.is_old);
            let answer = timeout(limit, &mut question.answer).await;
            if answer.is_ok() {
                self.asked = None;
            }
            match answer {
                Ok(Ok(Answer::Connected(systemd))) => {
                    self.systemd = Some(systemd);
                    self.ask(since);
                }
                Ok(Ok(Answer::Unit(unit))) => {
                    self.blind_since = None;
                    if !is_old {
                        return Some(*unit);
                    }
                    // Its state may be that before the listener was looked for.
                    self.ask(Instant::now());
                }
                Ok(Err(error)) => {
                    self.fail(since);
                    self.log(&error);
                    return None;
                }
                Err(_) => {
                    self.blind_since.get_or_insert(since);
                    let seconds = PATIENCE.as_secs_f64();
                    self.log(&anyhow!("no reply within {seconds} s"));
                    if since.elapsed() >= ABANDONED {
                        self.fail(since);
                    }
                    return None;
                }
            }
        }
    }

    fn fail(&mut self, since: Instant) {
        self.systemd = None;
        self.asked = None;
        self.failed = Some(Instant::now());
        self.blind_since.get_or_insert(since);
    }

    fn log(&mut self, error: &anyhow::Error) {
        if !self.was_logged {
            log::warn!(
                "{}: systemd does not answer, relying on the listener alone: {error:#}",
                self.name
            );
        }
        self.was_logged = true;
    }

    /// How long systemd has not answered.
    pub fn blind(&self) -> Duration {
        self.blind_since
            .map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Whether a reply is outstanding: the bus is there, and it or PID 1 hangs.
    pub fn hangs(&self) -> bool {
        self.blind_since.is_some() && self.asked.is_some()
    }

    /// What the agent knows about whether the application is ready, within this time. `None`: there is no connection.
    pub fn knows_ready(&self, within: Duration) -> Option<Ready> {
        let connection = self.systemd.as_ref()?.connection().clone();
        let name = self.name.clone();
        // So that its answer has come when the time is over.
        let within = within.saturating_sub(EARLY).as_micros();
        Some(Box::pin(async move {
            let agent = AgentProxy::new(&connection).await?;
            let within = u64::try_from(within).unwrap_or(u64::MAX);
            agent.wait_ready(&name, within).await
        }))
    }

    /// The agent's report that the backend listens, which comes with the kernel's event. `None`: there is no
    /// connection.
    pub fn tells_of_listening(&self) -> Option<Told> {
        let connection = self.systemd.as_ref()?.connection().clone();
        let name = self.name.clone();
        Some(Box::pin(async move {
            let agent = AgentProxy::new(&connection).await?;
            agent.wait_listening(&name).await
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    fn question(is_old: bool, answer: impl Future<Output = Result<Answer>> + 'static) -> Question {
        Question {
            since: Instant::now(),
            is_old,
            answer: Box::pin(answer),
        }
    }

    #[tokio::test]
    async fn one_that_hangs_is_waited_for_once() {
        let mut bus = Bus::new("test", "test.service");
        bus.asked = Some(question(false, pending()));
        let start = Instant::now();
        assert!(bus.unit().await.is_none());
        assert!(start.elapsed() >= PATIENCE / 2 && bus.hangs());
        for _ in 0..5 {
            bus.look();
            assert!(bus.unit().await.is_none());
        }
        assert!(bus.blind() >= PATIENCE && start.elapsed() < PATIENCE + PAUSE);
    }

    #[tokio::test]
    async fn a_state_of_an_earlier_look_is_not_taken() {
        let mut bus = Bus::new("test", "test.service");
        let active = async { Ok(Answer::Unit(Box::default())) };
        bus.asked = Some(question(false, active));
        bus.look();
        // The next question connects, with or without a bus.
        assert_eq!(bus.asked.as_ref().map(|it| it.is_old), Some(true));
        let asked = bus.asked.as_ref().unwrap().since;
        let _ = bus.unit().await;
        assert!(bus.asked.is_none_or(|it| it.since > asked));
        let now = async { Ok(Answer::Unit(Box::default())) };
        let mut bus = Bus::new("test", "test.service");
        bus.asked = Some(question(false, now));
        assert!(bus.unit().await.is_some() && !bus.hangs());
    }
}
