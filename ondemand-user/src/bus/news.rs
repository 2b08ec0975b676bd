//! Signals, and the set of objects.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use tokio::sync::mpsc;
use zbus::{Connection, ObjectPath, Variant, names::InterfaceName, object_server::SignalEmitter};

use super::{
    Request,
    gate::{Gate, ask},
    limits::Limit,
    listeners::Listeners,
    manager::Manager,
    names::{INTERFACE, NO_NUMBER, PATH, SERVICE_INTERFACE},
    objects::Objects,
    properties, report,
    service::Service,
    service_path,
};

/// Maximum number of pending reads of services' properties of one client: a client may read those of
/// many services at once.
const READS_OF_CLIENT: usize = 128;
/// Of all clients.
const READS: usize = 1024;

/// Changes that the agent's loop publishes without waiting.
#[derive(Clone, Debug, PartialEq)]
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
    /// All that is known of a service, for [`super::Listeners`].
    Details(Box<report::Service>),
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
    /// A stop that was begun and not carried through.
    Vetoed {
        /// Its name.
        service: String,
        /// The reason.
        reason: &'static str,
    },
}

/// What is published, and to whom.
pub(super) struct Publisher<'a> {
    pub(super) connection: &'a Connection,
    pub(super) gate: Arc<Gate>,
    pub(super) listeners: Listeners,
}

impl Publisher<'_> {
    /// Publishes the news on the bus.
    pub(super) async fn publish(self, mut news: mpsc::UnboundedReceiver<News>) -> zbus::Result<()> {
        let manager = SignalEmitter::new(self.connection, PATH)?;
        let reads = Limit::of_clients(READS_OF_CLIENT, READS);
        let mut there = None;
        // What listeners know, and since which of them came.
        let (mut told, mut generation) = (HashMap::<String, BTreeMap<_, _>>::new(), 0);
        while let Some(item) = news.recv().await {
            match item {
                News::Configuration(trouble) => {
                    let changed = HashMap::from([("ConfigurationError", Variant::from(trouble))]);
                    changed_properties(self.connection, PATH, INTERFACE, changed).await?;
                }
                News::Services(wanted) => {
                    told.retain(|name, _| wanted.contains(name));
                    self.replace(there.as_ref(), &wanted, &reads, &manager)
                        .await?;
                    there = Some(wanted);
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
                    changed_properties(self.connection, &path, SERVICE_INTERFACE, changed).await?;
                }
                News::Details(service) => {
                    let now = self.listeners.generation();
                    if std::mem::replace(&mut generation, now) != now {
                        told.clear();
                    }
                    let told = told.entry(service.name.clone()).or_default();
                    let changed = properties::news(&service, told);
                    if !changed.is_empty() {
                        let path = service_path(&service.name);
                        let changed = properties::as_variants(changed);
                        changed_properties(self.connection, &path, SERVICE_INTERFACE, changed)
                            .await?;
                    }
                }
                News::Started { service, took } => {
                    Manager::started(&manager, &service, took.unwrap_or(NO_NUMBER)).await?;
                }
                News::Vetoed { service, reason } => {
                    Manager::vetoed(&manager, &service, reason).await?;
                }
                News::Stopped { service, reason } => {
                    Manager::stopped(&manager, &service, reason).await?;
                }
            }
        }
        Ok(())
    }

    /// Puts the objects of these services on the bus, and takes the others away. `there`: those that are on it. Nobody can
    /// know the first ones yet.
    async fn replace(
        &self,
        there: Option<&BTreeSet<String>>,
        wanted: &BTreeSet<String>,
        reads: &Arc<Limit>,
        manager: &SignalEmitter<'_>,
    ) -> zbus::Result<()> {
        let server = self.connection.object_server();
        let none = BTreeSet::new();
        let before = there.unwrap_or(&none);
        for gone in before.difference(wanted) {
            let path = service_path(gone);
            server.remove::<Service, _>(path.as_str()).await?;
            let interfaces = vec![InterfaceName::try_from(SERVICE_INTERFACE)?];
            Objects::interfaces_removed(manager, ObjectPath::try_from(path)?, interfaces).await?;
        }
        for new in wanted.difference(before) {
            let path = service_path(new);
            let object = Service::new(
                new.clone(),
                Arc::clone(&self.gate),
                Arc::clone(reads),
                self.listeners.clone(),
            );
            server.at(path.as_str(), object).await?;
            if there.is_none() {
                continue;
            }
            let describe = |answer| Request::Describe(new.clone(), answer);
            // It may be gone again.
            if let Ok(service) = ask(&self.gate.requests, describe).await {
                let properties = properties::as_variants(properties::all(&service));
                let interfaces = HashMap::from([(SERVICE_INTERFACE, properties)]);
                Objects::interfaces_added(manager, ObjectPath::try_from(path)?, interfaces).await?;
            }
        }
        Ok(())
    }
}

async fn changed_properties(
    connection: &Connection,
    path: &str,
    interface: &str,
    changed: HashMap<&str, Variant<'_>>,
) -> zbus::Result<()> {
    // (An empty array of Rust is a tuple to D-Bus, and the signal would have the signature `sa{sv}y`.)
    let invalidated: &[&str] = &[];
    connection
        .emit_signal(
            None::<&str>,
            path,
            "org.freedesktop.DBus.Properties",
            "PropertiesChanged",
            &(interface, changed, invalidated),
        )
        .await
}
