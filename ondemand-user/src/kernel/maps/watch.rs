//! Writes the watched services to the programs' maps: addresses and lists of clients.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context as _, Result, bail};
use aya::maps::lpm_trie::Key;
use ondemand_core::{
    config::{self, Service},
    measure::sample::Slot,
};
use ondemand_ebpf::{
    Counters, Endpoint, GATE_BYTES, GATE_IGNORE, GATE_OWN, GATE_WAKE, KeepAlive, MAX_NAME,
    MAX_SERVICES, Name, Network, Owner, UNIT_NAME, UnitName,
};

use nix::unistd::Gid;

use super::{
    Sampler,
    networks::{self, Lists},
    watchlist::{self, Addresses},
};
use crate::kernel::{Kernel, pins::InUse};

/// What the maps of the configuration have, so that a change costs what it is about: nobody else writes them.
#[derive(Default)]
pub(super) struct Written {
    endpoints: HashMap<Endpoint, Owner>,
    ports: BTreeMap<u32, u32>,
    keepalives: HashMap<Slot, KeepAlive>,
    lists: Lists,
    units: HashMap<UnitName, u32>,
}

/// The bits of a gate that the configuration says.
const CONFIGURED: u64 = GATE_WAKE | GATE_IGNORE | GATE_OWN | GATE_BYTES;

/// Watches the services as the next agent will, so that applications that keep their addresses are started by their
/// clients until then. Does nothing while an agent runs. Must be called inside a tokio runtime, as root.
///
/// # Errors
///
/// The programs are not loaded, connections cannot be assigned, or a map cannot be written: these applications are out
/// of their clients' reach while they are down.
pub fn fill(group: Gid, services: &[&Service]) -> Result<()> {
    let kernel = match Kernel::open(group) {
        Err(error) if error.is::<InUse>() => return Ok(()),
        kernel => kernel?,
    };
    let keeps = services.iter().find(|service| service.own_address);
    if let Some(service) = services.iter().find(|service| service.has_datagrams())
        && kernel.no_steering.is_none()
        && !kernel.has_datagrams
    {
        bail!(
            "{} receives datagrams, and the programs that hold them are not loaded on this host",
            service.unit
        );
    }
    if let (Some(service), Some(why)) = (keeps, &kernel.no_steering) {
        bail!(
            "{} keeps its address, and on this host no program can start it for its clients: {why}",
            service.unit
        );
    }
    Sampler::new(kernel)?.watch(services).map(drop)
}

impl Sampler {
    /// Watches these services, keeps the counters of those known by name, and finds the listeners and
    /// connections that are older than the watch.
    ///
    /// # Errors
    ///
    /// There are too many services, or a map cannot be written.
    pub fn watch(&mut self, services: &[&Service]) -> Result<HashMap<String, Slot>> {
        let wanted: Vec<&str> = services
            .iter()
            .map(|service| service.name.as_str())
            .collect();
        let is_free = |slot| {
            self.read_counters(slot)
                .is_ok_and(|counters| counters.accepted == counters.closed)
        };
        let assigned =
            watchlist::assign_slots(&self.known, &wanted, is_free).with_context(|| {
                format!("more than {MAX_SERVICES} services are watched or connected")
            })?;
        // A map may be half written when something fails.
        let before = self.written.take();
        let mut written = Written::default();
        let mut is_other = before.is_none();
        let addresses_before = std::mem::take(&mut self.watched);
        let mut slots = HashMap::new();
        for (service, (slot, is_new)) in services.iter().zip(assigned) {
            if is_new {
                self.reset(slot, &service.name)?;
                is_other = true;
            }
            if !self.refused.contains_key(&slot) {
                let before = self.read_counters(slot)?.listener_errors;
                self.refused.insert(slot, before);
            }
            let times = service.keepalive.map(|times| KeepAlive {
                idle: times.idle,
                interval: times.interval,
                probes: times.probes,
            });
            let times = times.unwrap_or_default();
            let present = before.as_ref().and_then(|it| it.keepalives.get(&slot));
            if present != Some(&times) {
                self.keepalives
                    .set(slot.0, times, 0)
                    .context("write the times of TCP's keep-alive")?;
            }
            written.keepalives.insert(slot, times);
            let units = units(service).into_iter();
            written.units.extend(units.map(|unit| (unit, slot.0)));
            self.watched.insert(slot, addresses(service));
            slots.insert(service.name.clone(), slot);
        }
        written.lists = networks::table(services.iter().filter_map(|service| {
            let slot = slots.get(&service.name)?;
            Some((*slot, *service))
        }));
        // The gate of a slot with another owner has no bits.
        let present = before.as_ref().filter(|_| !is_other).map(|it| &it.lists);
        let is_same = present.is_some() && self.watched == addresses_before;
        self.write_networks(present, &written.lists)?;
        self.write_units(before.as_ref().map(|it| &it.units), &written.units)?;
        match before {
            Some(before) if is_same => {
                (written.endpoints, written.ports) = (before.endpoints, before.ports);
            }
            before => {
                written.endpoints = watchlist::endpoints(self.kernel.netns, &self.watched);
                written.ports = watchlist::port_words(&written.endpoints);
                self.write_endpoints(before.as_ref(), &written)?;
                self.adopt()?;
            }
        }
        self.written = Some(written);
        Ok(slots)
    }

    /// Assigns a slot to a new owner, with its counters at zero.
    fn reset(&mut self, slot: Slot, name: &str) -> Result<()> {
        let mut bytes = [0; MAX_NAME + 1];
        let Some(place) = bytes
            .get_mut(..name.len())
            .filter(|place| place.len() <= MAX_NAME)
        else {
            bail!("the service name {name} is longer than {MAX_NAME} bytes");
        };
        place.copy_from_slice(name.as_bytes());
        self.gates.set(slot.0, 0, 0)?;
        self.users.set(slot.0, 0, 0)?;
        self.counters.set(slot.0, Counters::default(), 0)?;
        self.refused.remove(&slot);
        self.names.set(slot.0, Name(bytes), 0)?;
        self.known.insert(slot, name.to_owned());
        Ok(())
    }

    /// Updates `ENDPOINTS` and `PORTS`: additions first, so that nothing that stays watched is missed
    /// for a moment, and a port before the last of its addresses, so that an agent that dies in between
    /// leaves no stale port.
    fn write_endpoints(&mut self, before: Option<&Written>, wanted: &Written) -> Result<()> {
        let present: Vec<Endpoint> = match before {
            Some(before) => before.endpoints.keys().copied().collect(),
            None => {
                let present = self.endpoints.keys().collect::<Result<_, _>>();
                present.context("read the watched addresses")?
            }
        };
        for (endpoint, owner) in &wanted.endpoints {
            if before.and_then(|it| it.endpoints.get(endpoint)) != Some(owner) {
                self.endpoints
                    .insert(endpoint, owner, 0)
                    .context("watch an address")?;
            }
        }
        let ports = wanted.endpoints.keys().chain(&present);
        let ports: BTreeSet<u32> = ports.map(|endpoint| endpoint.port).collect();
        for port in ports {
            let word = wanted.ports.get(&port).copied().unwrap_or(0);
            if before.map(|it| it.ports.get(&port).copied().unwrap_or(0)) != Some(word) {
                self.ports.set(port, word, 0).context("watch a port")?;
            }
        }
        for endpoint in present {
            if !wanted.endpoints.contains_key(&endpoint) {
                self.endpoints
                    .remove(&endpoint)
                    .context("stop watching an address")?;
            }
        }
        Ok(())
    }

    /// Updates `UNITS`.
    fn write_units(
        &mut self,
        before: Option<&HashMap<UnitName, u32>>,
        wanted: &HashMap<UnitName, u32>,
    ) -> Result<()> {
        if before == Some(wanted) {
            return Ok(());
        }
        for (unit, slot) in wanted {
            self.units
                .insert(unit, slot, 0)
                .context("write a service's units")?;
        }
        let present: Vec<UnitName> = self
            .units
            .keys()
            .collect::<Result<_, _>>()
            .context("read the services' units")?;
        for unit in present {
            if !wanted.contains_key(&unit) {
                self.units
                    .remove(&unit)
                    .context("remove a service's unit")?;
            }
        }
        Ok(())
    }

    /// Updates the lists of clients: additions first and removals last, so that an address that stays
    /// in a list is never missing from it.
    fn write_networks(&mut self, before: Option<&Lists>, lists: &Lists) -> Result<()> {
        if before == Some(lists) {
            return Ok(());
        }
        let present: Vec<Key<Network>> = self
            .networks
            .keys()
            .collect::<Result<_, _>>()
            .context("read the lists of clients")?;
        for ((prefix, network), listed) in &lists.networks {
            self.networks
                .insert(&Key::new(*prefix, *network), u32::from(*listed), 0)
                .context("write a list of clients")?;
        }
        let known: Vec<Slot> = self.known.keys().copied().collect();
        for slot in known {
            let bits = lists.bits.get(&slot).copied().unwrap_or(0);
            self.set_gate_bits(slot, CONFIGURED, bits)
                .context("write which lists of clients exist")?;
        }
        for key in present {
            if !lists.networks.contains_key(&(key.prefix_len(), key.data())) {
                self.networks
                    .remove(&key)
                    .context("remove from a list of clients")?;
            }
        }
        Ok(())
    }

    /// Tags listeners that are older than the watch, then counts such connections.
    fn adopt(&mut self) -> Result<()> {
        self.adopt_listeners()?;
        self.snapshot()?;
        Ok(())
    }
}

fn addresses(service: &Service) -> Addresses {
    let tcp = |endpoint: &config::Endpoint| match endpoint {
        config::Endpoint::Tcp(address) => Some(*address),
        config::Endpoint::Udp(_) | config::Endpoint::Unix(_) => None,
    };
    let udp = |endpoint: &config::Endpoint| match endpoint {
        config::Endpoint::Udp(address) => Some(*address),
        config::Endpoint::Tcp(_) | config::Endpoint::Unix(_) => None,
    };
    Addresses {
        front: service.front.iter().filter_map(tcp).collect(),
        backend: tcp(&service.backend).filter(|_| !service.own_address),
        own: match service.own_address {
            true => service.listen.iter().filter_map(tcp).collect(),
            false => Vec::new(),
        },
        datagrams: service.datagrams().collect(),
        datagram_fronts: service.front.iter().filter_map(udp).collect(),
    }
}

/// The units of a service.
fn units(service: &Service) -> Vec<UnitName> {
    let names = service.unit_names();
    let names = [names.backend, names.proxy].into_iter();
    let key = |name: String| {
        let mut key = [0; UNIT_NAME];
        // The last byte stays zero, as the kernel's program has it.
        let len = name.len().min(UNIT_NAME - 1);
        key[..len].copy_from_slice(&name.as_bytes()[..len]);
        UnitName(key)
    };
    names.map(key).collect()
}
