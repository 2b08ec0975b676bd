//! Tests of the screen's contents.

use std::time::Duration;

use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{KeyCode, KeyEvent},
};

use super::{
    model::Model,
    view::{KEYS, draw},
};
use crate::bus::report::{Configuration, Report, Room, Service};

fn services(second: u64) -> Report {
    let wiki = Service {
        name: "wiki".into(),
        unit: "wiki.service".into(),
        state: "active".into(),
        route: "steered".into(),
        open_connections: Some(2),
        accepted_connections: 1_200 + 12 * second,
        received_bytes: 56_000 + 500 * second,
        sent_bytes: 3_400_000 + 120_000 * second,
        idle_timeout_seconds: Some(600.0),
        starts: 1,
        vetoes: 1,
        last_start_duration_seconds: Some(0.84),
        memory_bytes: Some(10_800_000),
        detail: "2 connections open".into(),
        ..Service::default()
    };
    let llm = Service {
        name: "a-very-long-name-of-a-service".into(),
        unit: "llm.service".into(),
        state: "activating".into(),
        route: "proxied".into(),
        detail: "is starting".into(),
        ..Service::default()
    };
    let ci = Service {
        name: "ci".into(),
        state: "active".into(),
        open_connections: Some(0),
        idle_timeout_seconds: Some(600.0),
        stops_in_seconds: Some(125.0),
        ..Service::default()
    };
    let held = Service {
        name: "held".into(),
        held: true,
        ..ci.clone()
    };
    Report {
        version: "0.1.0".into(),
        dry_run: false,
        configuration: Configuration::default(),
        services: vec![llm, ci, held, wiki],
    }
}

fn model() -> Model {
    let mut model = Model::default();
    for second in 0..4 {
        model.report(services(second * second), Duration::from_secs(second));
    }
    model
}

fn screen(model: &mut Model, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, model)).unwrap();
    let buffer = terminal.backend().buffer();
    let cells = buffer.content().chunks(usize::from(width.max(1)));
    cells
        .map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>())
        .map(|line| line.trim_end().to_owned())
        .collect()
}

#[track_caller]
fn check(model: &mut Model, (width, height): (u16, u16), expected: &[(usize, &str)]) {
    let screen = screen(model, width, height);
    for (line, text) in expected {
        assert_eq!(
            screen[*line],
            *text,
            "line {line} of\n{}",
            screen.join("\n")
        );
    }
}

#[test]
fn a_learned_timeout_says_why() {
    let mut report = services(0);
    let reason = "1 min 30 s: 20 of the last 22 gaps ended within 1 min 30 s";
    for service in &mut report.services {
        service.learned.in_force = true;
        service.learned.reason = reason.into();
    }
    let mut model = Model::default();
    model.report(report, Duration::ZERO);
    let shown = format!("idle timeout {reason}");
    let lines = screen(&mut model, 130, 24);
    assert!(lines.iter().any(|line| line.contains(&shown)), "{lines:?}");
}

#[test]
fn who_is_frozen_waits_or_goes_next_is_seen() {
    let mut report = services(0);
    let room = |waits_seconds, goes_next| {
        Some(Room {
            waits_seconds,
            goes_next,
            ..Room::default()
        })
    };
    let [llm, ci, held, wiki] = &mut report.services[..] else {
        panic!("four services");
    };
    (llm.state, llm.room) = ("inactive".into(), room(Some(3.0), false));
    llm.detail = "waits for room in the group gpu since 3 s: ci is up".into();
    (ci.stops_in_seconds, ci.room) = (None, room(None, true));
    held.frozen = true;
    wiki.room = room(None, false);
    let mut model = Model::default();
    model.report(report, Duration::ZERO);
    check(
        &mut model,
        (80, 24),
        &[
            (
                2,
                "a-very-long… no room      ?              0      0      0",
            ),
            (
                3,
                "ci           active       0    next      0      0      0",
            ),
            (
                4,
                "held         frozen       0    held      0      0      0",
            ),
            (20, "waits for room in the group gpu since 3 s: ci is up"),
        ],
    );
}

#[test]
fn eighty_columns() {
    let mut model = model();
    check(
        &mut model,
        (80, 24),
        &[
            (
                0,
                "ondemand 0.1.0  4 services, 3 active, 2 connections open; sorted by name",
            ),
            (
                1,
                "NAME         STATE     OPEN    LEFT CONN/S   IN/S  OUT/S TRAFFIC    START MEMORY",
            ),
            (
                2,
                "a-very-long… starting     ?              0      0      0",
            ),
            (
                3,
                "ci           active       0   2m05s      0      0      0",
            ),
            (
                4,
                "held         active       0    held      0      0      0",
            ),
            (
                5,
                "wiki         active       2           60.0   2.5k   600k       ▂▅█  840ms  10.8M",
            ),
            (18, &"─".repeat(80)),
            (
                19,
                "a-very-long-name-of-a-service (llm.service), proxied, idle timeout never",
            ),
            (20, "is starting"),
            (23, KEYS),
        ],
    );
}

#[test]
fn a_wrong_configuration_is_on_top() {
    let mut model = model();
    let mut report = services(25);
    report.configuration.error = Some("/etc/ondemand/ondemand.toml:2: service.wiki.a: x".into());
    model.report(report, Duration::from_secs(4));
    check(
        &mut model,
        (80, 24),
        &[
            (0, "WRONG CONFIGURATION, the one before stays in force:"),
            (
                1,
                "/etc/ondemand/ondemand.toml:2: service.wiki.a: x; correct it, then `systemctl",
            ),
            (
                2,
                "ondemand 0.1.0  4 services, 3 active, 2 connections open; sorted by name",
            ),
        ],
    );
}

#[test]
fn other_sizes() {
    let mut model = model();
    // Wide: full names, longer bars.
    check(
        &mut model,
        (120, 40),
        &[
            (
                2,
                "a-very-long-name-of-a-service starting     ?              0      0      0",
            ),
            (39, KEYS),
        ],
    );
    // Narrow: the last columns are left out.
    check(
        &mut model,
        (40, 10),
        &[
            (1, "NAME              STATE     OPEN    LEFT"),
            (5, "wiki              active       2"),
        ],
    );
    // No size breaks it.
    model.help = true;
    model.lost = Some("no agent is running".into());
    for width in 0..14 {
        for height in 0..14 {
            screen(&mut model, width * 7, height);
        }
    }
}

#[test]
fn help_losses_and_messages() {
    let mut model = model();
    model.lost("no agent is running".into());
    model.complain("wiki: only root may do this".into(), Duration::ZERO);
    check(
        &mut model,
        (80, 24),
        &[
            (
                1,
                "no answer from the agent, retrying every second: no agent is running",
            ),
            (
                6,
                "wiki         active       2           60.0   2.5k   600k       ▂▅█  840ms  10.8M",
            ),
            (23, "wiki: only root may do this"),
        ],
    );
    model.help = true;
    let shown = screen(&mut model, 80, 24).join("\n");
    for words in ["ondemand top", "hold the selected service", "any key: back"] {
        assert!(shown.contains(words), "no {words:?} in\n{shown}");
    }
    let mut nothing = Model::default();
    check(
        &mut nothing,
        (80, 24),
        &[(1, "no service is configured; see `ondemand --help`")],
    );
}

#[test]
fn a_terminal_gets_no_control_characters() {
    let mut model = Model::default();
    let evil = "\u{1b}[2J\u{9b}2J\r\u{7}";
    let service = Service {
        name: format!("wiki{evil}"),
        detail: evil.into(),
        unit: evil.into(),
        ..Service::default()
    };
    let report = Report {
        version: evil.into(),
        services: vec![service],
        ..Report::default()
    };
    model.report(report, Duration::ZERO);
    model.lost(evil.into());
    model.complain(evil.into(), Duration::ZERO);
    for line in screen(&mut model, 80, 24) {
        assert!(!line.contains(char::is_control), "{line:?}");
    }
}

#[test]
fn the_selected_service_is_always_on_the_screen() {
    let mut model = Model::default();
    let service = |number: u64| Service {
        name: format!("s{number:03}"),
        ..Service::default()
    };
    let report = Report {
        services: (0..500).map(service).collect(),
        ..Report::default()
    };
    model.report(report, Duration::ZERO);
    for (key, name) in [
        (KeyCode::End, "s499"),
        (KeyCode::Up, "s498"),
        (KeyCode::Home, "s000"),
        (KeyCode::PageDown, "s010"),
    ] {
        model.key(KeyEvent::from(key));
        let shown = screen(&mut model, 80, 10).join("\n");
        assert!(shown.contains(name), "no {name} in\n{shown}");
    }
}

/// A hundred, every tenth of them up.
fn hundred() -> Model {
    let service = |number: u64| Service {
        name: format!("s{number:03}"),
        unit: format!("s{number:03}.service"),
        state: if number.is_multiple_of(10) {
            "active"
        } else {
            "inactive"
        }
        .into(),
        ..Service::default()
    };
    let mut model = Model::default();
    let report = Report {
        services: (0..100).map(service).collect(),
        ..Report::default()
    };
    model.report(report, Duration::ZERO);
    model
}

fn press(model: &mut Model, keys: &str) {
    for key in keys.chars() {
        model.key(KeyEvent::from(KeyCode::Char(key)));
    }
}

#[test]
fn a_hundred_services() {
    let mut model = hundred();
    let shown = screen(&mut model, 80, 24).join("\n");
    assert!(shown.contains(" 1 of 100"), "{shown}");
    assert!(shown.contains('█'), "a bar at its side: {shown}");
    press(&mut model, "G");
    let last = screen(&mut model, 80, 24).join("\n");
    assert!(
        last.contains(" 100 of 100") && last.contains("s099"),
        "{last}"
    );
    press(&mut model, "a");
    let active = screen(&mut model, 80, 24).join("\n");
    assert!(active.contains("10 of 100 services (up)"), "{active}");
    assert!(
        active.contains("s090") && !active.contains("s099"),
        "{active}"
    );
    assert!(!active.contains('█'), "all fit: {active}");
    press(&mut model, "a/09");
    let typed = screen(&mut model, 80, 24).join("\n");
    assert!(typed.contains("/09_  enter"), "{typed}");
    assert!(typed.contains("11 of 100 services (\"09\")"), "{typed}");
    press(&mut model, "x");
    let none = screen(&mut model, 80, 24).join("\n");
    assert!(
        none.contains("no service is shown; esc shows all"),
        "{none}"
    );
}

#[test]
fn the_page_of_a_service_and_a_question() {
    let mut model = model();
    press(&mut model, "G");
    model.key(KeyEvent::from(KeyCode::Enter));
    let reading = screen(&mut model, 80, 24).join("\n");
    for words in [
        "wiki (wiki.service)",
        "reading its journal",
        "esc back",
        "BYTES/S",
        "CONN/S",
    ] {
        assert!(reading.contains(words), "{words}: {reading}");
    }
    let lines: String = (0..40).map(|line| format!("line {line}\n")).collect();
    model.past("wiki", format!("\nLAST STARTS AND STOPS\n{lines}\u{1b}[2J"));
    let top = screen(&mut model, 80, 24).join("\n");
    assert!(
        top.contains("LAST STARTS") && top.contains("line 1 of "),
        "{top}"
    );
    // To its end and no further.
    model.key(KeyEvent::from(KeyCode::End));
    let end = screen(&mut model, 80, 24).join("\n");
    assert!(
        end.contains("line 39") && !end.contains("LAST STARTS"),
        "{end}"
    );
    model.key(KeyEvent::from(KeyCode::Up));
    let back = screen(&mut model, 80, 24);
    assert!(
        back.iter().all(|line| !line.contains(char::is_control)),
        "{back:?}"
    );
    press(&mut model, "d");
    let asked = screen(&mut model, 80, 24);
    assert_eq!(
        asked[23],
        "stop wiki? It has 2 open connections. y: yes, any other key: no"
    );
    for width in 0..14 {
        for height in 0..14 {
            screen(&mut model, width * 7, height);
        }
    }
}
