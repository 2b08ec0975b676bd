//! The only reader of the kernel's maps: turns them into samples and snapshots.

pub mod catching;
pub mod clients;
pub mod datagrams;
pub(crate) mod decode;
pub mod events;
mod networks;
mod probes;
pub(crate) mod snapshot;
pub mod watch;
mod watchlist;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::Rc,
};

use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, HashMap as BpfHashMap, LpmTrie, Map, MapData, MapError, RingBuf};
use catching::Catching;
use datagrams::Datagrams;
use ondemand_core::measure::{
    Ktime,
    sample::{Leg, Sample, Slot, Snapshot},
};
use ondemand_ebpf::{
    Alarm, Counters, Endpoint, GATE_ADMIT, GATE_CATCH, GATE_ENDED, GATE_OPEN, GATE_WAKE, INET,
    INET6, KeepAlive, LEG_BACK, LEG_FRONT, LEG_IGNORED, LEG_STEERED, MAX_PORTS, MAX_SERVICES, Name,
    Network, Owner, Sender, SocketRecord, UnitName, listener_place, present_place,
};
use tokio::io::unix::AsyncFd;
use watch::Written;
use watchlist::Addresses;

use crate::{
    host::clock,
    kernel::{ADOPT_FRONTS, ADOPT_UDP, Kernel, catchers::RawSockets},
};

/// Reads the maps.
pub struct Sampler {
    kernel: Kernel,
    taken_over: bool,
    ports: Array<MapData, u32>,
    endpoints: BpfHashMap<MapData, Endpoint, Owner>,
    counters: Array<MapData, Counters>,
    alarms: Array<MapData, Alarm>,
    users: Array<MapData, u32>,
    keepalives: Array<MapData, KeepAlive>,
    gates: Array<MapData, u64>,
    networks: LpmTrie<MapData, Network, u32>,
    /// The cookies of the sockets in it.
    listeners: Array<MapData, u64>,
    /// The numbers of listeners of applications that keep their addresses.
    present: Array<MapData, u64>,
    units: BpfHashMap<MapData, UnitName, u32>,
    names: Array<MapData, Name>,
    events: AsyncFd<RingBuf<MapData>>,
    /// Services of which a listener was closed: others are still to be searched for.
    unlistened: BTreeSet<Slot>,
    /// Every slot ever assigned, with its owner's name.
    known: BTreeMap<Slot, String>,
    watched: BTreeMap<Slot, Addresses>,
    /// What the maps of the configuration have. `None`: unknown.
    written: Option<Written>,
    older: HashMap<Slot, u64>,
    /// The counts of refused listeners, as of the last query.
    refused: HashMap<Slot, u64>,
    /// `None`: no client is held.
    catching: Option<Catching>,
    /// `None`: no datagram is held.
    datagrams: Option<Datagrams>,
    /// Whether there were services with datagrams at the last search for bound sockets.
    had_sockets: bool,
    /// The agent's own connections that ask whether an application is ready.
    probes: BpfHashMap<MapData, Sender, u64>,
}

impl Sampler {
    /// Opens the maps. Must be called inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// A map cannot be opened or read.
    pub fn new(kernel: Kernel) -> Result<Self> {
        let names: Array<_, Name> = Array::try_from(kernel.map("NAMES")?)?;
        let known = read_names(&names)?;
        let events = RingBuf::try_from(kernel.map("EVENTS")?)?;
        Ok(Self {
            ports: Array::try_from(kernel.map("PORTS")?)?,
            endpoints: BpfHashMap::try_from(kernel.map("ENDPOINTS")?)?,
            counters: Array::try_from(kernel.map("COUNTERS")?)?,
            alarms: Array::try_from(kernel.map("ALARMS")?)?,
            users: Array::try_from(kernel.map("USERS")?)?,
            keepalives: Array::try_from(kernel.map("KEEPALIVES")?)?,
            gates: Array::try_from(kernel.map("GATES")?)?,
            networks: LpmTrie::try_from(kernel.map("NETWORKS")?)?,
            listeners: listeners(kernel.map("LISTENERS")?)?,
            present: Array::try_from(kernel.map("PRESENT")?)?,
            units: BpfHashMap::try_from(kernel.map("UNITS")?)?,
            names,
            probes: BpfHashMap::try_from(kernel.map("PROBES")?)?,
            // SAFETY: it owns its descriptor, which stays the same for its lifetime.
            events: unsafe { AsyncFd::register(events) }.context("watch the event buffer")?,
            unlistened: BTreeSet::new(),
            kernel,
            taken_over: !known.is_empty(),
            known,
            watched: BTreeMap::new(),
            written: None,
            older: HashMap::new(),
            refused: HashMap::new(),
            catching: None,
            datagrams: None,
            had_sockets: false,
        })
    }

    /// Begins to hold clients, for the services whose gate says so.
    ///
    /// # Errors
    ///
    /// Why no client is held.
    pub fn begin_catching(&mut self, raw: Rc<RawSockets>) -> Result<()> {
        if self.no_steering().is_some() {
            bail!("connections cannot be steered");
        }
        self.catching = Some(Catching::begin(&self.kernel, raw)?);
        Ok(())
    }

    /// What holds clients.
    pub fn catching(&mut self) -> Option<&mut Catching> {
        self.catching.as_mut()
    }

    /// Finds listeners, and bound sockets of UDP, that are older than the watch, or that were made by a user that was not known.
    fn adopt_listeners(&mut self) -> Result<()> {
        self.records("adopt")?;
        let has_sockets = |watched: &Addresses| !watched.datagrams.is_empty();
        let has_sockets = self.watched.values().any(has_sockets);
        // Those of services that are gone are forgotten.
        if self.kernel.has_datagrams && (has_sockets || self.had_sockets) {
            self.records(ADOPT_UDP)?;
            if self.kernel.lines_up() {
                self.records(ADOPT_FRONTS)?;
            }
        }
        self.had_sockets = has_sockets;
        Ok(())
    }

    /// Whether datagrams can be held on this host, if somebody does it.
    pub fn has_datagrams(&self) -> bool {
        self.kernel.has_datagrams
    }

    /// Whether clients can be held.
    pub fn can_catch(&self) -> bool {
        self.catching.is_some()
    }

    /// Ends it: from now on all clients go to the front sockets. Returns what sends the packets of the last ones.
    pub fn end_catching(&mut self) -> Option<Catching> {
        let mut catching = self.catching.take()?;
        catching.close();
        Some(catching)
    }

    /// Sets whether clients are held while the gate is closed.
    ///
    /// # Errors
    ///
    /// The map cannot be written.
    pub fn set_catch(&mut self, slot: Slot, catch: bool) -> Result<()> {
        self.set_gate_bits(slot, GATE_CATCH, if catch { GATE_CATCH } else { 0 })
            .with_context(|| format!("set whether the clients of slot {} are held", slot.0))
    }

    /// Lets the next connection pass the closed gate.
    ///
    /// # Errors
    ///
    /// The map cannot be written.
    pub fn pass_one(&mut self, slot: Slot) -> Result<()> {
        match &mut self.catching {
            Some(catching) => catching.pass(slot, true),
            None => Ok(()),
        }
    }

    /// Whether an earlier agent watched services, so that they were counted all the time.
    pub fn taken_over(&self) -> bool {
        self.taken_over
    }

    /// Why connections cannot be steered on this host. `None`: they can.
    pub fn no_steering(&self) -> Option<&str> {
        self.kernel.no_steering.as_deref()
    }

    /// Fails if the kernel no longer counts, or if the next agent would not find the counters.
    ///
    /// # Errors
    ///
    /// Names what is missing.
    pub fn check(&self) -> Result<()> {
        self.kernel.check()
    }

    /// Reads one service's counters. The cost does not depend on the number of connections.
    ///
    /// # Errors
    ///
    /// The maps cannot be read: the service's use is unknown.
    pub fn sample(&self, slot: Slot) -> Result<Sample> {
        let counters = self.read_counters(slot)?;
        let leg = |index: u32| {
            let index = index as usize;
            Leg {
                accepted: counters.accepted[index],
                closed: counters.closed[index],
                received_bytes: counters.received_bytes[index],
                sent_bytes: counters.sent_bytes[index],
            }
        };
        let moment = |nanos: u64| (nanos != 0).then(|| Ktime::from_nanos(nanos));
        Ok(Sample {
            at: clock::now(),
            front: leg(LEG_FRONT),
            steered: leg(LEG_STEERED),
            back: leg(LEG_BACK),
            ignored: leg(LEG_IGNORED),
            refused: counters.refused,
            older: self.older.get(&slot).copied().unwrap_or(0),
            last_activity: moment(counters.last_change.max(counters.last_datagram)),
            last_open: moment(counters.last_open),
            lookups: counters.lookups,
            last_lookup: moment(counters.last_lookup),
            served: moment(counters.served),
            datagrams: counters.datagrams,
            refused_datagrams: counters.refused_datagrams,
        })
    }

    /// Adds the bytes that open connections have transferred so far to the counters. It walks the
    /// kernel's socket tables.
    ///
    /// # Errors
    ///
    /// The tables cannot be walked: bytes of open connections are added when they close.
    pub fn add_open_bytes(&mut self) -> Result<()> {
        self.records("bytes").map(drop)
    }

    /// Counts as closed the connections that the ended run of an application has left to the kernel. It
    /// walks the kernel's socket tables.
    ///
    /// # Errors
    ///
    /// The tables cannot be walked: they count as open until the kernel gives up.
    pub fn end_run(&mut self, slot: Slot) -> Result<()> {
        self.set_gate_bits(slot, GATE_ENDED, GATE_ENDED)?;
        let walked = self.records("orphans");
        self.set_gate_bits(slot, GATE_ENDED, 0)?;
        walked.map(drop)
    }

    fn read_counters(&self, slot: Slot) -> Result<Counters> {
        self.counters
            .get(&slot.0, 0)
            .with_context(|| format!("read the counters of slot {}", slot.0))
    }

    /// Walks the kernel's socket tables. Updates [`Sample::older`].
    ///
    /// # Errors
    ///
    /// The tables cannot be read: the sockets are unknown.
    pub fn snapshot(&mut self) -> Result<Snapshot> {
        let records = self.records("snapshot")?;
        let table = watchlist::endpoints(self.kernel.netns, &self.watched);
        let snapshot = snapshot::summarize(
            &records,
            |endpoint| table.get(endpoint).copied(),
            self.kernel.netns,
        );
        self.older = snapshot
            .sockets
            .iter()
            .filter(|(_, sockets)| sockets.older > 0)
            .map(|(slot, sockets)| (*slot, sockets.older))
            .collect();
        Ok(snapshot)
    }

    fn records(&mut self, iterator: &str) -> Result<Vec<SocketRecord>> {
        let what = || format!("read the sockets ({iterator})");
        log::debug!("walking the host's socket tables: {iterator}");
        decode::records(self.kernel.iterate(iterator)?).with_context(what)
    }

    /// Sets whether new connections to the front address are steered to the backend.
    ///
    /// # Errors
    ///
    /// The map cannot be written.
    pub fn set_gate(&mut self, slot: Slot, open: bool) -> Result<()> {
        if let Some(catching) = &mut self.catching {
            catching.pass(slot, false)?;
        }
        let what = if open { "open" } else { "close" };
        self.set_gate_bits(slot, GATE_OPEN, if open { GATE_OPEN } else { 0 })
            .with_context(|| format!("{what} the gate of slot {}", slot.0))
    }

    /// Whether new connections to the front address are steered to the backend.
    ///
    /// # Errors
    ///
    /// The map cannot be read.
    pub fn is_gate_open(&self, slot: Slot) -> Result<bool> {
        Ok(self.gates.get(&slot.0, 0)? & GATE_OPEN != 0)
    }

    /// Sets whether clients that may not start the service are served.
    ///
    /// # Errors
    ///
    /// The map cannot be written.
    pub fn set_admission(&mut self, slot: Slot, admits: bool) -> Result<()> {
        self.set_gate_bits(slot, GATE_ADMIT, if admits { GATE_ADMIT } else { 0 })
            .with_context(|| format!("set the admission of slot {}", slot.0))
    }

    /// Takes the admission back of every service that has a list of those who may start it: with no agent
    /// nothing else would when the service stops.
    ///
    /// # Errors
    ///
    /// The map cannot be written.
    pub fn end_admission(&mut self) -> Result<()> {
        end_admission(&mut self.gates)
    }

    /// Only the agent writes gates, so nothing can happen between the read and the write.
    fn set_gate_bits(&mut self, slot: Slot, mask: u64, bits: u64) -> Result<()> {
        let before = self.gates.get(&slot.0, 0)?;
        Ok(self.gates.set(slot.0, (before & !mask) | bits, 0)?)
    }

    /// Trusts listeners of this user at the backend's address, besides root's, and finds them.
    ///
    /// # Errors
    ///
    /// The map cannot be written, or the sockets cannot be read: the proxy serves.
    pub fn trust(&mut self, slot: Slot, user: u32) -> Result<()> {
        self.users
            .set(slot.0, user, 0)
            .context("write the application's user")?;
        self.adopt_listeners()
    }

    /// Whether the service has a listener that connections can be steered to, or if its application keeps its
    /// addresses, one at each of their ports.
    ///
    /// # Errors
    ///
    /// The map cannot be read.
    pub fn is_steerable(&self, slot: Slot) -> Result<bool> {
        let ports = self.watched.get(&slot).map(Addresses::ports);
        let ports = ports.unwrap_or_default().len() as u32;
        if ports > 0 {
            return self.is_present(slot, ports);
        }
        for family in [INET, INET6] {
            match self.listeners.get(&listener_place(slot.0, family), 0) {
                Ok(_) => return Ok(true),
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error).context("read the listeners"),
            }
        }
        Ok(false)
    }

    /// Whether an application that keeps its addresses listens at each of this number of ports.
    fn is_present(&self, slot: Slot, ports: u32) -> Result<bool> {
        for port in 0..ports.min(MAX_PORTS) {
            if !self.is_present_at(slot, port)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The same of one port, by its place.
    fn is_present_at(&self, slot: Slot, port: u32) -> Result<bool> {
        let mut found = false;
        for family in [INET, INET6] {
            let count = self.present.get(&present_place(slot.0, port, family), 0);
            found |= count.context("count the listeners")? as i64 > 0;
        }
        Ok(found)
    }

    /// Whether, since the last query, a listener of this backend was found that connections cannot be
    /// steered to.
    ///
    /// # Errors
    ///
    /// The map cannot be read.
    pub fn was_refused(&mut self, slot: Slot) -> Result<bool> {
        let refused = self.read_counters(slot)?.listener_errors;
        let before = self.refused.insert(slot, refused);
        Ok(before.is_some_and(|before| before < refused))
    }

    /// Requests one [`KernelEvent::Opened`], and the [`KernelEvent::Answered`] after it.
    ///
    /// # Errors
    ///
    /// The map cannot be written.
    pub fn arm_opened(&mut self, slot: Slot) -> Result<()> {
        self.arm(slot, |alarm| (alarm.opened, alarm.answered) = (1, 1))
    }

    /// Requests one [`KernelEvent::Closed`].
    ///
    /// # Errors
    ///
    /// The map cannot be written.
    pub fn arm_closed(&mut self, slot: Slot) -> Result<()> {
        self.arm(slot, |alarm| alarm.closed = 1)
    }

    /// Requests one [`KernelEvent::Accepted`].
    ///
    /// # Errors
    ///
    /// The map cannot be written.
    pub fn arm_accepted(&mut self, slot: Slot) -> Result<()> {
        self.arm(slot, |alarm| alarm.accepted = 1)
    }

    fn arm(&mut self, slot: Slot, change: impl Fn(&mut Alarm)) -> Result<()> {
        let what = || format!("request an event of slot {}", slot.0);
        let mut alarm = self.alarms.get(&slot.0, 0).with_context(what)?;
        change(&mut alarm);
        self.alarms.set(slot.0, alarm, 0).with_context(what)
    }
}

/// The same for an agent that has ended without doing it.
///
/// # Errors
///
/// An agent runs, the programs are not loaded, or the map cannot be written.
pub fn end_admission_of_the_last(kernel: &Kernel) -> Result<()> {
    end_admission(&mut Array::try_from(kernel.map("GATES")?)?)
}

fn end_admission(gates: &mut Array<MapData, u64>) -> Result<()> {
    for slot in 0..MAX_SERVICES {
        let what = || format!("end the admission of slot {slot}");
        let gate = gates.get(&slot, 0).with_context(what)?;
        if gate & (GATE_WAKE | GATE_ADMIT) == GATE_WAKE | GATE_ADMIT {
            gates.set(slot, gate & !GATE_ADMIT, 0).with_context(what)?;
        }
    }
    Ok(())
}

/// Opens a map of sockets as an array of their cookies, which it is for user space; aya's own type
/// can only list all places, empty or not.
fn listeners(map: Map) -> Result<Array<MapData, u64>> {
    let Map::SockMap(data) = map else {
        bail!("LISTENERS is not a map of sockets");
    };
    Ok(Array::try_from(Map::Array(data))?)
}

fn read_names(names: &Array<MapData, Name>) -> Result<BTreeMap<Slot, String>> {
    let mut known = BTreeMap::new();
    for slot in 0..MAX_SERVICES {
        let Name(bytes) = names
            .get(&slot, 0)
            .context("read the names of the services")?;
        known.extend(decode::name(&bytes).map(|name| (Slot(slot), name)));
    }
    Ok(known)
}
