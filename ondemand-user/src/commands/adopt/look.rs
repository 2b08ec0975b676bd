//! Looks at a unit: what it listens on, and what keeps it up.

use std::{net::SocketAddr, ops::RangeInclusive, time::Duration};

use anyhow::Result;
use ondemand_core::{config::Endpoint, lifecycle::JobEnd, words::counted};
use tokio::{
    net::{TcpStream, UnixStream},
    time::{Instant, sleep, timeout},
};

use super::{
    elsewhere::{self, Moved, Place},
    links::{self, Link},
    proposal::{self, Addresses},
    refusal,
};
use crate::{
    commands::consent::{ask, refuse},
    host::{config_file, unit_files::UnitFiles},
    install::check::runtime,
    kernel::sockets::{
        by_unit::{self, Clients, OfUnit},
        sock_diag,
    },
    systemd::{Candidate, OfService, Systemd},
};

/// How long an application may take to listen after its unit is active.
const LISTENS: Duration = Duration::from_secs(10);
/// How often it is looked at.
const PAUSE: Duration = Duration::from_millis(100);
/// How long an attempt to connect to it may take.
const ATTEMPT: Duration = Duration::from_secs(1);

/// What a person has asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The unit, by one of its names.
    pub unit: &'a str,
    /// Where the application listens, if that is not where its clients connect.
    pub moved: Option<&'a Moved>,
    /// Whether an earlier call was killed: its front socket may be open.
    pub is_half: bool,
    /// Whether questions are answered with yes.
    pub yes: bool,
    /// Whether nothing may be changed.
    pub dry_run: bool,
}

/// What was seen of a unit.
#[derive(Debug)]
pub struct Seen {
    /// Its own name.
    pub unit: String,
    /// Where it listens.
    pub addresses: Addresses,
    /// How long its last start took.
    pub start: Option<Duration>,
    /// Bytes.
    pub memory: Option<u64>,
    /// Who is connected.
    pub clients: Clients,
    /// Whether it was up before.
    pub was_up: bool,
    /// The links that enable it, to be taken away.
    pub links: Vec<Link>,
    /// What a person should know before.
    pub notes: Vec<String>,
}

type Looked = (Candidate, OfService, OfUnit);

/// Looks at a unit. One that is down is started, after a question.
///
/// # Errors
///
/// It cannot be adopted, and why; PID 1 or the kernel does not answer.
pub async fn at(order: Asked<'_>, systemd: &Systemd) -> Result<Seen> {
    let asked = order.unit;
    if let Some(why) = refusal::impossible(asked) {
        return refuse(why);
    }
    let (found, service) = systemd.candidate(asked).await?;
    if let Some(why) = refusal::refusal(asked, &found, &service) {
        return refuse(why);
    }
    let unit = found.id.clone().unwrap_or_else(|| asked.to_owned());
    let mut notes = Vec::new();
    if unit != asked {
        notes.push(format!("{asked} is another name of {unit}"));
    }
    match refusal::critical(&unit, &by_unit::ancestors()) {
        Some(refusal::Critical::Never(why)) => {
            return refuse(format!("{unit}: {why}; leave it up"));
        }
        Some(refusal::Critical::Caution(why)) => notes.push(format!("CAUTION: {why}")),
        None => {}
    }
    let links = links(&found, systemd, &mut notes).await?;
    let place = Place {
        unit: &unit,
        source: refusal::generated_from(&found),
    };
    match order.moved {
        None => {
            let what = runtime::of_unit(&unit, &UnitFiles::here());
            if let Some(advice) = elsewhere::advice(place, &what) {
                return refuse(advice);
            }
        }
        Some(moved) if !order.is_half => must_be_free(&moved.listen)?,
        Some(_) => {}
    }
    let was_up = found.is_up();
    if !was_up {
        bring_up(&unit, &found, systemd, order).await?;
    }
    let looked = match order.moved {
        Some(moved) => answering(&unit, systemd, &moved.backend).await,
        None => listeners(place, systemd, was_up).await,
    };
    let (found, service, sockets) = match looked {
        Ok(looked) => looked,
        Err(error) => {
            if !was_up {
                // It is as it was.
                systemd.stop(&unit).await;
            }
            return Err(error);
        }
    };
    let addresses = match order.moved {
        Some(moved) => Addresses {
            listen: moved.listen.clone(),
            others: Vec::new(),
        },
        None => proposal::addresses(&sockets.tcp, &sockets.udp, &temporary_ports()),
    };
    let is_udp = |endpoint: &Endpoint| matches!(endpoint, Endpoint::Udp(_));
    if addresses.listen.iter().any(is_udp) {
        notes.push("datagrams start it, too: take those addresses out of the file from which it only asks others".into());
    }
    Ok(Seen {
        unit,
        addresses,
        start: found.start(),
        memory: service.memory(),
        clients: sockets.clients,
        was_up,
        links,
        notes,
    })
}

/// Starts a unit that is down.
async fn bring_up(
    unit: &str,
    found: &Candidate,
    systemd: &Systemd,
    order: Asked<'_>,
) -> Result<()> {
    if !found.is_down() {
        return refuse(format!(
            "{unit} is {} just now; try again when it is active",
            found
                .active_state
                .as_deref()
                .unwrap_or("in an unknown state")
        ));
    }
    if order.dry_run {
        return refuse(format!(
            "{unit} is down, so it is not known where it listens; start it (`systemctl start {unit}`), or leave out \
             --dry-run to have it started after a question"
        ));
    }
    if !ask(
        &format!("{unit} is down; start it once, to see where it listens?"),
        order.yes,
    )? {
        return refuse(format!(
            "{unit} is down, and was not started; nothing was changed"
        ));
    }
    match systemd.start_as_asked(unit).await {
        JobEnd::Done => Ok(()),
        JobEnd::Canceled => refuse(format!(
            "{unit}: its start was cancelled by another; try again"
        )),
        JobEnd::Failed(why) => refuse(format!(
            "{unit}: {why}; `systemctl status {unit}` says why it does not start"
        )),
    }
}

/// Its listeners; of one that was just started, when it has some.
async fn listeners(place: Place<'_>, systemd: &Systemd, was_up: bool) -> Result<Looked> {
    let unit = place.unit;
    let deadline = Instant::now() + if was_up { Duration::ZERO } else { LISTENS };
    loop {
        let (found, service) = systemd.candidate(unit).await?;
        let sockets = by_unit::listening()?.remove(unit).unwrap_or_default();
        let cgroup = service.control_group.as_deref();
        let forwarder = cgroup.and_then(|cgroup| by_unit::forwarder(cgroup, &sockets.tcp));
        if let Some((program, address)) = forwarder {
            return refuse(elsewhere::forwarded(place, &program, address));
        }
        let is_late = Instant::now() >= deadline;
        let some = proposal::addresses(&sockets.tcp, &sockets.udp, &temporary_ports());
        // One that has begun to listen may go on with other ports.
        if !sockets.tcp.is_empty() || is_late && !some.listen.is_empty() {
            return Ok((found, service, sockets));
        }
        if is_late {
            return refuse(nowhere(unit, &sockets));
        }
        sleep(PAUSE).await;
    }
}

/// Waits until an application that listens elsewhere can be connected to.
async fn answering(unit: &str, systemd: &Systemd, backend: &Endpoint) -> Result<Looked> {
    let deadline = Instant::now() + LISTENS;
    loop {
        if answers(backend).await {
            let (found, service) = systemd.candidate(unit).await?;
            let sockets = by_unit::listening()?.remove(unit).unwrap_or_default();
            return Ok((found, service, sockets));
        }
        if Instant::now() >= deadline {
            return refuse(format!(
                "{unit} is active, and nobody can be connected to at {backend}, which --backend names; `ss -ltnp` shows where it \
                 listens, `journalctl -u {unit}` why it may not"
            ));
        }
        sleep(PAUSE).await;
    }
}

/// Whether somebody can be connected to there.
pub async fn answers(backend: &Endpoint) -> bool {
    let connect = async {
        match backend {
            Endpoint::Tcp(address) => TcpStream::connect(address).await.is_ok(),
            Endpoint::Unix(path) => UnixStream::connect(path).await.is_ok(),
            Endpoint::Udp(_) => false,
        }
    };
    timeout(ATTEMPT, connect).await.unwrap_or(false)
}

/// Fails if another socket has an address where clients are to connect.
fn must_be_free(listen: &[Endpoint]) -> Result<()> {
    let has_both = |one: &SocketAddr, other: &SocketAddr| {
        let is_any = one.ip().is_unspecified() || other.ip().is_unspecified();
        is_any || one.ip().to_canonical() == other.ip().to_canonical()
    };
    for endpoint in listen {
        let Endpoint::Tcp(address) = endpoint else {
            continue;
        };
        let port = address.port();
        let listeners = sock_diag::tcp_listeners(port)?;
        if listeners.iter().any(|it| has_both(&it.address, address)) {
            return refuse(format!(
                "{address}, which --listen names, is in use, and clients have to come to the front socket there; `ss -ltnp sport \
                 = :{port}` shows who has it: move that first"
            ));
        }
    }
    Ok(())
}

fn nowhere(unit: &str, sockets: &OfUnit) -> String {
    match sockets.udp.len() as u64 {
        0 => format!(
            "{unit} listens at no port of this host, so no client could start it: if it listens in a container or in \
             another network namespace, or at a Unix socket, name that, and where clients connect: `ondemand adopt {unit} --listen \
             0.0.0.0:PORT --backend ADDRESS`"
        ),
        count => format!(
            "{unit} has {} at ports that the kernel chose, and listens at no other: it asks others from there, and no client could \
             start it",
            counted(count, "UDP socket")
        ),
    }
}

/// The links that enable it. What else keeps it up is a reason to refuse, if it is up itself.
async fn links(found: &Candidate, systemd: &Systemd, notes: &mut Vec<String>) -> Result<Vec<Link>> {
    let unit = found.id.clone().unwrap_or_default();
    let names = found.names.clone().unwrap_or_else(|| vec![unit.clone()]);
    let ours = links::ours(&names);
    let others = links::others(&names);
    let id = async |unit: String| -> Result<String> {
        let found = systemd.facts(&unit).await?;
        Ok(found.id.unwrap_or(unit))
    };
    let mut leaving = Vec::new();
    for link in &ours {
        leaving.push(id(link.of()).await?);
    }
    let mut fixed = Vec::new();
    for path in &others {
        fixed.push((id(links::owner(path).unwrap_or_default()).await?, path));
    }
    let mut pins = found.pins();
    pins.retain(|pin| !config_file::is_own(pin));
    let states = systemd.states(&pins).await?;
    for (pin, state) in pins.iter().zip(states) {
        let path = fixed
            .iter()
            .find(|(owner, _)| owner == pin)
            .map(|(_, path)| path);
        if path.is_none() && leaving.contains(pin) {
            continue;
        }
        let how = match (path, refusal::generated_from(found)) {
            (Some(_), Some(source)) => {
                format!("take WantedBy={pin} out of {source}, `systemctl daemon-reload`")
            }
            (Some(path), None) => format!(
                "`mkdir -p /etc/systemd/system/{pin}.wants && ln -s /dev/null /etc/systemd/system/{pin}.wants/{unit}` takes \
                 the link {} of its package out of force, `systemctl daemon-reload`",
                path.display()
            ),
            (None, _) => format!(
                "take {unit} out of Wants= or Requires= of {pin}, `systemctl daemon-reload`"
            ),
        };
        if !state.is_down() {
            return refuse(format!(
                "{unit}: {pin} needs it and is up, so it would never be stopped; {how}, then adopt it"
            ));
        }
        notes.push(format!("while {pin} is up, it stays up, too"));
    }
    Ok(ours)
}

/// The ports that the kernel gives to sockets that ask for none (ip(7)).
pub fn temporary_ports() -> RangeInclusive<u16> {
    let text =
        std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().filter_map(|word| word.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(first), Some(last)) => first..=last,
        _ => 32_768..=60_999,
    }
}
