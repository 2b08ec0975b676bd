//! The contents of the screen. Pure: time is an argument.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use ondemand_core::words::counted;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::bus::report::{Report, Service, is_up};

/// Number of kept rates: the widest row of bars.
const KEPT: usize = 240;
/// How often the past on an open page is read.
const PAGE_EVERY: Duration = Duration::from_secs(5);
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
    /// After an answer to a question.
    Start(String),
    Stop(String),
    /// Read the past of the service whose page is open.
    Look(String, String),
}

/// A question, and what a yes does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub text: String,
    effect: Effect,
}

/// The page of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub name: String,
    /// Its clients, its last starts and stops, and its journal. `None`: being read.
    pub past: Option<String>,
    /// Lines above the screen.
    pub scroll: u16,
    /// When it was read last, or is being read since.
    looked: Duration,
}

/// One service.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// The agent's last report.
    pub service: Service,
    /// Connections accepted per second, and datagrams, the latest last.
    pub connections: VecDeque<f64>,
    /// Bytes per second from clients.
    pub received: f64,
    /// Bytes per second to clients.
    pub sent: f64,
    /// The sum of both, the latest last.
    pub traffic: VecDeque<f64>,
}

impl Row {
    /// Connections accepted in the last second, and datagrams.
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
        let datagrams = |of: &Service| of.datagrams.as_ref().map_or(0, |it| it.passed);
        let connections = rate(now.accepted_connections, before.accepted_connections)
            + rate(datagrams(now), datagrams(&before));
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
    /// All, in the displayed order.
    pub rows: Vec<Row>,
    /// What the names and units of those that are shown contain.
    pub filter: String,
    /// Whether the filter is being typed.
    pub is_typing: bool,
    /// Whether those that are down are left out.
    pub active_only: bool,
    /// What is asked now.
    pub question: Option<Question>,
    /// The page of one service, instead of the table.
    pub page: Option<Page>,
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
    /// The number of rows for which there is room; set by the view.
    pub seen: usize,
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

    /// Those that are shown.
    pub fn shown(&self) -> impl Iterator<Item = &Row> {
        let filter = self.filter.to_lowercase();
        self.rows.iter().filter(move |row| {
            let Service { name, unit, .. } = &row.service;
            let matches = |word: &str| {
                name.to_lowercase().contains(word) || unit.to_lowercase().contains(word)
            };
            filter.split_whitespace().all(matches)
                && (!self.active_only || is_up(&row.service.state))
        })
    }

    /// The position of the selected row among those that are shown.
    pub fn selected(&self) -> Option<usize> {
        let name = self.selected.as_ref()?;
        self.shown().position(|row| row.service.name == *name)
    }

    /// The row of the open page, or else the selected one.
    pub fn row(&self) -> Option<&Row> {
        let name = match &self.page {
            Some(page) => Some(&page.name),
            None => self.selected.as_ref(),
        };
        self.shown()
            .find(|row| Some(&row.service.name) == name)
            .or_else(|| {
                let page = self.page.as_ref()?;
                self.rows.iter().find(|row| row.service.name == page.name)
            })
    }

    fn select(&mut self, place: usize) {
        let last = self.shown().count().saturating_sub(1);
        let row = self.shown().nth(place.min(last));
        self.selected = row.map(|row| row.service.name.clone());
    }

    /// After others are shown: the selection stays, or is the first.
    fn keep_selection(&mut self) {
        self.offset = 0;
        if self.selected().is_none() {
            self.select(0);
        }
    }

    /// What is due on the open page at `now`.
    pub fn due(&mut self, now: Duration) -> Effect {
        let unit = self.row().map(|row| row.service.unit.clone());
        match (&mut self.page, unit) {
            (Some(page), Some(unit)) if now >= page.looked + PAGE_EVERY => {
                page.looked = now;
                Effect::Look(page.name.clone(), unit)
            }
            _ => Effect::None,
        }
    }

    /// Shows the past of a service, if its page is still open.
    pub fn past(&mut self, name: &str, past: String) {
        if let Some(page) = self.page.as_mut().filter(|page| page.name == name) {
            page.past = Some(past);
        }
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
        if let Some(question) = self.question.take() {
            return match key.code {
                KeyCode::Char('y' | 'Y') => question.effect,
                _ => Effect::None,
            };
        }
        if self.is_typing && self.type_filter(key.code) {
            return Effect::None;
        }
        if self.page.is_some() && self.turn_page(key.code) {
            return Effect::None;
        }
        let place = self.selected().unwrap_or(0);
        let name = self.row().map(|row| row.service.name.clone());
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
            KeyCode::Char('u') => self.ask("start", name.map(Effect::Start)),
            KeyCode::Char('d') => self.ask("stop", name.map(Effect::Stop)),
            KeyCode::Char('/') => {
                self.page = None;
                self.is_typing = true;
            }
            KeyCode::Char('a') => {
                self.active_only = !self.active_only;
                self.keep_selection();
            }
            KeyCode::Esc => {
                self.filter.clear();
                self.keep_selection();
            }
            KeyCode::Enter => return self.open(),
            _ => {}
        }
        Effect::None
    }

    /// Opens the page of the selected service.
    fn open(&mut self) -> Effect {
        let Some(Service { name, unit, .. }) = self.row().map(|row| row.service.clone()) else {
            return Effect::None;
        };
        self.page = Some(Page {
            name: name.clone(),
            looked: self.reported,
            ..Page::default()
        });
        Effect::Look(name, unit)
    }

    fn ask(&mut self, verb: &str, effect: Option<Effect>) {
        let Some((row, effect)) = self.row().zip(effect) else {
            return;
        };
        let open = row.service.open_connections.unwrap_or(0);
        let clients = match open {
            0 => String::new(),
            open => format!(" It has {}.", counted(open, "open connection")),
        };
        let text = format!(
            "{verb} {}?{clients} y: yes, any other key: no",
            row.service.name
        );
        self.question = Some(Question { text, effect });
    }

    /// A key of the filter. Returns whether it was one.
    fn type_filter(&mut self, key: KeyCode) -> bool {
        match key {
            KeyCode::Char(letter) => self.filter.push(letter),
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Enter => self.is_typing = false,
            KeyCode::Esc => {
                self.is_typing = false;
                self.filter.clear();
            }
            _ => return false,
        }
        self.keep_selection();
        true
    }

    /// A key of an open page. Returns whether it was one.
    fn turn_page(&mut self, key: KeyCode) -> bool {
        let Some(page) = &mut self.page else {
            return false;
        };
        let by =
            |lines: i32| u16::try_from((i32::from(page.scroll) + lines).max(0)).unwrap_or(u16::MAX);
        page.scroll = match key {
            KeyCode::Up | KeyCode::Char('k') => by(-1),
            KeyCode::Down | KeyCode::Char('j') => by(1),
            KeyCode::PageUp => by(-10),
            KeyCode::PageDown => by(10),
            KeyCode::Home | KeyCode::Char('g') => 0,
            // The view knows the end.
            KeyCode::End | KeyCode::Char('G') => u16::MAX,
            KeyCode::Esc | KeyCode::Enter | KeyCode::Left | KeyCode::Backspace => {
                self.page = None;
                return true;
            }
            _ => return false,
        };
        true
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
mod tests;
