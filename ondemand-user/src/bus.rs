//! `org.ondemand1` on the system bus: what the agent knows, for `ondemand status` and others.

use anyhow::{Context as _, Result, bail};
use tokio::sync::{mpsc, oneshot};
use zbus::{
    Connection, fdo,
    fdo::{RequestNameFlags, RequestNameReply},
    interface,
};

/// The agent's name on the bus.
pub const NAME: &str = "org.ondemand1";
/// The object that everything begins with.
pub const PATH: &str = "/org/ondemand1";
/// Its interface.
pub const INTERFACE: &str = "org.ondemand1.Manager";

/// A call that the agent's loop answers. Dropping the sender answers with an error.
#[derive(Debug)]
pub enum Request {
    /// The state of all services, a [`crate::status::Report`] in JSON.
    Status(oneshot::Sender<String>),
    /// Answered when the backend of this service listens.
    Listening {
        /// The service's name.
        service: String,
        /// Told once.
        answer: oneshot::Sender<()>,
    },
}

struct Manager {
    requests: mpsc::UnboundedSender<Request>,
}

#[interface(name = "org.ondemand1.Manager")]
impl Manager {
    /// The state of all services as JSON.
    async fn status(&self) -> fdo::Result<String> {
        let (answer, answered) = oneshot::channel();
        let gone = || fdo::Error::Failed("the agent is stopping".into());
        self.requests
            .send(Request::Status(answer))
            .map_err(|_| gone())?;
        answered.await.map_err(|_| gone())
    }

    /// Comes back when the application of a service listens: its proxy waits for that.
    async fn wait_listening(&self, service: String) -> fdo::Result<()> {
        let (answer, answered) = oneshot::channel();
        let gone = || fdo::Error::Failed("the agent does not tell".into());
        self.requests
            .send(Request::Listening { service, answer })
            .map_err(|_| gone())?;
        answered.await.map_err(|_| gone())
    }

    /// The agent's version.
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }
}

/// Puts the object on the bus and takes the name.
///
/// # Errors
///
/// The bus does not allow it, or another agent has the name.
pub async fn serve(
    connection: &Connection,
    requests: mpsc::UnboundedSender<Request>,
) -> Result<()> {
    connection
        .object_server()
        .at(PATH, Manager { requests })
        .await
        .with_context(|| format!("put {PATH} on the bus"))?;
    let reply = connection
        .request_name_with_flags(NAME, RequestNameFlags::DO_NOT_QUEUE)
        .await
        .with_context(|| format!("take the bus name {NAME} (is its D-Bus policy installed?)"))?;
    match reply {
        RequestNameReply::PrimaryOwner | RequestNameReply::AlreadyOwner => Ok(()),
        _ => bail!("another program has the bus name {NAME}"),
    }
}
