//! `/org/ondemand1`: all services.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, oneshot},
    time::timeout,
};
use zbus::{
    Connection, interface,
    message::Header,
    object_server::{ResponseDispatchNotifier, SignalEmitter},
};

use super::{
    Error, Request,
    authority::RELOAD,
    gate::{CALLS, CALLS_OF_CLIENT, Gate, ask, check_name},
    limits::Limit,
    names::DBUS_FAILED,
};

/// Replies to `Status` for others than root that are being made or sent at once: each may be a MiB. Further calls
/// wait.
const REPORTS: usize = 8;
/// Maximum time of a call of `WaitListening` or `WaitReady`. Proxies with a longer start timeout poll after it.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// The object.
pub(super) struct Manager {
    gate: Arc<Gate>,
    /// Calls of these: a proxy's is pending for as long as its application's start takes.
    waits: Arc<Limit>,
    turns: Arc<Semaphore>,
}

impl Manager {
    /// Forwards all calls to the agent's loop.
    pub(super) fn new(gate: Arc<Gate>) -> Self {
        Self {
            gate,
            waits: Limit::of_clients(CALLS_OF_CLIENT, CALLS),
            turns: Arc::new(Semaphore::new(REPORTS)),
        }
    }
}

#[interface(name = "org.ondemand1.Manager")]
impl Manager {
    /// The state of all services as JSON.
    async fn status(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<ResponseDispatchNotifier<String>, Error> {
        let (report, turn) = self.gate.report(connection, &call, &self.turns).await?;
        let (reply, sent) = ResponseDispatchNotifier::new(report);
        tokio::spawn(async move {
            sent.await;
            drop(turn);
        });
        Ok(reply)
    }

    /// The open connections of a service as JSON: who keeps it up.
    async fn clients(
        &self,
        service: &str,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<String, Error> {
        check_name(service)?;
        let (_, _pending) = self.gate.admit(connection, &call).await?;
        let service = service.to_owned();
        let clients = ask(&self.gate.requests, |answer| {
            Request::Clients(service, answer)
        })
        .await?;
        serde_json::to_string(&clients).map_err(|error| Error::new(DBUS_FAILED, error.to_string()))
    }

    /// Returns when the application of a service listens: its proxy waits for that.
    async fn wait_listening(
        &self,
        service: &str,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<(), Error> {
        check_name(service)?;
        let _pending = self.waits.admit(&call)?;
        let (answer, answered) = oneshot::channel();
        let gone = || Error::new(DBUS_FAILED, "the agent cannot report it");
        let service = service.to_owned();
        self.gate
            .requests
            .send(Request::Listening { service, answer })
            .map_err(|_| gone())?;
        match timeout(LONGEST_WAIT, answered).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(gone()),
        }
    }

    /// Returns when the application of a service is ready, as `ready` of the configuration says; or, after this
    /// number of microseconds, what it says instead.
    #[zbus(out_args("not_yet"))]
    async fn wait_ready(
        &self,
        service: &str,
        for_usec: u64,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<String, Error> {
        check_name(service)?;
        let _pending = self.waits.admit(&call)?;
        let (answer, answered) = oneshot::channel();
        let gone = || Error::new(DBUS_FAILED, "the agent does not ask it");
        self.gate
            .requests
            .send(Request::Ready {
                service: service.to_owned(),
                answer,
            })
            .map_err(|_| gone())?;
        match timeout(Duration::from_micros(for_usec).min(LONGEST_WAIT), answered).await {
            Ok(Ok(())) => return Ok(String::new()),
            Ok(Err(_)) => return Err(gone()),
            Err(_) => {}
        }
        let service = service.to_owned();
        let described = ask(&self.gate.requests, |answer| {
            Request::Describe(service, answer)
        })
        .await?;
        Ok(described
            .not_ready
            .unwrap_or_else(|| "it was not asked yet".into()))
    }

    /// Returns true when there is room for a service in its group, or false after this number of microseconds: its
    /// start waits for that. It counts only while PID 1 has a job for its application.
    #[zbus(out_args("has_room"))]
    async fn wait_room(
        &self,
        service: &str,
        for_usec: u64,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<bool, Error> {
        check_name(service)?;
        let _pending = self.waits.admit(&call)?;
        let (answer, answered) = oneshot::channel();
        let gone = || Error::new(DBUS_FAILED, "the agent cannot say it");
        self.gate
            .requests
            .send(Request::Room {
                service: service.to_owned(),
                answer,
            })
            .map_err(|_| gone())?;
        match timeout(Duration::from_micros(for_usec).min(LONGEST_WAIT), answered).await {
            Ok(Ok(())) => Ok(true),
            Ok(Err(_)) => Err(gone()),
            Err(_) => Ok(false),
        }
    }

    /// Keeps a service up for a number of microseconds, however idle it is; 0: until it is released.
    /// Does not start it. Returns the end in microseconds since 1970; the largest number: until it is
    /// released.
    #[zbus(out_args("until_usec"))]
    async fn hold(
        &self,
        service: &str,
        for_usec: u64,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<u64, Error> {
        let span = (for_usec > 0).then(|| Duration::from_micros(for_usec));
        self.gate
            .act(connection, &call, "hold", service, |service, answer| {
                Request::Hold(service, span, answer)
            })
            .await
    }

    /// Keeps a service up until the caller's connection to the bus ends. An empty name means the service whose unit the
    /// caller belongs to, which needs no permission. The reason is shown in the status.
    async fn inhibit(
        &self,
        service: &str,
        why: &str,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<(), Error> {
        self.gate.inhibit(service, why, connection, &call).await
    }

    /// Ends a hold. Returns whether there was one.
    #[zbus(out_args("was_held"))]
    async fn release(
        &self,
        service: &str,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<bool, Error> {
        self.gate
            .act(connection, &call, "release", service, Request::Release)
            .await
    }

    /// Starts a service and returns when it is up. Returns whether it was down.
    #[zbus(out_args("was_down"))]
    async fn start(
        &self,
        service: &str,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<bool, Error> {
        self.gate
            .act(connection, &call, "start", service, Request::Start)
            .await
    }

    /// Stops a service if it is unused, however short that time, and returns when it is down.
    /// Returns whether it was up. org.ondemand1.Error.Kept: it stays up, and why.
    #[zbus(out_args("was_up"))]
    async fn stop(
        &self,
        service: &str,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<bool, Error> {
        self.gate
            .act(connection, &call, "stop", service, Request::Stop)
            .await
    }

    /// Reads the configuration again. org.ondemand1.Error.WrongConfiguration: it is invalid, and the
    /// agent keeps its present one.
    async fn reload(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<(), Error> {
        let (user, _pending) = self.gate.admit(connection, &call).await?;
        self.gate
            .authorize(user, connection, &call, RELOAD, &[])
            .await?;
        ask(&self.gate.requests, Request::Reload).await
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

    /// A stop was begun and not carried through; the reason is one of `vetoes_by_reason`.
    #[zbus(signal)]
    pub(super) async fn vetoed(
        emitter: &SignalEmitter<'_>,
        service: &str,
        reason: &str,
    ) -> zbus::Result<()>;

    /// Why the configuration's file is not in force, and what is, on one line; empty: it is in force.
    #[zbus(property)]
    async fn configuration_error(
        &self,
        #[zbus(header)] call: Option<Header<'_>>,
    ) -> Result<String, Error> {
        let _pending = call.map(|call| self.gate.read(&call)).transpose()?;
        ask(&self.gate.requests, Request::Trouble).await
    }

    /// The agent's version.
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }
}
