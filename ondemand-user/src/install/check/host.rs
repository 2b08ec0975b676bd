//! Checks of the host: its kernel, its systemd, its agent.

use std::{fs, path::Path};

use aya::programs::ProgramType;
use nix::unistd::geteuid;
use ondemand_core::config::Config;

use super::{agent, finding::Finding, held, permission, programs};
use crate::{
    host::program as program_file,
    install::units::{Host, unreachable},
    kernel::{
        BPFFS, requirements,
        sockets::sock_diag::{tcp_listeners, unix_sockets},
    },
    systemd::Systemd,
};

/// Checks the kernel, and the privilege of this process.
pub fn kernel() -> Vec<Finding> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut found = vec![
        requirement(
            "kernel",
            requirements::kernel_version().map(|()| format!("Linux {}", release.trim())),
        ),
        requirement(
            "btf",
            requirements::btf().map(|()| "the kernel has BTF".into()),
        ),
        requirement(
            "bpffs",
            requirements::bpf_file_system(Path::new(BPFFS))
                .map(|()| format!("{BPFFS} is a BPF file system")),
        ),
        requirement(
            "cgroup2",
            requirements::cgroup_root().map(|path| format!("mounted at {}", path.display())),
        ),
        requirement(
            "netns",
            requirements::netns_cookie().map(|_| "the network namespace has a cookie".into()),
        ),
    ];
    found.push(sock_diag());
    found.push(if geteuid().is_root() {
        requirement(
            "privilege",
            requirements::privilege().map(|()| "this check runs as root".into()),
        )
    } else {
        Finding::warning(
            "privilege",
            "this check does not run as root: the holders of addresses and the agent's permissions \
             are unknown",
            "sudo ondemand check",
        )
    });
    if geteuid().is_root() {
        found.push(steering());
    }
    found
}

/// Checks whether the kernel tells who listens.
fn sock_diag() -> Finding {
    const WHAT: &str = "sock_diag";
    let looked = tcp_listeners(0).and_then(|_| unix_sockets(true));
    match looked {
        Ok(_) => Finding::ok(WHAT, "the kernel tells who listens"),
        Err(error) => Finding::error(
            WHAT,
            format!(
                "the kernel does not tell who listens: a service counts as ready when it is active and can be \
                 connected to, no other user's listener is recognised, and one with Unix sockets is not \
                 stopped: {error:#}"
            ),
            "install -m 644 units/modules-load.d/ondemand.conf /usr/lib/modules-load.d/ and systemctl restart \
             systemd-modules-load; after an upgrade of the kernel, or with kernel.modules_disabled=1, reboot",
        ),
    }
}

/// Checks whether this kernel can steer connections.
fn steering() -> Finding {
    const WHAT: &str = "sk_lookup";
    match aya::sys::is_program_supported(ProgramType::SkLookup) {
        Ok(true) => Finding::ok(WHAT, "connections can be steered"),
        Ok(false) => Finding::warning(
            WHAT,
            "this kernel has no sk_lookup programs: the proxy carries all clients, and wake_from and \
             ignore_from have no effect",
            "set steer = false, to make this explicit",
        ),
        Err(error) => Finding::unknown(WHAT, &error.into()),
    }
}

/// Processes that still run the program from before an upgrade.
fn outdated(units: &[String]) -> Vec<Finding> {
    const WHAT: &str = "upgrade";
    let finding = |unit: &String| match unit.as_str() {
        agent::UNIT => Finding::warning(
            WHAT,
            format!("{unit} runs the program from before an upgrade"),
            format!("systemctl restart {unit}; services keep running"),
        )
        .fixed_by(&["systemctl", "restart", unit]),
        proxy => Finding::warning(
            WHAT,
            format!(
                "{proxy} runs the program from before an upgrade: it leaves when it has no connection, and its next \
                 client gets the new one"
            ),
            format!(
                "wait; or `systemctl restart {proxy}`, which gives its connections 10 s and then cuts them"
            ),
        ),
    };
    units.iter().map(finding).collect()
}

/// Checks whether the proxies can execute the program that their units name.
pub fn program(host: &Host) -> Finding {
    const WHAT: &str = "program";
    let name = &host.ondemand;
    match unreachable(host) {
        None => Finding::ok(WHAT, format!("{name} can be executed by the proxies")),
        Some(why) => Finding::error(
            WHAT,
            format!("{name} cannot be executed by the proxies, so no client is served: {why}"),
            format!(
                "install -m 755 {name} /usr/bin/ondemand; let the generator be a link to it; then \
                 systemctl daemon-reload"
            ),
        ),
    }
}

/// The message of a missing requirement names the remedy.
fn requirement(what: &'static str, result: anyhow::Result<String>) -> Finding {
    match result {
        Ok(message) => Finding::ok(what, message),
        Err(error) => Finding {
            next: None,
            ..Finding::error(what, format!("{error:#}"), "")
        },
    }
}

/// Checks systemd over D-Bus, and the agent.
pub async fn services(systemd: &anyhow::Result<Systemd>, config: &Config) -> Vec<Finding> {
    let next = "systemctl start dbus.service; the agent requires it";
    let systemd = match systemd {
        Ok(systemd) => systemd,
        Err(error) => return vec![Finding::error("systemd", format!("{error:#}"), next)],
    };
    let version = match systemd.version().await {
        Ok(version) => Finding::ok("systemd", format!("version {version}, answers over D-Bus")),
        Err(error) => Finding::error("systemd", format!("{error:#}"), next),
    };
    let mut found = vec![version, agent::look(systemd).await];
    found.extend(held::look(systemd, config).await);
    found.extend(outdated(&program_file::outdated()));
    found.extend(programs::look(systemd, config).await);
    found.extend(permission::look(systemd, config).await);
    found
}
