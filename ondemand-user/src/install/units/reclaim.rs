//! `ondemand-reclaim@NAME.service`: the agent starts it when the application of a service with `freeze_reclaim` is frozen. Only
//! root may write to a unit's cgroup, and the agent is not: it chooses the moment, and nothing else.

use std::fmt::Write as _;

use anyhow::Result;
use ondemand_core::config::Service;

use super::{Content, Header, Host, UnitFile, escape, room::HARDENING, text};

/// The unit. `None`: the service has none.
pub(super) fn file(service: &Service, host: &Host, header: &Header) -> Result<Option<UnitFile>> {
    if !service.freeze_reclaim {
        return Ok(None);
    }
    let title = format!(
        "Takes back the memory of {}, frozen (ondemand)",
        service.name
    );
    let mut text = text::unit_section(header, &title);
    text += "DefaultDependencies=no\nConflicts=shutdown.target\nBefore=shutdown.target\nAfter=dbus.socket\n\
             StartLimitIntervalSec=0\n";
    writeln!(
        text,
        "\n[Service]\nType=oneshot\nExecStart={} reclaim {}\nTimeoutStartSec=4min\nNice=19",
        escape::program(&host.ondemand)?,
        escape::word(&service.unit)?
    )?;
    text += HARDENING;
    Ok(Some(UnitFile {
        path: service.reclaim_unit().into(),
        content: Content::Text(text),
    }))
}
