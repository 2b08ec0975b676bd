//! `ondemand hold NAME --while COMMAND`: keeps a service up for as long as a command runs.

use std::{ffi::OsString, os::unix::process::ExitStatusExt as _, time::Duration};

use anyhow::{Context as _, Result};
use tokio::{process::Command, time::sleep};

use super::client::Client;

/// The pause between two attempts to hold it again, when an agent has ended.
const AGAIN: Duration = Duration::from_secs(1);

/// Runs the command, and returns its exit status; 128 and the number of the signal that has ended it.
///
/// # Errors
///
/// The service cannot be held, so the command is not run; or the command cannot be run.
pub async fn run(name: &str, command: &[OsString]) -> Result<u8> {
    let (program, arguments) = command.split_first().context("--while needs a command")?;
    let shown = program.display();
    let why = format!("the command {shown}");
    let client = Client::connect().await?;
    hold(&client, name, &why).await?;
    let mut child = Command::new(program)
        .args(arguments)
        .spawn()
        .with_context(|| format!("run {shown}"))?;
    let status = tokio::select! {
        status = child.wait() => status,
        () = stay(&client, name, &why) => child.wait().await,
    };
    let status = status.with_context(|| format!("wait for {shown}"))?;
    let code = status.code().or(status.signal().map(|signal| 128 + signal));
    Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

async fn hold(client: &Client, name: &str, why: &str) -> Result<()> {
    client.act("Inhibit", &(name, why), true).await
}

/// Holds it again whenever another agent runs. Ends when the bus does.
async fn stay(client: &Client, name: &str, why: &str) {
    while client.next_agent().await.is_ok() {
        // Until it knows its services.
        while let Err(error) = hold(client, name, why).await {
            log::debug!("{name}: {error:#}");
            sleep(AGAIN).await;
        }
    }
}
