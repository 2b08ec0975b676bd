//! Holds datagrams: they come from a ring buffer, and are sent again.

use std::{net::UdpSocket, os::fd::OwnedFd, rc::Rc};

use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, MapData, RingBuf, SockMap};
use ondemand_core::{
    caught::Datagram,
    measure::{Ktime, sample::Slot},
};
use ondemand_ebpf::{GATE_DRAIN, GATE_HOLD, GATE_PASS, INET, INET6, MAX_PORTS, datagram_place};
use tokio::io::unix::AsyncFd;

use super::{Sampler, decode};
use crate::kernel::{
    ADOPT_UDP, Kernel,
    catchers::{self, RawSockets},
};

/// Maximum number of datagrams that are taken at once.
const AT_ONCE: usize = 256;

/// What holds datagrams. While it exists, and no longer.
pub struct Datagrams {
    raw: Rc<RawSockets>,
    ring: AsyncFd<RingBuf<MapData>>,
    unread: Array<MapData, u64>,
    /// Their places in the kernel's map are empty when they are closed.
    sockets: [Option<UdpSocket>; 2],
}

/// What becomes of the datagrams of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Nothing is done with them.
    Ordinary,
    /// They are held.
    Held,
    /// Those that were held are sent to the application, and the others are held behind them.
    Drained,
    /// They pass to the application.
    Passed,
}

impl Datagrams {
    fn begin(kernel: &Kernel, raw: Rc<RawSockets>) -> Result<Self> {
        let filter = kernel.filter("datagram")?;
        let mut ring = RingBuf::try_from(kernel.map("DATAGRAMS")?)?;
        // Nobody knows what has become of them since.
        while ring.next().is_some() {}
        let mut unread = Array::try_from(kernel.map("UNREAD")?)?;
        unread.set(1, 0, 0)?;
        let sockets =
            catchers::datagram_sockets().context("open the sockets that hold datagrams")?;
        let mut places = SockMap::try_from(kernel.map("CATCHERS")?)?;
        for (family, socket) in [INET, INET6].into_iter().zip(&sockets) {
            let Some(socket) = socket else { continue };
            filter.attach(socket).context("filter a socket")?;
            places
                .set(datagram_place(family), socket, 0)
                .context("put a socket into the map CATCHERS")?;
        }
        Ok(Self {
            raw,
            // SAFETY: it owns its descriptor, which stays the same for its lifetime.
            ring: unsafe { AsyncFd::register(ring) }.context("watch the datagrams")?,
            unread,
            sockets,
        })
    }

    /// No datagram is held any more.
    fn close(&mut self) {
        self.sockets = [None, None];
    }

    /// Waits for datagrams and takes them. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Vec<(Datagram, Ktime)>> {
        loop {
            let mut guard = self
                .ring
                .readable_mut()
                .await
                .context("wait for datagrams")?;
            let (datagrams, is_empty) = take(guard.get_inner_mut());
            if is_empty {
                self.unread.set(1, 0, 0)?;
                guard.clear_ready();
            }
            if !datagrams.is_empty() {
                return Ok(datagrams);
            }
        }
    }

    /// Those that are there.
    ///
    /// # Errors
    ///
    /// The map cannot be written.
    pub fn now(&mut self) -> Result<Vec<(Datagram, Ktime)>> {
        let (datagrams, is_empty) = take(self.ring.get_mut());
        if is_empty {
            // The kernel does not report again that there were some.
            self.unread.set(1, 0, 0)?;
        }
        Ok(datagrams)
    }

    /// Sends one again.
    ///
    /// # Errors
    ///
    /// The kernel refuses it.
    pub fn send(&self, datagram: &Datagram) -> Result<()> {
        let bytes = datagram.to_send();
        Ok(self.raw.send(datagram.to, datagram.device, &bytes)?)
    }
}

/// Those that an agent has not read that is gone.
///
/// # Errors
///
/// The map cannot be opened.
pub fn unread(kernel: &Kernel) -> Result<Vec<Datagram>> {
    let mut ring = RingBuf::try_from(kernel.map("DATAGRAMS")?)?;
    let mut all = Vec::new();
    loop {
        let (some, is_all) = take(&mut ring);
        all.extend(some.into_iter().map(|(datagram, _)| datagram));
        if is_all {
            return Ok(all);
        }
    }
}

/// Takes what is there, and returns whether that was all.
fn take(ring: &mut RingBuf<MapData>) -> (Vec<(Datagram, Ktime)>, bool) {
    let mut datagrams = Vec::new();
    for _ in 0..AT_ONCE {
        let Some(item) = ring.next() else {
            return (datagrams, true);
        };
        datagrams.extend(decode::datagram(&item));
    }
    (datagrams, false)
}

impl Sampler {
    /// Filters the sockets that see the packets of ICMP, for good: from now on they keep none. One that cannot be filtered is
    /// closed; then an error about a datagram that an application has sent counts as use.
    pub fn filter_errors(&self, raw: &mut RawSockets) {
        let filter = self.kernel.filter("icmp");
        for place in &mut raw.icmp {
            let Some(socket) = place.as_ref() else {
                continue;
            };
            let filtered = filter
                .as_ref()
                .map_err(|error| format!("{error:#}"))
                .and_then(|filter| {
                    let attached = filter.attach::<&OwnedFd>(socket);
                    attached.map_err(|error| error.to_string())?;
                    catchers::lock_filter(socket).map_err(|error| error.to_string())
                });
            if let Err(error) = filtered {
                log::debug!("errors of ICMP are not told from datagrams: {error}");
                *place = None;
            }
        }
    }

    /// Begins to hold datagrams, for the services whose gate says so.
    ///
    /// # Errors
    ///
    /// Why no datagram is held.
    pub fn begin_datagrams(&mut self, raw: Rc<RawSockets>) -> Result<()> {
        if !self.kernel.has_datagrams {
            bail!("the programs for them are not loaded");
        }
        // The kernel's program learns which process sends them again.
        self.records(ADOPT_UDP)?;
        self.datagrams = Some(Datagrams::begin(&self.kernel, raw)?);
        Ok(())
    }

    /// What holds datagrams.
    pub fn datagrams(&mut self) -> Option<&mut Datagrams> {
        self.datagrams.as_mut()
    }

    /// Whether datagrams are held.
    pub fn holds_datagrams(&self) -> bool {
        self.datagrams.is_some()
    }

    /// Ends it: from now on they take their usual way. Returns what sends the last ones.
    pub fn end_datagrams(&mut self) -> Option<Datagrams> {
        let mut datagrams = self.datagrams.take()?;
        datagrams.close();
        Some(datagrams)
    }

    /// Sets what becomes of the datagrams of a service.
    ///
    /// # Errors
    ///
    /// The map cannot be written.
    pub fn set_datagrams(&mut self, slot: Slot, way: Way) -> Result<()> {
        let bits = match way {
            Way::Ordinary => 0,
            Way::Held => GATE_HOLD,
            Way::Drained => GATE_HOLD | GATE_DRAIN,
            Way::Passed => GATE_HOLD | GATE_PASS,
        };
        self.set_gate_bits(slot, GATE_HOLD | GATE_DRAIN | GATE_PASS, bits)
            .with_context(|| format!("set the way of the datagrams of slot {}", slot.0))
    }

    /// The ports at which a service receives datagrams, and whether a socket is bound to each.
    ///
    /// # Errors
    ///
    /// The map cannot be read.
    pub fn bound_ports(&self, slot: Slot) -> Result<Vec<(u16, bool)>> {
        let watched = self.watched.get(&slot).into_iter();
        watched
            .flat_map(|addresses| addresses.datagram_ports())
            .filter(|(_, place)| *place < MAX_PORTS)
            .map(|(port, place)| Ok((port, self.is_present_at(slot, place)?)))
            .collect()
    }
}
