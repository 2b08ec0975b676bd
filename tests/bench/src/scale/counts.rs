//! What the kernel should have counted, and what it has.

use anyhow::{Context as _, Result};
use serde_json::Value;
use tests::{sandbox::Sandbox, service};

use crate::fleet::Member;

/// The agent's counts of each of the services.
pub struct Counts(Vec<Count>);

#[derive(Clone, Copy, Debug, PartialEq)]
struct Count {
    open: u64,
    accepted: u64,
    received: u64,
    sent: u64,
}

impl Counts {
    /// Reads the counts.
    ///
    /// # Errors
    ///
    /// The agent does not answer, or does not know one of the services.
    pub fn read(sandbox: &Sandbox, members: &[Member]) -> Result<Self> {
        let status = service::statuses(sandbox)?;
        let count = |member: &Member| -> Result<Count> {
            let of = status.get(&member.name);
            let number = |key: &str| {
                let number = of.and_then(|of| of.get(key)).and_then(Value::as_u64);
                number.with_context(|| format!("{key} of {}: {of:?}", member.name))
            };
            Ok(Count {
                open: number("open_connections")?,
                accepted: number("accepted_connections")?,
                received: number("received_bytes")?,
                sent: number("sent_bytes")?,
            })
        };
        Ok(Self(members.iter().map(count).collect::<Result<_>>()?))
    }

    /// All open connections.
    pub fn open(&self) -> u64 {
        self.0.iter().map(|count| count.open).sum()
    }

    /// The difference from the expected counts after this number of connections, of a byte there and
    /// back each, which are all open or all closed.
    pub fn differs(&self, before: &Self, members: &[Member], connections: u32, open: bool) -> u64 {
        let (connections, services) = (u64::from(connections), members.len() as u64);
        let counts = (0..services).zip(&self.0).zip(&before.0);
        let differs = counts.map(|((place, now), before)| {
            // If the division has a rest, the first ones get one more.
            let share = connections / services + u64::from(place < connections % services);
            let wanted = Count {
                open: if open { share } else { 0 },
                accepted: before.accepted + share,
                received: before.received + share,
                sent: before.sent + share,
            };
            let connections =
                now.open.abs_diff(wanted.open) + now.accepted.abs_diff(wanted.accepted);
            // Of an open connection the last byte may not be acknowledged yet.
            let bytes = now.received.abs_diff(wanted.received) + now.sent.abs_diff(wanted.sent);
            connections + if open { 0 } else { bytes }
        });
        differs.sum()
    }
}
