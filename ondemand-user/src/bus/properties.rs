//! The properties of a service's object, from its report.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use zbus::Variant;

use super::{names::NO_NUMBER, report};

/// Ends of an idle time are computed again each time: those that are closer than this are the same. Microseconds.
const SAME: u64 = 2_000_000;
/// What changes all the time, and has no change signal.
const WITHOUT_SIGNAL: [&str; 2] = ["Detail", "IdleUSec"];
/// What is told to everyone, by [`super::News::Changed`].
const TOLD: [&str; 2] = ["HeldUntil", "State"];

/// A property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Texts(Vec<String>),
    Number(u64),
    /// A moment, in microseconds since 1970.
    Moment(u64),
    Flag(bool),
}

impl Value {
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Moment(NO_NUMBER), Self::Moment(other)) => *other == NO_NUMBER,
            (Self::Moment(one), Self::Moment(other)) => one.abs_diff(*other) < SAME,
            _ => self == other,
        }
    }
}

impl From<Value> for Variant<'static> {
    fn from(value: Value) -> Self {
        match value {
            Value::Text(text) => text.into(),
            Value::Texts(texts) => texts.into(),
            Value::Number(number) | Value::Moment(number) => number.into(),
            Value::Flag(flag) => flag.into(),
        }
    }
}

/// Microseconds; [`NO_NUMBER`] for none.
pub(super) fn micros(seconds: Option<f64>) -> u64 {
    let span = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    span.and_then(|span| u64::try_from(span.as_micros()).ok())
        .unwrap_or(NO_NUMBER)
}

/// When it was used last, by the wall clock as it is now.
pub(super) fn idle_since(service: &report::Service) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok();
    let now = now.and_then(|now| u64::try_from(now.as_micros()).ok());
    match (now, micros(service.idle_seconds)) {
        (Some(now), idle) if idle != NO_NUMBER => now.saturating_sub(idle),
        _ => NO_NUMBER,
    }
}

/// All of them, by name.
pub(super) fn all(service: &report::Service) -> BTreeMap<&'static str, Value> {
    let service = service.clone();
    BTreeMap::from([
        ("IdleSinceUSec", Value::Moment(idle_since(&service))),
        ("HeldUntil", Value::Moment(service.held_until_micros())),
        ("Name", Value::Text(service.name)),
        ("Unit", Value::Text(service.unit)),
        ("Listen", Value::Texts(service.listen)),
        ("State", Value::Text(service.state)),
        ("Route", Value::Text(service.route)),
        ("Detail", Value::Text(service.detail)),
        ("Problem", Value::Text(service.problem.unwrap_or_default())),
        ("KeptUp", Value::Flag(service.kept_up)),
        (
            "OpenConnections",
            Value::Number(service.open_connections.unwrap_or(NO_NUMBER)),
        ),
        (
            "AcceptedConnections",
            Value::Number(service.accepted_connections),
        ),
        ("ReceivedBytes", Value::Number(service.received_bytes)),
        ("SentBytes", Value::Number(service.sent_bytes)),
        ("IdleUSec", Value::Number(micros(service.idle_seconds))),
        (
            "IdleTimeoutUSec",
            Value::Number(micros(service.idle_timeout_seconds)),
        ),
        ("IdleTimeoutReason", Value::Text(reason(&service.learned))),
        (
            "LastStartUSec",
            Value::Number(micros(service.last_start_duration_seconds)),
        ),
        (
            "UsualStartUSec",
            Value::Number(micros(service.usual_start_seconds)),
        ),
        ("Starts", Value::Number(service.starts)),
        ("Stops", Value::Number(service.stops)),
        ("Vetoes", Value::Number(service.vetoes)),
    ])
}

/// Why the idle timeout is what it is.
pub(super) fn reason(learned: &report::Learned) -> String {
    match learned.in_force {
        true => learned.reason.clone(),
        false => "configured".to_owned(),
    }
}

/// As a reply or a signal has them.
pub(super) fn as_variants(
    all: BTreeMap<&'static str, Value>,
) -> HashMap<&'static str, Variant<'static>> {
    all.into_iter()
        .map(|(name, value)| (name, value.into()))
        .collect()
}

/// Whether it has a change signal.
pub(super) fn has_signal(name: &str) -> bool {
    !WITHOUT_SIGNAL.contains(&name)
}

/// Those that listeners have not heard of: all but what is `told` already. `told` is brought up to date.
pub(super) fn news(
    service: &report::Service,
    told: &mut BTreeMap<&'static str, Value>,
) -> BTreeMap<&'static str, Value> {
    let mut changed = all(service);
    changed.retain(|name, value| {
        let is_known = told.get(name).is_some_and(|told| told.is_same(value));
        !is_known && has_signal(name) && !TOLD.contains(name)
    });
    told.extend(changed.clone());
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_changed_is_told() {
        let mut service = report::Service {
            idle_seconds: Some(60.0),
            ..report::Service::default()
        };
        let mut told = BTreeMap::new();
        let first = news(&service, &mut told);
        assert!(first.contains_key("Starts") && !first.contains_key("State"));
        // A moment that is computed again is the same one.
        service.idle_seconds = Some(60.5);
        service.detail = "quiet, stops in 9 min".into();
        assert_eq!(news(&service, &mut told), BTreeMap::new());
        service.starts = 1;
        service.idle_seconds = None;
        let names: Vec<_> = news(&service, &mut told).into_keys().collect();
        assert_eq!(names, ["IdleSinceUSec", "Starts"]);
    }
}
