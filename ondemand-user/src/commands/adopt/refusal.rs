//! Which units cannot be services on demand, or should not be: pure.

use crate::{
    host::{config_file, unit_files},
    systemd::{Candidate, OfService},
};

/// Why a unit is not adopted, each with what to do.
pub fn refusal(unit: &str, found: &Candidate, service: &OfService) -> Option<String> {
    let id = found.id.as_deref().unwrap_or(unit);
    if config_file::is_own(id) {
        return Some(format!(
            "{id} is one of ondemand's own units; name the unit of an application (`ondemand adopt` lists them)"
        ));
    }
    let why = match found.load_state.as_deref() {
        Some("loaded") => None,
        Some("not-found") => Some(format!(
            "systemd has no unit of this name; `ondemand adopt` lists those that listen. If it is one of a user \
             (`systemctl --user status {unit}`), make it a unit of the system: ondemand manages those of the system alone"
        )),
        Some("masked") => Some(format!(
            "it is masked, so nothing can start it; `systemctl unmask {unit}`, then adopt it"
        )),
        other => Some(format!(
            "systemd cannot load it ({}); `systemctl status {unit}` says why",
            other.unwrap_or("unknown")
        )),
    };
    let why = why.or_else(|| {
        let sockets: Vec<_> = triggers(found, ".socket").collect();
        if let Some(socket) = sockets.first() {
            return Some(format!(
                "{socket} starts it at its first client already, and holds its sockets; to have ondemand stop it, too, \
                 configure it with activation = \"native\" (MANUAL.md, Socket units of applications). If it can listen by \
                 itself: `systemctl disable --now {}`, `systemctl restart {id}`, and adopt it",
                sockets.join(" ")
            ));
        }
        if found.transient == Some(true) {
            return Some(
                "it is transient (systemd-run): there is nothing to start it from again; write a unit file for it".into(),
            );
        }
        if found.refuse_manual_start == Some(true) {
            return Some(
                "it has RefuseManualStart=yes, so a client could not start it; take that out of its unit".into(),
            );
        }
        match service.kind.as_deref() {
            Some("oneshot") => Some(
                "its type is oneshot: it runs and ends, and listens for nobody".into(),
            ),
            _ => None,
        }
    });
    why.map(|why| format!("{id}: {why}"))
}

/// The units of this kind that start it by themselves.
fn triggers<'a>(found: &'a Candidate, kind: &'a str) -> impl Iterator<Item = &'a str> {
    let all = found.triggered_by.iter().flatten();
    all.map(String::as_str)
        .filter(move |unit| unit.ends_with(kind) && !config_file::is_own(unit))
}

/// A name that no unit of an application can have. `None`: it may be one.
pub fn impossible(unit: &str) -> Option<String> {
    let kind = unit.rsplit_once('.').map_or("", |(_, kind)| kind);
    if matches!(
        kind,
        "socket"
            | "target"
            | "timer"
            | "path"
            | "mount"
            | "automount"
            | "slice"
            | "scope"
            | "device"
            | "swap"
    ) {
        return Some(format!(
            "{unit} is a {kind}, not a service; name the .service unit of the application"
        ));
    }
    if let Some(prefix) = unit.strip_suffix("@.service") {
        return Some(format!(
            "{unit} is a template; name one of its instances, such as {prefix}@INSTANCE.service"
        ));
    }
    None
}

/// Why a unit should stay up, however idle it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Critical {
    /// It is not adopted: the host needs it without connecting to it.
    Never(&'static str),
    /// Only by somebody who was told.
    Caution(&'static str),
}

impl Critical {
    /// In words.
    pub fn why(self) -> &'static str {
        match self {
            Self::Never(why) | Self::Caution(why) => why,
        }
    }
}

/// Whether the host needs this unit. `ancestors`: the services that this process descends from.
pub fn critical(unit: &str, ancestors: &[String]) -> Option<Critical> {
    let stem = unit.strip_suffix(".service").unwrap_or(unit);
    let prefix = stem.split('@').next().unwrap_or(stem);
    Some(match prefix {
        "dbus" | "dbus-broker" | "polkit" => {
            Critical::Never("the host, and ondemand itself, need it")
        }
        "user" | "getty" | "serial-getty" | "NetworkManager" | "wpa_supplicant" | "networking"
        | "firewalld" | "nftables" | "dockerd" | "docker" | "containerd" | "crio" => {
            Critical::Never("the host, or other services, need it without connecting to it")
        }
        _ if prefix.starts_with("systemd-") => Critical::Never("it is a part of systemd"),
        _ if config_file::is_own(unit) => Critical::Never("it is a part of ondemand"),
        _ if ancestors.iter().any(|ancestor| ancestor == unit) => {
            Critical::Caution("your present session came through it: a mistake would lock you out")
        }
        "ssh" | "sshd" | "dropbear" => Critical::Caution("it is the way into this host"),
        _ => return None,
    })
}

/// Whether a unit was made by a generator from another file, such as a quadlet.
pub fn generated_from(found: &Candidate) -> Option<&str> {
    let path = found.fragment_path.as_deref()?;
    unit_files::is_generated(std::path::Path::new(path)).then_some(
        found
            .source_path
            .as_deref()
            .filter(|it| !it.is_empty())
            .unwrap_or(path),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded() -> Candidate {
        Candidate {
            id: Some("wiki.service".into()),
            load_state: Some("loaded".into()),
            ..Candidate::default()
        }
    }

    #[test]
    fn each_unit_that_cannot_be_adopted_says_why_and_what_to_do() {
        #[track_caller]
        fn check(found: Candidate, kind: &str, expected: Option<&str>) {
            let service = OfService {
                kind: Some(kind.into()),
                ..OfService::default()
            };
            let why = refusal("wiki.service", &found, &service);
            match (&why, expected) {
                (None, None) => {}
                (Some(why), Some(expected)) => assert!(why.contains(expected), "{why}"),
                _ => panic!("{why:?} {expected:?}"),
            }
        }
        let state = |state: &str| Candidate {
            load_state: Some(state.into()),
            ..loaded()
        };
        let triggered = |by: &str| Candidate {
            triggered_by: Some(vec![by.into()]),
            ..loaded()
        };
        check(loaded(), "simple", None);
        check(loaded(), "dbus", None);
        check(loaded(), "oneshot", Some("oneshot"));
        check(
            state("masked"),
            "simple",
            Some("systemctl unmask wiki.service"),
        );
        check(state("not-found"), "simple", Some("systemctl --user"));
        check(
            state("bad-setting"),
            "simple",
            Some("systemctl status wiki.service"),
        );
        check(
            triggered("wiki.socket"),
            "simple",
            Some("systemctl disable --now wiki.socket"),
        );
        check(triggered("wiki.timer"), "simple", None);
        check(triggered("ondemand-wiki.socket"), "simple", None);
        let transient = Candidate {
            transient: Some(true),
            ..loaded()
        };
        check(transient, "simple", Some("unit file"));
        let refuses = Candidate {
            refuse_manual_start: Some(true),
            ..loaded()
        };
        check(refuses, "simple", Some("RefuseManualStart"));
        let own = Candidate {
            id: Some("ondemand.service".into()),
            ..loaded()
        };
        check(own, "simple", Some("ondemand's own"));
    }

    #[test]
    fn names_of_other_things() {
        assert!(impossible("wiki.socket").unwrap().contains("a socket"));
        assert!(
            impossible("wiki@.service")
                .unwrap()
                .contains("wiki@INSTANCE.service")
        );
        assert_eq!(impossible("wiki.service"), None);
        assert_eq!(impossible("wiki@a.service"), None);
    }

    #[test]
    fn what_the_host_needs() {
        let none: [String; 0] = [];
        for unit in [
            "ssh.service",
            "sshd.service",
            "dbus.service",
            "dbus-broker.service",
            "systemd-resolved.service",
            "user@1000.service",
            "getty@tty1.service",
            "ondemand.service",
        ] {
            assert!(critical(unit, &none).is_some(), "{unit}");
        }
        assert_eq!(critical("wiki.service", &none), None);
        let session = ["wiki.service".to_owned()];
        let found = critical("wiki.service", &session).unwrap();
        assert!(matches!(found, Critical::Caution(why) if why.contains("session")));
        assert!(matches!(
            critical("ssh.service", &none),
            Some(Critical::Caution(_))
        ));
        assert!(matches!(
            critical("dbus.service", &["dbus.service".into()]),
            Some(Critical::Never(_))
        ));
    }

    #[test]
    fn quadlets_are_generated() {
        let found = |path: &str, source: &str| Candidate {
            fragment_path: Some(path.into()),
            source_path: Some(source.into()),
            ..loaded()
        };
        let quadlet = found(
            "/run/systemd/generator/wiki.service",
            "/etc/containers/systemd/wiki.container",
        );
        assert_eq!(
            generated_from(&quadlet),
            Some("/etc/containers/systemd/wiki.container")
        );
        assert_eq!(
            generated_from(&found("/etc/systemd/system/wiki.service", "")),
            None
        );
    }
}
