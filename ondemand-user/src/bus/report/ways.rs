//! How the clients of a service have come, beside the connections: held, refused, as datagrams.

use std::{collections::BTreeMap, time::Duration};

use ondemand_core::words::{Span, counted};
use serde::{Deserialize, Serialize};

use super::Service;

/// Clients that were held, since the agent began to watch the service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HeldClients {
    /// Now.
    pub waiting: u64,
    /// Those that met the application.
    pub to_application: u64,
    /// Those that went to the front socket.
    pub to_front: u64,
    /// Those of `to_front` that were held for as long as one is; the others could not be held any longer.
    pub late: u64,
    /// Those that gave up while they were held.
    pub gave_up: u64,
    /// The sum of the times that those were held that were sent on.
    pub seconds: f64,
}

/// Datagrams of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Datagrams {
    /// Those that came to the application since the counting began, as far as the kernel can tell: several that arrive as one
    /// packet are one, and those of connected sockets are not seen.
    pub passed: u64,
    /// Those that are held now.
    pub waiting: u64,
    /// Those of `passed` that were held before, since the agent began to watch the service.
    pub held: u64,
    /// Those that were held, and not sent, since then.
    pub lost: u64,
    /// The same by reason: `no-room`, `late` (held for too long), `refused` (the kernel did not send it).
    pub lost_by_reason: BTreeMap<String, u64>,
    /// Those that were refused, because it was down and their senders may not start it, since the counting began.
    pub refused: u64,
}

impl Service {
    /// How its clients have come, beside the connections: one line. `None`: nothing was held, refused, or a datagram.
    pub fn ways(&self) -> Option<String> {
        let held = &self.held_clients;
        let sent = held.to_application + held.to_front;
        let mut parts = Vec::new();
        let mut part = |number: u64, what: &str| {
            if number > 0 {
                parts.push(format!("{number} {what}"));
            }
        };
        part(held.waiting, "held now");
        if sent > 0 {
            let mean = Duration::try_from_secs_f64(held.seconds / sent as f64).unwrap_or_default();
            part(sent, &format!("held for {} on average", Span(mean)));
            part(held.to_front, "of them to the front socket");
        }
        part(held.gave_up, "gave up");
        part(self.refused_connections, "refused");
        let mut lines = Vec::new();
        if !parts.is_empty() {
            lines.push(format!("clients: {}", parts.join(", ")));
        }
        if let Some(datagrams) = &self.datagrams {
            let mut text = counted(datagrams.passed, "datagram");
            for (number, what) in [
                (datagrams.waiting, "held now"),
                (datagrams.held, "held before"),
                (datagrams.lost, "lost"),
                (datagrams.refused, "refused"),
            ] {
                if number > 0 {
                    text += &format!(", {number} {what}");
                }
            }
            lines.push(text);
        }
        (!lines.is_empty()).then(|| lines.join("; "))
    }

    /// How many of its clients and datagrams wait for it to start.
    pub fn waiting(&self) -> u64 {
        let datagrams = self.datagrams.as_ref().map_or(0, |it| it.waiting);
        self.held_clients.waiting + datagrams
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let mut service = Service::default();
        assert_eq!((service.ways(), service.waiting()), (None, 0));
        service.held_clients = HeldClients {
            waiting: 2,
            to_application: 9,
            to_front: 1,
            gave_up: 4,
            seconds: 0.15,
            ..HeldClients::default()
        };
        service.refused_connections = 3;
        let clients = "clients: 2 held now, 10 held for 15 ms on average, 1 of them to the front socket, 4 gave up, 3 refused";
        assert_eq!(service.ways().as_deref(), Some(clients));
        service.datagrams = Some(Datagrams {
            passed: 1,
            waiting: 5,
            lost: 2,
            ..Datagrams::default()
        });
        let all = format!("{clients}; 1 datagram, 5 held now, 2 lost");
        assert_eq!(service.ways(), Some(all));
        assert_eq!(service.waiting(), 7);
    }
}
