//! What must hold for the units of any configuration: whatever a value is, it stays the value of
//! its own key.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
};

use ondemand_core::{
    config::{Access, Config, Endpoint, Ready, Service, WaitingPage},
    proxy_stay::exit_idle_time,
};

use super::unit_file;
use crate::{
    host::unit_files::UnitFiles,
    install::units::{Content, Host, UnitFile, files, hardening},
};

/// Directories that change the sandbox of a proxy if they contain the backend's socket.
const PLACES: [&str; 8] = [
    "/home",
    "/root",
    "/run/user",
    "/dev",
    "/tmp",
    "/var/tmp",
    "/run",
    "/",
];

pub(super) fn host(new: bool) -> Host {
    Host {
        ondemand: "/usr/bin/ondemand".into(),
        user: new.then(|| "ondemand".into()),
        systemd: new.then_some(255),
        unit_files: UnitFiles::default(),
        all_may_restart: false,
    }
}

/// Checks the units of a valid configuration.
pub(super) fn check(config: &Config, host: &Host) {
    let generated = files(config, host).expect("what is accepted can be generated");
    compare(config, host, &generated);
}

pub(super) fn compare(config: &Config, host: &Host, generated: &[UnitFile]) {
    let keeps = config.services.values().any(|it| it.own_address);
    let of_all = if keeps { 2 } else { 0 };
    let grouped = config.services.values().filter(|it| it.group.is_some());
    assert_eq!(
        generated.len(),
        6 * config.services.len() + grouped.count() + of_all
    );
    for (service, files) in config.services.values().zip(generated.chunks(6)) {
        let plain = plain(service);
        let plain = Config {
            path: "/etc/a".into(),
            agent: config.agent.clone(),
            services: BTreeMap::from([(plain.name.clone(), plain)]),
            groups: config.groups.clone(),
        };
        let plain_host = Host {
            ondemand: "/usr/bin/a".into(),
            ..host.clone()
        };
        let expected =
            crate::install::units::files(&plain, &plain_host).expect("a harmless configuration");
        for (file, expected) in files.iter().zip(&expected) {
            same_shape(file, expected);
        }
        values(config, service, host, files);
    }
}

/// A service of the same shape with harmless values.
fn plain(service: &Service) -> Service {
    let mut number = 0;
    let mut endpoint = |endpoint: &Endpoint| {
        number += 1;
        match endpoint {
            Endpoint::Udp(_) => Endpoint::Udp(([127, 0, 0, 1], number).into()),
            Endpoint::Tcp(address) => {
                let ip = address.ip();
                // Another one may come later (FreeBind=).
                let is_there = ip.is_unspecified() || ip.is_loopback();
                let plain = if is_there {
                    [127, 0, 0, 1]
                } else {
                    [192, 0, 2, 1]
                };
                Endpoint::Tcp((plain, number).into())
            }
            Endpoint::Unix(path) => {
                let place = PLACES.iter().find(|place| path.starts_with(place));
                // A name that goes into no list of paths stays one.
                let directory = match hardening::directory(path) {
                    Some(_) => "a",
                    None => ":",
                };
                let place = Path::new(place.unwrap_or(&"/")).join(directory);
                Endpoint::Unix(place.join(number.to_string()))
            }
        }
    };
    Service {
        name: "a".into(),
        listen: service.listen.iter().map(&mut endpoint).collect(),
        front: service.front.iter().map(&mut endpoint).collect(),
        backend: endpoint(&service.backend),
        unit: "a.service".into(),
        access: Access {
            mode: service.access.mode,
            user: service.access.user.as_ref().map(|_| "a".into()),
            group: service.access.group.as_ref().map(|_| "a".into()),
        },
        ..service.clone()
    }
}

fn same_shape(file: &UnitFile, expected: &UnitFile) {
    // Below the directory of the units, at the right depth.
    let depth = |path: &Path| {
        let mut parts = path.components();
        assert!(parts.all(|part| matches!(part, Component::Normal(_))));
        path.components().count()
    };
    assert_eq!(depth(&file.path), depth(&expected.path), "{:?}", file.path);
    match (&file.content, &expected.content) {
        (Content::Text(text), Content::Text(expected)) => {
            assert_eq!(
                text.split(['\n', '\r', '\0']).count(),
                expected.lines().count() + 1
            );
            let keys = |text: &str| -> Vec<(String, String)> {
                let entries = unit_file::entries(text).into_iter();
                entries.map(|entry| (entry.section, entry.key)).collect()
            };
            assert_eq!(keys(text), keys(expected), "{text}");
        }
        (Content::Link(target), Content::Link(_)) => {
            let mut parts = target.components();
            assert_eq!(parts.next(), Some(Component::ParentDir));
            assert_eq!(depth(parts.as_path()), 1);
        }
        (found, expected) => panic!("{found:?} instead of {expected:?}"),
    }
}

/// Checks that systemd reads the original values.
fn values(config: &Config, service: &Service, host: &Host, files: &[UnitFile]) {
    let socket = service.socket_unit();
    let mut listen = service.front.iter();
    for file in files {
        let Content::Text(text) = &file.content else {
            continue;
        };
        for entry in unit_file::entries(text) {
            let found = || unit_file::without_specifiers(&entry.value);
            match entry.key.as_str() {
                "ListenStream" => {
                    let address = listen.next().map(ToString::to_string);
                    assert_eq!(Some(found()), address);
                }
                "SocketUser" => assert_eq!(Some(found()), service.access.user),
                "SocketGroup" => assert_eq!(Some(found()), service.access.group),
                "BindReadOnlyPaths" => {
                    let Endpoint::Unix(socket) = &service.backend else {
                        panic!("{entry:?}");
                    };
                    let found = found();
                    let words: Vec<&str> = found.split(' ').collect();
                    assert_eq!(words.first(), Some(&&*host.ondemand));
                    let last = words.last().and_then(|word| word.strip_prefix('-'));
                    assert_eq!(last.map(Path::new), socket.parent());
                    assert_eq!(words.len(), 10, "{entry:?}");
                }
                "SourcePath" => assert_eq!(PathBuf::from(found()), config.path),
                "ExecStart" => assert_eq!(unit_file::words(&entry.value), command(service, host)),
                // Of the proxy, and of the socket's timer.
                "PartOf" => assert!([&service.unit, &socket].contains(&&found()), "{entry:?}"),
                "Unit" => assert_eq!(found(), socket),
                "OnFailure" => assert_eq!(found(), service.timer_unit()),
                "Wants" | "Requires" | "After" => {
                    let names = [&service.unit, &socket, &service.lease_unit()];
                    assert!(names.contains(&&found()), "{entry:?}");
                    assert!(!found().contains(char::is_whitespace), "{entry:?}");
                }
                _ => {}
            }
        }
    }
    assert_eq!(listen.next(), None);
}

fn command(service: &Service, host: &Host) -> Vec<String> {
    let mut words = vec![
        host.ondemand.clone(),
        "proxy".into(),
        format!("--unit={}", service.unit),
        format!("--backend={}", service.backend),
    ];
    if service.own_address {
        let own = service.listen.iter().filter(|address| address.is_tcp());
        words.extend(own.map(|address| format!("--own-address={address}")));
    }
    words.extend([
        format!("--start-timeout={}ms", service.start_timeout.as_millis()),
        format!("--exit-idle-time={}ms", exit_idle_time(service).as_millis()),
    ]);
    let silent = service.silent_after;
    words.extend(silent.map(|after| format!("--silent-after={}ms", after.as_millis())));
    let ready = service.ready.as_ref();
    words.extend(ready.map(|ready| format!("--ready={ready}")));
    let status = ready.and_then(Ready::status);
    words.extend(status.map(|status| format!("--ready-status={status}")));
    if let Some(page) = &service.waiting_page {
        words.push("--waiting-page".into());
        if let WaitingPage::File(path) = page {
            words.push(format!("--page-template={}", path.display()));
        }
    }
    words.push(service.name.clone());
    words
}
