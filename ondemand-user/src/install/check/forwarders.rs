//! Programs that bind the published port of a container: what it means that one holds an address of a
//! service, and what to do. To stop it would end the container.

use ondemand_core::config::{Endpoint, Service};
use ondemand_ebpf::FORWARDERS;

use super::{finding::Finding, holders::Holder};

/// Whether a process is such a program.
pub fn is_forwarder(holder: &Holder) -> bool {
    FORWARDERS.contains(&holder.name.as_str())
}

/// Where the forwarder of a backend's address is, and whether the unit is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the unit's own cgroup, as podman's.
    Own,
    /// Elsewhere, as docker's, and the unit is up.
    Elsewhere,
    /// The unit is down.
    Down,
}

/// It holds the backend's address.
pub fn at_backend(service: &Service, holder: &Holder, place: Place) -> Finding {
    const WHAT: &str = "backend";
    let (endpoint, unit) = (&service.backend, &service.unit);
    let what = format!("{holder} forwards {endpoint} to a container");
    let explicit = format!("set steer = false for service.{}", service.name);
    if service.own_address {
        return Finding::error(
            WHAT,
            format!(
                "{what}: clients may reach it past the host's own sockets, unseen, so {unit} is never stopped"
            ),
            "publish the container's port at another address, such as 127.0.0.1:8080, and make that `backend`",
        );
    }
    match place {
        Place::Own if service.steer => Finding::warning(
            WHAT,
            format!("{what}, and may accept nothing there itself: the proxy carries all clients"),
            format!("{explicit}, to make this explicit"),
        ),
        Place::Own => Finding::ok(WHAT, format!("{unit} is active; {what}")),
        Place::Elsewhere => {
            let also = match service.steer {
                true => format!(", and {explicit}"),
                false => String::new(),
            };
            Finding::warning(
                WHAT,
                format!("{what}, and is not a process of {unit}"),
                format!(
                    "if it is the container of {unit}, let it be{also}; otherwise choose another port for one \
                     of the two"
                ),
            )
        }
        Place::Down => Finding::warning(
            WHAT,
            format!("{what} while {unit} is down, and {unit} could not bind it"),
            format!(
                "if it is the container of {unit}, let the unit run it in the foreground (`docker run` or \
                 `docker start -a`, `podman run`), so that they start and end together; otherwise choose \
                 another port for one of the two"
            ),
        ),
    }
}

/// It holds a front address.
pub fn at_front(endpoint: &Endpoint, holder: &Holder, unit: &str) -> Finding {
    Finding::error(
        "listen",
        format!(
            "{endpoint} is used by {holder}, which forwards it to a container: {unit} cannot bind it"
        ),
        "publish the container's port at another address, such as 127.0.0.1 with another port, and make that \
         `backend`; or choose another address here",
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ondemand_core::config::Config;

    use super::*;
    use crate::install::check::finding::Level;

    #[test]
    fn nobody_is_told_to_stop_a_container() {
        #[track_caller]
        fn check(steer: bool, place: Place, level: Level, words: &str) {
            let text = format!(
                "[service.wiki]\nunit = \"wiki.service\"\nlisten = \"127.0.0.1:80\"\nbackend = \"127.0.0.1:8080\"\nsteer = {steer}\n"
            );
            let config = Config::parse(Path::new("/o.toml"), &text).unwrap();
            let holder = Holder {
                pid: 7,
                name: "docker-proxy".into(),
                unit: Some("docker.service".into()),
            };
            assert!(is_forwarder(&holder));
            let found = at_backend(&config.services["wiki"], &holder, place);
            assert_eq!(found.level, level);
            let next = found.next.unwrap_or_default();
            assert!(!next.contains("stop") && next.contains(words), "{next}");
        }
        check(true, Place::Own, Level::Warning, "steer = false");
        check(false, Place::Own, Level::Ok, "");
        check(
            true,
            Place::Elsewhere,
            Level::Warning,
            "let it be, and set steer = false",
        );
        check(
            false,
            Place::Elsewhere,
            Level::Warning,
            "let it be; otherwise",
        );
        check(true, Place::Down, Level::Warning, "in the foreground");
    }

    #[test]
    fn other_programs_are_no_forwarders() {
        let holder = |name: &str| Holder {
            pid: 7,
            name: name.into(),
            unit: None,
        };
        assert!(is_forwarder(&holder("conmon")));
        assert!(!is_forwarder(&holder("nginx")) && !is_forwarder(&holder("")));
    }
}
