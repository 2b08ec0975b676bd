//! Requests to the agent over the bus.

use std::time::Duration;

use ondemand_core::{
    config,
    lifecycle::{self, Input, JobEnd, Refusal},
    words::Span,
};

use super::{Agent, keeping, watched::Watched};
use crate::{
    bus::{self, Error, Reply, names},
    host::clock,
};

impl Agent {
    /// The service of this name.
    pub(super) fn named(&mut self, name: &str) -> Result<&mut Watched, Error> {
        match self.config.service(name) {
            Err(error) => Err(Error::new(names::NO_SUCH_SERVICE, error.to_string())),
            Ok(_) => self.services.get_mut(name).ok_or_else(Error::gone),
        }
    }

    /// Answers requests that need no waiting, and starts the others.
    pub(super) fn act(&mut self, request: bus::Request) {
        // For each answer that is sent: the caller may be gone.
        match request {
            bus::Request::Status(answer) => self.report(answer),
            bus::Request::Listening { service, answer } => self.wait_listening(&service, answer),
            bus::Request::Ready { service, answer } => self.wait_ready(&service, answer),
            bus::Request::Room { service, answer } => self.wait_room(&service, answer),
            bus::Request::Trouble(answer) => {
                drop(answer.send(Ok(self.source.trouble().unwrap_or_default())));
            }
            bus::Request::Clients(name, answer) => self.clients(&name, answer),
            bus::Request::Known(name, answer) => drop(answer.send(self.named(&name).map(drop))),
            bus::Request::Describe(name, answer) => {
                let known = self.named(&name).map(drop);
                let described = known.map(|()| Box::new(self.describe(&name)));
                drop(answer.send(described));
            }
            bus::Request::Hold(name, span, answer) => self.hold(&name, span, answer),
            bus::Request::Inhibit(name, why, answer) => self.inhibit(&name, &why, answer),
            bus::Request::InhibitOwn(pid, why, answer) => self.inhibit_own(pid, why, answer),
            bus::Request::Release(name, answer) => self.release(&name, answer),
            bus::Request::Start(name, answer) => self.start(&name, answer),
            bus::Request::Stop(name, answer) => self.stop(&name, answer),
            bus::Request::Reload(answer) => self.renew(Some(answer)),
        }
    }

    /// Reads the configuration again, now that the permissions for it are renewed.
    pub(super) fn renewed(&mut self, refused: Option<String>, answer: Option<Reply<()>>) {
        let read = self.reload();
        if let (Ok(()), Some(why)) = (&read, refused) {
            log::warn!("could not renew the permissions for the configuration: {why}");
        }
        let Some(answer) = answer else { return };
        let read = read.map_err(|error| {
            let wrong = error.chain().any(|cause| cause.is::<config::Error>());
            let name = match wrong {
                true => names::WRONG_CONFIGURATION,
                false => names::FAILED,
            };
            Error::new(name, format!("{error:#}"))
        });
        // The caller may be gone.
        drop(answer.send(read));
    }

    fn hold(&mut self, name: &str, span: Option<Duration>, answer: Reply<u64>) {
        if let Err(error) = self.named(name) {
            return drop(answer.send(Err(error)));
        }
        let now = clock::moment();
        let left = self.holding.set(name, span, &now);
        log::info!("{name}: {left}, on request");
        self.look(name, Input::Changed);
        self.save_holds(Ok(left.until_micros(&now)), answer);
    }

    fn release(&mut self, name: &str, answer: Reply<bool>) {
        if let Err(error) = self.named(name) {
            return drop(answer.send(Err(error)));
        }
        let was_held = self.holding.release(name);
        if was_held {
            log::info!("{name}: hold released, on request");
        }
        self.look(name, Input::Changed);
        self.save_holds(Ok(was_held), answer);
    }

    /// Answers when the holds are saved.
    fn save_holds<T: Send + 'static>(&mut self, result: Result<T, Error>, answer: Reply<T>) {
        let save = self.holding.save();
        tokio::task::spawn_blocking(move || {
            let saved = save().map_err(|error| {
                log::error!("{error:#}");
                Error::failed(format!(
                    "done, but not saved: it will be lost when the agent exits: {error:#}"
                ))
            });
            drop(answer.send(saved.and(result)));
        });
    }

    fn start(&mut self, name: &str, answer: Reply<bool>) {
        let systemd = self.systemd.caller();
        let watched = match self.named(name) {
            Ok(watched) => watched,
            Err(error) => return drop(answer.send(Err(error))),
        };
        let Some(systemd) = systemd else {
            return drop(answer.send(Err(Error::failed("systemd does not answer now"))));
        };
        // A requested start counts as a use: the idle clock restarts.
        watched.uncounted.begin(clock::now());
        let unit = watched.service.unit.clone();
        self.look(name, Input::Changed);
        let known = self.systemd.known(&unit);
        let was_up = known.is_some_and(|known| known.unit.is_settled_up());
        log::info!("{name}: starting, on request");
        tokio::spawn(async move {
            let result = match systemd.start_as_asked(&unit).await {
                JobEnd::Done => Ok(!was_up),
                JobEnd::Canceled => Err(Error::failed(format!(
                    "the start of {unit} was canceled by another job"
                ))),
                JobEnd::Failed(why) => {
                    Err(Error::failed(format!("{why}; see `journalctl -u {unit}`")))
                }
            };
            drop(answer.send(result));
        });
    }

    fn stop(&mut self, name: &str, answer: Reply<bool>) {
        let watched = match self.named(name) {
            Ok(watched) => watched,
            Err(error) => return drop(answer.send(Err(error))),
        };
        if let Some(problem) = &watched.problem {
            let message = format!("it is not managed: {problem}");
            return drop(answer.send(Err(Error::new(names::KEPT, message))));
        }
        watched.asked.push(answer);
        if self
            .services
            .get(name)
            .and_then(|watched| self.units_of(watched))
            .is_none()
        {
            let why = "systemd does not answer now, and unknown stops nothing";
            return self.answer(name, &Err(Error::new(names::KEPT, why)));
        }
        log::info!("{name}: stopping if unused, on request");
        if let Some(watched) = self.services.get_mut(name) {
            watched.prewarming.leave();
        }
        self.look(name, Input::Stop);
    }

    /// Answers a requested stop.
    pub(super) fn answer_stop(&mut self, name: &str, reply: &lifecycle::Reply) {
        let result = match reply {
            lifecycle::Reply::Stopped => Ok(true),
            lifecycle::Reply::NotRunning => Ok(false),
            lifecycle::Reply::Kept(refusal) if self.keeps_its_place(name, refusal) => {
                Err(Error::new(names::KEPT, refusal.to_string()))
            }
            lifecycle::Reply::Kept(refusal) => {
                log::info!("{name}: kept: {refusal}");
                Err(Error::new(names::KEPT, self.explain(name, refusal)))
            }
        };
        self.answer(name, &result);
    }

    fn explain(&self, name: &str, refusal: &Refusal) -> String {
        let left = self.holding.left(name, &clock::moment());
        let kept = self.services.get(name).and_then(keeping::detail);
        match (refusal, left) {
            (Refusal::Held, _) if kept.is_some() => {
                let kept = kept.unwrap_or_default();
                format!(
                    "it is {kept} (keep_up); `systemctl stop` of its unit stops it all the same"
                )
            }
            (Refusal::Held, Some(left)) => {
                format!("it is {left}; release it first (`ondemand release {name}`)")
            }
            (Refusal::Needed, _) => match self.needed_by(name) {
                Some(by) => format!("{by} is up and needs it; stop that first"),
                None => refusal.to_string(),
            },
            // A cause of the protocol has a pause before the next attempt.
            (Refusal::Vetoed(_), _) => {
                let paused = self.services.get(name).and_then(|watched| {
                    let (until, _) = watched.lifecycle.paused()?;
                    until.since(clock::now())
                });
                match paused {
                    Some(left) => format!("{refusal} (next attempt in {})", Span(left)),
                    None => refusal.to_string(),
                }
            }
            _ => refusal.to_string(),
        }
    }

    fn answer(&mut self, name: &str, result: &Result<bool, Error>) {
        if let Some(watched) = self.services.get_mut(name) {
            for answer in watched.asked.drain(..) {
                drop(answer.send(result.clone()));
            }
        }
    }
}
