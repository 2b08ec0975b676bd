//! `org.ondemand1` on the system bus: the agent's state, and its methods. Every user may read;
//! [`authority`] checks who may act.

mod authority;
mod end;
mod error;
mod gate;
mod limits;
mod listeners;
mod manager;
pub mod names;
mod news;
mod objects;
mod properties;
pub mod report;
mod service;
mod stream;

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
pub use error::Error;
use futures_util::StreamExt as _;
use gate::Gate;
pub use listeners::Listeners;
use manager::Manager;
use names::{NAME, PATH};
pub use news::News;
use news::Publisher;
use objects::Objects;
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
    /// Answered when there is room for this service, which is about to start.
    Room {
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

/// The name of the service with this path.
pub fn service_of_path(path: &str) -> Option<String> {
    let label = path.strip_prefix(PATH)?.strip_prefix("/service/")?;
    let mut name = String::new();
    let mut rest = label;
    while let Some(at) = rest.find('_') {
        name.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 3)?;
        name.push(u8::from_str_radix(code, 16).ok()?.into());
        rest = &rest[at + 3..];
    }
    Some(name + rest)
}

/// Connects to the bus, puts the objects there, takes the name, notifies `taken`, and then publishes news
/// until their channel closes. Who follows the services is in `listeners`.
///
/// # Errors
///
/// There is no bus, or it denies the name, or another agent has it; or the connection or the name is lost.
pub async fn serve(
    requests: mpsc::UnboundedSender<Request>,
    news: mpsc::UnboundedReceiver<News>,
    listeners: Listeners,
    taken: oneshot::Sender<()>,
) -> Result<()> {
    let connection = &stream::connect().await?;
    let mut lost = MessageStream::for_match_rule(NAME_LOST, connection, None).await?;
    let gate = Arc::new(Gate::new(requests));
    let server = connection.object_server();
    let objects = Objects::new(Arc::clone(&gate), listeners.clone());
    let manager = Manager::new(Arc::clone(&gate));
    let put = || format!("put {PATH} on the bus");
    server.at(PATH, manager).await.with_context(put)?;
    server.at(PATH, objects).await.with_context(put)?;
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
    let publisher = Publisher {
        connection,
        gate,
        listeners,
    };
    tokio::select! {
        published = publisher.publish(news) => {
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

#[cfg(test)]
mod tests {
    use std::{env, fs};

    use zbus::object_server::Interface;

    use super::{limits::Limit, service::Service, *};

    /// The file of an interface, which is installed in /usr/share/dbus-1/interfaces. To write it anew:
    /// ONDEMAND_WRITES_XML=1 cargo test -p ondemand --lib the_xml
    fn check(name: &str, interface: &dyn Interface) {
        let mut text = String::from(
            "<!DOCTYPE node PUBLIC \"-//freedesktop//DTD D-BUS Object Introspection 1.0//EN\"\n  \
             \"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd\">\n<node>\n",
        );
        interface.introspect_to_writer(&mut text, 2);
        text.push_str("</node>\n");
        let file = ::tests::source_tree().join(format!("units/interfaces/{name}.xml"));
        if env::var_os("ONDEMAND_WRITES_XML").is_some() {
            fs::write(&file, &text).unwrap();
        }
        let written = fs::read_to_string(&file).unwrap();
        assert!(written == text, "{} is not what {name} is", file.display());
    }

    #[test]
    fn the_xml_is_what_introspection_says() {
        let (requests, _loop) = mpsc::unbounded_channel();
        let gate = Arc::new(Gate::new(requests));
        let listeners = Listeners::default();
        check(names::INTERFACE, &Manager::new(Arc::clone(&gate)));
        let service = Service::new("wiki".into(), gate, Limit::of_clients(1, 1), listeners);
        check(names::SERVICE_INTERFACE, &service);
    }

    /// `GetManagedObjects` and signals have what `GetAll` has.
    #[test]
    fn the_properties_are_those_of_the_xml() {
        let xml = include_str!("../../../units/interfaces/org.ondemand1.Service.xml");
        let mut properties: Vec<_> = xml.split("<property name=\"").skip(1).collect();
        properties.sort_unstable();
        let ours = properties::all(&report::Service::default());
        assert_eq!(properties.len(), ours.len());
        for (property, (name, value)) in properties.iter().zip(ours) {
            let variant = zbus::Variant::from(value);
            let begin = format!("{name}\" type=\"{}\"", variant.value_signature());
            assert!(property.starts_with(&begin), "{begin}: {property}");
            let has_signal = !property
                .split("<property")
                .next()
                .is_some_and(|text| text.contains("value=\"false\""));
            assert_eq!(has_signal, properties::has_signal(name), "{name}");
        }
    }
}
