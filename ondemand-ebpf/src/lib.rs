//! Types shared by the kernel's programs and the agent: map keys and values, capacities, events.
//! All have a fixed layout without implicit padding, which the compiler checks on both sides.
//!
//! Any change of a type, a capacity or a meaning is a change of [`LAYOUT_VERSION`].
#![no_std]

/// The version of the maps' layout. It is part of the name of the pins' directory, so that an agent
/// never reads maps of another layout.
pub const LAYOUT_VERSION: u32 = 13;

/// Maximum number of services, and of slots in the maps.
pub const MAX_SERVICES: u32 = 1024;
/// Maximum number of watched addresses, including the wildcard aliases of backends.
pub const MAX_ENDPOINTS: u32 = 16_384;
/// Listening sockets that connections can be steered to: one per service and family.
pub const MAX_LISTENERS: u32 = 2 * MAX_SERVICES;
/// Maximum number of ports of one service whose application keeps its addresses.
pub const MAX_PORTS: u32 = 16;
/// Places of such ports, one per service, port and family ([`present_place`]).
pub const MAX_PRESENT: u32 = MAX_SERVICES * MAX_PORTS * 2;
/// Maximum number of networks in the lists of all services ([`Network`]).
pub const MAX_NETWORKS: u32 = 16_384;
/// Size of the event ring buffer in bytes.
pub const EVENTS_BYTES: u32 = 256 * 1024;
/// Size of the ring buffer of caught packets in bytes: 7,000 of them.
pub const CAUGHT_BYTES: u32 = 1024 * 1024;
/// Size of the ring buffer of caught datagrams in bytes.
pub const DATAGRAMS_BYTES: u32 = 4 * 1024 * 1024;
/// Maximum number of packets for one service that are caught in a second ([`Window`]), for which a client is held at
/// most. Those above go to the front socket; datagrams above are refused.
pub const MOST_OF_SERVICE: u64 = 4096;
/// The same for all services.
pub const MOST_CAUGHT: u64 = 8192;
/// Maximum number of the agent's own connections at a time that ask whether an application is ready.
pub const MAX_PROBES: u32 = 4 * MAX_SERVICES;
/// Maximum number of clients that are known to be at the front socket although others are held ([`Sender`]).
pub const MAX_SENDERS: u32 = 16_384;
/// Maximum number of connections of services to themselves that are being made ([`INSIDER_NS`]).
pub const MAX_INSIDERS: u32 = 16_384;
/// Maximum number of units that belong to services: the application and the proxy of each.
pub const MAX_UNITS: u32 = 2 * MAX_SERVICES;
/// Length of a unit's name with its final NUL, as the key of the map `UNITS`. A longer one is cut.
pub const UNIT_NAME: usize = 128;
/// Number of ports, and of words in the map of ports ([`PORT_WATCHED`]).
pub const PORTS: u32 = 65_536;

/// Bit of a port's word: the port is watched.
pub const PORT_WATCHED: u32 = 1 << 31;
/// Bit of a port's word: a front socket is bound to it.
pub const PORT_FRONT: u32 = 1 << 30;
/// Bit of a port's word: datagrams to it are watched.
pub const PORT_UDP: u32 = 1 << 29;
/// The low bits of a port's word: slot plus one of the front socket that alone is bound to the port
/// for IPv4, on the wildcard. The next bits, shifted by this number: the same for IPv6. Zero: there
/// is none, or the address decides ([`Endpoint`]).
pub const PORT_SLOT_BITS: u32 = 11;
const _: () = assert!(MAX_SERVICES < 1 << PORT_SLOT_BITS);
/// Maximum length of a service name in bytes, without the final NUL.
pub const MAX_NAME: usize = 63;

/// A watched address of one network namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The namespace's cookie (`SO_NETNS_COOKIE`, socket(7)).
    pub netns: u64,
    /// IPv6 address in network order; IPv4 as `::ffff:a.b.c.d`. The IPv4 wildcard is
    /// `::ffff:0.0.0.0`, the IPv6 wildcard `::`.
    pub address: [u32; 4],
    /// Port in host order.
    pub port: u32,
    /// [`STREAM`] or [`DATAGRAM`].
    pub protocol: u32,
}
const _: () = assert!(size_of::<Endpoint>() == 32);
/// [`Endpoint::protocol`] of TCP, and of all that has connections.
pub const STREAM: u32 = 0;
/// [`Endpoint::protocol`] of UDP: `IPPROTO_UDP`.
pub const DATAGRAM: u32 = 17;

/// The owner of the listener that binds an [`Endpoint`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The service's slot.
    pub slot: u32,
    /// [`ROLE_FRONT`], [`ROLE_BACKEND`] or [`ROLE_OWN`].
    pub role: u32,
    /// Of a [`ROLE_OWN`]: which of the service's ports it is, from 0 on.
    pub place: u32,
    /// One for a wildcard that is not configured, and may be bound in place of an address that is. Otherwise zero.
    pub alias: u32,
}
const _: () = assert!(size_of::<Owner>() == 16);

/// The front socket, held by PID 1.
pub const ROLE_FRONT: u32 = 1;
/// The application's own listener.
pub const ROLE_BACKEND: u32 = 2;
/// The same, made by a program that binds ports for others and may never accept a connection
/// ([`FORWARDERS`]). Only in a [`Tag`].
pub const ROLE_FORWARDER: u32 = 3;

/// The application's own listener at the address where its clients arrive: the service has no other ([`GATE_OWN`]).
pub const ROLE_OWN: u32 = 4;
/// A listener of the application's unit at an address that is not configured. Only in a [`Tag`].
pub const ROLE_OTHER: u32 = 5;

/// Programs that bind the published port of a container. Rootful podman accepts nothing there, since the
/// firewall leads the packets elsewhere. Names of processes (`comm`), cut to 15 bytes as the kernel does.
pub const FORWARDERS: [&str; 12] = [
    "podman",
    "conmon",
    "netavark",
    "dockerd",
    "docker-proxy",
    "nerdctl",
    "rootlessport",
    "slirp4netns",
    "passt",
    "pasta",
    "pasta.avx2",
    "socat",
];
/// Length of a process's name with its final NUL (`TASK_COMM_LEN`).
pub const COMM: usize = 16;

/// A connection to the front socket.
pub const LEG_FRONT: u32 = 0;
/// A client's connection to the application itself: it was steered to its listener, or arrived there ([`ROLE_OWN`],
/// [`ROLE_OTHER`]).
pub const LEG_STEERED: u32 = 1;
/// A connection to the backend's own address: the proxy's, or a client's. At a [`ROLE_OWN`]: the proxy's, or one of
/// the application itself.
pub const LEG_BACK: u32 = 2;
/// Like [`LEG_STEERED`], by a client whose use does not keep the service up ([`GATE_IGNORE`]).
pub const LEG_IGNORED: u32 = 3;
/// Number of legs.
pub const LEGS: u32 = 4;
/// A listener, not a connection.
pub const LEG_LISTENER: u32 = 4;
/// A connection of an earlier run of the application: its process is gone, and the kernel still tries to
/// deliver its last bytes. It was counted as closed.
pub const LEG_LEFT: u32 = 5;
/// A connection of the agent's own, which asks whether the application is ready ([`GATE_PROBED`]), or of the application
/// with itself ([`ROLE_OTHER`]). It is not counted.
pub const LEG_PROBE: u32 = 6;

/// Bit of a service's gate: new connections to the front address are steered to the backend.
pub const GATE_OPEN: u64 = 1 << 0;
/// Bit of a service's gate: the service is up, so clients that may not start it are served too.
pub const GATE_ADMIT: u64 = 1 << 1;
/// Bit of a service's gate: it has a list of clients that may start it.
pub const GATE_WAKE: u64 = 1 << 2;
/// Bit of a service's gate: it has a list of clients whose use does not keep it up.
pub const GATE_IGNORE: u64 = 1 << 3;
/// Bit of a service's gate: a run of the application has ended, and the iterator `orphans` counts what
/// it has left ([`LEG_LEFT`]).
pub const GATE_ENDED: u64 = 1 << 4;

/// Bit of a service's gate: while it is closed, clients are held if they may be ([`Caught`]).
pub const GATE_CATCH: u64 = 1 << 5;
/// Bit of a service's gate: the agent connects to the backend to see whether it is ready, from the ends in the map
/// `PROBES`.
pub const GATE_PROBED: u64 = 1 << 6;
/// Bit of a service's gate: the iterator `clients` lists its connections ([`Client`]).
pub const GATE_LISTED: u64 = 1 << 8;

/// Bit of a service's gate: the application keeps the address where clients arrive. While the gate is open, and it
/// listens in that family, nothing is done with a connection. Otherwise it is assigned to the front socket, which
/// listens at a private address.
pub const GATE_OWN: u64 = 1 << 7;

/// Bit of a service's gate: datagrams are held, unless one of the next two bits lets them pass. Without any of the three
/// nothing is done with them.
pub const GATE_HOLD: u64 = 1 << 9;
/// Bit of a service's gate: datagrams pass if the application has bound their port.
pub const GATE_PASS: u64 = 1 << 10;
/// Bit of a service's gate: the agent sends those again that were held. They pass in the same way, and the others are held
/// behind them.
pub const GATE_DRAIN: u64 = 1 << 11;

/// Bit of a service's gate: a connection is use from its client's first byte on; one that is closed before that was none.
pub const GATE_BYTES: u64 = 1 << 12;

/// A network in a list of a service: the data of a key of the map `NETWORKS`. The value of the
/// longest prefix of an address decides: 1 for listed and 0 for excepted.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    /// The service's slot.
    pub slot: u32,
    /// [`LIST_WAKE`] or [`LIST_IGNORE`].
    pub list: u32,
    /// As [`Endpoint::address`].
    pub address: [u32; 4],
}
const _: () = assert!(size_of::<Network>() == 24);
/// Bits of a [`Network`] before its address.
pub const NETWORK_BITS: u32 = 64;
/// Bits of a [`Network`] with the whole address.
pub const ADDRESS_BITS: u32 = NETWORK_BITS + 128;
/// Clients that may start a service.
pub const LIST_WAKE: u32 = 1;
/// Clients whose use does not keep a service up.
pub const LIST_IGNORE: u32 = 2;

/// The programs' data of a socket, in socket-local storage. Set on a listener; the accepted
/// sockets inherit a copy (`BPF_F_CLONE`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tag {
    /// The service's slot.
    pub slot: u32,
    /// The listener's role.
    pub role: u32,
    /// The leg it was counted on; [`LEG_LISTENER`] if it was not counted.
    pub leg: u32,
    /// The listener's port in host order.
    pub port: u32,
    /// The listener's address, as in [`Endpoint`].
    pub address: [u32; 4],
    /// Bytes received that were added to [`Counters`].
    pub received: u64,
    /// Bytes acknowledged by the peer that were added to [`Counters`].
    pub sent: u64,
    /// [`KeepAlive::idle`] that was set on the listener, which its connections inherit; zero: none.
    pub keepalive: u32,
    /// Of a listener with [`ROLE_OWN`]: the families for which it is counted in `PRESENT`, [`LISTENS_V4`] and
    /// [`LISTENS_V6`], and its [`Owner::place`], shifted by [`LISTENS_BITS`]. The same of a bound socket of UDP.
    pub listens: u32,
    /// When the connection was established, in nanoseconds of the coarse `CLOCK_MONOTONIC`. Of a listener, when listen(2) was called;
    /// zero: it is older than the programs, which no change of its state calls.
    pub since: u64,
}
const _: () = assert!(size_of::<Tag>() == 64);
/// Bit of [`Tag::listens`].
pub const LISTENS_V4: u32 = 1 << 0;
/// Bit of [`Tag::listens`].
pub const LISTENS_V6: u32 = 1 << 1;
/// Number of these bits.
pub const LISTENS_BITS: u32 = 2;

/// The counters of one service. Shared by all CPUs, changed by atomic additions only.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections closed, by leg. Placed before `accepted`: the kernel copies a value to user
    /// space in ascending order, so a reader never sees a close without its accept.
    pub closed: [u64; LEGS as usize],
    /// Connections established, by leg.
    pub accepted: [u64; LEGS as usize],
    /// Nanoseconds of the coarse `CLOCK_MONOTONIC`: the last connection that was established or
    /// closed, without [`LEG_IGNORED`]. With [`GATE_BYTES`]: the last one that was closed after its client had sent a byte.
    pub last_change: u64,
    /// The same clock: the last connection that was established, without [`LEG_IGNORED`]; of those of `last_change` with
    /// [`GATE_BYTES`].
    pub last_open: u64,
    /// Look-ups of the front address by arriving SYNs, without those of ignored clients.
    pub lookups: u64,
    /// The last look-up, on the same clock.
    pub last_lookup: u64,
    /// When a process was first seen to have accepted a connection of the backend's listener, of the run
    /// for which this was requested. Nanoseconds of `CLOCK_MONOTONIC`.
    pub served: u64,
    /// Backend listeners that could not be stored for steering.
    pub listener_errors: u64,
    /// Arriving SYNs that were refused because the service was down and their senders may not start
    /// it.
    pub refused: u64,
    /// Payload bytes received, by leg. TCP's own count, without retransmissions. The bytes of an open
    /// connection are added at its close, and when a reader requests them.
    pub received_bytes: [u64; LEGS as usize],
    /// Payload bytes sent and acknowledged, by leg.
    pub sent_bytes: [u64; LEGS as usize],
    /// Datagrams that passed to the application, as far as the kernel can tell: several that arrive as one packet (GSO) are
    /// one, and those of connected sockets are not seen. Without those of ignored clients.
    pub datagrams: u64,
    /// When the last one did, on the same clock.
    pub last_datagram: u64,
    /// Datagrams that were refused because the application was down and their senders may not start it.
    pub refused_datagrams: u64,
}
const _: () = assert!(size_of::<Counters>() == 208);

/// One end of a connection, and the port that it connects to. The key of the map `SENDERS`: clients that go to the front
/// socket while others are held. And of the map `PROBES`: connections that are not counted. The value is the moment
/// until when, in nanoseconds of `CLOCK_MONOTONIC`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sender {
    /// As in [`Endpoint`].
    pub address: [u32; 4],
    /// Its port, in host order.
    pub port: u16,
    /// The port that it connects to, in host order.
    pub to: u16,
}
const _: () = assert!(size_of::<Sender>() == 20);
/// How long a client goes to the front socket, in nanoseconds: a SYN is sent again after 1, 3 and 7 s.
pub const SENDER_NS: u64 = 10_000_000_000;
/// How long a connection of a service's own units passes a closed gate, in nanoseconds: until TCP gives up
/// (`net.ipv4.tcp_syn_retries`), unless it is established before.
pub const INSIDER_NS: u64 = 130_000_000_000;
/// The datagrams of a service that line up at its front sockets.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// Since when, in nanoseconds of the coarse `CLOCK_MONOTONIC`; zero: none does.
    pub since: u64,
    /// How many did.
    pub number: u64,
    /// How many had when the proxy said last that it had taken all.
    pub taken: u64,
}
const _: () = assert!(size_of::<Line>() == 24);
/// How long datagrams line up behind others at a front socket although the application has bound its port, in nanoseconds: a proxy
/// sends those on, or cannot run.
pub const LINED_UP_NS: u64 = 5_000_000_000;
/// How long an agent may leave packets in the ring buffer, in nanoseconds. After that clients go to the front
/// socket: it hangs, or is too slow.
pub const UNREAD_NS: u64 = 1_000_000_000;

/// Maximum length of a packet that is kept: the headers of a SYN with all of TCP's options, and a power of two.
pub const PACKET: usize = 128;

/// A packet that a catcher has taken from a client that is held, as it arrived.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caught {
    /// When, in nanoseconds of the coarse `CLOCK_MONOTONIC`.
    pub at: u64,
    /// The device that it came from.
    pub device: u32,
    /// Number of bytes in `packet`.
    pub len: u32,
    /// From the IP header on.
    pub packet: [u8; PACKET],
}
const _: () = assert!(size_of::<Caught>() == 144);

/// The head of a datagram that was caught. Its [`Datagram::len`] bytes follow, from the header of UDP on.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// When, in nanoseconds of the coarse `CLOCK_MONOTONIC`.
    pub at: u64,
    /// The device that it came from.
    pub device: u32,
    /// Number of bytes that follow.
    pub len: u32,
    /// The sender's address, as in [`Endpoint`].
    pub from: [u32; 4],
    /// The address that it was sent to.
    pub to: [u32; 4],
}
const _: () = assert!(size_of::<Datagram>() == 48);
/// Maximum numbers of bytes that follow, of which the smallest that suffices is reserved: up to the largest datagram. Powers of
/// two.
pub const DATAGRAM_SIZES: [usize; 3] = [512, 2048, 65_536];

/// The last error of ICMP that came on a CPU and is about a datagram of an application's own. The kernel looks up the socket
/// that it is for as if the datagram had come from where the error is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// When, in nanoseconds of the coarse `CLOCK_MONOTONIC`; zero: none.
    pub at: u64,
    /// Where the datagram was sent to, and from which port.
    pub about: Sender,
    /// Always zero.
    pub pad: u32,
}
const _: () = assert!(size_of::<IcmpError>() == 32);
/// For how long it may be the reason of a look-up, in nanoseconds: this follows at once, but the clock may tick.
pub const ICMP_NS: u64 = 10_000_000;

/// How many packets were caught in a second: by service, and in the last place of the map `WINDOWS` for all.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// When it began, in nanoseconds of the coarse `CLOCK_MONOTONIC`.
    pub since: u64,
    /// Packets since then.
    pub caught: u64,
}
const _: () = assert!(size_of::<Window>() == 16);
/// The length of a [`Window`], in nanoseconds.
pub const WINDOW_NS: u64 = 1_000_000_000;

/// The place of the socket in the map `CATCHERS` to which clients are assigned that are held: the agent's, which
/// vanishes with it.
#[inline(always)]
pub const fn catcher_place(family: u32) -> u32 {
    (family == INET6) as u32
}
/// The same for datagrams.
#[inline(always)]
pub const fn datagram_place(family: u32) -> u32 {
    2 + catcher_place(family)
}
/// Number of these places.
pub const MAX_CATCHERS: u32 = 4;

/// Events that the agent requests; the program clears a request when it sends the event.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Alarm {
    /// Not zero: report the next connection.
    pub opened: u64,
    /// Not zero: report when no connection is left.
    pub closed: u64,
    /// Not zero: report the first byte of the next client's response.
    pub answered: u64,
    /// Not zero: report when a process has accepted a connection of the backend's listener.
    pub accepted: u64,
}
const _: () = assert!(size_of::<Alarm>() == 32);

/// TCP's keep-alive of a service's connections, in seconds (tcp(7)). All zero: as the listener has it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeepAlive {
    /// `TCP_KEEPIDLE`
    pub idle: u32,
    /// `TCP_KEEPINTVL`
    pub interval: u32,
    /// `TCP_KEEPCNT`
    pub probes: u32,
}
const _: () = assert!(size_of::<KeepAlive>() == 12);

/// `AF_INET`
pub const INET: u32 = 2;
/// `AF_INET6`
pub const INET6: u32 = 10;

/// The place of a backend's listener in the map `LISTENERS`. Of a service's two places, the second is
/// for IPv6 connections (`family` is `AF_INET6`), the first for IPv4.
#[inline(always)]
pub const fn listener_place(slot: u32, family: u32) -> u32 {
    2 * slot + (family == INET6) as u32
}

/// The place of a port's listeners, or bound sockets of UDP, in the map `PRESENT`. `port`: [`Owner::place`].
pub const fn present_place(slot: u32, port: u32, family: u32) -> u32 {
    2 * (slot * MAX_PORTS + port) + (family == INET6) as u32
}

/// A message of the ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// One of the `EVENT_` constants.
    pub kind: u32,
    /// The service's slot.
    pub slot: u32,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub at: u64,
}
const _: () = assert!(size_of::<Event>() == 16);

/// A backend started to listen.
pub const EVENT_LISTENING: u32 = 1;
/// The first connection of a quiet service.
pub const EVENT_OPENED: u32 = 2;
/// The last connection closed.
pub const EVENT_CLOSED: u32 = 3;
/// A listener of the backend closed.
pub const EVENT_UNLISTENED: u32 = 4;
/// The first byte to a client was acknowledged.
pub const EVENT_ANSWERED: u32 = 5;
/// A socket of another user than root and the application's known one started to listen at a backend's
/// address: no connection is steered to it.
pub const EVENT_STRANGER: u32 = 6;
/// A process has accepted a connection of the backend's listener ([`Counters::served`]).
pub const EVENT_ACCEPTED: u32 = 7;
/// A program that binds ports for others started to listen ([`FORWARDERS`]): no connection is steered to it.
pub const EVENT_FORWARDER: u32 = 8;
/// A socket was bound where a service receives datagrams.
pub const EVENT_BOUND: u32 = 9;

/// One socket of a snapshot, in the iterators' format.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketRecord {
    /// The socket's [`Tag::slot`]; [`NO_SLOT`] for a socket without a tag.
    pub slot: u32,
    /// The socket's (for a half-open handshake: its listener's) [`Tag::role`].
    pub role: u32,
    /// [`Tag::leg`].
    pub leg: u32,
    /// TCP's state (`include/net/tcp_states.h`), 12 is `TCP_NEW_SYN_RECV`.
    pub state: u32,
    /// Local port in host order; of a half-open handshake: its listener's.
    pub port: u32,
    /// Address family.
    pub family: u32,
    /// Local address, as in [`Endpoint`]; of a half-open handshake: its listener's.
    pub address: [u32; 4],
}
const _: () = assert!(size_of::<SocketRecord>() == 40);

/// An open connection, in the format of the iterator `clients`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// [`Tag::slot`].
    pub slot: u32,
    /// [`Tag::leg`].
    pub leg: u32,
    /// The peer's address, as in [`Endpoint`].
    pub address: [u32; 4],
    /// Its port, in host order.
    pub port: u32,
    /// For how many ticks of the kernel (`jiffies`) no byte of payload went either way; [`NO_TICKS`]: unknown.
    pub silent: u32,
    /// [`Tag::since`].
    pub since: u64,
}
const _: () = assert!(size_of::<Client>() == 40);
/// [`Client::silent`] that is unknown.
pub const NO_TICKS: u32 = u32::MAX;

/// [`SocketRecord::slot`] of a socket without a tag.
pub const NO_SLOT: u32 = u32::MAX;

/// The identity of the maps. The only entry of the map `META`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// The watched network namespace.
    pub netns: u64,
    /// Always zero.
    pub reserved: u64,
}
const _: () = assert!(size_of::<Meta>() == 16);

/// A service's name, NUL-padded, by slot: the next agent finds its counters by it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name(pub [u8; MAX_NAME + 1]);

/// The name of a unit, which is that of its cgroup, NUL-padded: the key of the map `UNITS`. The value is the slot of
/// the service that it belongs to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UnitName(pub [u8; UNIT_NAME]);

#[cfg(feature = "user")]
mod pod {
    /// SAFETY: for all of them: `repr(C)`, integers only, no padding (see the assertions above), so
    /// any bytes are a value and every byte is initialised.
    macro_rules! pod {
        ($($type:ident),*) => { $(
            // SAFETY: see the macro's comment.
            unsafe impl aya::Pod for super::$type {}
        )* };
    }
    pod!(
        Alarm,
        Caught,
        Counters,
        Endpoint,
        Event,
        KeepAlive,
        Meta,
        Name,
        Network,
        Owner,
        Sender,
        SocketRecord,
        UnitName
    );
}
