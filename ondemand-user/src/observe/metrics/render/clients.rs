//! What clients did: connections, datagrams, bytes, and how many were held.

use ondemand_core::caught::Loss;

use super::super::{exposition::Exposition, observation::Row};

pub(super) fn write(text: &mut Exposition, rows: &[Row]) {
    text.gauge(
        "ondemand_open_connections",
        "connections",
        "Open connections of clients.",
    )
    .each(rows, |row, _| row.open);
    text.counter(
        "ondemand_accepted_connections",
        "connections",
        "Accepted connections of clients.",
    )
    .each(rows, |row, _| row.sample.map(|sample| sample.accepted()));
    text.counter(
        "ondemand_ignored_connections",
        "connections",
        "Connections of clients that do not keep the service up (ignore_from).",
    )
    .each(rows, |row, _| {
        row.sample.map(|sample| sample.ignored.accepted)
    });
    text.counter(
        "ondemand_held_clients",
        "",
        "Clients that were held while the service was down, by where they were sent: application, front, none (they gave up before).",
    )
    .by(rows, "to", |row, _| {
        let held = &row.held;
        Some([
            ("application", held.to_application),
            ("front", held.to_front),
            ("none", held.gave_up),
        ])
    });
    text.counter(
        "ondemand_held_seconds",
        "seconds",
        "Time for which those of them were held that were sent on, in sum.",
    )
    .each(rows, |row, _| Some(row.held.held.as_secs_f64()));
    text.counter(
        "ondemand_datagrams",
        "",
        "Datagrams of clients, as far as the kernel can tell: several that arrive as one packet are one, and those of connected sockets are not seen.",
    )
    .each(rows, |row, _| row.datagrams.and(row.sample).map(|sample| sample.datagrams));
    text.counter(
        "ondemand_held_datagrams",
        "",
        "Datagrams that were held while the service was down or stopped, and were sent to the application.",
    )
    .each(rows, |row, _| row.datagrams.map(|datagrams| datagrams.sent));
    text.counter(
        "ondemand_lost_datagrams",
        "",
        "Datagrams that were held, and were not sent, by reason: no-room, late (too long a start), refused (by the kernel).",
    )
    .by(rows, "reason", |row, _| {
        let lost = row.datagrams?.lost;
        Some(Loss::ALL.map(|why| (why.as_str(), lost[why as usize])))
    });
    text.counter(
        "ondemand_refused_datagrams",
        "",
        "Datagrams that were refused, because the service was down and their senders may not start it (wake_from, public addresses).",
    )
    .each(rows, |row, _| row.datagrams.and(row.sample).map(|sample| sample.refused_datagrams));
    text.counter(
        "ondemand_refused_connections",
        "connections",
        "Refused attempts to connect of clients that may not start the service, while it was down (wake_from).",
    )
    .each(rows, |row, _| row.sample.map(|sample| sample.refused));
    text.counter(
        "ondemand_received_bytes",
        "bytes",
        "Payload that clients sent over TCP.",
    )
    .each(rows, |row, _| {
        row.sample.map(|sample| sample.received_bytes())
    });
    text.counter(
        "ondemand_sent_bytes",
        "bytes",
        "Payload that clients acknowledged over TCP.",
    )
    .each(rows, |row, _| row.sample.map(|sample| sample.sent_bytes()));
}
