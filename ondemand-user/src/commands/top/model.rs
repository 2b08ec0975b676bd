//! The contents of the screen. Pure: time is an argument.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::bus::report::{Report, Service};

/// Number of kept rates: the widest row of bars.
const KEPT: usize = 240;
/// How long a message is shown.
const SHOWN: Duration = Duration::from_secs(6);

/// The sort order of the services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    #[default]
    Name,
    State,
    Open,
    Connections,
    Traffic,
    Left,
    Memory,
}

impl Order {
    const ALL: [Self; 7] = [
        Self::Name,
        Self::State,
        Self::Open,
        Self::Connections,
        Self::Traffic,
        Self::Left,
        Self::Memory,
    ];

    /// The displayed name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::State => "state",
            Self::Open => "open connections",
            Self::Connections => "connections/s",
            Self::Traffic => "traffic",
            Self::Left => "time left",
            Self::Memory => "memory",
        }
    }

    fn step(self, by: usize) -> Self {
        let all = Self::ALL;
        let at = all.iter().position(|order| *order == self).unwrap_or(0);
        all[(at + by) % all.len()]
    }
}

/// The effect of a key or of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    None,
    Quit,
    /// Poll the agent.
    Ask,
    Hold(String),
    Release(String),
}

/// One service.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// The agent's last report.
    pub service: Service,
    /// Connections accepted per second, the latest last.
    pub connections: VecDeque<f64>,
    /// Bytes per second from clients.
    pub received: f64,
    /// Bytes per second to clients.
    pub sent: f64,
    /// The sum of both, the latest last.
    pub traffic: VecDeque<f64>,
}

impl Row {
    /// Connections accepted in the last second.
    pub fn rate(&self) -> f64 {
        self.connections.back().copied().unwrap_or(0.0)
    }

    fn update(&mut self, service: Service, passed: Duration) {
        let seconds = passed.as_secs_f64();
        let before = std::mem::replace(&mut self.service, service);
        // Two reports of the same moment give no rate.
        if seconds < 0.05 {
            return;
        }
        // A counter that decreased was reset: it gives no rate either.
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        let now = &self.service;
        let connections = rate(now.accepted_connections, before.accepted_connections);
        self.received = rate(now.received_bytes, before.received_bytes);
        self.sent = rate(now.sent_bytes, before.sent_bytes);
        for (history, value) in [
            (&mut self.connections, connections),
            (&mut self.traffic, self.received + self.sent),
        ] {
            history.push_back(value);
            if history.len() > KEPT {
                history.pop_front();
            }
        }
    }
}

/// A message with an end of its display.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub text: String,
    pub is_error: bool,
    until: Duration,
}

/// The contents of the screen.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// In the displayed order.
    pub rows: Vec<Row>,
    /// The agent's version.
    pub version: String,
    /// Whether the agent stops nothing.
    pub dry_run: bool,
    /// What there is to say about the configuration's file.
    pub trouble: Option<String>,
    pub order: Order,
    /// Whether the help is shown.
    pub help: bool,
    pub message: Option<Message>,
    /// Why the agent does not answer. `None`: it answers.
    pub lost: Option<String>,
    /// The first row on the screen; set by the view.
    pub offset: usize,
    /// By name, so that the selection stays when other services appear or disappear.
    selected: Option<String>,
    reported: Duration,
}

impl Model {
    /// Takes the agent's report. `now` counts from any moment.
    pub fn report(&mut self, report: Report, now: Duration) {
        let passed = now.saturating_sub(self.reported);
        self.reported = now;
        self.lost = None;
        self.version = report.version;
        self.dry_run = report.dry_run;
        self.trouble = report.configuration.notice();
        let rows = std::mem::take(&mut self.rows).into_iter();
        let mut before: BTreeMap<String, Row> =
            rows.map(|row| (row.service.name.clone(), row)).collect();
        for service in report.services {
            let row = match before.remove(&service.name) {
                Some(mut row) => {
                    row.update(service, passed);
                    row
                }
                None => Row {
                    service,
                    ..Row::default()
                },
            };
            self.rows.push(row);
        }
        if self.message.as_ref().is_some_and(|said| said.until <= now) {
            self.message = None;
        }
        self.sort();
        if self.selected().is_none() {
            self.select(0);
        }
    }

    /// The agent did not answer. Its last report stays.
    pub fn lost(&mut self, why: String) {
        self.lost = Some(why);
    }

    /// Shows the result of an action.
    pub fn say(&mut self, text: String, now: Duration) {
        self.message = Some(Message {
            text,
            is_error: false,
            until: now + SHOWN,
        });
    }

    /// Shows the error of an action.
    pub fn complain(&mut self, text: String, now: Duration) {
        self.message = Some(Message {
            text,
            is_error: true,
            until: now + SHOWN,
        });
    }

    /// The position of the selected row.
    pub fn selected(&self) -> Option<usize> {
        let name = self.selected.as_ref()?;
        self.rows.iter().position(|row| row.service.name == *name)
    }

    fn select(&mut self, place: usize) {
        let last = self.rows.len().saturating_sub(1);
        let row = self.rows.get(place.min(last));
        self.selected = row.map(|row| row.service.name.clone());
    }

    /// Handles a key.
    pub fn key(&mut self, key: KeyEvent) -> Effect {
        if key.kind == KeyEventKind::Release {
            return Effect::None;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Effect::Quit,
                _ => Effect::None,
            };
        }
        if self.help {
            // Any key closes the help; q also ends the program.
            self.help = false;
            return match key.code {
                KeyCode::Char('q') => Effect::Quit,
                _ => Effect::None,
            };
        }
        let place = self.selected().unwrap_or(0);
        let name = self.selected.clone();
        match key.code {
            KeyCode::Char('q') => return Effect::Quit,
            KeyCode::Char('?') => self.help = true,
            KeyCode::Char('s') => self.order_by(self.order.step(1)),
            KeyCode::Char('S') => self.order_by(self.order.step(Order::ALL.len() - 1)),
            KeyCode::Up | KeyCode::Char('k') => self.select(place.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.select(place + 1),
            KeyCode::PageUp => self.select(place.saturating_sub(10)),
            KeyCode::PageDown => self.select(place + 10),
            KeyCode::Home | KeyCode::Char('g') => self.select(0),
            KeyCode::End | KeyCode::Char('G') => self.select(usize::MAX),
            KeyCode::Char('h') => return name.map_or(Effect::None, Effect::Hold),
            KeyCode::Char('r') => return name.map_or(Effect::None, Effect::Release),
            _ => {}
        }
        Effect::None
    }

    fn order_by(&mut self, order: Order) {
        self.order = order;
        self.sort();
    }

    /// High figures first, and the earliest end first.
    fn sort(&mut self) {
        let order = self.order;
        let traffic = |row: &Row| row.received + row.sent;
        let left = |row: &Row| row.service.stops_in_seconds.unwrap_or(f64::INFINITY);
        self.rows.sort_by(|a, b| {
            let by_order = match order {
                Order::Name => Ordering::Equal,
                Order::State => state_rank(a).cmp(&state_rank(b)),
                Order::Open => b.service.open_connections.cmp(&a.service.open_connections),
                Order::Connections => b.rate().total_cmp(&a.rate()),
                Order::Traffic => traffic(b).total_cmp(&traffic(a)),
                Order::Left => left(a).total_cmp(&left(b)),
                Order::Memory => b.service.memory_bytes.cmp(&a.service.memory_bytes),
            };
            by_order.then_with(|| a.service.name.cmp(&b.service.name))
        });
    }
}

/// States that need attention come first.
fn state_rank(row: &Row) -> u8 {
    match row.service.state.as_str() {
        "failed" => 0,
        "activating" => 1,
        "deactivating" => 2,
        "active" => 3,
        "inactive" => 5,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, open: u64, accepted: u64, bytes: u64) -> Service {
        Service {
            name: name.into(),
            state: if open > 0 { "active" } else { "inactive" }.into(),
            open_connections: Some(open),
            accepted_connections: accepted,
            sent_bytes: bytes,
            ..Service::default()
        }
    }

    fn report(services: &[Service]) -> Report {
        Report {
            services: services.to_vec(),
            ..Report::default()
        }
    }

    fn model() -> Model {
        let mut model = Model::default();
        let services = [
            service("a", 0, 10, 0),
            service("b", 2, 10, 0),
            service("c", 1, 10, 0),
        ];
        model.report(report(&services), Duration::ZERO);
        let services = [
            service("a", 0, 10, 0),
            service("b", 2, 12, 900),
            service("c", 1, 30, 100),
        ];
        model.report(report(&services), Duration::from_secs(2));
        model
    }

    fn press(model: &mut Model, keys: &str) -> Effect {
        let mut effect = Effect::None;
        for key in keys.chars() {
            effect = model.key(KeyEvent::new(KeyCode::Char(key), KeyModifiers::NONE));
        }
        effect
    }

    /// Checks the names in their order, and the selected one, after these keys.
    #[track_caller]
    fn check(keys: &str, expected: &str, effect: Effect) {
        let mut model = model();
        assert_eq!(press(&mut model, keys), effect, "{keys}");
        let selected = model.selected();
        let names = model.rows.iter().enumerate().map(|(place, row)| {
            let mark = if Some(place) == selected { "*" } else { "" };
            format!("{}{mark}", row.service.name)
        });
        let names: Vec<_> = names.collect();
        assert_eq!(names.join(" "), expected, "{keys}");
    }

    #[test]
    fn keys() {
        check("", "a* b c", Effect::None);
        check("j", "a b* c", Effect::None);
        check("jjjj", "a b c*", Effect::None);
        check("jk", "a* b c", Effect::None);
        check("k", "a* b c", Effect::None);
        check("G", "a b c*", Effect::None);
        // State, open connections, rate, traffic; the selection stays with its service.
        check("js", "b* c a", Effect::None);
        check("ss", "b c a*", Effect::None);
        check("sss", "c b a*", Effect::None);
        check("ssss", "b c a*", Effect::None);
        check("sS", "a* b c", Effect::None);
        check("sssssss", "a* b c", Effect::None);
        check("jh", "a b* c", Effect::Hold("b".into()));
        check("jr", "a b* c", Effect::Release("b".into()));
        check("q", "a* b c", Effect::Quit);
        check("x", "a* b c", Effect::None);
        // The next key closes the help.
        check("?j", "a* b c", Effect::None);
        check("?jj", "a b* c", Effect::None);
        check("?q", "a* b c", Effect::Quit);
        let mut model = model();
        let control = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(model.key(control), Effect::Quit);
        let mut nothing = Model::default();
        assert_eq!(press(&mut nothing, "jkGhr"), Effect::None);
    }

    #[test]
    fn rates() {
        let mut model = model();
        let rates = |model: &Model| -> Vec<f64> { model.rows.iter().map(Row::rate).collect() };
        assert_eq!(rates(&model), [0.0, 1.0, 10.0]);
        assert_eq!(model.rows[1].sent, 450.0);
        // A report of the same moment changes no rate, a reset counter gives none.
        let services = [service("b", 2, 20, 900), service("c", 0, 3, 0)];
        model.report(report(&services), Duration::from_secs(2));
        assert_eq!(rates(&model), [1.0, 10.0]);
        model.report(report(&[service("c", 0, 1, 0)]), Duration::from_secs(3));
        assert_eq!(rates(&model), [0.0]);
        assert_eq!(model.selected(), Some(0), "its service is gone");
        for second in 4..1_000 {
            model.report(
                report(&[service("c", 0, second, 0)]),
                Duration::from_secs(second),
            );
        }
        assert_eq!(model.rows[0].connections.len(), KEPT);
    }

    #[test]
    fn messages_go_and_losses_stay_until_the_next_answer() {
        let mut model = model();
        model.say("b: released".into(), Duration::from_secs(3));
        model.lost("no agent".into());
        assert_eq!(model.rows.len(), 3, "the last report stays");
        model.report(report(&[]), Duration::from_secs(8));
        assert!(model.message.is_some());
        assert!(model.lost.is_none());
        model.report(report(&[]), Duration::from_secs(9));
        assert!(model.message.is_none());
        assert_eq!(model.selected(), None);
    }
}
