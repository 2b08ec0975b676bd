//! The open connections of services, with the times of their last bytes. They are taken one by one out of a walk over
//! the kernel's socket tables: memory does not depend on their number.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use ondemand_core::measure::{Ktime, sample::Slot};
use ondemand_ebpf::{Client, GATE_LISTED, NO_TICKS};

use super::{Sampler, decode, watchlist::address_of};
use crate::host::clock;

/// An open connection.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// On which way, one of `LEG_`.
    pub leg: u32,
    /// The peer.
    pub peer: SocketAddr,
    /// When it was established.
    pub since: Ktime,
    /// How long no byte has gone either way. `None`: unknown.
    pub silent: Option<Duration>,
}

impl Sampler {
    /// Calls `each` for each open connection of a service, except those that are older than the counting.
    ///
    /// # Errors
    ///
    /// The tables cannot be walked: unknown.
    pub fn each_client(&mut self, slot: Slot, mut each: impl FnMut(Connection)) -> Result<()> {
        let what = "read the open connections";
        self.set_gate_bits(slot, GATE_LISTED, GATE_LISTED)
            .context(what)?;
        log::debug!("walking the host's socket tables: clients");
        let tick = clock::tick();
        let walked = self.kernel.iterate("clients").and_then(|from| {
            decode::clients(from, |client| {
                if client.slot == slot.0 {
                    each(connection(&client, tick));
                }
            })
        });
        self.set_gate_bits(slot, GATE_LISTED, 0).context(what)?;
        walked.context(what)
    }
}

fn connection(client: &Client, tick: Duration) -> Connection {
    let port = u16::try_from(client.port).unwrap_or_default();
    // It may have begun within a tick.
    let ticks = client.silent.saturating_sub(1);
    Connection {
        leg: client.leg,
        peer: SocketAddr::new(address_of(client.address), port),
        since: Ktime::from_nanos(client.since),
        silent: (client.silent != NO_TICKS).then(|| tick * ticks),
    }
}
