//! `ondemand-room@NAME.service`: PID 1 starts it before the application of a service with a `group`, and that application
//! when it has ended. So each start of it waits for room, whoever asked for it, and without a time of the application's own
//! start passing: PID 1 has a job for it, and it is down.
//!
//! Whatever becomes of it but one exit status, the application starts: a program that cannot be executed, that is killed, or
//! that finds no agent must not keep it down.

use std::fmt::Write as _;

use anyhow::Result;
use ondemand_core::config::Service;

use super::{Content, Header, Host, UnitFile, escape, pacing::NO_ROOM, text};

/// How a process may end that was not even executed, or died. (What ends it by SIGTERM and the like is clean anyway.)
const FATAL: &str = "SIGKILL SIGABRT SIGSEGV SIGBUS SIGILL SIGSYS SIGFPE SIGTRAP SIGXCPU SIGXFSZ";

/// Without mounts, which would take longer than all the rest.
pub(super) const HARDENING: &str = "\
NoNewPrivileges=yes
UMask=0077
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
RestrictAddressFamilies=AF_UNIX
CapabilityBoundingSet=
AmbientCapabilities=
";

/// The unit. `None`: the service has no group.
pub(super) fn file(service: &Service, host: &Host, header: &Header) -> Result<Option<UnitFile>> {
    let Some(group) = &service.group else {
        return Ok(None);
    };
    let title = format!("Room for {} in the group {group} (ondemand)", service.name);
    let mut text = text::unit_section(header, &title);
    // An application may start before all that others start after.
    text += "DefaultDependencies=no\nConflicts=shutdown.target\nBefore=shutdown.target\nAfter=dbus.socket\n\
             StartLimitIntervalSec=0\n";
    let words = [
        escape::program(&host.ondemand)?.to_owned(),
        "wait-room".into(),
        format!("--start-timeout={}ms", service.start_timeout.as_millis()),
        service.name.clone(),
    ];
    let words: Result<Vec<_>> = words.iter().map(|word| escape::word(word)).collect();
    writeln!(
        text,
        "\n[Service]\nType=oneshot\nExecStart={}",
        words?.join(" ")
    )?;
    let codes = (1..=u8::MAX).filter(|code| *code != NO_ROOM);
    let codes: Vec<String> = codes.map(|code| code.to_string()).collect();
    writeln!(text, "SuccessExitStatus={} {FATAL}", codes.join(" "))?;
    if let Some(user) = &host.user {
        writeln!(text, "User={user}")?;
    }
    text += HARDENING;
    Ok(Some(UnitFile {
        path: service.room_unit().into(),
        content: Content::Text(text),
    }))
}

/// For the application's drop-in.
pub(super) fn before(service: &Service) -> String {
    match service.group {
        Some(_) => {
            let room = service.room_unit();
            format!("Requires={room}\nAfter={room}\n")
        }
        None => String::new(),
    }
}
