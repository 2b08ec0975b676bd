//! Who may call, how often, and what is asked of the agent's loop for it: the same for all objects.

use std::{sync::Arc, time::Duration};

use ondemand_core::config;
use tokio::{
    sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::Instant,
};
use zbus::{Connection, message::Header};

use super::{
    Error, Inhibitor, Reply, Request,
    authority::{self, MANAGE},
    end::End,
    limits::{Limit, Pass, Users},
    names::{DBUS_FAILED, NO_SUCH_SERVICE},
};

/// Maximum number of pending calls of one client. One that wants more waits for its replies.
pub(super) const CALLS_OF_CLIENT: usize = 16;
/// Of one user: others are served while all of these are pending.
const CALLS_OF_USER: usize = 128;
/// Of all users but root. What is pending takes a few KiB.
pub(super) const CALLS: usize = 1024;
/// Pending questions to polkit of one client.
const QUESTIONS_OF_CLIENT: usize = 2;
/// Of one user: each may be a password prompt.
const QUESTIONS_OF_USER: usize = 8;
/// Of all users.
const QUESTIONS: usize = 32;
/// How old the report may be that a user other than root gets. Many who ask cost the loop no more than one.
const STALE: Duration = Duration::from_millis(200);
/// What all objects share.
pub(super) struct Gate {
    pub(super) requests: mpsc::UnboundedSender<Request>,
    /// Pending calls, by client and by user.
    calls: [Arc<Limit>; 2],
    questions: [Arc<Limit>; 2],
    pub(super) users: Users,
    /// The last report, and when it was requested from the loop.
    last: Mutex<Option<(Instant, String)>>,
}

/// The place of a call for a report, until its reply is sent.
pub(super) type Turn = ((Pass, Option<Pass>), Option<OwnedSemaphorePermit>);

impl Gate {
    /// Forwards all calls to the agent's loop.
    pub(super) fn new(requests: mpsc::UnboundedSender<Request>) -> Self {
        Self {
            requests,
            calls: [
                Limit::of_clients(CALLS_OF_CLIENT, usize::MAX),
                Limit::of_users(CALLS_OF_USER, CALLS),
            ],
            questions: [
                Limit::of_clients(QUESTIONS_OF_CLIENT, QUESTIONS),
                Limit::of_users(QUESTIONS_OF_USER, QUESTIONS),
            ],
            users: Users::default(),
            last: Mutex::default(),
        }
    }

    /// Admits a call, and returns its user.
    pub(super) async fn admit(
        &self,
        connection: &Connection,
        call: &Header<'_>,
    ) -> Result<(u32, (Pass, Option<Pass>)), Error> {
        let [of_clients, of_users] = &self.calls;
        let of_client = of_clients.admit(call)?;
        let user = self.users.of(connection, call).await?;
        Ok((user, (of_client, of_users.admit_user(user)?)))
    }

    /// Admits a read of a property.
    pub(super) fn read(&self, call: &Header<'_>) -> Result<Pass, Error> {
        let [of_clients, _] = &self.calls;
        of_clients.admit(call)
    }

    /// Checks whether the caller may do this.
    pub(super) async fn authorize(
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

    /// Does something to a service, if the caller may.
    pub(super) async fn act<T>(
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

    /// The report for a caller, and what must be kept until the reply is sent: the bus may read slowly, and until then
    /// the reply is in memory. `turns`: so many of such replies are there at once for others than root.
    pub(super) async fn report(
        &self,
        connection: &Connection,
        call: &Header<'_>,
        turns: &Arc<Semaphore>,
    ) -> Result<(String, Turn), Error> {
        let now = Instant::now();
        let (user, pending) = self.admit(connection, call).await?;
        // Root sees what it has just caused.
        let since = match user {
            0 => now,
            _ => now.checked_sub(STALE).unwrap_or(now),
        };
        // Root does not wait for others. The semaphore is never closed.
        let turn = match user {
            0 => None,
            _ => Arc::clone(turns).acquire_owned().await.ok(),
        };
        Ok((self.report_since(since).await?, (pending, turn)))
    }

    /// Keeps a service up until the caller's connection to the bus ends.
    pub(super) async fn inhibit(
        &self,
        service: &str,
        why: &str,
        connection: &Connection,
        call: &Header<'_>,
    ) -> Result<(), Error> {
        let why = why.to_owned();
        let end = End::of(connection, call).await?;
        let inhibitor: Inhibitor = if service.is_empty() {
            let (_, _pending) = self.admit(connection, call).await?;
            let pid = Users::process(connection, call).await?;
            ask(&self.requests, |answer| {
                Request::InhibitOwn(pid, why, answer)
            })
            .await?
        } else {
            let request = |service, answer| Request::Inhibit(service, why, answer);
            self.act(connection, call, "hold", service, request).await?
        };
        if end.is_there().await {
            tokio::spawn(async move {
                end.wait().await;
                drop(inhibitor);
            });
        }
        Ok(())
    }

    /// A report that was requested after `since`. Calls that wait at the same time get the same.
    async fn report_since(&self, since: Instant) -> Result<String, Error> {
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
pub(super) fn check_name(service: &str) -> Result<(), Error> {
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
