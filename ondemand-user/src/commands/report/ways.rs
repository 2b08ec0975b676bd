//! How clients have come, beside the connections: held, refused, as datagrams.

use ondemand_core::{
    caught::Ways,
    words::{Span, counted},
};
use serde::{Serialize, Serializer, ser::SerializeStruct as _};

/// The sums of the runs in a period. `None`: known of none of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted(pub Option<Ways>);

#[derive(Serialize)]
struct HeldClients {
    to_application: u64,
    to_front: u64,
    gave_up: u64,
    seconds: f64,
}

#[derive(Serialize)]
struct Datagrams {
    passed: u64,
    held: u64,
    lost: u64,
    refused: u64,
}

/// As fields of what it is in.
impl Serialize for Counted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Ways", 3)?;
        let held = self.0.map(|ways| HeldClients {
            to_application: ways.held.to_application,
            to_front: ways.held.to_front,
            gave_up: ways.held.gave_up,
            seconds: ways.held.held.as_secs_f64(),
        });
        let datagrams = self.0.map(|ways| Datagrams {
            passed: ways.datagrams,
            held: ways.sent_datagrams,
            lost: ways.lost_datagrams,
            refused: ways.refused_datagrams,
        });
        fields.serialize_field("held_clients", &held)?;
        fields.serialize_field("refused_connections", &self.0.map(|ways| ways.refused))?;
        fields.serialize_field("datagrams", &datagrams)?;
        fields.end()
    }
}

impl Counted {
    /// Adds those of another service.
    pub fn add(&mut self, other: Self) {
        self.0 = match (self.0, other.0) {
            (Some(all), Some(one)) => Some(all.and(&one)),
            (one, None) | (None, one) => one,
        };
    }

    /// `12 held for 15 ms on average (1 to the front socket), 2 gave up, 3 refused`. `None`: there were none.
    pub fn clients(&self) -> Option<String> {
        let ways = self.0?;
        let mut parts = Vec::new();
        if let Some(mean) = ways.mean_held() {
            let sent = ways.held.to_application + ways.held.to_front;
            let mut text = format!("{sent} held for {} on average", Span(mean));
            if ways.held.to_front > 0 {
                text += &format!(" ({} to the front socket)", ways.held.to_front);
            }
            parts.push(text);
        }
        for (number, what) in [(ways.held.gave_up, "gave up"), (ways.refused, "refused")] {
            if number > 0 {
                parts.push(format!("{number} {what}"));
            }
        }
        (!parts.is_empty()).then(|| parts.join(", "))
    }

    /// `3,000 datagrams, 12 held, 1 lost, 2 refused`. `None`: there were none.
    pub fn datagrams(&self) -> Option<String> {
        let ways = self.0?;
        let mut parts = vec![counted(ways.datagrams, "datagram")];
        for (number, what) in [
            (ways.sent_datagrams, "held"),
            (ways.lost_datagrams, "lost"),
            (ways.refused_datagrams, "refused"),
        ] {
            if number > 0 {
                parts.push(format!("{number} {what}"));
            }
        }
        (parts.len() > 1 || ways.datagrams > 0).then(|| parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ondemand_core::caught::Tally;

    use super::*;

    #[test]
    fn words() {
        let none = Counted(Some(Ways::default()));
        assert_eq!((none.clients(), none.datagrams()), (None, None));
        assert_eq!(Counted(None).clients(), None);
        let mut some = Counted(Some(Ways {
            held: Tally {
                to_application: 11,
                to_front: 1,
                gave_up: 2,
                held: Duration::from_millis(180),
                ..Tally::default()
            },
            refused: 3,
            datagrams: 1,
            lost_datagrams: 4,
            ..Ways::default()
        }));
        let clients = "12 held for 15 ms on average (1 to the front socket), 2 gave up, 3 refused";
        assert_eq!(some.clients().as_deref(), Some(clients));
        assert_eq!(some.datagrams().as_deref(), Some("1 datagram, 4 lost"));
        some.add(Counted(None));
        some.add(some);
        assert_eq!(some.datagrams().as_deref(), Some("2 datagrams, 8 lost"));
        let json = serde_json::to_value(some).unwrap();
        assert_eq!(json["held_clients"]["to_application"], 22, "{json}");
        assert_eq!(json["held_clients"]["seconds"], 0.36, "{json}");
        assert_eq!(json["refused_connections"], 6, "{json}");
        let json = serde_json::to_value(Counted(None)).unwrap();
        assert!(json["datagrams"].is_null() && json["held_clients"].is_null());
    }
}
