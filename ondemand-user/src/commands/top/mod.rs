//! `ondemand top`: a live view of the services. [`model`] has the contents, [`view`] the drawing.

mod model;
mod page;
mod screen;
#[cfg(test)]
mod tests;
mod view;
mod words;

use std::{panic, thread, time::Duration};

use anyhow::{Context as _, Result, bail};
use model::{Effect, Model};
use ratatui::crossterm::event::{self, Event};
use screen::Screen;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{
    bus::{names::NO_NUMBER, report::Report},
    commands::{client::Client, status},
    host::ablation,
};

/// How often the agent is polled.
const EVERY: Duration = Duration::from_secs(1);

/// A reply of the agent.
enum Answer {
    Report(Box<Result<(Client, Report)>>),
    /// The result of an action.
    Done(Result<String>),
    /// The past of a service.
    Past(String, String),
}

/// Shows the services until it is ended.
///
/// # Errors
///
/// There is no terminal, or no agent at the start.
pub async fn run() -> Result<()> {
    screen::require_terminal()?;
    // Before the screen changes, so that an error stays visible.
    let (client, first) = ask(None).await?;
    let mut client = Some(client);
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("handle SIGHUP")?;
    let mut quit = signal(SignalKind::quit()).context("handle SIGQUIT")?;
    let begin = Instant::now();
    let mut model = Model::default();
    model.report(first, Duration::ZERO);
    let mut screen = Screen::take()?;
    let mut events = events();
    let mut answers = JoinSet::new();
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.reset(); // The first report exists.
    let mut asking = false;
    loop {
        screen.draw(|frame| {
            if frame.count() > 0 {
                ablation::panic_in("draw");
            }
            view::draw(frame, &mut model);
        })?;
        let effect = tokio::select! {
            // After a panic the terminal is restored, and must not be drawn on again.
            biased;
            Some(answer) = answers.join_next() => {
                let answer = answer.unwrap_or_else(|error| panic::resume_unwind(error.into_panic()));
                let now = begin.elapsed();
                match answer {
                    Answer::Report(report) => {
                        asking = false;
                        match *report {
                            Ok((answering, report)) => {
                                client = Some(answering);
                                model.report(report, now);
                            }
                            Err(error) => model.lost(format!("{error:#}")),
                        }
                    }
                    Answer::Done(Ok(said)) => {
                        model.say(said, now);
                        // Its effect is shown at once.
                        tick.reset_immediately();
                    }
                    Answer::Done(Err(error)) => model.complain(format!("{error:#}"), now),
                    Answer::Past(name, past) => model.past(&name, past),
                }
                model.due(now)
            }
            _ = terminate.recv() => Effect::Quit,
            _ = interrupt.recv() => Effect::Quit,
            _ = hangup.recv() => Effect::Quit,
            _ = quit.recv() => Effect::Quit,
            event = events.recv() => match event {
                Some(Event::Key(key)) => model.key(key),
                // The next drawing reads the size.
                Some(_) => Effect::None,
                None => bail!("the terminal was closed"),
            },
            _ = tick.tick(), if !asking => Effect::Ask,
        };
        match effect {
            Effect::None => {}
            Effect::Quit => return Ok(()),
            Effect::Ask => {
                asking = true;
                let client = client.take();
                answers.spawn(async move { Answer::Report(Box::new(ask(client).await)) });
            }
            Effect::Hold(name) => {
                answers.spawn(async move { Answer::Done(hold(&name).await) });
            }
            Effect::Release(name) => {
                answers.spawn(async move { Answer::Done(release(&name).await) });
            }
            Effect::Start(name) => {
                model.say(format!("{name}: starting"), begin.elapsed());
                answers.spawn(async move { Answer::Done(start(&name).await) });
            }
            Effect::Stop(name) => {
                model.say(format!("{name}: stopping"), begin.elapsed());
                answers.spawn(async move { Answer::Done(stop(&name).await) });
            }
            Effect::Look(name, unit) => {
                answers.spawn(async move {
                    let past = status::past(&name, &unit).await;
                    Answer::Past(name, past)
                });
            }
        }
    }
}

/// Events of the terminal. They are read by a thread, which ends with the program.
fn events() -> mpsc::UnboundedReceiver<Event> {
    let (sender, receiver) = mpsc::unbounded_channel();
    thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.send(event).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Calls over this connection, or a new one. Returns it if it works.
async fn ask(client: Option<Client>) -> Result<(Client, Report)> {
    let client = match client {
        Some(client) => {
            ablation::panic_in("ask");
            client
        }
        None => Client::connect().await?,
    };
    let text = client.status().await?;
    let report = serde_json::from_str(&text)
        .context("parse the agent's reply (is its version different?)")?;
    Ok((client, report))
}

async fn hold(name: &str) -> Result<String> {
    let client = Client::connect().await?;
    // polkit's password prompt would be drawn over the screen.
    let until: u64 = client.act("Hold", &(name, 0_u64), false).await?;
    debug_assert_eq!(until, NO_NUMBER);
    Ok(format!("{name}: held until it is released"))
}

async fn release(name: &str) -> Result<String> {
    let client = Client::connect().await?;
    let was_held = client.act("Release", &name, false).await?;
    Ok(match was_held {
        true => format!("{name}: released"),
        false => format!("{name}: was not held"),
    })
}

async fn start(name: &str) -> Result<String> {
    let client = Client::connect().await?;
    let was_down = client.act("Start", &name, false).await?;
    Ok(match was_down {
        true => format!("{name}: started"),
        false => format!("{name}: was already up"),
    })
}

async fn stop(name: &str) -> Result<String> {
    let client = Client::connect().await?;
    let was_up = client.act("Stop", &name, false).await?;
    Ok(match was_up {
        true => format!("{name}: stopped"),
        false => format!("{name}: was not running"),
    })
}
