//! The units that are generated: whatever a value is, it stays the value of its own key.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use ondemand_core::{
    config::{Agent, Config, Endpoint, List, Service},
    proxy_stay::exit_idle_time,
};

use super::{Numbers, configuration, unit_file};
use crate::{
    host::config_file,
    install::units::{Content, Host, UnitFile, files},
};

/// Directories below which a backend's socket changes what its proxy is kept from.
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
    }
}

/// Takes one byte of switches and then values, each up to a byte 255, which no text holds. They
/// go into a file that is parsed, and past all checks into a configuration.
pub fn units(data: &[u8]) {
    let mut numbers = Numbers(data);
    let switches = numbers.u8();
    let is_on = |bit: u8| switches & 1 << bit != 0;
    let mut values = numbers
        .0
        .split(|byte| *byte == 0xff)
        .map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let mut value = || values.next().unwrap_or_default();
    let (name, unit, backend, path, program) = (value(), value(), value(), value(), value());
    let listen: Vec<String> = values.take(3).collect();

    let list: Vec<String> = listen.iter().map(|address| quoted(address)).collect();
    let text = format!(
        "[service.{}]\nlisten = [{}]\nbackend = {}\nunit = {}\nveto = {}\nsteer = {}\n",
        quoted(&name),
        list.join(", "),
        quoted(&backend),
        quoted(&unit),
        quoted(&path),
        is_on(0)
    );
    let host = host(is_on(1));
    if let Ok(config) = config_file::parse(Path::new(configuration::PATH), &text) {
        check(&config, &host);
    }

    let endpoint = |text: String, tcp: bool| match text.parse() {
        Ok(endpoint) => endpoint,
        Err(_) if tcp => Endpoint::Tcp(([127, 0, 0, 1], 80).into()),
        Err(_) => Endpoint::Unix(text.into()),
    };
    let service = Service {
        name: name.clone(),
        listen: listen
            .into_iter()
            .map(|text| endpoint(text, is_on(2)))
            .collect(),
        backend: endpoint(backend, is_on(3)),
        unit,
        idle_timeout: is_on(4).then_some(Duration::from_secs(600)),
        min_uptime: Duration::ZERO,
        start_timeout: Duration::from_secs(90),
        steer: is_on(0),
        wake_from: List::default(),
        ignore_from: List::default(),
        veto: None,
    };
    let config = Config {
        path: path.into(),
        agent: Agent {
            metrics: None,
            history: None,
        },
        services: BTreeMap::from([(name, service)]),
    };
    let host = Host {
        ondemand: program,
        ..host
    };
    if let Ok(generated) = files(&config, &host) {
        compare(&config, &host, &generated);
    }
}

/// The units of a configuration that passed its checks.
pub(super) fn check(config: &Config, host: &Host) {
    let generated = files(config, host).expect("what is accepted can be generated");
    compare(config, host, &generated);
}

fn compare(config: &Config, host: &Host, generated: &[UnitFile]) {
    assert_eq!(generated.len(), 5 * config.services.len());
    for (service, files) in config.services.values().zip(generated.chunks(5)) {
        let plain = plain(service);
        let plain = Config {
            path: "/etc/a".into(),
            agent: config.agent.clone(),
            services: BTreeMap::from([(plain.name.clone(), plain)]),
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

/// A service of the same shape whose values are harmless.
fn plain(service: &Service) -> Service {
    let mut number = 0;
    let mut endpoint = |endpoint: &Endpoint| {
        number += 1;
        match endpoint {
            Endpoint::Tcp(_) => Endpoint::Tcp(([127, 0, 0, 1], number).into()),
            Endpoint::Unix(path) => {
                let place = PLACES.iter().find(|place| path.starts_with(place));
                Endpoint::Unix(Path::new(place.unwrap_or(&"/")).join(number.to_string()))
            }
        }
    };
    Service {
        name: "a".into(),
        listen: service.listen.iter().map(&mut endpoint).collect(),
        backend: endpoint(&service.backend),
        unit: "a.service".into(),
        ..service.clone()
    }
}

fn same_shape(file: &UnitFile, expected: &UnitFile) {
    // Below the directory of the units, as deep as it should be.
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

/// What systemd makes of the values is what they were.
fn values(config: &Config, service: &Service, host: &Host, files: &[UnitFile]) {
    let socket = service.socket_unit();
    let mut listen = service.listen.iter();
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
                "SourcePath" => assert_eq!(PathBuf::from(found()), config.path),
                "ExecStart" => assert_eq!(unit_file::words(&entry.value), command(service, host)),
                "PartOf" => assert_eq!(found(), service.unit),
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
    vec![
        host.ondemand.clone(),
        "proxy".into(),
        format!("--unit={}", service.unit),
        format!("--backend={}", service.backend),
        format!("--start-timeout={}ms", service.start_timeout.as_millis()),
        format!("--exit-idle-time={}ms", exit_idle_time(service).as_millis()),
        service.name.clone(),
    ]
}

/// As a basic string of TOML.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted += &format!("\\u{:04x}", u32::from(c)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
