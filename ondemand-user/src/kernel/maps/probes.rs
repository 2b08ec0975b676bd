//! The agent's own connections to an application, which ask whether it is ready: they are no clients, and the kernel
//! does not count them.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use ondemand_core::{
    measure::{Ktime, sample::Slot},
    probing::ATTEMPT,
};
use ondemand_ebpf::{GATE_PROBED, Sender};

use super::{Sampler, watchlist::address_words};

impl Sampler {
    /// Does not count a connection between these ends that is made soon.
    ///
    /// # Errors
    ///
    /// A map cannot be written: it would be counted.
    pub fn mark_probe(
        &mut self,
        slot: Slot,
        from: SocketAddr,
        to: SocketAddr,
        now: Ktime,
    ) -> Result<()> {
        let until = now + ATTEMPT;
        self.set_gate_bits(slot, GATE_PROBED, GATE_PROBED)
            .and_then(|()| Ok(self.probes.insert(sender(from, to), until.as_nanos(), 0)?))
            .context("mark a connection as the agent's own")
    }

    /// Forgets it: its end may be a client's next.
    pub fn unmark_probe(&mut self, from: SocketAddr, to: SocketAddr) {
        // It may have made room for others by now, and expires by itself.
        let _ = self.probes.remove(&sender(from, to));
    }
}

fn sender(from: SocketAddr, to: SocketAddr) -> Sender {
    Sender {
        address: address_words(from.ip()),
        port: from.port(),
        to: to.port(),
    }
}
