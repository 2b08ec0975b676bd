//! Checks of one service: its unit, its veto program, what steering would bypass.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::{Result, anyhow};
use ondemand_core::config::{Endpoint, PerUnit, Service};
use tokio::try_join;

use super::{
    addresses::{self, OTHER_SOCKET},
    common::{Common, Manager},
    empty,
    finding::{Finding, Level},
    freeze, generated, own_address, page, proxy, ready, runtime,
    unit::{failed, needed, usable},
};
use crate::{
    kernel::sockets::sock_diag::listens_by_mptcp,
    systemd::{Facts, Questions, Systemd},
};

/// Directories hidden from the agent: `ProtectHome=` and `PrivateTmp=` of ondemand.service.
const HIDDEN: [&str; 5] = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];

/// Makes all checks of one service.
pub async fn look(service: &Service, common: &Common<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut units = addresses::Units::default();
    let mut facts = None;
    let manager = common.manager.as_ref();
    let is_plain = common.has_loaded(&service.unit) && common.is_plain(&service.unit);
    match manager {
        None => found.push(Finding::unknown(
            "unit",
            &anyhow::anyhow!("whether {} exists: systemd does not answer", service.unit),
        )),
        Some(manager) => match read(service, common, manager, is_plain, &mut units).await {
            Ok(read) => {
                found.push(usable(service, &read.backend));
                found.extend(failed(service, &read.backend));
                facts = Some(read);
            }
            Err(error) => found.push(Finding::unknown("unit", &error)),
        },
    }
    let loaded = found
        .first()
        .is_some_and(|finding| finding.level == Level::Ok);
    let current = match &common.files {
        Ok(files) => {
            let Common {
                unit_files, source, ..
            } = common;
            generated::look(service, files, unit_files, source, facts.as_ref())
        }
        Err(error) => Finding::error("units", format!("cannot be made: {error:#}"), "see above"),
    };
    let is_current = current.level == Level::Ok;
    if let (Some(manager), Some(facts), true) = (manager, &facts, loaded) {
        let unit = &facts.backend;
        // Before a reload the drop-in is not expected.
        if unit.stop_when_unneeded == Some(false) && is_current {
            found.push(Finding::error(
                "stop",
                format!(
                    "{} has StopWhenUnneeded=no: it would never be stopped",
                    service.unit
                ),
                format!(
                    "`systemctl cat {}` shows the drop-in with it; remove that line",
                    service.unit
                ),
            ));
        }
        found.extend(needed(service, unit, manager).await);
    }
    // Text that is not in the file says nothing.
    let own_text = |unit: &str| common.own_text(unit).filter(|_| is_current);
    if let (Some(manager), Some(facts)) = (manager, &facts) {
        let text = own_text(&service.proxy_unit());
        let proxy = proxy::look(service, &facts.proxy, text, manager).await;
        let seen = common.seen.get(&service.name);
        found.extend(proxy.or(seen.map(|problem| proxy::seen(problem))));
    }
    found.push(current);
    let mut addresses = addresses::look(service, &units, &common.sockets);
    if let Some(manager) = manager {
        name_sockets(&mut addresses, manager.systemd).await;
    }
    found.extend(addresses);
    found.extend(service.veto.as_deref().map(veto));
    let is_up = matches!(units.backend.as_deref(), Some("active" | "reloading"));
    found.extend(ready::look(service, is_up).await);
    if let Some(manager) = manager.filter(|_| loaded) {
        found.extend(freeze::look(service, manager.systemd).await);
    }
    found.extend(empty::look(service, common.sieves.as_ref()));
    found.extend(page::look(service));
    found.extend(runtime::look(service, common));
    let front = service.socket_unit();
    let are_plain = [own_text(&front).is_some() && !front.contains('@'), is_plain];
    found.extend(steering(service, common, are_plain).await);
    found.extend(lists(service));
    found.extend(own_address::datagrams(service));
    found
}

/// Names the socket units that hold addresses of the service.
async fn name_sockets(found: &mut [Finding], systemd: &Systemd) {
    let is_other = |finding: &&mut Finding| finding.message.contains(OTHER_SOCKET);
    let mut sockets = None;
    for finding in found.iter_mut().filter(is_other) {
        if sockets.is_none() {
            sockets = systemd.listening_sockets().await.ok();
        }
        let holds = |at: &String| finding.message.contains(&format!("listens on {at}:"));
        let unit = sockets
            .iter()
            .flatten()
            .find(|(_, at)| at.iter().any(holds));
        if let Some((unit, _)) = unit {
            finding.message = finding.message.replace(OTHER_SOCKET, unit);
            finding.next = Some(format!(
                "systemctl disable --now {unit}, or choose another address"
            ));
        }
    }
}

/// Explains the lists of clients.
fn lists(service: &Service) -> Vec<Finding> {
    let mut found = Vec::new();
    if !service.wake_from.is_absent() {
        let who = service.wake_from.words();
        let message =
            format!("only clients of {who} can start it; others are refused while it is down");
        found.push(Finding::ok("wake", message));
    }
    if !service.ignore_from.is_absent() {
        let who = service.ignore_from.words();
        let message =
            format!("clients of {who} do not keep it up: their connections end when it is stopped");
        found.push(Finding::ok("ignore", message));
    }
    found
}

/// The service's units as PID 1 has them. `is_plain`: [`Common::is_plain`] of the application.
async fn read(
    service: &Service,
    common: &Common<'_>,
    manager: &Manager<'_>,
    is_plain: bool,
    units: &mut addresses::Units,
) -> Result<PerUnit<Facts>> {
    let names = service.unit_names();
    let listed = manager
        .listed
        .as_ref()
        .map_err(|error| anyhow!("{error:#}"))?;
    let ask = |unit, questions| manager.systemd.facts_of(unit, listed, questions);
    let questions = |unit: &str| Questions {
        reload: !common.has_loaded(unit),
        ..Questions::default()
    };
    let usual = questions(&names.backend);
    let of_backend = Questions {
        stop: usual.reload || !is_plain,
        pins: manager.pins(&names.backend).is_none(),
        ..usual
    };
    let of_proxy = Questions {
        conditions: true,
        ..questions(&names.proxy)
    };
    let (backend, socket, proxy, lease) = try_join!(
        ask(&names.backend, of_backend),
        ask(&names.socket, questions(&names.socket)),
        ask(&names.proxy, of_proxy),
        ask(&names.lease, questions(&names.lease)),
    )?;
    let facts = PerUnit {
        backend,
        socket,
        proxy,
        lease,
    };
    units.backend.clone_from(&facts.backend.active_state);
    units.front.clone_from(&facts.socket.active_state);
    if matches!(units.backend.as_deref(), Some("active" | "reloading")) {
        units.cgroup = Some(manager.systemd.control_group(&names.backend).await?);
    }
    Ok(facts)
}

fn veto(path: &Path) -> Finding {
    const WHAT: &str = "veto";
    let name = path.display();
    if let Some(hidden) = HIDDEN.iter().find(|hidden| path.starts_with(hidden)) {
        return Finding::error(
            WHAT,
            format!(
                "{name}: {hidden} is hidden from the agent (ProtectHome=, PrivateTmp= of ondemand.service); the service would never be stopped"
            ),
            "put the program into another directory, such as /usr/local/bin",
        );
    }
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => Finding::error(
            WHAT,
            format!("{name} is not a program; the service would never be stopped"),
            "name an executable file",
        ),
        Ok(metadata) if metadata.permissions().mode() & 0o111 == 0 => Finding::error(
            WHAT,
            format!("{name} is not executable; the service would never be stopped"),
            format!("chmod +x {name}"),
        ),
        // The agent has its own user, so the service would never be stopped.
        Ok(metadata) if metadata.permissions().mode() & 0o001 == 0 => Finding::warning(
            WHAT,
            format!("{name} is executable for its owner and group only, not for the agent's user"),
            format!("chmod o+rx {name}; or run the agent as root (units/examples/root.conf)"),
        ),
        Ok(_) => Finding::ok(WHAT, format!("{name} is executable")),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Finding::warning(WHAT, format!("{name}: {error}"), "sudo ondemand check")
        }
        Err(error) => Finding::error(
            WHAT,
            format!("{name}: {error}; the service would never be stopped"),
            "install it, or remove the line `veto`",
        ),
    }
}

/// The effect of `steer = true`: (steered, proxied) front addresses.
fn ways(service: &Service) -> (Vec<&Endpoint>, Vec<&Endpoint>) {
    service.listen.iter().partition(|front| {
        matches!(
            (front, &service.backend),
            (Endpoint::Tcp(front), Endpoint::Tcp(backend)) if front.is_ipv4() == backend.is_ipv4()
        )
    })
}

/// `are_plain`: whether the units of the front socket and of the application have no rules of their own.
async fn steering(service: &Service, common: &Common<'_>, are_plain: [bool; 2]) -> Option<Finding> {
    const WHAT: &str = "steer";
    if !service.steer {
        return None;
    }
    if service.own_address {
        return Some(Finding::ok(
            WHAT,
            format!(
                "{} keeps its address: while it is up its clients are its own",
                service.unit
            ),
        ));
    }
    let (straight, proxied) = ways(service);
    let list = |endpoints: &[&Endpoint]| {
        let all: Vec<_> = endpoints.iter().map(ToString::to_string).collect();
        all.join(", ")
    };
    if straight.is_empty() {
        let why = match &service.backend {
            Endpoint::Unix(_) => "the backend is a Unix socket",
            Endpoint::Tcp(_) | Endpoint::Udp(_) => "no front address is of the backend's family",
        };
        return Some(Finding::warning(
            WHAT,
            format!("{why}: the proxy carries all clients"),
            "set steer = false, or let both listen on TCP addresses of one family",
        ));
    }
    if let Some(manager) = &common.manager {
        let units = [&service.socket_unit(), &service.unit];
        for (unit, is_plain) in units.into_iter().zip(are_plain) {
            match manager.address_rules(unit, is_plain).await {
                Ok(None) => {}
                Ok(Some(place)) => {
                    let what = if *unit == service.unit {
                        "would drop clients that connect to it directly"
                    } else {
                        "has no effect on clients that connect to the backend directly"
                    };
                    return Some(Finding::warning(
                        WHAT,
                        format!("IPAddressDeny= of {place} {what}: the proxy carries them"),
                        format!("set steer = false for service.{}", service.name),
                    ));
                }
                Err(error) => return Some(Finding::unknown(WHAT, &error)),
            }
        }
    }
    let backend = &service.backend;
    if let Endpoint::Tcp(address) = backend
        && !common.sockets.at(backend).is_empty()
        && matches!(listens_by_mptcp(*address), Ok(Some(true)))
    {
        let unit = &service.unit;
        return Some(Finding::warning(
            WHAT,
            format!(
                "{unit} listens on {backend} with an MPTCP socket, which cannot be steered to: the proxy carries \
                 all clients"
            ),
            format!(
                "programs in Go: set GODEBUG=multipathtcp=0 in {unit}; or set steer = false for service.{}",
                service.name
            ),
        ));
    }
    let mut message = format!("clients of {} are steered to {backend}", list(&straight));
    if !proxied.is_empty() {
        message += &format!("; those of {} are proxied", list(&proxied));
    }
    Some(Finding::ok(WHAT, message))
}

#[cfg(test)]
mod tests {
    use ondemand_core::config::Config;

    use super::{super::unit::pins, *};

    fn service(lines: &str) -> Service {
        let text =
            format!("[service.wiki]\nunit = \"wiki.service\"\nidle_timeout = \"1h\"\n{lines}");
        let config = Config::parse(Path::new("/o.toml"), &text).unwrap();
        config.services["wiki"].clone()
    }

    fn wiki() -> Service {
        service("listen = [\"127.0.0.1:80\"]\nbackend = \"127.0.0.1:8080\"")
    }

    #[test]
    fn units_that_cannot_be_started() {
        #[track_caller]
        fn check(state: &str, error: &str, level: Level, expected: &str) {
            let facts = Facts {
                load_state: Some(state.into()),
                load_error: Some(("org.x".into(), error.into())),
                fragment_path: Some("/x/wiki.service".into()),
                ..Facts::default()
            };
            let finding = usable(&wiki(), &facts);
            assert_eq!((finding.level, &*finding.message), (level, expected));
        }
        check(
            "loaded",
            "",
            Level::Ok,
            "wiki.service is loaded, /x/wiki.service",
        );
        check("not-found", "", Level::Error, "wiki.service does not exist");
        check(
            "masked",
            "",
            Level::Error,
            "wiki.service is masked: it cannot be started",
        );
        check(
            "bad-setting",
            "no",
            Level::Error,
            "wiki.service cannot be loaded: no",
        );
        check(
            "error",
            "",
            Level::Error,
            "wiki.service cannot be loaded: error",
        );
    }

    #[test]
    fn our_own_units_pin_nothing_for_ever() {
        let list = |units: &[&str]| Some(units.iter().map(|unit| (*unit).to_owned()).collect());
        let facts = Facts {
            wanted_by: list(&["ondemand-wiki.service", "multi-user.target"]),
            required_by: list(&["ondemand-wiki.target", "multi-user.target"]),
            bound_by: list(&["a.service"]),
            ..Facts::default()
        };
        assert_eq!(pins(&wiki(), &facts), ["a.service", "multi-user.target"]);
    }

    #[test]
    fn veto_programs() {
        #[track_caller]
        fn check(path: &str, level: Level, word: &str) {
            let finding = veto(Path::new(path));
            assert_eq!(finding.level, level, "{finding:?}");
            assert!(finding.message.contains(word), "{finding:?}");
        }
        check("/bin/sh", Level::Ok, "/bin/sh");
        check("/etc", Level::Error, "not a program");
        check("/etc/passwd", Level::Error, "not executable");
        check("/etc/none", Level::Error, "No such file");
        check("/tmp/x", Level::Error, "/tmp is hidden");
        check("/homes/x", Level::Error, "No such file");
        check("/home/me/x", Level::Error, "/home is hidden");
    }

    #[test]
    fn only_one_family_can_be_steered() {
        #[track_caller]
        fn check(listen: &str, backend: &str, straight: usize) {
            let service = service(&format!("listen = [{listen}]\nbackend = \"{backend}\""));
            assert_eq!(ways(&service).0.len(), straight);
        }
        check("'127.0.0.1:80', '[::]:80'", "127.0.0.1:8080", 1);
        check("'127.0.0.1:80', '[::]:80'", "[::1]:8080", 1);
        check("'[::]:80'", "127.0.0.1:8080", 0);
        check("'/run/x', '0.0.0.0:80'", "127.0.0.1:8080", 1);
        check("'127.0.0.1:80'", "/run/y", 0);
    }
}
