//! Holds clients: their packets come from a ring buffer, and are sent again.

use std::{net::TcpListener, rc::Rc};

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap as BpfHashMap, MapData, RingBuf, SockMap};
use ondemand_core::{
    caught::{PATIENCE, Packet},
    measure::{Ktime, sample::Slot},
};
use ondemand_ebpf::{INET, INET6, MAX_SERVICES, SENDER_NS, Sender, catcher_place};
use tokio::io::unix::AsyncFd;

use super::{decode, watchlist::address_words};
use crate::{
    host::clock,
    kernel::{
        CAUGHT, Kernel,
        catchers::{self, RawSockets},
    },
};

/// Maximum number of packets that are taken at once.
const AT_ONCE: usize = 256;

/// What holds clients. While it exists, and no longer.
pub struct Catching {
    raw: Rc<RawSockets>,
    packets: AsyncFd<RingBuf<MapData>>,
    unread: Array<MapData, u64>,
    passes: Array<MapData, u64>,
    senders: BpfHashMap<MapData, Sender, u64>,
    /// Their places in the kernel's map are empty when they are closed.
    sockets: [Option<TcpListener>; 2],
}

impl Catching {
    /// Begins: from now on clients are held for the services whose gate says so.
    ///
    /// # Errors
    ///
    /// The kernel has no such filter, or a map cannot be opened: all clients go to the front sockets.
    pub(super) fn begin(kernel: &Kernel, raw: Rc<RawSockets>) -> Result<Self> {
        let filter = kernel.filter(CAUGHT)?;
        let mut passes = Array::try_from(kernel.map("PASSES")?)?;
        // An earlier agent may have died in between.
        for slot in 0..MAX_SERVICES {
            passes.set(slot, 0, 0).context("take back a permission")?;
        }
        let mut packets = RingBuf::try_from(kernel.map("CAUGHT")?)?;
        // Their clients have sent them again, to the front socket.
        while packets.next().is_some() {}
        let mut unread = Array::try_from(kernel.map("UNREAD")?)?;
        unread.set(0, 0, 0)?;
        let sockets = catchers::listeners().context("open the sockets that hold clients")?;
        let mut places = SockMap::try_from(kernel.map("CATCHERS")?)?;
        for (family, socket) in [INET, INET6].into_iter().zip(&sockets) {
            let Some(socket) = socket else { continue };
            filter.attach(socket).context("filter a socket")?;
            places
                .set(catcher_place(family), socket, 0)
                .context("put a socket into the map CATCHERS")?;
        }
        Ok(Self {
            raw,
            // SAFETY: it owns its descriptor, which stays the same for its lifetime.
            packets: unsafe { AsyncFd::register(packets) }.context("watch the packets")?,
            unread,
            passes,
            senders: BpfHashMap::try_from(kernel.map("SENDERS")?)?,
            sockets,
        })
    }

    /// No client is held any more; packets can still be sent.
    pub(super) fn close(&mut self) {
        self.sockets = [None, None];
    }

    /// Waits for packets and takes them. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Vec<(Packet, Ktime)>> {
        loop {
            let mut guard = self
                .packets
                .readable_mut()
                .await
                .context("wait for packets of clients")?;
            let mut packets = Vec::new();
            let ring = guard.get_inner_mut();
            let mut is_empty = false;
            for _ in 0..AT_ONCE {
                let Some(item) = ring.next() else {
                    is_empty = true;
                    break;
                };
                packets.extend(decode::caught(&item));
            }
            if is_empty {
                self.unread.set(0, 0, 0)?;
                guard.clear_ready();
            }
            if !packets.is_empty() {
                return Ok(packets);
            }
        }
    }

    /// Lets one connection pass a closed gate, or takes that back.
    pub(super) fn pass(&mut self, slot: Slot, one: bool) -> Result<()> {
        let what = "let one connection pass";
        self.passes.set(slot.0, u64::from(one), 0).context(what)
    }

    /// Sends a packet again: to the application if the gate is open or one may pass, else to the front socket. No
    /// client is held twice: where what is sent is lost, as in a firewall, the one that the client itself sends
    /// after a second must be answered.
    ///
    /// # Errors
    ///
    /// The kernel refuses it; the client sends it again by itself.
    pub fn send(&mut self, packet: &Packet) -> Result<()> {
        let sender = Sender {
            address: address_words(packet.from.ip()),
            port: packet.from.port(),
            to: packet.to.port(),
        };
        let until = clock::now().as_nanos() + SENDER_NS;
        self.senders
            .insert(sender, until, 0)
            .context("send a client to the front socket")?;
        Ok(self.raw.send(packet.to, packet.device, &packet.to_send())?)
    }
}

const _: () = assert!(PATIENCE.as_nanos() <= ondemand_ebpf::UNREAD_NS as u128);
