//! `ondemand top`: the services as they change. [`model`] is what is shown, [`view`] how.

mod model;
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
    commands::client::Client,
    host::ablation,
};

/// How often the agent is asked.
const EVERY: Duration = Duration::from_secs(1);

/// What comes back from the agent.
enum Answer {
    Report(Box<Result<(Client, Report)>>),
    /// What an action did.
    Done(Result<String>),
}

/// Shows the services until it is told to end.
///
/// # Errors
///
/// There is no terminal, or no agent to begin with.
pub async fn run() -> Result<()> {
    screen::require_terminal()?;
    // Before the screen is taken: what is wrong is to be read afterwards.
    let (client, first) = ask(None).await?;
    let mut client = Some(client);
    let mut terminate = signal(SignalKind::terminate()).context("listen to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen to SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("listen to SIGHUP")?;
    let mut quit = signal(SignalKind::quit()).context("listen to SIGQUIT")?;
    let begin = Instant::now();
    let mut model = Model::default();
    model.report(first, Duration::ZERO);
    let mut screen = Screen::take()?;
    let mut events = events();
    let mut answers = JoinSet::new();
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.reset(); // The first report is there.
    let mut asking = false;
    loop {
        screen.draw(|frame| {
            if frame.count() > 0 {
                ablation::panic_in("draw");
            }
            view::draw(frame, &mut model);
        })?;
        let effect = tokio::select! {
            // After a panic the terminal is given back, and not to be drawn on again.
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
                        // What it changed is to be seen at once.
                        tick.reset_immediately();
                    }
                    Answer::Done(Err(error)) => model.complain(format!("{error:#}"), now),
                }
                Effect::None
            }
            _ = terminate.recv() => Effect::Quit,
            _ = interrupt.recv() => Effect::Quit,
            _ = hangup.recv() => Effect::Quit,
            _ = quit.recv() => Effect::Quit,
            event = events.recv() => match event {
                Some(Event::Key(key)) => model.key(key),
                // The next drawing finds out about the size.
                Some(_) => Effect::None,
                None => bail!("the terminal is gone"),
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
        }
    }
}

/// What the terminal tells. A thread waits for it, which ends with the program.
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

/// Asks over this connection, or a new one. Gives it back if it works.
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
        .context("understand the agent's answer (is it of another version?)")?;
    Ok((client, report))
}

async fn hold(name: &str) -> Result<String> {
    let client = Client::connect().await?;
    // polkit's question for a password would be drawn over.
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
