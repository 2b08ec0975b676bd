//! `/org/ondemand1/service/NAME`: one service. The largest number means unknown, or never.

use std::time::Duration;

use tokio::sync::mpsc;
use zbus::interface;

use super::{Error, Request, manager::ask, names::NO_NUMBER, report};

/// The object.
pub(super) struct Service {
    name: String,
    requests: mpsc::UnboundedSender<Request>,
}

impl Service {
    /// The object of the service of this name. It queries the agent's loop.
    pub(super) fn new(name: String, requests: mpsc::UnboundedSender<Request>) -> Self {
        Self { name, requests }
    }

    async fn describe(&self) -> Result<Box<report::Service>, Error> {
        ask(&self.requests, |answer| {
            Request::Describe(self.name.clone(), answer)
        })
        .await
    }
}

fn micros(seconds: Option<f64>) -> u64 {
    let span = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    span.and_then(|span| u64::try_from(span.as_micros()).ok())
        .unwrap_or(NO_NUMBER)
}

#[interface(name = "org.ondemand1.Service")]
impl Service {
    /// Its name in the configuration.
    #[zbus(property(emits_changed_signal = "const"))]
    fn name(&self) -> &str {
        &self.name
    }

    /// The application's unit.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn unit(&self) -> Result<String, Error> {
        Ok(self.describe().await?.unit)
    }

    /// `inactive`, `activating`, `active`, `deactivating`, `failed` or `unknown`.
    #[zbus(property)]
    async fn state(&self) -> Result<String, Error> {
        Ok(self.describe().await?.state)
    }

    /// `steered`: new connections are steered to the application; otherwise `proxied`.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn route(&self) -> Result<String, Error> {
        Ok(self.describe().await?.route)
    }

    /// Why it is up, or what happens next: one sentence.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn detail(&self) -> Result<String, Error> {
        Ok(self.describe().await?.detail)
    }

    /// End of its hold, in microseconds since 1970; 0: it is not held; the largest number: until it is
    /// released.
    #[zbus(property)]
    async fn held_until(&self) -> Result<u64, Error> {
        Ok(self.describe().await?.held_until_micros())
    }

    /// Connections open now.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn open_connections(&self) -> Result<u64, Error> {
        let open = self.describe().await?.open_connections;
        Ok(open.unwrap_or(NO_NUMBER))
    }

    /// Connections accepted in total.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn accepted_connections(&self) -> Result<u64, Error> {
        Ok(self.describe().await?.accepted_connections)
    }

    /// Payload bytes from clients.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn received_bytes(&self) -> Result<u64, Error> {
        Ok(self.describe().await?.received_bytes)
    }

    /// Payload bytes to clients.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn sent_bytes(&self) -> Result<u64, Error> {
        Ok(self.describe().await?.sent_bytes)
    }

    /// How long it has been unused; the largest number: it is used, or down.
    #[zbus(property(emits_changed_signal = "false"), name = "IdleUSec")]
    async fn idle(&self) -> Result<u64, Error> {
        Ok(micros(self.describe().await?.idle_seconds))
    }

    /// Its idle timeout; the largest number: never stopped.
    #[zbus(property(emits_changed_signal = "false"), name = "IdleTimeoutUSec")]
    async fn idle_timeout(&self) -> Result<u64, Error> {
        Ok(micros(self.describe().await?.idle_timeout_seconds))
    }

    /// How long its last start took.
    #[zbus(property(emits_changed_signal = "false"), name = "LastStartUSec")]
    async fn last_start(&self) -> Result<u64, Error> {
        Ok(micros(self.describe().await?.last_start_duration_seconds))
    }

    /// Starts since the agent's own.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn starts(&self) -> Result<u64, Error> {
        Ok(self.describe().await?.starts)
    }

    /// Ends of its unit since the agent's start.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn stops(&self) -> Result<u64, Error> {
        Ok(self.describe().await?.stops)
    }

    /// Stops that were not completed, since the agent's start.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn vetoes(&self) -> Result<u64, Error> {
        Ok(self.describe().await?.vetoes)
    }
}
