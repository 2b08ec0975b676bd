//! `org.freedesktop.DBus.ObjectManager` at `/org/ondemand1`: all services at once.
//!
//! zbus has one, too. It would ask the agent's loop for each property of each service, 21,000 questions with 1,000
//! services, for any user and as often as that user likes. This one takes the report that `Status` takes, with the same
//! limits.

use std::{collections::HashMap, sync::Arc};

use tokio::sync::{Mutex, Semaphore};
use zbus::{
    Connection, ObjectPath, Variant, interface,
    message::Header,
    names::InterfaceName,
    object_server::{ResponseDispatchNotifier, SignalEmitter},
};

use super::{
    Error,
    gate::Gate,
    listeners::Listeners,
    names::{DBUS_FAILED, SERVICE_INTERFACE},
    properties,
    report::Report,
    service_path,
};

/// Replies for others than root that are being made or sent at once. To write one takes the agent's thread for some
/// milliseconds, between which others must have their turn.
const REPLIES: usize = 1;

/// The object.
pub(super) struct Objects {
    gate: Arc<Gate>,
    listeners: Listeners,
    turns: Arc<Semaphore>,
    /// The last report, and what was made of it.
    last: Mutex<(String, Arc<Managed>)>,
}

impl Objects {
    pub(super) fn new(gate: Arc<Gate>, listeners: Listeners) -> Self {
        Self {
            gate,
            listeners,
            turns: Arc::new(Semaphore::new(REPLIES)),
            last: Mutex::default(),
        }
    }

    /// The objects of this report.
    async fn managed(&self, report: String) -> Result<Arc<Managed>, Error> {
        let mut last = self.last.lock().await;
        if last.0 != report {
            let read: Report = serde_json::from_str(&report)
                .map_err(|error| Error::new(DBUS_FAILED, error.to_string()))?;
            let mut objects = HashMap::new();
            for service in &read.services {
                let properties = properties::as_variants(properties::all(service));
                let path = ObjectPath::try_from(service_path(&service.name))
                    .map_err(|error| Error::new(DBUS_FAILED, error.to_string()))?;
                objects.insert(path, HashMap::from([(SERVICE_INTERFACE, properties)]));
            }
            *last = (report, Arc::new(objects));
        }
        Ok(Arc::clone(&last.1))
    }
}

/// Objects, their interfaces, and the properties of these.
type Managed =
    HashMap<ObjectPath<'static>, HashMap<&'static str, HashMap<&'static str, Variant<'static>>>>;

#[interface(name = "org.freedesktop.DBus.ObjectManager")]
impl Objects {
    /// The objects of all services, with their properties. As long as the caller is on the bus, it gets a change signal for
    /// each of them.
    #[zbus(out_args("objects"))]
    async fn get_managed_objects(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<ResponseDispatchNotifier<Arc<Managed>>, Error> {
        // What changes from here on is told.
        self.listeners.join(connection, &call).await;
        let (report, turn) = self.gate.report(connection, &call, &self.turns).await?;
        let (reply, sent) = ResponseDispatchNotifier::new(self.managed(report).await?);
        tokio::spawn(async move {
            sent.await;
            drop(turn);
        });
        Ok(reply)
    }

    /// A service is configured.
    #[zbus(signal)]
    pub(super) async fn interfaces_added(
        emitter: &SignalEmitter<'_>,
        object: ObjectPath<'_>,
        interfaces: HashMap<&str, HashMap<&str, Variant<'_>>>,
    ) -> zbus::Result<()>;

    /// A service is not configured any more.
    #[zbus(signal)]
    pub(super) async fn interfaces_removed(
        emitter: &SignalEmitter<'_>,
        object: ObjectPath<'_>,
        interfaces: Vec<InterfaceName<'_>>,
    ) -> zbus::Result<()>;
}
