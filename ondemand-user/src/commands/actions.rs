//! `ondemand hold`, `release`, `start`, `stop` and `reload`: requests to the agent.

use std::{path::Path, time::Duration};

use anyhow::Result;
use jiff::{Timestamp, tz::TimeZone};
use ondemand_core::words::{Span, printable};
use tokio::time::Instant;

use crate::{
    bus::{names, report::Report},
    commands::client::{self, Client},
    install::check,
};

/// How often to print what a call waits for.
const PROGRESS: Duration = Duration::from_secs(2);

/// Keeps a service up, for `span` or until it is released. `start`: also starts it.
///
/// # Errors
///
/// A [`crate::commands::client::Error`].
pub async fn hold(name: &str, span: Option<Duration>, with_start: bool) -> Result<()> {
    let client = Client::connect().await?;
    let name = &client.resolve(name).await;
    // On the bus, 0 means "until released".
    let micros = span.map_or(0, |span| {
        u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
    });
    let until: u64 = client
        .act("Hold", &(name.as_str(), micros), true)
        .await
        .map_err(|error| about(name, error))?;
    println!("{name}: held until {}", until_words(until));
    match with_start {
        true => start(name).await,
        false => Ok(()),
    }
}

fn until_words(micros: u64) -> String {
    let until = i64::try_from(micros).ok();
    match until.and_then(|micros| Timestamp::from_microsecond(micros).ok()) {
        Some(until) if micros != names::NO_NUMBER => {
            let local = until.to_zoned(TimeZone::system());
            local.strftime("%F %H:%M:%S").to_string()
        }
        _ => "it is released".into(),
    }
}

/// Ends a hold.
///
/// # Errors
///
/// A [`crate::commands::client::Error`].
pub async fn release(name: &str) -> Result<()> {
    let client = Client::connect().await?;
    let name = &client.resolve(name).await;
    let was_held = client
        .act("Release", &name.as_str(), true)
        .await
        .map_err(|error| about(name, error))?;
    println!(
        "{name}: {}",
        if was_held { "released" } else { "was not held" }
    );
    Ok(())
}

/// Starts a service and waits until it is up.
///
/// # Errors
///
/// A [`crate::commands::client::Error`].
pub async fn start(name: &str) -> Result<()> {
    let client = Client::connect().await?;
    let name = &client.resolve(name).await;
    let was_down = patiently(&client, name, client.act("Start", &name.as_str(), true)).await?;
    println!(
        "{name}: {}",
        if was_down {
            "started"
        } else {
            "was already up"
        }
    );
    Ok(())
}

/// Stops a service if it is unused, and waits until it is down.
///
/// # Errors
///
/// A [`crate::commands::client::Error`].
pub async fn stop(name: &str) -> Result<()> {
    let client = Client::connect().await?;
    let name = &client.resolve(name).await;
    let was_up = patiently(&client, name, client.act("Stop", &name.as_str(), true)).await?;
    println!(
        "{name}: {}",
        if was_up { "stopped" } else { "was not running" }
    );
    Ok(())
}

/// Makes the agent read its configuration again, and says if the units are still those of another one.
///
/// # Errors
///
/// A [`crate::commands::client::Error`].
pub async fn reload(config: &Path) -> Result<()> {
    let client = Client::connect().await?;
    let () = client.act("Reload", &(), true).await?;
    let units = match check::what_makes_units(config) {
        Some(command) => format!("; its units are older: {command}"),
        None => String::new(),
    };
    println!("the agent has read its configuration{units}");
    Ok(())
}

/// Waits for a call, and prints periodically what it waits for.
async fn patiently<T>(
    client: &Client,
    name: &str,
    call: impl Future<Output = Result<T>>,
) -> Result<T> {
    let begin = Instant::now();
    let mut progress = tokio::time::interval_at(begin + PROGRESS, PROGRESS);
    tokio::pin!(call);
    loop {
        tokio::select! {
            end = &mut call => return end.map_err(|error| about(name, error)),
            _ = progress.tick() => {
                if let Some(detail) = detail(client, name).await {
                    let detail = printable(&detail);
                    eprintln!("{name}: {detail} ({})", Span(begin.elapsed()));
                }
            }
        }
    }
}

/// Adds the service's name to an error of the agent.
fn about(name: &str, error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref() {
        Some(client::Error::Other(_)) => error.context(name.to_owned()),
        _ => error,
    }
}

/// The agent's state of a service. It is for information only: on an error nothing is printed.
async fn detail(client: &Client, name: &str) -> Option<String> {
    let text = client.status().await.ok()?;
    let report: Report = serde_json::from_str(&text).ok()?;
    let mut services = report.services.into_iter();
    let service = services.find(|service| service.name == name)?;
    Some(format!("{}, {}", service.state, service.detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_hold() {
        assert_eq!(until_words(names::NO_NUMBER), "it is released");
        let text = until_words(1_800_000_000_000_000);
        assert!(text.starts_with("2027-01-1"), "{text}");
    }
}
