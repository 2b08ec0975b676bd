//! When a caller leaves the bus.

use futures_util::StreamExt as _;
use zbus::{Connection, MessageStream, fdo::DBusProxy, message::Header, names::OwnedUniqueName};

use super::{BUS, Error};

/// The end of a caller's connection to the bus.
pub(super) struct End {
    changes: MessageStream,
    caller: OwnedUniqueName,
    bus: DBusProxy<'static>,
}

impl End {
    /// Listens for it from now on.
    ///
    /// # Errors
    ///
    /// The bus did not name the sender, or does not report it.
    pub(super) async fn of(connection: &Connection, call: &Header<'_>) -> Result<Self, Error> {
        let unknown = || Error::access_denied("the caller is unknown: the bus did not name it");
        let caller = call.sender().ok_or_else(unknown)?.to_owned();
        let rule = format!(
            "type='signal',sender='{BUS}',interface='{BUS}',member='NameOwnerChanged',arg0='{caller}'"
        );
        let listen = async {
            let changes = MessageStream::for_match_rule(rule.as_str(), connection, None).await?;
            zbus::Result::Ok((changes, DBusProxy::new(connection).await?))
        };
        let (changes, bus) = listen
            .await
            .map_err(|error| Error::failed(format!("listen for the caller's end: {error}")))?;
        Ok(Self {
            changes,
            caller: caller.into(),
            bus,
        })
    }

    /// Whether it has not ended yet.
    pub(super) async fn is_there(&self) -> bool {
        let name = self.caller.as_ref().into();
        self.bus.name_has_owner(name).await.unwrap_or(false)
    }

    /// Waits for it.
    pub(super) async fn wait(mut self) {
        while let Some(change) = self.changes.next().await {
            // Any user may send such a signal to a connection. A name of a connection has one owner, and then none.
            if change.is_ok_and(|change| change.header().sender().is_some_and(|from| *from == BUS))
            {
                return;
            }
        }
    }
}
