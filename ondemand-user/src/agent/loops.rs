//! What systemd starts again and again: carries out its end, and knows how it failed last.

use std::time::Duration;

use ondemand_core::{
    lifecycle::{EndLoop, JobEnd},
    words::counted,
};
use tokio::time::sleep;

use super::{Agent, events::Message, watched::Watched};
use crate::systemd::Systemd;

/// How often systemd is asked how a unit failed that has been started again, and the pause between two questions.
const QUESTIONS: u32 = 6;
const PAUSE: Duration = Duration::from_millis(3);

/// A unit of a service that may fail again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    /// The application.
    Backend,
    /// The proxy.
    Proxy,
}

impl Failing {
    fn unit(self, watched: &Watched) -> &str {
        match self {
            Self::Backend => &watched.units.backend,
            Self::Proxy => &watched.units.proxy,
        }
    }
}

impl Agent {
    /// Ends a loop, in the order that leaves no socket stopped if the agent dies meanwhile. Its end is seen by
    /// the units' states.
    pub(super) fn end_loop(&self, name: &str, end: EndLoop) {
        let (Some(watched), Some(systemd)) = (self.services.get(name), self.systemd.caller())
        else {
            return;
        };
        let (name, units) = (name.to_owned(), watched.units.clone());
        let (of, known) = match end {
            EndLoop::Proxy { .. } => (Failing::Proxy, watched.proxy_end.clone()),
            EndLoop::Backend { .. } => (Failing::Backend, watched.backend_end.clone()),
        };
        let unit = of.unit(watched).to_owned();
        tokio::spawn(async move {
            let why = match known {
                Some(why) => Some(why),
                None => last_end(&systemd, &unit).await,
            };
            let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
            let see = format!("see journalctl -u {unit}");
            let ends = match end {
                EndLoop::Proxy { times } => {
                    let times = counted(u64::from(times), "time");
                    log::error!(
                        "{name}: {unit} cannot run{why}: failed {times} in a row; closing the waiting \
                         connections; {see}"
                    );
                    let_go(&systemd, &units.socket, &unit).await
                }
                EndLoop::Backend {
                    times,
                    often,
                    waiting,
                } => {
                    let times = counted(u64::from(times), "time");
                    let what = match waiting {
                        true => "closing the waiting connections and stopping it",
                        false => "stopping it",
                    };
                    let until = "until the next client";
                    log::warn!(
                        "{name}: {unit} keeps failing{why}: systemd restarted it {times} without a new client; \
                         {what} {until}; {see}"
                    );
                    match (waiting, often) {
                        (true, _) => let_go(&systemd, &units.socket, &unit).await,
                        (false, true) => vec![systemd.stop_at_once(&unit).await],
                        (false, false) => vec![systemd.stop(&unit).await],
                    }
                }
            };
            for end in ends {
                if let JobEnd::Failed(why) = end {
                    log::warn!("{name}: {why}");
                }
            }
        });
    }

    /// Asks systemd how a unit failed.
    pub(super) fn ask_end(&self, name: &str, of: Failing) {
        let (Some(watched), Some(systemd)) = (self.services.get(name), self.systemd.caller())
        else {
            return;
        };
        let (service, unit) = (name.to_owned(), of.unit(watched).to_owned());
        let messages = self.messages.clone();
        tokio::spawn(async move {
            if let Some(why) = last_end(&systemd, &unit).await {
                // The receiver is gone if the agent has exited.
                let _ = messages.send(Message::Failed { service, of, why });
            }
        });
    }

    /// Keeps how a unit failed. That a proxy cannot run is logged once for each cause.
    pub(super) fn take_end(&mut self, name: &str, of: Failing, why: String) {
        let Some(watched) = self.services.get_mut(name) else {
            return;
        };
        match of {
            Failing::Backend => watched.backend_end = Some(why),
            Failing::Proxy => {
                if watched.proxy_end.as_ref() != Some(&why) {
                    let proxy = &watched.units.proxy;
                    log::warn!(
                        "{name}: {proxy} failed: {why}; systemd starts it again after a pause; see journalctl -u \
                         {proxy}"
                    );
                }
                watched.proxy_end = Some(why);
            }
        }
    }

    /// A start that systemd has not made by itself does not count towards the unit's start limit.
    pub(super) fn forget_starts(&self, name: &str) {
        let (Some(watched), Some(systemd)) = (self.services.get(name), self.systemd.caller())
        else {
            return;
        };
        let (name, unit) = (name.to_owned(), watched.units.backend.clone());
        tokio::spawn(async move {
            if let Err(error) = systemd.forget_starts(&unit).await {
                log::warn!("{name}: {error:#}");
            }
        });
    }
}

/// Restarts the socket, and then stops the unit, which the restart may have started. Both are queued at once.
async fn let_go(systemd: &Systemd, socket: &str, unit: &str) -> Vec<JobEnd> {
    let (socket, unit) = tokio::join!(systemd.restart_at_once(socket), systemd.stop_at_once(unit));
    vec![socket, unit]
}

/// How a unit ended last. PID 1 tells nothing of it while the unit runs again, which may be for milliseconds: then it
/// is asked a few times.
async fn last_end(systemd: &Systemd, unit: &str) -> Option<String> {
    for _ in 0..QUESTIONS {
        match systemd.last_end(unit).await {
            Ok(None) => sleep(PAUSE).await,
            Ok(why) => return why,
            Err(error) => {
                log::debug!("{error:#}");
                return None;
            }
        }
    }
    None
}
