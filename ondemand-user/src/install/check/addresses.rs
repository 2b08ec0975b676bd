//! Checks of a service's addresses: whether this host has them, and what listens there.

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    slice,
};

use anyhow::Result;
use nix::ifaddrs::getifaddrs;
use ondemand_core::config::{Endpoint, Service};

use super::{
    access,
    finding::Finding,
    forwarders::{self, Place},
    holders::{Holder, Sockets},
    native, own_address,
};
use crate::kernel::sockets::{listening::is_listening, sock_diag::TcpListener};

/// systemd's state of the units that listen; `None`: it does not answer.
#[derive(Clone, Debug, Default)]
pub struct Units {
    /// `ActiveState` of the front socket.
    pub front: Option<String>,
    /// `ActiveState` of the application's unit.
    pub backend: Option<String>,
    /// The cgroup of the application's unit, below the hierarchy's root.
    pub cgroup: Option<String>,
}

/// Checks the front addresses and the backend's.
pub fn look(service: &Service, units: &Units, sockets: &Sockets) -> Vec<Finding> {
    if let Err(error) = &sockets.listeners {
        return vec![Finding::unknown("listen", error)];
    }
    let mut found: Vec<_> = service
        .front
        .iter()
        .map(|endpoint| {
            front(endpoint, service, units.front.as_deref(), sockets)
                .unwrap_or_else(|error| Finding::unknown("listen", &error))
        })
        .collect();
    found.extend(access::look(service));
    found.extend(access::link(service));
    found.extend(access::owners(service));
    if service.activation.is_native() {
        found.extend(native::look(service, sockets));
        return found;
    }
    found.push(
        backend(service, units, sockets)
            .unwrap_or_else(|error| Finding::unknown("backend", &error)),
    );
    found
}

/// Why no socket can be bound to an address.
#[derive(Debug, PartialEq, Eq)]
enum Unusable {
    /// The host does not have it now: what to do if it never will.
    NotHere(String),
    /// The host cannot have it: the reason, and what to do.
    Never(String, String),
}

/// Why no socket can be bound to an address here; `None`: one can.
///
/// The kernel decides, since the addresses of interfaces are not enough: all of 127.0.0.0/8, local
/// routes, `ip_nonlocal_bind`.
fn unusable(ip: IpAddr) -> Option<Unusable> {
    let error = UdpSocket::bind((ip, 0)).err()?;
    Some(match error.kind() {
        io::ErrorKind::AddrNotAvailable => Unusable::NotHere(format!(
            "use one of its own: {}",
            own_addresses(ip.is_ipv4())
        )),
        // EAFNOSUPPORT has no ErrorKind.
        _ => Unusable::Never(
            format!("{ip} cannot be used on this host: {error}"),
            "its address family may be disabled (ipv6.disable=1): then remove it".into(),
        ),
    })
}

/// The same, asked once for each address.
fn unusable_now(ip: IpAddr, sockets: &Sockets) -> Option<Unusable> {
    if sockets.usable.borrow().contains(&ip) {
        return None;
    }
    let why = unusable(ip);
    if why.is_none() {
        sockets.usable.borrow_mut().insert(ip);
    }
    why
}

/// The addresses of the interfaces, for a message.
fn own_addresses(v4: bool) -> String {
    let mut all: Vec<IpAddr> = getifaddrs()
        .into_iter()
        .flatten()
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|it| IpAddr::V4(it.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|it| IpAddr::V6(it.ip())))
        })
        .filter(|ip| ip.is_ipv4() == v4)
        .collect();
    all.push(if v4 { [0; 4].into() } else { [0_u16; 8].into() });
    all.dedup();
    let all: Vec<_> = all.iter().map(ToString::to_string).collect();
    all.join(", ")
}

/// Whether a front socket (`BindIPv6Only=ipv6-only`) cannot be bound because of `listener`.
fn blocks(listener: &TcpListener, front: &SocketAddr) -> bool {
    let bound = listener.address.ip();
    let both = bound.is_ipv6() && bound.is_unspecified() && !listener.v6_only;
    let (bound, wanted) = (bound.to_canonical(), front.ip());
    listener.address.port() == front.port()
        && if bound.is_ipv4() == wanted.is_ipv4() {
            bound == wanted || bound.is_unspecified() || wanted.is_unspecified()
        } else {
            wanted.is_ipv4() && both
        }
}

/// The state of a front address.
#[derive(Debug, PartialEq, Eq)]
enum Port<'a> {
    Free,
    Ours,
    /// The front socket is active, and not bound to it.
    Silent,
    Taken(&'a TcpListener, Option<Holder>),
}

/// `active`: whether the front socket is active, if known; `holder`: finds the holder of a socket.
fn judge<'a>(
    front: &SocketAddr,
    active: Option<bool>,
    listeners: &'a [TcpListener],
    holder: impl Fn(u32) -> Option<Holder>,
) -> Port<'a> {
    let mut ours = false;
    for listener in listeners.iter().filter(|it| blocks(it, front)) {
        let holder = holder(listener.inode);
        let by_systemd = holder.as_ref().is_none_or(|holder| holder.pid == 1);
        if active != Some(false) && listener.address == *front && by_systemd {
            ours = true;
        } else {
            return Port::Taken(listener, holder);
        }
    }
    match active {
        _ if ours => Port::Ours,
        Some(true) => Port::Silent,
        _ => Port::Free,
    }
}

fn front(
    endpoint: &Endpoint,
    service: &Service,
    state: Option<&str>,
    sockets: &Sockets,
) -> Result<Finding> {
    const WHAT: &str = "listen";
    let unit = service.socket_unit();
    let active = state.map(|state| state == "active");
    let port = match endpoint {
        Endpoint::Tcp(address) => {
            match unusable_now(address.ip(), sockets) {
                Some(Unusable::NotHere(next)) => {
                    let message = format!(
                        "{} is not an address of this host yet: {unit} listens there all the same \
                         (FreeBind=), and serves its clients once the host has the address",
                        address.ip()
                    );
                    return Ok(Finding::warning(
                        WHAT,
                        message,
                        format!("if it is not expected to come, {next}"),
                    ));
                }
                Some(Unusable::Never(message, next)) => {
                    return Ok(Finding::error(WHAT, message, next));
                }
                None => {}
            }
            let there = sockets.at_port(address.port());
            judge(address, active, there, |inode| sockets.holder(inode))
        }
        Endpoint::Udp(_) => match (active, is_listening(endpoint)?) {
            (Some(true), false) => Port::Silent,
            (Some(false), _) | (None, false) => Port::Free,
            (_, true) => Port::Ours,
        },
        Endpoint::Unix(path) => match (active, sockets.is_bound(path)?) {
            (Some(false), true) => {
                return Ok(Finding::error(
                    WHAT,
                    format!("{endpoint} is used by another program"),
                    format!("stop it (`ss -lxp src {}` shows it)", path.display()),
                ));
            }
            (_, true) => Port::Ours,
            (Some(true), false) => Port::Silent,
            (_, false) => Port::Free,
        },
    };
    Ok(match port {
        Port::Ours => Finding::ok(WHAT, format!("{unit} listens on {endpoint}")),
        Port::Silent => Finding::error(
            WHAT,
            format!(
                "{unit} is active but does not listen on {endpoint}: it was started before this address was configured"
            ),
            format!("systemctl daemon-reload && systemctl restart {unit}"),
        ),
        Port::Taken(listener, holder) => taken(WHAT, endpoint, listener, holder, &unit),
        Port::Free if state == Some("failed") => Finding::error(
            WHAT,
            format!("{endpoint}: {unit} has failed"),
            format!("journalctl -u {unit}, then systemctl restart {unit}"),
        )
        .fixed_by(&["systemctl", "start", &unit]),
        Port::Free if active == Some(false) => Finding::warning(
            WHAT,
            format!(
                "{endpoint} is free; {unit} does not listen there yet (it starts at the next boot)"
            ),
            format!("systemctl start {unit}"),
        )
        .fixed_by(&["systemctl", "start", &unit]),
        Port::Free => Finding::ok(WHAT, format!("{endpoint} is free")),
    })
}

/// A socket unit whose name is not known yet ([`super::service`]).
pub const OTHER_SOCKET: &str = "another socket unit";

/// The address that `unit` needs is used by another socket.
pub(super) fn taken(
    what: &'static str,
    endpoint: &Endpoint,
    listener: &TcpListener,
    holder: Option<Holder>,
    unit: &str,
) -> Finding {
    let at = listener.address;
    if let Some(holder) = holder.as_ref().filter(|it| forwarders::is_forwarder(it)) {
        return forwarders::at_front(endpoint, holder, unit);
    }
    let (who, next) = match holder {
        Some(Holder { pid: 1, .. }) => (
            OTHER_SOCKET.into(),
            "`systemctl list-sockets` shows it; stop and disable it, or choose another address"
                .into(),
        ),
        Some(holder) => (
            holder.to_string(),
            format!("stop {}, or choose another address", holder.to_stop()),
        ),
        None => (
            "another program".to_owned(),
            format!("`ss -ltnp sport = :{}` as root shows it", at.port()),
        ),
    };
    let message =
        format!("{endpoint} is used by {who}, which listens on {at}: {unit} cannot bind it");
    Finding::error(what, message, next)
}

fn backend(service: &Service, units: &Units, sockets: &Sockets) -> Result<Finding> {
    const WHAT: &str = "backend";
    let listeners = sockets.listeners();
    let (endpoint, unit) = (&service.backend, &service.unit);
    let places = match service.own_address {
        true => service.listen.as_slice(),
        false => slice::from_ref(endpoint),
    };
    for place in places {
        let (Endpoint::Tcp(address) | Endpoint::Udp(address)) = place else {
            continue;
        };
        let Some(why) = unusable_now(address.ip(), sockets) else {
            continue;
        };
        return Ok(match why {
            Unusable::NotHere(next) if service.own_address => Finding::warning(
                "listen",
                format!(
                    "{} is not an address of this host yet: {unit} cannot listen on {place}",
                    address.ip()
                ),
                format!("if it is not expected to come, {next}"),
            ),
            Unusable::NotHere(next) => Finding::warning(
                WHAT,
                format!(
                    "{} is not an address of this host: the proxy carries all clients there, once it can be \
                     connected to",
                    address.ip()
                ),
                format!("if {unit} listens on this host, {next}"),
            ),
            Unusable::Never(message, next) => Finding::error(WHAT, message, next),
        });
    }
    if service.own_address
        && matches!(units.backend.as_deref(), Some("active" | "reloading"))
        && let Some(finding) = own_address::look(service, sockets)
    {
        return Ok(finding);
    }
    let there = sockets.at(endpoint);
    let listening = match endpoint {
        Endpoint::Tcp(_) => !there.is_empty(),
        Endpoint::Udp(_) => is_listening(endpoint)?,
        Endpoint::Unix(path) => sockets.is_bound(path)?,
    };
    Ok(match units.backend.as_deref() {
        Some("active" | "reloading") => {
            let own = units
                .cgroup
                .as_deref()
                .and_then(|cgroup| sockets.of(cgroup));
            let stranger =
                |it: &&&TcpListener| own.as_ref().is_some_and(|own| !own.contains(&it.inode));
            if !listening {
                // Only those of TCP are known with their owners.
                let listeners = if endpoint.is_udp() { &[] } else { listeners };
                silent(service, elsewhere(own.as_ref(), listeners))
            } else if let Some((holder, place)) = forwarder(&there, own.as_ref(), sockets) {
                forwarders::at_backend(service, &holder, place)
            } else if let Some(first) = there
                .first()
                .filter(|_| there.iter().all(|it| stranger(&it)))
            {
                taken(WHAT, endpoint, first, sockets.holder(first.inode), unit)
            } else {
                Finding::ok(WHAT, format!("{unit} is active and listens on {endpoint}"))
            }
        }
        Some("inactive" | "failed") if listening => match there.first() {
            Some(first) => match sockets.holder(first.inode) {
                Some(Holder { pid: 1, .. }) => Finding::warning(
                    WHAT,
                    format!("a socket unit of systemd holds {endpoint} while {unit} is down"),
                    match service.own_address {
                        true => format!(
                            "if {unit} takes its listener from that (sd_listen_fds(3)), add activation = \"native\"; \
                             otherwise disable it (`systemctl list-sockets`)"
                        ),
                        false => format!(
                            "{unit} is started by the front socket: disable its own socket unit (`systemctl list-sockets`)"
                        ),
                    },
                ),
                Some(holder) if forwarders::is_forwarder(&holder) => {
                    forwarders::at_backend(service, &holder, Place::Down)
                }
                holder => taken(WHAT, endpoint, first, holder, unit),
            },
            None => Finding::warning(
                WHAT,
                format!("another program listens on {endpoint} while {unit} is down"),
                match endpoint {
                    Endpoint::Udp(at) => {
                        format!("`ss -lunp sport = :{}` as root shows it", at.port())
                    }
                    _ => format!("`ss -lxp src {endpoint}` as root shows it"),
                },
            ),
        },
        Some(state @ ("inactive" | "failed")) => {
            Finding::ok(WHAT, format!("{endpoint} is free; {unit} is {state}"))
        }
        Some(state) => Finding::ok(WHAT, format!("{unit} is {state}")),
        None if listening => Finding::ok(WHAT, format!("{endpoint} has a listener")),
        None => Finding::ok(WHAT, format!("{endpoint} is free")),
    })
}

/// The program that forwards the address to a container, if all that listens there does.
fn forwarder(
    there: &[&TcpListener],
    own: Option<&HashSet<u32>>,
    sockets: &Sockets,
) -> Option<(Holder, Place)> {
    let mut holders = there.iter().map(|it| sockets.holder(it.inode));
    let first = holders.next()??;
    let all = forwarders::is_forwarder(&first)
        && holders.all(|it| it.as_ref().is_some_and(forwarders::is_forwarder));
    let is_own = own.is_none_or(|own| there.iter().any(|it| own.contains(&it.inode)));
    let place = if is_own { Place::Own } else { Place::Elsewhere };
    all.then_some((first, place))
}

/// The other addresses on which a unit's processes listen.
fn elsewhere(own: Option<&HashSet<u32>>, listeners: &[TcpListener]) -> Vec<SocketAddr> {
    let mine = listeners
        .iter()
        .filter(|it| own.is_some_and(|own| own.contains(&it.inode)));
    mine.map(|it| it.address).collect()
}

/// The application is up and does not listen on the configured address.
fn silent(service: &Service, elsewhere: Vec<SocketAddr>) -> Finding {
    let (endpoint, unit) = (&service.backend, &service.unit);
    let message = format!("{unit} is active but does not listen on {endpoint}");
    let Some(first) = elsewhere.first() else {
        return Finding::warning(
            "backend",
            message,
            format!(
                "it may still be starting; otherwise set {} to its address; journalctl -u {unit}",
                if service.own_address {
                    "listen"
                } else {
                    "backend"
                }
            ),
        );
    };
    let all: Vec<_> = elsewhere.iter().map(ToString::to_string).collect();
    if service.own_address {
        let listen: Vec<_> = all.iter().map(|at| format!("{at:?}")).collect();
        return Finding::warning(
            "backend",
            format!("{message}, but on {}", all.join(", ")),
            format!("set listen = [{}]", listen.join(", ")),
        );
    }
    // A wildcard address cannot be connected to.
    let mut suggested = *first;
    if suggested.ip().is_unspecified() {
        suggested.set_ip([127, 0, 0, 1].into());
    }
    Finding::warning(
        "backend",
        format!("{message}, but on {}", all.join(", ")),
        format!("set backend = \"{suggested}\", or let the application listen on {endpoint}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(address: &str, v6_only: bool) -> TcpListener {
        TcpListener {
            address: address.parse().unwrap(),
            v6_only,
            inode: 7,
            uid: 0,
            cgroup: None,
            queued: 0,
            backlog: 128,
        }
    }

    #[test]
    fn what_keeps_a_front_socket_from_its_address() {
        #[track_caller]
        fn check(bound: &str, v6_only: bool, front: &str, expected: bool) {
            let front = front.parse().unwrap();
            assert_eq!(blocks(&listener(bound, v6_only), &front), expected);
        }
        check("127.0.0.1:80", false, "127.0.0.1:80", true);
        check("127.0.0.1:80", false, "127.0.0.1:81", false);
        check("127.0.0.1:80", false, "127.0.0.2:80", false);
        check("127.0.0.1:80", false, "0.0.0.0:80", true);
        check("0.0.0.0:80", false, "127.0.0.1:80", true);
        check("0.0.0.0:80", false, "[::]:80", false);
        check("[::]:80", false, "0.0.0.0:80", true);
        check("[::]:80", false, "127.0.0.1:80", true);
        check("[::]:80", true, "127.0.0.1:80", false);
        check("[::1]:80", false, "127.0.0.1:80", false);
        check("[::1]:80", false, "[::]:80", true);
        check("[::ffff:127.0.0.1]:80", false, "127.0.0.1:80", true);
        check("[::ffff:127.0.0.1]:80", false, "[::]:80", false);
    }

    #[test]
    fn our_own_front_socket_is_fine() {
        let holder = |pid| {
            move |_| {
                Some(Holder {
                    pid,
                    name: "x".into(),
                    unit: None,
                })
            }
        };
        #[track_caller]
        fn check(
            bound: &str,
            active: Option<bool>,
            holder: impl Fn(u32) -> Option<Holder>,
            expected: &str,
        ) {
            let listeners = [listener(bound, true)];
            let front = "127.0.0.1:80".parse().unwrap();
            let port = match judge(&front, active, &listeners, holder) {
                Port::Free => "free",
                Port::Ours => "ours",
                Port::Silent => "silent",
                Port::Taken(..) => "taken",
            };
            assert_eq!(port, expected);
        }
        check("127.0.0.1:80", Some(true), holder(1), "ours");
        check("127.0.0.1:80", Some(true), |_| None, "ours");
        check("127.0.0.1:80", Some(true), holder(9), "taken");
        check("127.0.0.1:80", Some(false), holder(1), "taken");
        check("127.0.0.1:80", Some(false), |_| None, "taken");
        check("127.0.0.1:80", None, holder(1), "ours");
        check("127.0.0.1:80", None, holder(9), "taken");
        check("0.0.0.0:80", Some(true), holder(1), "taken");
        check("127.0.0.2:80", Some(true), holder(1), "silent");
        check("127.0.0.2:80", Some(false), holder(1), "free");
        check("127.0.0.2:80", None, holder(1), "free");
    }

    #[test]
    fn addresses_of_other_hosts_are_refused() {
        assert_eq!(unusable([127, 3, 2, 1].into()), None);
        assert_eq!(unusable([0, 0, 0, 0].into()), None);
        // TEST-NET-1, RFC 5737.
        let Some(Unusable::NotHere(next)) = unusable([192, 0, 2, 1].into()) else {
            panic!("this host has an address for documentation");
        };
        assert!(
            next.contains("127.0.0.1") && next.contains("0.0.0.0"),
            "{next}"
        );
    }

    #[test]
    fn sockets_elsewhere_are_named() {
        let listeners = [listener("0.0.0.0:9090", false)];
        let found = elsewhere(Some(&HashSet::from([7])), &listeners);
        assert_eq!(found, [listeners[0].address]);
        assert!(elsewhere(Some(&HashSet::from([8])), &listeners).is_empty());
        assert!(elsewhere(None, &listeners).is_empty());
    }
}
