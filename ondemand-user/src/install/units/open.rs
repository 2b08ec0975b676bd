//! What becomes of applications that keep the addresses where their clients arrive if no program can be loaded: nothing
//! could start them for a client, so they are started, and stay up.

use std::fmt::Write as _;

use ondemand_core::config::Config;

use super::{Content, Header, UnitFile, text};

/// The target that holds the leases of these applications.
pub const TARGET: &str = "ondemand-open.target";

/// The target, and what starts it: the failure of ondemand-load.service. None if no application keeps its addresses.
pub(super) fn files(config: &Config, header: &Header) -> Vec<UnitFile> {
    let own = config.services.values().filter(|it| it.own_address);
    let mut target =
        text::unit_section(header, "Applications that no client could start (ondemand)");
    let mut any = false;
    for service in own {
        any = true;
        // Writing to a string cannot fail.
        let _ = writeln!(target, "Wants={}", service.lease_unit());
    }
    let trigger = format!("{}\n\n[Unit]\nOnFailure={TARGET}\n", header.comment);
    let files = [
        (TARGET, target),
        ("ondemand-load.service.d/50-ondemand.conf", trigger),
    ];
    let files = files.into_iter().filter(|_| any);
    files
        .map(|(path, text)| UnitFile {
            path: path.into(),
            content: Content::Text(text),
        })
        .collect()
}
