//! Signals, and the set of objects.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use tokio::sync::mpsc;
use zbus::{Connection, Variant, object_server::SignalEmitter};

use super::{
    Request,
    limits::Limit,
    manager::Manager,
    names::{INTERFACE, NO_NUMBER, PATH, SERVICE_INTERFACE},
    service::Service,
    service_path,
};

/// Maximum number of pending reads of services' properties of one client: a client may read those of
/// many services at once.
const READS_OF_CLIENT: usize = 128;
/// Of all clients.
const READS: usize = 1024;

/// Changes that the agent's loop publishes without waiting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The present services.
    Services(BTreeSet<String>),
    /// The property `ConfigurationError`.
    Configuration(String),
    /// Changed properties of a service, which others may have cached.
    Changed {
        /// Its name.
        service: String,
        /// The property `State`.
        state: &'static str,
        /// The property `HeldUntil`.
        held_until: u64,
    },
    /// A start of its backend.
    Started {
        /// Its name.
        service: String,
        /// Its duration in microseconds.
        took: Option<u64>,
    },
    /// An end of its backend.
    Stopped {
        /// Its name.
        service: String,
        /// The reason.
        reason: &'static str,
    },
}

/// Publishes the news on the bus.
pub(super) async fn publish(
    connection: &Connection,
    requests: &mpsc::UnboundedSender<Request>,
    mut news: mpsc::UnboundedReceiver<News>,
) -> zbus::Result<()> {
    let manager = SignalEmitter::new(connection, PATH)?;
    let reads = Limit::of_clients(READS_OF_CLIENT, READS);
    let mut there = BTreeSet::new();
    while let Some(item) = news.recv().await {
        match item {
            News::Configuration(trouble) => {
                let changed = HashMap::from([("ConfigurationError", Variant::from(trouble))]);
                changed_properties(connection, PATH, INTERFACE, changed).await?;
            }
            News::Services(wanted) => {
                let server = connection.object_server();
                for gone in there.difference(&wanted) {
                    server.remove::<Service, _>(service_path(gone)).await?;
                }
                for new in wanted.difference(&there) {
                    let object = Service::new(new.clone(), requests.clone(), Arc::clone(&reads));
                    server.at(service_path(new), object).await?;
                }
                there = wanted;
            }
            News::Changed {
                service,
                state,
                held_until,
            } => {
                let changed = HashMap::from([
                    ("State", Variant::from(state)),
                    ("HeldUntil", Variant::from(held_until)),
                ]);
                let path = service_path(&service);
                changed_properties(connection, &path, SERVICE_INTERFACE, changed).await?;
            }
            News::Started { service, took } => {
                Manager::started(&manager, &service, took.unwrap_or(NO_NUMBER)).await?;
            }
            News::Stopped { service, reason } => {
                Manager::stopped(&manager, &service, reason).await?;
            }
        }
    }
    Ok(())
}

async fn changed_properties(
    connection: &Connection,
    path: &str,
    interface: &str,
    changed: HashMap<&str, Variant<'_>>,
) -> zbus::Result<()> {
    connection
        .emit_signal(
            None::<&str>,
            path,
            "org.freedesktop.DBus.Properties",
            "PropertiesChanged",
            &(interface, changed, [""; 0]),
        )
        .await
}
