//! `/org/ondemand1`: all services.

use std::{sync::Arc, time::Duration};

use ondemand_core::config;
use tokio::{
    sync::{Mutex, Semaphore, mpsc, oneshot},
    time::{Instant, timeout},
};
use zbus::{
    Connection, interface,
    message::Header,
    object_server::{ResponseDispatchNotifier, SignalEmitter},
};

use super::{
    Error, Reply, Request,
    authority::{self, MANAGE, RELOAD},
    end::End,
    limits::{Limit, Pass, Users},
    names::{DBUS_FAILED, NO_SUCH_SERVICE},
};

/// Maximum number of pending calls of one client. One that wants more waits for its replies.
const CALLS_OF_CLIENT: usize = 16;
/// Of one user: others are served while all of these are pending.
const CALLS_OF_USER: usize = 128;
/// Of all users but root. What is pending takes a few KiB.
const CALLS: usize = 1024;
/// Pending questions to polkit of one client.
const QUESTIONS_OF_CLIENT: usize = 2;
/// Of one user: each may be a password prompt.
const QUESTIONS_OF_USER: usize = 8;
/// Of all users.
const QUESTIONS: usize = 32;
/// Replies to `Status` for others than root that are being made or sent at once: each may be a MiB. Further calls
/// wait.
const REPORTS: usize = 8;
/// How old the report may be that a user other than root gets. Many who ask cost the loop no more than one.
const STALE: Duration = Duration::from_millis(200);
/// Maximum time of a call of `WaitListening` or `WaitReady`. Proxies with a longer start timeout poll after it.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// The object.
pub(super) struct Manager {
    requests: mpsc::UnboundedSender<Request>,
    /// Pending calls, by client and by user.
    calls: [Arc<Limit>; 2],
    /// Calls of these: a proxy's is pending for as long as its application's start takes.
    waits: Arc<Limit>,
    questions: [Arc<Limit>; 2],
    users: Users,
    reports: Arc<Semaphore>,
    /// The last report, and when it was requested from the loop.
    last: Mutex<Option<(Instant, String)>>,
}

impl Manager {
    /// Forwards all calls to the agent's loop.
    pub(super) fn new(requests: mpsc::UnboundedSender<Request>) -> Self {
        Self {
            requests,
            calls: [
                Limit::of_clients(CALLS_OF_CLIENT, usize::MAX),
                Limit::of_users(CALLS_OF_USER, CALLS),
            ],
            waits: Limit::of_clients(CALLS_OF_CLIENT, CALLS),
            questions: [
                Limit::of_clients(QUESTIONS_OF_CLIENT, QUESTIONS),
                Limit::of_users(QUESTIONS_OF_USER, QUESTIONS),
            ],
            users: Users::default(),
            reports: Arc::new(Semaphore::new(REPORTS)),
            last: Mutex::default(),
        }
    }

    /// Admits a call, and returns its user.
    async fn admit(
        &self,
        connection: &Connection,
        call: &Header<'_>,
    ) -> Result<(u32, (Pass, Option<Pass>)), Error> {
        let [of_clients, of_users] = &self.calls;
        let of_client = of_clients.admit(call)?;
        let user = self.users.of(connection, call).await?;
        Ok((user, (of_client, of_users.admit_user(user)?)))
    }

    async fn authorize(
        &self,
        user: u32,
        connection: &Connection,
        call: &Header<'_>,
        action: &str,
        details: &[(&str, &str)],
    ) -> Result<(), Error> {
        let [of_clients, of_users] = &self.questions;
        authority::check(
            [of_clients, of_users],
            user,
            connection,
            call,
            action,
            details,
        )
        .await
    }

    async fn act<T>(
        &self,
        connection: &Connection,
        call: &Header<'_>,
        verb: &str,
        service: &str,
        request: impl FnOnce(String, Reply<T>) -> Request,
    ) -> Result<T, Error> {
        // Before anything that depends on the length of what a stranger sent.
        check_name(service)?;
        let (user, _pending) = self.admit(connection, call).await?;
        // A misspelt name must not lead to a password prompt.
        ask(&self.requests, |answer| {
            Request::Known(service.to_owned(), answer)
        })
        .await?;
        let details = [("service", service), ("verb", verb)];
        self.authorize(user, connection, call, MANAGE, &details)
            .await?;
        ask(&self.requests, |answer| request(service.to_owned(), answer)).await
    }

    /// A report that was requested after `since`. Calls that wait at the same time get the same.
    async fn report(&self, since: Instant) -> Result<String, Error> {
        let mut last = self.last.lock().await;
        if let Some((requested, text)) = &*last
            && *requested >= since
        {
            return Ok(text.clone());
        }
        let requested = Instant::now();
        let (answer, answered) = oneshot::channel();
        let gone = || Error::new(DBUS_FAILED, "the agent is shutting down");
        self.requests
            .send(Request::Status(answer))
            .map_err(|_| gone())?;
        let text = answered.await.map_err(|_| gone())?;
        *last = Some((requested, text.clone()));
        Ok(text)
    }
}

/// Refuses what cannot be a service's name.
fn check_name(service: &str) -> Result<(), Error> {
    config::possible_name(service).map_err(|why| Error::new(NO_SUCH_SERVICE, why))
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
    async fn status(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<ResponseDispatchNotifier<String>, Error> {
        let now = Instant::now();
        let (user, pending) = self.admit(connection, &call).await?;
        // Root sees what it has just caused.
        let since = match user {
            0 => now,
            _ => now.checked_sub(STALE).unwrap_or(now),
        };
        // Root does not wait for others. The semaphore is never closed.
        let turn = match user {
            0 => None,
            _ => Arc::clone(&self.reports).acquire_owned().await.ok(),
        };
        let (reply, sent) = ResponseDispatchNotifier::new(self.report(since).await?);
        // The bus may read slowly: until then the reply is in memory.
        tokio::spawn(async move {
            sent.await;
            drop((pending, turn));
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
        let (_, _pending) = self.admit(connection, &call).await?;
        let service = service.to_owned();
        let clients = ask(&self.requests, |answer| Request::Clients(service, answer)).await?;
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
        self.requests
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
        self.requests
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
        let described = ask(&self.requests, |answer| Request::Describe(service, answer)).await?;
        Ok(described
            .not_ready
            .unwrap_or_else(|| "it was not asked yet".into()))
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
        self.act(connection, &call, "hold", service, |service, answer| {
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
        let why = why.to_owned();
        let end = End::of(connection, &call).await?;
        let inhibitor = if service.is_empty() {
            let (_, _pending) = self.admit(connection, &call).await?;
            let pid = Users::process(connection, &call).await?;
            ask(&self.requests, |answer| {
                Request::InhibitOwn(pid, why, answer)
            })
            .await?
        } else {
            let request = |service, answer| Request::Inhibit(service, why, answer);
            self.act(connection, &call, "hold", service, request)
                .await?
        };
        if end.is_there().await {
            tokio::spawn(async move {
                end.wait().await;
                drop(inhibitor);
            });
        }
        Ok(())
    }

    /// Ends a hold. Returns whether there was one.
    #[zbus(out_args("was_held"))]
    async fn release(
        &self,
        service: &str,
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
        service: &str,
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
        service: &str,
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
        let (user, _pending) = self.admit(connection, &call).await?;
        self.authorize(user, connection, &call, RELOAD, &[]).await?;
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

    /// Why the configuration's file is not in force, and what is, on one line; empty: it is in force.
    #[zbus(property)]
    async fn configuration_error(
        &self,
        #[zbus(header)] call: Option<Header<'_>>,
    ) -> Result<String, Error> {
        let [of_clients, _] = &self.calls;
        let _pending = call.map(|call| of_clients.admit(&call)).transpose()?;
        ask(&self.requests, Request::Trouble).await
    }

    /// The agent's version.
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }
}
