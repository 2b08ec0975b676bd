//! Whether clients of services that are down can be held.

use std::path::Path;

use nix::unistd::geteuid;
use ondemand_core::config::{Config, FirstClient, Service};

use super::{agent, finding::Finding};
use crate::{kernel, systemd::Systemd};

/// `CAP_NET_RAW`, include/uapi/linux/capability.h.
const NET_RAW: u64 = 1 << 13;

/// Checks what the agent needs for it, if there is a service for which it is wanted.
pub async fn look(systemd: &Systemd, config: &Config) -> Option<Finding> {
    const WHAT: &str = "held";
    let wanted =
        |service: &&Service| service.can_steer() && service.first_client != FirstClient::Proxied;
    config.services.values().find(wanted)?;
    let why = |what: &str| {
        format!("{what}, so no client is held: the proxy carries the first ones of a start")
    };
    match systemd.ambient_capabilities(agent::UNIT).await {
        Ok(Some(set)) if set & NET_RAW == 0 => {
            return Some(Finding::warning(
                WHAT,
                why("ondemand.service is of an earlier version, without CAP_NET_RAW"),
                "install units/ondemand.service of this version; systemctl daemon-reload; systemctl restart ondemand",
            ));
        }
        Ok(_) => {}
        Err(error) => return Some(Finding::unknown(WHAT, &error)),
    }
    let home = kernel::home();
    if geteuid().is_root() && home.exists() && !kernel::filter_pin(&home).exists() {
        return Some(Finding::warning(
            WHAT,
            why("the kernel has refused the filter of the agent's sockets"),
            format!(
                "journalctl -u ondemand-load says why; rm -r {} and systemctl restart ondemand try it again",
                Path::new(kernel::BPFFS).join(kernel::DIRECTORY).display()
            ),
        ));
    }
    Some(Finding::ok(
        WHAT,
        "clients of services that are down can be held",
    ))
}
