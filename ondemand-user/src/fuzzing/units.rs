//! The units that are generated for values of any kind.

use std::{collections::BTreeMap, path::Path, time::Duration};

use ondemand_core::config::{
    Access, Activation, Agent, By, ColdStartCost, Config, Endpoint, FirstClient, IdleTimeout,
    Learning, Limits, List, Ready, Schedule, Service, Statuses, WaitingPage,
};

use super::{
    Numbers, configuration,
    generated::{check, compare, host},
};
use crate::{
    host::config_file,
    install::units::{Host, files},
};

/// Takes one byte of switches and then values, each up to a byte 255, which no text contains. They
/// go into a file that is parsed, and directly into a configuration without validation.
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
    let listen: Vec<String> = values.by_ref().take(3).collect();
    let owner = values.next();

    let list: Vec<String> = listen.iter().map(|address| quoted(address)).collect();
    let text = format!(
        "[service.{}]\nlisten = [{}]\nbackend = {}\nunit = {}\nveto = {}\nwaiting_page = {}\nsteer = {}\nready = {}\n",
        quoted(&name),
        list.join(", "),
        quoted(&backend),
        quoted(&unit),
        quoted(&path),
        quoted(&path),
        is_on(0),
        quoted(&format!("http://127.0.0.1:8080/{path}"))
    );
    let owner_line = owner.iter().map(|owner| {
        let owner = quoted(owner);
        format!("socket_mode = \"0660\"\nsocket_user = {owner}\nsocket_group = {owner}\n")
    });
    let text = text + &owner_line.collect::<String>();
    let host = host(is_on(1));
    if let Ok(config) = config_file::parse(Path::new(configuration::PATH), &text) {
        check(&config, &host);
    }

    let endpoint = |text: String, tcp: bool| match text.parse() {
        // No front socket is of UDP.
        Ok(Endpoint::Udp(address)) => Endpoint::Tcp(address),
        Ok(endpoint) => endpoint,
        Err(_) if tcp => Endpoint::Tcp(([127, 0, 0, 1], 80).into()),
        Err(_) => Endpoint::Unix(text.into()),
    };
    let listen: Vec<_> = listen
        .into_iter()
        .map(|text| endpoint(text, is_on(2)))
        .collect();
    let service = Service {
        name: name.clone(),
        front: listen.clone(),
        listen,
        own_address: is_on(5),
        backend: endpoint(backend, is_on(3)),
        unit,
        idle_timeout: match is_on(4) {
            true => IdleTimeout::After(Duration::from_secs(600)),
            false => IdleTimeout::Never,
        },
        learning: Learning::default(),
        keep_up: Schedule::default(),
        prewarm: false,
        freeze_after: None,
        freeze_reclaim: false,
        group: None,
        silent_after: None,
        waiting_page: is_on(1).then(|| WaitingPage::File(path.clone().into())),
        busy: Limits::default(),
        min_uptime: Duration::ZERO,
        start_timeout: Duration::from_secs(90),
        ready: is_on(5).then(|| Ready {
            address: ([127, 0, 0, 1], 80).into(),
            by: By::Http {
                tls: false,
                host: "127.0.0.1".into(),
                path: path.clone(),
                status: Statuses::default(),
            },
        }),
        steer: is_on(0),
        first_client: FirstClient::Auto,
        activation: Activation::Front,
        wake_from: List::default(),
        ignore_from: List::default(),
        ignore_empty: is_on(4),
        keepalive: None,
        veto: None,
        access: Access {
            mode: u32::from(switches),
            user: owner.clone(),
            group: owner,
        },
    };
    let config = Config {
        path: path.into(),
        agent: Agent {
            metrics: None,
            whatif: Default::default(),
            metrics_names: Vec::new(),
            page: true,
            history: None,
            memory_budget: None,
            cold_start_cost: ColdStartCost::default(),
        },
        services: BTreeMap::from([(name, service)]),
        groups: BTreeMap::new(),
    };
    let host = Host {
        ondemand: program,
        ..host
    };
    if let Ok(generated) = files(&config, &host) {
        compare(&config, &host, &generated);
    }
}

/// Formats a basic string of TOML.
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
