//! `org.ondemand1` on the system bus: the agent's state, and its methods. Every user may read;
//! [`authority`] checks who may act.

mod authority;
mod end;
mod error;
mod limits;
mod manager;
pub mod names;
mod news;
pub mod report;
mod service;
mod stream;

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
pub use error::Error;
use futures_util::StreamExt as _;
use manager::Manager;
use names::{NAME, PATH};
pub use news::News;
use tokio::sync::{mpsc, oneshot};
use zbus::{
    MessageStream,
    fdo::{RequestNameFlags, RequestNameReply},
};

use crate::systemd::unit_path::label;

/// The sender of the bus's own signals.
const BUS: &str = "org.freedesktop.DBus";
/// Sent to the owner of a name that has lost it.
const NAME_LOST: &str = "type='signal',sender='org.freedesktop.DBus',\
    interface='org.freedesktop.DBus',member='NameLost',arg0='org.ondemand1'";

/// The channel for a call's reply. Dropping it replies with an error.
pub type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// Keeps a service up until it is dropped. Nothing is sent.
pub type Inhibitor = oneshot::Sender<()>;

/// A call for the agent's loop. Unauthorized calls do not get here.
#[derive(Debug)]
pub enum Request {
    /// The state of all services, a [`crate::bus::report::Report`] in JSON.
    Status(oneshot::Sender<String>),
    /// Answered when the backend of this service listens.
    Listening {
        /// The service's name.
        service: String,
        /// Sent once.
        answer: oneshot::Sender<()>,
    },
    /// Answered when the application of this service is ready.
    Ready {
        /// The service's name.
        service: String,
        /// Sent once.
        answer: oneshot::Sender<()>,
    },
    /// The state of one service.
    Describe(String, Reply<Box<report::Service>>),
    /// Its open connections.
    Clients(String, Reply<Box<report::Clients>>),
    /// Whether the service exists.
    Known(String, Reply<()>),
    /// Hold it, for a time or until it is released; returns the end as
    /// [`ondemand_core::holds::Left::until_micros`].
    Hold(String, Option<Duration>, Reply<u64>),
    /// Keep it up until what is returned is dropped, with the reason.
    Inhibit(String, String, Reply<Inhibitor>),
    /// The same for the service whose unit this process belongs to.
    InhibitOwn(u32, String, Reply<Inhibitor>),
    /// End its hold; returns whether there was one.
    Release(String, Reply<bool>),
    /// Start it; returns whether it was down.
    Start(String, Reply<bool>),
    /// Stop it if it is unused; returns whether it was up.
    Stop(String, Reply<bool>),
    /// Why the configuration's file is not in force; empty: it is.
    Trouble(Reply<String>),
    /// Read the configuration again.
    Reload(Reply<()>),
}

/// The path of a service's object.
pub fn service_path(name: &str) -> String {
    format!("{PATH}/service/{}", label(name))
}

/// Connects to the bus, puts the objects there, takes the name, notifies `taken`, and then publishes news
/// until their channel closes.
///
/// # Errors
///
/// There is no bus, or it denies the name, or another agent has it; or the connection or the name is lost.
pub async fn serve(
    requests: mpsc::UnboundedSender<Request>,
    news: mpsc::UnboundedReceiver<News>,
    taken: oneshot::Sender<()>,
) -> Result<()> {
    let connection = &stream::connect().await?;
    let mut lost = MessageStream::for_match_rule(NAME_LOST, connection, None).await?;
    let manager = Manager::new(requests.clone());
    connection
        .object_server()
        .at(PATH, manager)
        .await
        .with_context(|| format!("put {PATH} on the bus"))?;
    let reply = connection
        .request_name_with_flags(NAME, RequestNameFlags::DO_NOT_QUEUE)
        .await
        .with_context(|| format!("take the bus name {NAME} (is its D-Bus policy installed?)"))?;
    match reply {
        RequestNameReply::PrimaryOwner | RequestNameReply::AlreadyOwner => {}
        _ => bail!("another program has the bus name {NAME}"),
    }
    // If the receiver is gone, nothing waits for it.
    let _ = taken.send(());
    tokio::select! {
        published = news::publish(connection, &requests, news) => {
            published.context("publish changes on the bus")
        }
        end = name_lost(&mut lost) => Err(end),
    }
}

/// Waits until the bus takes the name away, or ends.
async fn name_lost(signals: &mut MessageStream) -> anyhow::Error {
    loop {
        match signals.next().await {
            // Any user may send such a signal to a connection.
            Some(Ok(signal)) if signal.header().sender().is_none_or(|from| *from != BUS) => {}
            Some(Ok(_)) => return anyhow!("the bus gave its name to another"),
            Some(Err(error)) => return anyhow::Error::new(error).context("the bus"),
            None => return anyhow!("the bus closed the connection"),
        }
    }
}
