//! `/org/ondemand1`: all services.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use zbus::{Connection, fdo, interface, message::Header, object_server::SignalEmitter};

use super::{
    Error, Reply, Request,
    authority::{self, MANAGE, RELOAD},
};

/// The object.
pub(super) struct Manager {
    requests: mpsc::UnboundedSender<Request>,
}

impl Manager {
    /// Forwards all calls to the agent's loop.
    pub(super) fn new(requests: mpsc::UnboundedSender<Request>) -> Self {
        Self { requests }
    }

    async fn act<T>(
        &self,
        connection: &Connection,
        call: &Header<'_>,
        verb: &str,
        service: String,
        request: impl FnOnce(String, Reply<T>) -> Request,
    ) -> Result<T, Error> {
        // A misspelt name must not lead to a password prompt.
        ask(&self.requests, |answer| {
            Request::Known(service.clone(), answer)
        })
        .await?;
        let details = [("service", service.as_str()), ("verb", verb)];
        authority::check(connection, call, MANAGE, &details).await?;
        ask(&self.requests, |answer| request(service, answer)).await
    }
}

/// Sends a request to the agent's loop.
pub(super) async fn ask<T>(
    requests: &mpsc::UnboundedSender<Request>,
    request: impl FnOnce(Reply<T>) -> Request,
) -> Result<T, Error> {
    let (answer, answered) = oneshot::channel();
    requests.send(request(answer)).map_err(|_| Error::gone())?;
    answered.await.map_err(|_| Error::gone())?
}

#[interface(name = "org.ondemand1.Manager")]
impl Manager {
    /// The state of all services as JSON.
    async fn status(&self) -> fdo::Result<String> {
        let (answer, answered) = oneshot::channel();
        let gone = || fdo::Error::Failed("the agent is shutting down".into());
        self.requests
            .send(Request::Status(answer))
            .map_err(|_| gone())?;
        answered.await.map_err(|_| gone())
    }

    /// Returns when the application of a service listens: its proxy waits for that.
    async fn wait_listening(&self, service: String) -> fdo::Result<()> {
        let (answer, answered) = oneshot::channel();
        let gone = || fdo::Error::Failed("the agent cannot report it".into());
        self.requests
            .send(Request::Listening { service, answer })
            .map_err(|_| gone())?;
        answered.await.map_err(|_| gone())
    }

    /// Keeps a service up for a number of microseconds, however idle it is; 0: until it is released.
    /// Does not start it. Returns the end in microseconds since 1970; the largest number: until it is
    /// released.
    #[zbus(out_args("until_usec"))]
    async fn hold(
        &self,
        service: String,
        for_usec: u64,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<u64, Error> {
        let span = (for_usec > 0).then(|| Duration::from_micros(for_usec));
        self.act(connection, &call, "hold", service, |service, answer| {
            Request::Hold(service, span, answer)
        })
        .await
    }

    /// Ends a hold. Returns whether there was one.
    #[zbus(out_args("was_held"))]
    async fn release(
        &self,
        service: String,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<bool, Error> {
        self.act(connection, &call, "release", service, Request::Release)
            .await
    }

    /// Starts a service and returns when it is up. Returns whether it was down.
    #[zbus(out_args("was_down"))]
    async fn start(
        &self,
        service: String,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<bool, Error> {
        self.act(connection, &call, "start", service, Request::Start)
            .await
    }

    /// Stops a service if it is unused, however short that time, and returns when it is down.
    /// Returns whether it was up. org.ondemand1.Error.Kept: it stays up, and why.
    #[zbus(out_args("was_up"))]
    async fn stop(
        &self,
        service: String,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<bool, Error> {
        self.act(connection, &call, "stop", service, Request::Stop)
            .await
    }

    /// Reads the configuration again. org.ondemand1.Error.WrongConfiguration: it is invalid, and the
    /// agent keeps its present one.
    async fn reload(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<(), Error> {
        authority::check(connection, &call, RELOAD, &[]).await?;
        ask(&self.requests, Request::Reload).await
    }

    /// A service is up; its start took this number of microseconds, the largest number: unknown.
    #[zbus(signal)]
    pub(super) async fn started(
        emitter: &SignalEmitter<'_>,
        service: &str,
        took_usec: u64,
    ) -> zbus::Result<()>;

    /// A service is down: `idle`, `requested`, `external` or `failed`.
    #[zbus(signal)]
    pub(super) async fn stopped(
        emitter: &SignalEmitter<'_>,
        service: &str,
        reason: &str,
    ) -> zbus::Result<()>;

    /// The agent's version.
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }
}
