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
    let has_clients = config.services.values().any(|service| wanted(&service));
    let has_datagrams = config.services.values().any(Service::has_datagrams);
    if !has_clients && !has_datagrams {
        return None;
    }
    let why = |what: &str| {
        let clients = "no client is held: the proxy carries the first ones of a start";
        let datagrams = "no datagram is held: applications that receive some stay up";
        let all = [(has_clients, clients), (has_datagrams, datagrams)];
        let all: Vec<&str> = all.iter().filter(|it| it.0).map(|it| it.1).collect();
        format!("{what}, so {}", all.join("; "))
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
        match (has_clients, has_datagrams) {
            (true, false) => "clients of services that are down can be held",
            (true, true) => "clients and datagrams of services that are down can be held",
            (false, _) => "datagrams of services that are down can be held",
        },
    ))
}
