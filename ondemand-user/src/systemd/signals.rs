//! PID 1's signals, as changes of the watched units.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use zbus::{
    Connection, Message, MessageStream,
    fdo::{self, DBusProxy},
    message::{Header, Type},
    names::OwnedUniqueName,
};

use super::{
    Change, NAME, QUEUE, UNIT,
    names::Names,
    reading::{Properties, Reading},
};

const UNIT_CHANGES: &str = "type='signal',sender='org.freedesktop.systemd1',\
    interface='org.freedesktop.DBus.Properties',member='PropertiesChanged',\
    path_namespace='/org/freedesktop/systemd1/unit',arg0='org.freedesktop.systemd1.Unit'";
const RELOADS: &str = "type='signal',sender='org.freedesktop.systemd1',\
    interface='org.freedesktop.systemd1.Manager',member='Reloading',\
    path='/org/freedesktop/systemd1'";
const OWNER_CHANGES: &str = "type='signal',sender='org.freedesktop.DBus',\
    interface='org.freedesktop.DBus',member='NameOwnerChanged',\
    arg0='org.freedesktop.systemd1'";

const BUS: &str = "org.freedesktop.DBus";

/// The signals of PID 1, among all messages of the connection: to compare the first argument a stream of zbus with
/// a rule takes each message apart, with all properties of the unit.
pub(super) struct Signals {
    all: MessageStream,
    /// Any user may send a signal to a connection by its unique name: the rules do not keep that off.
    pid1: OwnedUniqueName,
}

impl Signals {
    pub async fn open(connection: &Connection) -> Result<Self> {
        let mut all = MessageStream::from(connection);
        all.set_max_queued(QUEUE);
        let bus = DBusProxy::new(connection).await?;
        for rule in [UNIT_CHANGES, RELOADS, OWNER_CHANGES] {
            let added = bus.add_match_rule(rule.try_into()?).await;
            added.context("add a match rule for systemd's signals")?;
        }
        let pid1 = pid1(connection).await.context("find systemd on the bus")?;
        Ok(Self { all, pid1 })
    }
}

/// The unique name of PID 1's connection.
pub(super) async fn pid1(connection: &Connection) -> fdo::Result<OwnedUniqueName> {
    let bus = DBusProxy::new(connection).await?;
    bus.get_name_owner(NAME.try_into()?).await
}

/// Forwards relevant signals. It never waits, so the bus's queue never fills up.
pub(super) async fn forward(
    mut signals: Signals,
    watched: Arc<Mutex<Names>>,
    changes: mpsc::UnboundedSender<Change>,
) {
    loop {
        let found = match signals.all.next().await {
            Some(Ok(message)) => of(&message, &signals.pid1, &watched),
            Some(Err(error)) => vec![Change::Lost(format!("the system bus: {error}"))],
            None => vec![Change::Lost("the system bus closed the connection".into())],
        };
        for change in found {
            let last = matches!(change, Change::Lost(_));
            // There is no receiver: the link is being dropped.
            if changes.send(change).is_err() || last {
                return;
            }
        }
    }
}

/// What a message reports.
fn of(message: &Message, pid1: &OwnedUniqueName, watched: &Mutex<Names>) -> Vec<Change> {
    if message.message_type() != Type::Signal {
        return Vec::new();
    }
    let header = message.header();
    let (Some(sender), Some(member)) = (header.sender(), header.member()) else {
        return Vec::new();
    };
    match member.as_str() {
        "PropertiesChanged" if sender == pid1 => unit_changes(message, &header, watched),
        // True: it begins.
        "Reloading" if sender == pid1 => match message.body().deserialize::<bool>() {
            Ok(true) => Vec::new(),
            _ => vec![Change::Reloaded],
        },
        "NameOwnerChanged" if sender == BUS => {
            match message.body().deserialize::<(&str, &str, &str)>() {
                Ok((name, ..)) if name != NAME => Vec::new(),
                _ => vec![Change::Lost("systemd left the bus".into())],
            }
        }
        _ => Vec::new(),
    }
}

/// The change of a unit, by each of its watched names.
fn unit_changes(message: &Message, header: &Header<'_>, watched: &Mutex<Names>) -> Vec<Change> {
    let watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
    let units = header.path().map(|path| watched.at(path.as_str()));
    let Some(units) = units.filter(|units| !units.is_empty()) else {
        return Vec::new();
    };
    let body = message.body();
    match body.deserialize::<(&str, Properties, Vec<&str>)>() {
        // Of another interface of the unit, which no rule asks for.
        Ok((interface, ..)) if interface != UNIT => Vec::new(),
        Ok((_, properties, _)) => {
            let reading = Reading {
                position: message.recv_position(),
                properties,
            };
            let change = |unit: &String| Change::Unit {
                unit: unit.clone(),
                reading: Box::new(reading.clone()),
            };
            units.iter().map(change).collect()
        }
        Err(error) => {
            // Reading everything is better than missing a change.
            log::warn!(
                "could not parse a signal about {}, reading all units: {error}",
                units.join(", ")
            );
            vec![Change::Reloaded]
        }
    }
}
