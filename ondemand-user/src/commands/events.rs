//! `ondemand events`: what happens, as it happens.

use std::{collections::HashMap, io::Write as _};

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use jiff::{Timestamp, tz::TimeZone};
use ondemand_core::words::{Span, printable, span};
use serde::Serialize;
use zbus::{Message, MessageStream, OwnedVariant};

use super::client::Client;
use crate::bus::{self, names, report::Report};

/// One event. Scripts read it: fields are added, never renamed.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Event {
    /// When it was seen (RFC 3339).
    time: String,
    /// `started`, `stopped`, `vetoed`, `held`, `released`; `agent`: another agent is on the bus, or none.
    event: &'static str,
    /// The service; null: all.
    service: Option<String>,
    /// How long a start took; null: unknown.
    took_seconds: Option<f64>,
    /// Of a stop or a veto.
    reason: Option<String>,
    /// The end of a hold (RFC 3339); null: until it is released.
    until: Option<String>,
}

/// Prints events until it is ended.
///
/// # Errors
///
/// There is no bus, or it has ended.
pub async fn run(name: Option<&str>, json: bool) -> Result<()> {
    let client = Client::connect().await?;
    // First the rules, then the present state: nothing is missed between.
    // (zbus drops what comes by the name of a sender that it does not know: the sender is looked at below.)
    let rule = format!("type='signal',path_namespace='{}'", names::PATH);
    let owners = format!(
        "type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged',arg0='{}'",
        names::NAME
    );
    let connection = client.connection();
    let signals = MessageStream::for_match_rule(rule.as_str(), connection, None).await?;
    let owners = MessageStream::for_match_rule(owners.as_str(), connection, None).await?;
    let mut owner = client.owner().await?;
    let mut told = Told::default();
    let mut only = None;
    match client.status().await {
        Ok(text) => {
            let report: Report = serde_json::from_str(&text).context("parse the agent's reply")?;
            only = name.map(|name| super::status::name_among(&report, name).to_owned());
            if let Some(name) = &only
                && !report.services.iter().any(|service| service.name == *name)
            {
                // Says which there are.
                client.clients(name).await?;
            }
            told.begin(&report);
        }
        // One may come.
        Err(error) => {
            eprintln!("ondemand: {}", printable(&format!("{error:#}")));
            only = only.or_else(|| {
                name.map(|name| name.strip_suffix(".service").unwrap_or(name).to_owned())
            });
        }
    }
    let mut messages = futures_util::stream::select(signals, owners);
    while let Some(message) = messages.next().await {
        let message = message.context("wait for events")?;
        let event = match new_owner(&message) {
            Some(new) => {
                let event = agent(new.is_some());
                owner = new;
                Some(event)
            }
            // A signal can be sent by anybody to this connection alone.
            None if message.header().sender().map(ToString::to_string) != owner => None,
            None => told.event(&message),
        };
        let Some(event) = event else {
            continue;
        };
        if event.service.is_some() && only.is_some() && event.service != only {
            continue;
        }
        let line = match json {
            true => serde_json::to_string(&event)?,
            false => printable(&words(&event)),
        };
        let mut stdout = std::io::stdout();
        match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            result => result.context("print an event")?,
        }
    }
    anyhow::bail!("the bus closed the connection; `systemctl status dbus.service`")
}

/// The agent's new name on the bus, of a message of the bus about that; the inner `None`: it has gone.
fn new_owner(message: &Message) -> Option<Option<String>> {
    let header = message.header();
    let is_bus = header
        .sender()
        .is_some_and(|sender| *sender == "org.freedesktop.DBus");
    let member = header
        .member()
        .is_some_and(|member| *member == "NameOwnerChanged");
    if !is_bus || !member {
        return None;
    }
    let (_, _, owner): (String, String, String) = message.body().deserialize().ok()?;
    Some((!owner.is_empty()).then_some(owner))
}

fn agent(is_there: bool) -> Event {
    let reason = if is_there { "started" } else { "ended" };
    Event {
        reason: Some(reason.into()),
        ..at("agent", None)
    }
}

fn at(event: &'static str, service: Option<String>) -> Event {
    Event {
        time: Timestamp::now().to_string(),
        event,
        service,
        ..Event::default()
    }
}

/// What was told of holds: their signals have all changes of a service in them.
#[derive(Debug, Default)]
struct Told {
    /// The ends of holds by the paths of their services' objects, with the services' names.
    held: HashMap<String, (String, u64)>,
}

impl Told {
    fn begin(&mut self, report: &Report) {
        let services = report.services.iter().map(|service| {
            let until = service.held_until_micros();
            (
                bus::service_path(&service.name),
                (service.name.clone(), until),
            )
        });
        self.held = services.collect();
    }

    fn event(&mut self, message: &Message) -> Option<Event> {
        let header = message.header();
        let body = message.body();
        match header.member()?.as_str() {
            "Started" => {
                let (service, took): (String, u64) = body.deserialize().ok()?;
                let took = (took != names::NO_NUMBER).then(|| took as f64 / 1e6);
                Some(Event {
                    took_seconds: took,
                    ..at("started", Some(service))
                })
            }
            member @ ("Stopped" | "Vetoed") => {
                let (service, reason): (String, String) = body.deserialize().ok()?;
                let event = if member == "Stopped" {
                    "stopped"
                } else {
                    "vetoed"
                };
                Some(Event {
                    reason: Some(reason),
                    ..at(event, Some(service))
                })
            }
            "PropertiesChanged" => {
                let (_, changed, _): (String, HashMap<String, OwnedVariant>, Vec<String>) =
                    body.deserialize().ok()?;
                let until = u64::try_from(changed.get("HeldUntil")?.clone()).ok()?;
                self.hold(header.path()?.as_str(), until)
            }
            _ => None,
        }
    }

    /// Whether a hold has begun, changed or ended.
    fn hold(&mut self, path: &str, until: u64) -> Option<Event> {
        let service = bus::service_of_path(path)?;
        let (name, before) = self.held.entry(path.to_owned()).or_insert((service, 0));
        // By the wall clock it is computed again each time.
        let is_same =
            *before == until || (*before != 0 && until != 0 && before.abs_diff(until) < 2_000_000);
        *before = until;
        if is_same {
            return None;
        }
        let event = if until == 0 { "released" } else { "held" };
        let end = i64::try_from(until)
            .ok()
            .and_then(|until| Timestamp::from_microsecond(until).ok());
        let end = end.filter(|_| until != 0 && until != names::NO_NUMBER);
        Some(Event {
            until: end.map(|end| end.to_string()),
            ..at(event, Some(name.clone()))
        })
    }
}

/// An event for people.
fn words(event: &Event) -> String {
    let here = |text: &str, form: &str| match text.parse::<Timestamp>() {
        Ok(at) => at.to_zoned(TimeZone::system()).strftime(form).to_string(),
        Err(_) => text.to_owned(),
    };
    let mut line = here(&event.time, "%F %T");
    let name = event.service.as_deref().unwrap_or("the agent");
    line += &match event.event {
        "agent" => format!("  {name}"),
        what => format!("  {name}  {what}"),
    };
    if let Some(took) = event.took_seconds {
        line += &format!(", after {}", Span(span(took)));
    }
    if let Some(reason) = &event.reason {
        line += &match event.event {
            "agent" => format!(" {reason}"),
            _ => format!(": {reason}"),
        };
    }
    match (&event.until, event.event) {
        (Some(until), _) => line += &format!(" until {}", here(until, "%F %T")),
        (None, "held") => line += " until it is released",
        _ => {}
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_is_told_once() {
        let mut told = Told::default();
        let path = bus::service_path("my-wiki");
        let mut hold = |until| {
            told.hold(&path, until)
                .map(|event| (event.event, event.service, event.until.is_some()))
        };
        let name = || Some("my-wiki".to_owned());
        assert_eq!(hold(0), None);
        assert_eq!(hold(1_800_000_000_000_000), Some(("held", name(), true)));
        assert_eq!(hold(1_800_000_000_000_900), None);
        assert_eq!(hold(names::NO_NUMBER), Some(("held", name(), false)));
        assert_eq!(hold(0), Some(("released", name(), false)));
    }

    #[test]
    fn people_and_scripts_read_it() {
        let event = Event {
            took_seconds: Some(0.84),
            time: "2026-11-29T03:00:00Z".into(),
            ..at("started", Some("wiki".into()))
        };
        assert!(
            words(&event).ends_with("  wiki  started, after 840 ms"),
            "{}",
            words(&event)
        );
        let held = at("held", Some("wiki".into()));
        assert!(words(&held).ends_with("  wiki  held until it is released"));
        assert!(words(&agent(false)).ends_with("  the agent ended"));
        ::tests::documents::assert_documented(&serde_json::to_value(&event).unwrap());
    }
}
