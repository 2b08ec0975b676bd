//! `/org/ondemand1/service/NAME`: one service. The largest number means unknown, or never.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;
use zbus::{interface, message::Header};

use super::{Error, Request, limits::Limit, manager::ask, names::NO_NUMBER, report};

/// The object.
pub(super) struct Service {
    name: String,
    requests: mpsc::UnboundedSender<Request>,
    /// Pending reads of properties, of all services.
    reads: Arc<Limit>,
}

impl Service {
    /// The object of the service of this name. It queries the agent's loop.
    pub(super) fn new(
        name: String,
        requests: mpsc::UnboundedSender<Request>,
        reads: Arc<Limit>,
    ) -> Self {
        Self {
            name,
            requests,
            reads,
        }
    }

    /// `call`: the one that reads the property.
    async fn describe(&self, call: Option<Header<'_>>) -> Result<Box<report::Service>, Error> {
        let _pending = call.map(|call| self.reads.admit(&call)).transpose()?;
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
    async fn unit(&self, #[zbus(header)] call: Option<Header<'_>>) -> Result<String, Error> {
        Ok(self.describe(call).await?.unit)
    }

    /// `inactive`, `activating`, `active`, `deactivating`, `failed` or `unknown`.
    #[zbus(property)]
    async fn state(&self, #[zbus(header)] call: Option<Header<'_>>) -> Result<String, Error> {
        Ok(self.describe(call).await?.state)
    }

    /// `steered`: new connections are steered to the application; otherwise `proxied`.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn route(&self, #[zbus(header)] call: Option<Header<'_>>) -> Result<String, Error> {
        Ok(self.describe(call).await?.route)
    }

    /// Why it is up, or what happens next: one sentence.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn detail(&self, #[zbus(header)] call: Option<Header<'_>>) -> Result<String, Error> {
        Ok(self.describe(call).await?.detail)
    }

    /// End of its hold, in microseconds since 1970; 0: it is not held; the largest number: until it is
    /// released.
    #[zbus(property)]
    async fn held_until(&self, #[zbus(header)] call: Option<Header<'_>>) -> Result<u64, Error> {
        Ok(self.describe(call).await?.held_until_micros())
    }

    /// Connections open now.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn open_connections(
        &self,
        #[zbus(header)] call: Option<Header<'_>>,
    ) -> Result<u64, Error> {
        let open = self.describe(call).await?.open_connections;
        Ok(open.unwrap_or(NO_NUMBER))
    }

    /// Connections accepted in total.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn accepted_connections(
        &self,
        #[zbus(header)] call: Option<Header<'_>>,
    ) -> Result<u64, Error> {
        Ok(self.describe(call).await?.accepted_connections)
    }

    /// Payload bytes from clients.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn received_bytes(&self, #[zbus(header)] call: Option<Header<'_>>) -> Result<u64, Error> {
        Ok(self.describe(call).await?.received_bytes)
    }

    /// Payload bytes to clients.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn sent_bytes(&self, #[zbus(header)] call: Option<Header<'_>>) -> Result<u64, Error> {
        Ok(self.describe(call).await?.sent_bytes)
    }

    /// How long it has been unused; the largest number: it is used, or down.
    #[zbus(property(emits_changed_signal = "false"), name = "IdleUSec")]
    async fn idle(&self, #[zbus(header)] call: Option<Header<'_>>) -> Result<u64, Error> {
        Ok(micros(self.describe(call).await?.idle_seconds))
    }

    /// Its idle timeout; the largest number: never stopped.
    #[zbus(property(emits_changed_signal = "false"), name = "IdleTimeoutUSec")]
    async fn idle_timeout(&self, #[zbus(header)] call: Option<Header<'_>>) -> Result<u64, Error> {
        Ok(micros(self.describe(call).await?.idle_timeout_seconds))
    }

    /// How long its last start took.
    #[zbus(property(emits_changed_signal = "false"), name = "LastStartUSec")]
    async fn last_start(&self, #[zbus(header)] call: Option<Header<'_>>) -> Result<u64, Error> {
        Ok(micros(
            self.describe(call).await?.last_start_duration_seconds,
        ))
    }

    /// How long its start usually takes; the largest number: none was seen.
    #[zbus(property(emits_changed_signal = "false"), name = "UsualStartUSec")]
    async fn usual_start(&self, #[zbus(header)] call: Option<Header<'_>>) -> Result<u64, Error> {
        Ok(micros(self.describe(call).await?.usual_start_seconds))
    }

    /// Starts since the agent's own.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn starts(&self, #[zbus(header)] call: Option<Header<'_>>) -> Result<u64, Error> {
        Ok(self.describe(call).await?.starts)
    }

    /// Ends of its unit since the agent's start.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn stops(&self, #[zbus(header)] call: Option<Header<'_>>) -> Result<u64, Error> {
        Ok(self.describe(call).await?.stops)
    }

    /// Stops that were not completed, since the agent's start.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn vetoes(&self, #[zbus(header)] call: Option<Header<'_>>) -> Result<u64, Error> {
        Ok(self.describe(call).await?.vetoes)
    }
}
