//! How often PID 1 starts a proxy that cannot run.
//!
//! While a client waits at the front socket, PID 1 starts the proxy as soon as it is down, 20 to 190 times a
//! second (systemd 252) and without end: a client that has left stays in the queue. So each end of a proxy
//! that it did not choose itself is followed by a pause (`Restart=always` with `RestartSec=`): in
//! `auto-restart` the unit counts as active, and the socket does not trigger it
//! (`socket_enter_running()`, src/core/socket.c).
//!
//! A start that PID 1 skips (`ConditionPathExists=` and the like in a drop-in) is no start to pause after. It
//! comes 10,000 times a second, which the socket's trigger limit stops. That ends the waiting clients'
//! connections; a timer starts the socket again.

use std::fmt::Write as _;

use anyhow::Result;
use ondemand_core::config::{Endpoint, Service};

use super::{Header, Host, text::unit_section};

/// The exit status of a proxy that is not needed any more: nothing is to be started again. Not 0, with which
/// any other program could end at once. In the range for applications of the Linux Standard Base.
pub const DONE: u8 = 150;
/// The exit status of a proxy whose backend did not become ready. Its clients are closed by then, and the
/// next one may try at once. `EX_UNAVAILABLE` of sysexits.h.
pub const GAVE_UP: u8 = 69;
/// The exit status of a proxy that must be started again, to see the backend's directory: it did not
/// exist, or was another one, when systemd made the proxy's view of the file system. The waiting client
/// triggers the next one at once. `EX_TEMPFAIL` of sysexits.h.
pub const LOOK_AGAIN: u8 = 75;

/// The exit status of what waits for room in a group, when there was none in time: the only one that keeps the application
/// down. `EX_TEMPFAIL` of sysexits.h.
pub const NO_ROOM: u8 = 75;

/// The pause before a failed proxy is started again: at most nine starts a minute.
const PAUSE: &str = "7s";
/// The same with a systemd that lengthens the pause with each failure: seven starts in the first minute,
/// then two a minute.
const GROWING: &str = "RestartSec=2s\nRestartSteps=6\nRestartMaxDelaySec=30s\n";
/// The first systemd with these.
const GROWS_SINCE: u32 = 254;

/// A limit that only starts which PID 1 skips can reach: a proxy needs 50 ms at least until its end
/// ([`ondemand_core::proxy_stay`]), one that gives up 100 ms ([`ondemand_core::readiness::DOWN_GRACE`]).
pub(super) const TRIGGER_LIMIT: &str = "TriggerLimitIntervalSec=200ms\nTriggerLimitBurst=8\n";
/// How long a failed front socket stays down.
const SOCKET_PAUSE: &str = "10s";

/// Of an application that systemd restarts by itself (`Restart=`). Its restarts are limited; the agent takes the
/// starts by clients out of the count (`ResetFailedUnit`).
pub(super) const START_LIMIT: &str = "\
# Restart= is limited. The agent takes starts by clients out of the count.
StartLimitIntervalSec=60
StartLimitBurst=9
";

/// Directives of the proxy's section `[Service]`.
pub(super) fn proxy(backend: &Endpoint, host: &Host) -> String {
    let again = match backend {
        Endpoint::Unix(_) => format!(" {LOOK_AGAIN}"),
        Endpoint::Tcp(_) | Endpoint::Udp(_) => String::new(),
    };
    let pause = match host.systemd {
        Some(version) if version >= GROWS_SINCE => GROWING.to_owned(),
        _ => format!("RestartSec={PAUSE}\n"),
    };
    format!(
        "Restart=always\n{pause}SuccessExitStatus={DONE}{again}\n\
         RestartPreventExitStatus={DONE} {GAVE_UP}{again}\n"
    )
}

/// `ondemand-NAME.timer`: starts the front socket again after a failure.
pub(super) fn timer(service: &Service, header: &Header) -> Result<String> {
    let mut text = unit_section(
        header,
        &format!("Restart of the front socket of {} (ondemand)", service.name),
    );
    let socket = service.socket_unit();
    // A socket that a person stops stays so.
    writeln!(text, "PartOf={socket}")?;
    writeln!(
        text,
        "\n[Timer]\nUnit={socket}\nOnActiveSec={SOCKET_PAUSE}\nAccuracySec=1s\nRemainAfterElapse=no"
    )?;
    Ok(text)
}
