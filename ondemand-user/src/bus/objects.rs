//! `org.freedesktop.DBus.ObjectManager` at `/org/ondemand1`: all services at once.
//!
//! zbus has one, too. It would ask the agent's loop for each property of each service, 21,000 questions with 1,000
//! services, for any user and as often as that user likes. This one takes the report that `Status` takes, with the same
//! limits.

use std::{collections::HashMap, sync::Arc};

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

/// The object.
pub(super) struct Objects {
    gate: Arc<Gate>,
    listeners: Listeners,
}

impl Objects {
    pub(super) fn new(gate: Arc<Gate>, listeners: Listeners) -> Self {
        Self { gate, listeners }
    }
}

/// The properties of interfaces.
type Interfaces = HashMap<&'static str, HashMap<&'static str, Variant<'static>>>;

#[interface(name = "org.freedesktop.DBus.ObjectManager")]
impl Objects {
    /// The objects of all services, with their properties. As long as the caller is on the bus, it gets a change signal for
    /// each of them.
    #[zbus(out_args("objects"))]
    async fn get_managed_objects(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<ResponseDispatchNotifier<HashMap<ObjectPath<'static>, Interfaces>>, Error> {
        // What changes from here on is told.
        self.listeners.join(connection, &call).await;
        let (report, turn) = self.gate.report(connection, &call).await?;
        let report: Report = serde_json::from_str(&report)
            .map_err(|error| Error::new(DBUS_FAILED, error.to_string()))?;
        let mut objects = HashMap::new();
        for service in &report.services {
            let properties = properties::as_variants(properties::all(service));
            let path = ObjectPath::try_from(service_path(&service.name))
                .map_err(|error| Error::new(DBUS_FAILED, error.to_string()))?;
            objects.insert(path, HashMap::from([(SERVICE_INTERFACE, properties)]));
        }
        let (reply, sent) = ResponseDispatchNotifier::new(objects);
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
