//! Whether the application is ready, as `ready` of the configuration says. The agent knows, and its own questions are
//! not counted. Without an agent the proxy asks the application itself.

use std::{future::pending, pin::Pin, time::Duration};

use ondemand_core::{
    config::Ready,
    probing::{LONGEST_PAUSE, NotYet},
};
use tokio::{task::JoinHandle, time::Instant};

use super::bus::Bus;
use crate::host::probe;

const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// For how long a client waits for the reason beyond `start_timeout`.
const LAST_WORD: Duration = Duration::from_millis(500);

/// Completes with an empty text when the application is ready, with what it says instead when the time is over, or
/// with the reason why the agent does not know.
pub type Known = Pin<Box<dyn Future<Output = zbus::Result<String>>>>;

/// The questions for one start.
pub struct Readiness {
    name: String,
    /// `None`: a listener is enough.
    ready: Option<Ready>,
    /// Its application needs others, of which the agent alone knows.
    chained: bool,
    agent: Option<Known>,
    /// The agent does not know.
    is_alone: bool,
    own: Option<JoinHandle<Result<(), NotYet>>>,
    next: Instant,
    pause: Duration,
    is_ready: bool,
    why: Option<NotYet>,
}

impl Readiness {
    /// Before any question.
    pub fn new(name: &str, ready: Option<&Ready>, chained: bool) -> Self {
        Self {
            name: name.to_owned(),
            ready: ready.cloned(),
            chained,
            agent: None,
            is_alone: false,
            own: None,
            next: Instant::now(),
            pause: FIRST_PAUSE,
            is_ready: ready.is_none() && !chained,
            why: None,
        }
    }

    /// It listens, and its unit is active: asks, if nobody is asked. `left`: of `start_timeout`.
    pub fn ask(&mut self, bus: &Bus, left: Duration) {
        if self.is_ready {
            return;
        }
        if !self.is_alone && self.agent.is_none() {
            self.agent = bus.knows_ready(left);
            self.is_alone = self.agent.is_none();
        }
        let Some(ready) = self.ready.clone() else {
            // Without an agent its listener is enough.
            self.is_ready = self.is_alone;
            return;
        };
        if self.is_alone && self.own.is_none() && Instant::now() >= self.next {
            self.own = Some(tokio::spawn(async move { probe::ask(&ready).await }));
        }
    }

    /// It does not listen, or is not active: answers that come are none of the next run.
    pub fn forget(&mut self) {
        self.is_ready = self.ready.is_none() && !self.chained;
        self.agent = None;
        if let Some(own) = self.own.take() {
            own.abort();
        }
    }

    /// Whether somebody is asked, or will be.
    pub fn is_asked(&self) -> bool {
        !self.is_ready && (self.agent.is_some() || self.own.is_some() || self.is_alone)
    }

    /// Completes with the next answer. Cancel safe.
    pub async fn answer(&mut self) {
        if let Some(agent) = &mut self.agent {
            let answer = agent.await;
            self.agent = None;
            match answer {
                Ok(why) if why.is_empty() => self.is_ready = true,
                Ok(why) => self.why = Some(why),
                Err(error) => {
                    if self.ready.is_some() {
                        log::info!(
                            "{}: the agent does not know whether it is ready, asking it: {error}",
                            self.name
                        );
                    }
                    self.is_alone = true;
                }
            }
        } else if let Some(own) = &mut self.own {
            let answer = own.await.unwrap_or_else(|error| Err(error.to_string()));
            self.own = None;
            self.next = Instant::now() + self.pause;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            self.is_ready = answer.is_ok();
            let address = self
                .ready
                .as_ref()
                .map(Ready::to_string)
                .unwrap_or_default();
            self.why = answer.err().map(|why| format!("{address} {why}"));
        } else if self.is_alone && self.next > Instant::now() {
            tokio::time::sleep_until(self.next).await;
        } else {
            pending().await
        }
    }

    /// Waits a moment for what it says instead, which a busy agent may not have reported yet.
    pub async fn last_word(&mut self) {
        if self.why.is_none() && self.is_asked() {
            // It is only for the message.
            let _ = tokio::time::timeout(LAST_WORD, self.answer()).await;
        }
    }

    /// Whether it is ready.
    pub fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// What it says instead.
    pub fn why(&self) -> String {
        let why = self.why.clone();
        let unsaid = || match &self.ready {
            Some(ready) => Some(format!("{ready} has not said so")),
            None if self.chained => Some("a service that it needs is not".to_owned()),
            None => None,
        };
        why.or_else(unsaid)
            .map_or_else(String::new, |why| format!(": {why}"))
    }
}

impl Drop for Readiness {
    fn drop(&mut self) {
        self.forget();
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt as _, net::TcpListener};

    use super::*;

    #[tokio::test]
    async fn without_an_agent_the_proxy_asks_itself() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for code in [503, 503, 200] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let answer = format!("HTTP/1.1 {code} x\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
                // Its end before the request is read would be a reset.
                tokio::spawn(async move {
                    let _ = stream.readable().await;
                    let _ = stream.try_read(&mut [0; 512]);
                });
            }
        });
        let ready: Ready = format!("http://{address}/").parse().unwrap();
        let mut readiness = Readiness::new("test", Some(&ready), false);
        let bus = Bus::new("test", "test.service");
        assert!(!readiness.is_ready() && !readiness.is_asked());
        let mut answers = Vec::new();
        while !readiness.is_ready() {
            readiness.ask(&bus, Duration::from_secs(9));
            assert!(readiness.is_asked());
            readiness.answer().await;
            answers.extend(readiness.why.take());
        }
        assert_eq!(answers.len(), 2, "{answers:?}");
        assert!(answers[0].contains("answers 503"), "{answers:?}");
        assert!(!readiness.is_asked());
        readiness.forget();
        assert!(!readiness.is_ready());
    }

    #[test]
    fn a_listener_is_enough_where_nothing_is_said() {
        let mut readiness = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(async { Readiness::new("test", None, false) });
        readiness.forget();
        assert!(readiness.is_ready() && !readiness.is_asked());
    }
}
