//! The text of one service's units. ARCHITECTURE.md explains their structure.

use std::fmt::Write as _;

use anyhow::Result;
use ondemand_core::{
    config::{Access, Endpoint, KeepAlive, Service, WaitingPage},
    proxy_stay::exit_idle_time,
};

use super::{Header, Host, escape, hardening, pacing, restart, room};

/// The proxy takes two descriptors per connection, for [`crate::proxy`]'s maximum.
const DESCRIPTORS: u32 = 65_536;

/// The proxy's memory, in user space and the kernel, from which on it is slowed down. For the maximum of 30,000
/// connections it has 120 MB of its own (21 MB, and 3.4 kB for each in a debug build: measured with 5,000), at most
/// 240 MB if each has a small message that its client does not read, and some 240 MB for the kernel's 60,000
/// sockets. The rest is for what the sockets hold. Not `MemoryMax=`: its end would be that of all connections.
const MEMORY: &str = "2G";

/// What the kernel keeps of the datagrams that wait for their application without an agent: as much as an agent holds.
const RECEIVE_BUFFER: &str = "4M";

/// The proxy has one thread.
const TASKS: u32 = 16;

/// The first systemd with `PollLimitIntervalSec=`; older ones warn about an unknown key.
const POLL_LIMIT_SINCE: u32 = 255;

/// The front socket: `ondemand-NAME.socket`.
pub(super) fn socket(service: &Service, host: &Host, header: &Header) -> Result<String> {
    let mut text = unit_section(
        header,
        &format!("Front socket of {} (ondemand)", service.name),
    );
    writeln!(text, "OnFailure={}\n\n[Socket]", service.timer_unit())?;
    for endpoint in &service.front {
        let (key, address) = match endpoint {
            Endpoint::Udp(address) => ("ListenDatagram", address.to_string()),
            Endpoint::Tcp(_) | Endpoint::Unix(_) => ("ListenStream", endpoint.to_string()),
        };
        writeln!(text, "{key}={}", escape::value(&address)?)?;
    }
    if service.has_datagrams() {
        // Without it they are lost while no agent holds them.
        let program = escape::program(&host.ondemand)?;
        writeln!(
            text,
            "ReceiveBuffer={RECEIVE_BUFFER}\nExecStartPost=-{program} fronts"
        )?;
    }
    // Each address is separate: [::] leaves IPv4 to its own entry.
    text += "BindIPv6Only=ipv6-only\nBacklog=4096\n";
    if service
        .front
        .iter()
        .any(|endpoint| matches!(endpoint, Endpoint::Tcp(_)))
    {
        text += "NoDelay=yes\n";
        text += &keepalive(service.keepalive);
    }
    if service.front.iter().any(may_come_later) {
        // Otherwise the socket fails for good at a boot at which the network is not up yet.
        text += "FreeBind=yes\n";
    }
    if service
        .front
        .iter()
        .any(|endpoint| matches!(endpoint, Endpoint::Unix(_)))
    {
        text += &access(&service.access)?;
    }
    if service.ignore_empty {
        let tcp = service.front.iter().filter(|endpoint| endpoint.is_tcp());
        let addresses: Vec<String> = tcp.map(|endpoint| format!(" {endpoint}")).collect();
        let program = escape::program(&host.ondemand)?;
        // Without it the front socket serves all clients alike.
        writeln!(text, "ExecStartPost=-{program} sieve{}", addresses.concat())?;
    }
    // A burst of clients must not make systemd give up the socket.
    text += pacing::TRIGGER_LIMIT;
    if host
        .systemd
        .is_some_and(|version| version >= POLL_LIMIT_SINCE)
    {
        text += "PollLimitIntervalSec=0\n";
    }
    Ok(text)
}

/// For the clients that the proxy carries. The kernel's program does it for all of them, while the agent
/// watches the service.
fn keepalive(times: Option<KeepAlive>) -> String {
    times.map_or_else(String::new, |times| {
        format!(
            "KeepAlive=yes\nKeepAliveTimeSec={}\nKeepAliveIntervalSec={}\nKeepAliveProbes={}\n",
            times.idle, times.interval, times.probes
        )
    })
}

/// Whether the host may get the address after the socket's start: neither a wildcard, which is always
/// there, nor loopback, which is up before any socket.
fn may_come_later(endpoint: &Endpoint) -> bool {
    matches!(endpoint, Endpoint::Tcp(address)
        if !address.ip().is_unspecified() && !address.ip().is_loopback())
}

/// The directives of a front socket with a path.
fn access(access: &Access) -> Result<String> {
    // Directories that systemd creates for it: the socket's own mode decides who may connect.
    let mut text = format!(
        "SocketMode={:04o}\nDirectoryMode=0755\nRemoveOnStop=yes\n",
        access.mode
    );
    for (key, name) in [("SocketUser", &access.user), ("SocketGroup", &access.group)] {
        if let Some(name) = name {
            writeln!(text, "{key}={}", escape::value(name)?)?;
        }
    }
    Ok(text)
}

/// Below /run, the directory of the proxies' own.
const PROXIES: &str = "ondemand.proxies";

/// The proxy: `ondemand-NAME.service`.
pub(super) fn proxy(
    service: &Service,
    host: &Host,
    header: &Header,
    is_chained: bool,
) -> Result<String> {
    let mut text = unit_section(header, &format!("Proxy of {} (ondemand)", service.name));
    // Wants= without After=: the proxy waits itself, and can close its clients if the wait fails.
    let (unit, socket) = (&service.unit, service.socket_unit());
    writeln!(text, "Wants={unit}\nPartOf={unit}")?;
    writeln!(
        text,
        "Requires={socket}\nAfter={socket}\nStartLimitIntervalSec=0"
    )?;
    writeln!(
        text,
        "\n[Service]\nExecStart={}",
        command_line(service, host, is_chained)?
    )?;
    // Of two runnable jobs, PID 1 starts the unit with the lower nice value first, then the one
    // whose name sorts first (systemd's unit_compare_priority()): the application must be first,
    // because both the client and the proxy wait for it.
    text += "Nice=1\n";
    // Open connections may take this long to finish after SIGTERM.
    writeln!(text, "LimitNOFILE={DESCRIPTORS}\nTimeoutStopSec=10s")?;
    writeln!(text, "MemoryHigh={MEMORY}\nTasksMax={TASKS}")?;
    // For the start of its clients' wait. systemd deletes it when the proxy ends: whatever the service's
    // name is, it is none of ondemand's other directories, whose names begin with `ondemand` alone or
    // with `ondemand-`.
    // That of a Unix backend's proxy outlives it: PID 1 starts the next one for the same client without a restart.
    let preserve = match service.backend {
        Endpoint::Unix(_) => "yes",
        Endpoint::Tcp(_) | Endpoint::Udp(_) => "restart",
    };
    writeln!(
        text,
        "RuntimeDirectory={PROXIES}/{}\nRuntimeDirectoryPreserve={preserve}",
        service.name
    )?;
    text += &pacing::proxy(&service.backend, host);
    text += &hardening::proxy(
        service,
        escape::program(&host.ondemand)?,
        host.user.as_deref(),
    );
    Ok(text)
}

/// The proxy gets its settings as options: its user may not be allowed to read the
/// configuration.
fn command_line(service: &Service, host: &Host, is_chained: bool) -> Result<String> {
    let mut words = vec![
        escape::program(&host.ondemand)?.to_owned(),
        "proxy".into(),
        format!("--unit={}", service.unit),
        format!("--backend={}", service.backend),
    ];
    if service.own_address {
        let own = service.listen.iter().filter(|address| address.is_tcp());
        words.extend(own.map(|address| format!("--own-address={address}")));
    }
    words.extend(
        service
            .datagrams()
            .map(|address| format!("--datagrams={address}")),
    );
    words.extend([
        format!("--start-timeout={}ms", service.start_timeout.as_millis()),
        format!("--exit-idle-time={}ms", exit_idle_time(service).as_millis()),
    ]);
    let silent = service.silent_after;
    words.extend(silent.map(|after| format!("--silent-after={}ms", after.as_millis())));
    if let Some(ready) = &service.ready {
        words.push(format!("--ready={ready}"));
        let status = ready.status();
        words.extend(status.map(|status| format!("--ready-status={status}")));
    }
    if let Some(page) = &service.waiting_page {
        words.push("--waiting-page".into());
        if let WaitingPage::File(path) = page {
            words.push(format!("--page-template={}", path.display()));
        }
    }
    if is_chained {
        words.push("--chained".into());
    }
    words.push(service.name.clone());
    let words: Result<Vec<_>> = words.iter().map(|word| escape::word(word)).collect();
    Ok(words?.join(" "))
}

/// The lease: `ondemand-NAME.target`.
pub(super) fn lease(service: &Service, header: &Header) -> String {
    let text = unit_section(header, &format!("Lease on {} (ondemand)", service.unit));
    format!("{text}Requires={unit}\nAfter={unit}\n", unit = service.unit)
}

/// What makes PID 1 stop the application when neither the lease nor the proxy needs it.
const STOPS: &str = "StopWhenUnneeded=yes\n";
/// In its place for an application that runs and is not held yet.
const NOT_YET: &str = "# It runs, and its lease is not held yet: StopWhenUnneeded=yes would stop it now. That follows when\n\
                       # the agent has taken the lease, or `ondemand apply`.\n";

/// The drop-in without what would stop an application that nothing holds.
pub(crate) fn entering(drop_in: &str) -> String {
    drop_in.replacen(STOPS, NOT_YET, 1)
}

/// The drop-in of the application's own unit.
pub(super) fn drop_in(service: &Service, host: &Host, header: &Header) -> String {
    let may_restart = host.all_may_restart || restart::may_restart(&service.unit, &host.unit_files);
    let limit = match may_restart {
        true => pacing::START_LIMIT,
        false => {
            "# Starts by clients are not failures, however many there are.\nStartLimitIntervalSec=0\n"
        }
    };
    // No SourcePath=: it would apply to the whole unit.
    format!(
        "{}\n\n[Unit]\n{STOPS}Wants={}\n{}{limit}",
        header.comment,
        service.lease_unit(),
        room::before(service)
    )
}

pub(super) fn unit_section(header: &Header, description: &str) -> String {
    let Header { comment, source } = header;
    format!("{comment}\n\n[Unit]\nDescription={description}\n{source}\n")
}
