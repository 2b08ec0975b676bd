//! PID 1's signals, as changes of the watched units.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use zbus::{Connection, Message, MessageStream};

use super::{
    Change, QUEUE,
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

/// The subscribed signals.
pub(super) struct Streams {
    units: MessageStream,
    reloads: MessageStream,
    owners: MessageStream,
}

impl Streams {
    pub async fn open(connection: &Connection) -> zbus::Result<Self> {
        let open = |rule| MessageStream::for_match_rule(rule, connection, Some(QUEUE));
        Ok(Self {
            units: open(UNIT_CHANGES).await?,
            reloads: open(RELOADS).await?,
            owners: open(OWNER_CHANGES).await?,
        })
    }
}

/// Forwards relevant signals. It never waits, so the bus's queue never fills up.
pub(super) async fn forward(
    mut streams: Streams,
    watched: Arc<Mutex<Names>>,
    changes: mpsc::UnboundedSender<Change>,
) {
    loop {
        let change = tokio::select! {
            message = streams.units.next() => match message {
                Some(Ok(message)) => {
                    for change in unit_changes(&message, &watched) {
                        // The same.
                        if changes.send(change).is_err() {
                            return;
                        }
                    }
                    None
                }
                end => Some(lost(end)),
            },
            message = streams.reloads.next() => match message {
                // True: it begins.
                Some(Ok(message)) => match message.body().deserialize::<bool>() {
                    Ok(true) => None,
                    _ => Some(Change::Reloaded),
                },
                end => Some(lost(end)),
            },
            message = streams.owners.next() => match message {
                Some(Ok(_)) => Some(Change::Lost("systemd left the bus".into())),
                end => Some(lost(end)),
            },
        };
        let Some(change) = change else { continue };
        let last = matches!(change, Change::Lost(_));
        // There is no receiver: the link is being dropped.
        if changes.send(change).is_err() || last {
            return;
        }
    }
}

fn lost(end: Option<zbus::Result<Message>>) -> Change {
    Change::Lost(match end {
        Some(Err(error)) => format!("the system bus: {error}"),
        _ => "the system bus closed the connection".into(),
    })
}

/// The change of a unit, by each of its watched names.
fn unit_changes(message: &Message, watched: &Mutex<Names>) -> Vec<Change> {
    let header = message.header();
    let watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
    let units = header.path().map(|path| watched.at(path.as_str()));
    let Some(units) = units.filter(|units| !units.is_empty()) else {
        return Vec::new();
    };
    let body = message.body();
    match body.deserialize::<(&str, Properties, Vec<&str>)>() {
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
