//! Draws the contents, in any size of the terminal.

use std::time::Duration;

use ondemand_core::words::{Bytes, counted, printable};
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style, Stylize as _},
    text::{Line, Span},
    widgets::{
        Block, Borders, Clear, Padding, Paragraph, Row as TableRow, Scrollbar,
        ScrollbarOrientation, ScrollbarState, Table, TableState, Wrap,
    },
};

use super::{
    model::{Model, Row},
    page,
    words::{bars, bytes, cut, rate, span},
};
use crate::bus::report::Service;

/// A column: its head, its width, and whether it contains figures.
struct Column {
    head: &'static str,
    width: u16,
    is_figure: bool,
    cell: fn(&Row, usize) -> String,
}

const fn text(head: &'static str, width: u16, cell: fn(&Row, usize) -> String) -> Column {
    Column {
        head,
        width,
        is_figure: false,
        cell,
    }
}

const fn figure(head: &'static str, width: u16, cell: fn(&Row, usize) -> String) -> Column {
    Column {
        head,
        width,
        is_figure: true,
        cell,
    }
}

/// From the left; columns that do not fit are left out from the right. Together with the spaces
/// between them they take 79 columns.
const COLUMNS: [Column; 10] = [
    text("NAME", 11, |row, width| cut(&row.service.name, width)),
    text("STATE", 8, |row, _| state(&row.service).into()),
    figure("OPEN", 5, |row, _| {
        let open = row.service.open_connections;
        open.map_or("?".into(), |open| bytes(open as f64))
    }),
    figure("LEFT", 7, |row, _| left(row)),
    figure("CONN/S", 6, |row, _| rate(row.rate())),
    figure("IN/S", 6, |row, _| bytes(row.received)),
    figure("OUT/S", 6, |row, _| bytes(row.sent)),
    text("TRAFFIC", 9, |row, width| bars(row.traffic.iter(), width)),
    figure("START", 6, |row, _| {
        seconds(row.service.last_start_duration_seconds).unwrap_or_default()
    }),
    figure("MEMORY", 6, |row, _| {
        let memory = row.service.memory_bytes;
        memory.map_or(String::new(), |memory| bytes(memory as f64))
    }),
];
/// The column that takes the rest of the width, and the one that takes some of it.
const TRAFFIC: usize = 7;
const NAME: usize = 0;
/// Maximum width of a service's name on a wide terminal.
const LONGEST_NAME: u16 = 32;

/// The last line.
pub(super) const KEYS: &str =
    "q quit  ? help  / find  a active  enter page  u start  d stop  h hold  r release";
const PAGE_KEYS: &str = "esc back  up/down scroll  u start  d stop  h hold  r release  q quit";

const HELP: &str = "\
up, down, k, j   select a service
page up, down    ten rows; g, G: first, last
s, S             sort by the next, the previous column
/                show those with this in their name or unit; esc: all
a                show those that are up, or all
enter            its clients, starts and stops, and journal; esc: back
u, d             start it, stop it if nobody uses it, after a question
h                hold the selected service until released
r                release it
q, Ctrl-C        quit

STATE    frozen: its next client thaws it; no room: it waits for
         its turn
LEFT     time until it is stopped without a client; next: goes
         first when room is needed; waiting: for its start
CONN/S   new connections, and datagrams, per second
TRAFFIC  bytes per second, the latest at the right
START    how long its last start took

any key: back";

/// Draws the screen.
pub fn draw(frame: &mut Frame<'_>, model: &mut Model) {
    let [trouble, head, problem, table, detail, foot] = Layout::vertical([
        // It names a file, a line and a key.
        Constraint::Length(if model.trouble.is_some() { 2 } else { 0 }),
        Constraint::Length(1),
        Constraint::Length(u16::from(model.lost.is_some())),
        Constraint::Min(3),
        // On a low terminal the table has precedence.
        Constraint::Length(match model.row() {
            _ if frame.area().height < 12 => 0,
            Some(row) if row.service.ways().is_some() => 6,
            _ => 5,
        }),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    if let Some(why) = &model.trouble {
        let text = Paragraph::new(printable(why)).wrap(Wrap { trim: true });
        frame.render_widget(text.style(Style::new().red().bold()), trouble);
    }
    draw_head(frame, model, head);
    if let Some(why) = &model.lost {
        let text = format!("no answer from the agent, retrying every second: {why}");
        frame.render_widget(Line::from(text).style(Style::new().red().bold()), problem);
    }
    match model.page.is_some() {
        true => page::draw(frame, model, table.union(detail)),
        false => {
            draw_table(frame, model, table);
            draw_detail(frame, model, detail);
        }
    }
    let typed = format!("/{}_  enter: keep it  esc: show all", model.filter);
    let (text, style) = match (&model.question, &model.message) {
        (Some(question), _) => (question.text.as_str(), Style::new().yellow().bold()),
        _ if model.is_typing => (typed.as_str(), Style::new().bold()),
        (_, Some(said)) if said.is_error => (said.text.as_str(), Style::new().red()),
        (_, Some(said)) => (said.text.as_str(), Style::new().green()),
        _ if model.page.is_some() => (PAGE_KEYS, Style::new().dim()),
        _ => (KEYS, Style::new().dim()),
    };
    frame.render_widget(Line::from(text).style(style), foot);
    if model.help {
        draw_help(frame);
    }
}

fn draw_head(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let up = model
        .rows
        .iter()
        .filter(|row| row.service.state == "active")
        .count();
    let open = model
        .rows
        .iter()
        .filter_map(|row| row.service.open_connections);
    let mut services = counted(model.rows.len() as u64, "service");
    let shown = model.shown().count();
    if shown < model.rows.len() {
        let those = match (model.active_only, model.filter.is_empty()) {
            (true, true) => "up".to_owned(),
            (true, false) => format!("up, {:?}", model.filter),
            (false, _) => format!("{:?}", model.filter),
        };
        services = format!("{shown} of {services} ({those})");
    }
    let mut text = format!(
        "{services}, {up} active, {} open; sorted by {}",
        counted(open.sum(), "connection"),
        model.order.as_str()
    );
    let failing = model.rows.iter();
    let failing = failing.filter(|row| row.service.problem.is_some()).count();
    if failing > 0 {
        text += &format!("; {}", counted(failing as u64, "problem"));
    }
    if model.dry_run {
        text += "; dry run, nothing is stopped";
    }
    let name = Span::from(format!("ondemand {}  ", model.version)).bold();
    frame.render_widget(Line::from(vec![name, Span::from(text)]), area);
}

/// The widths of the columns that fit.
fn widths(available: u16, longest_name: u16) -> Vec<u16> {
    let mut widths = Vec::new();
    let mut left = available;
    for column in &COLUMNS {
        let space = u16::from(!widths.is_empty());
        if left < column.width + space {
            break;
        }
        left -= column.width + space;
        widths.push(column.width);
    }
    if let Some(name) = widths.get_mut(NAME) {
        let more = longest_name.clamp(*name, LONGEST_NAME) - *name;
        let more = more.min(left);
        *name += more;
        left -= more;
    }
    if let Some(traffic) = widths.get_mut(TRAFFIC) {
        *traffic += left;
    }
    widths
}

fn draw_table(frame: &mut Frame<'_>, model: &mut Model, area: Rect) {
    if model.rows.is_empty() {
        let text = "no service is configured; see `ondemand --help`";
        frame.render_widget(Line::from(text), area);
        return;
    }
    let count = model.shown().count();
    if count == 0 {
        let text = "no service is shown; esc shows all, a those that are down, too";
        frame.render_widget(Line::from(text), area);
        return;
    }
    let names = model.rows.iter().map(|row| row.service.name.len());
    let longest = u16::try_from(names.max().unwrap_or(0)).unwrap_or(u16::MAX);
    // Below the head.
    model.seen = usize::from(area.height.saturating_sub(1));
    let fits = count <= model.seen;
    let [area, bar] =
        Layout::horizontal([Constraint::Min(0), Constraint::Length(u16::from(!fits))]).areas(area);
    let widths = widths(area.width, longest);
    let align = |column: &Column, text: String, width: u16| {
        let width = usize::from(width);
        match column.is_figure {
            true => format!("{text:>width$}"),
            false => text,
        }
    };
    let shown = || COLUMNS.iter().zip(&widths);
    let heads = shown().map(|(column, width)| align(column, column.head.into(), *width));
    let rows = model.shown().map(|row| {
        let cells = shown()
            .map(|(column, width)| align(column, (column.cell)(row, usize::from(*width)), *width));
        let style = Style::new().fg(color(row));
        TableRow::new(cells).style(match model.lost {
            Some(_) => style.add_modifier(Modifier::DIM),
            None => style,
        })
    });
    let table = Table::new(rows, widths.iter().copied().map(Constraint::Length))
        .header(TableRow::new(heads).style(Style::new().bold().underlined()))
        .column_spacing(1)
        .row_highlight_style(Style::new().reversed());
    let mut state = TableState::new()
        .with_offset(model.offset)
        .with_selected(model.selected());
    frame.render_stateful_widget(table, area, &mut state);
    model.offset = state.offset();
    if !fits {
        let mut state =
            ScrollbarState::new(count.saturating_sub(model.seen)).position(model.offset);
        let bar_of = Scrollbar::new(ScrollbarOrientation::VerticalRight);
        frame.render_stateful_widget(bar_of.begin_symbol(None).end_symbol(None), bar, &mut state);
    }
}

/// Which of those that are shown is selected.
fn position(model: &Model) -> String {
    let place = model.selected().map_or(0, |place| place + 1);
    format!(" {place} of {} ", model.shown().count())
}

/// Details of the selected service that have no column.
fn draw_detail(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let Some(row) = model.row() else {
        return;
    };
    let block = Block::new()
        .borders(Borders::TOP)
        .border_style(Style::new().dim());
    // Where the table has a bar.
    let block = match model.seen < model.shown().count() {
        true => block.title_top(Line::from(position(model)).right_aligned()),
        false => block,
    };
    frame.render_widget(Paragraph::new(lines(row, area.width)).block(block), area);
}

/// What there is to say of a service besides its row.
pub(super) fn lines(row: &Row, width: u16) -> Vec<Line<'static>> {
    let service = &row.service;
    let timeout = match service.learned.in_force {
        true => service.learned.reason.clone(),
        false => seconds(service.idle_timeout_seconds).unwrap_or("never".into()),
    };
    let history = usize::from(width).saturating_sub(12);
    let mut lines = vec![
        Line::from(format!(
            "{} ({}), {}, idle timeout {timeout}",
            service.name, service.unit, service.route
        ))
        .bold(),
        Line::from(service.detail_here()).style(match service.problem {
            Some(_) => Style::new().red(),
            None => Style::new(),
        }),
        Line::from(format!(
            "{}, {} in, {} out; {}, {}, {}",
            counted(service.accepted_connections, "connection"),
            Bytes(service.received_bytes),
            Bytes(service.sent_bytes),
            counted(service.starts, "start"),
            counted(service.stops, "stop"),
            match service.vetoes {
                1 => "1 veto".to_owned(),
                vetoes => format!("{vetoes} vetoes"),
            },
        )),
        Line::from(format!("CONN/S {}", bars(row.connections.iter(), history))),
    ];
    if let Some(ways) = service.ways() {
        lines.insert(3, Line::from(ways));
    }
    lines
}

fn draw_help(frame: &mut Frame<'_>) {
    let lines = HELP.lines().count();
    let columns = HELP.lines().map(str::len).max().unwrap_or(0);
    let fit = |wanted: usize, there: u16| u16::try_from(wanted).unwrap_or(there).min(there);
    let all = frame.area();
    let area = all.centered(
        Constraint::Length(fit(columns + 4, all.width)),
        Constraint::Length(fit(lines + 2, all.height)),
    );
    frame.render_widget(Clear, area);
    let block = Block::bordered().title(" ondemand top ");
    let help = Paragraph::new(HELP).wrap(Wrap { trim: false });
    frame.render_widget(help.block(block.padding(Padding::horizontal(1))), area);
}

fn seconds(value: Option<f64>) -> Option<String> {
    let value = value.and_then(|value| Duration::try_from_secs_f64(value).ok());
    value.map(span)
}

fn state(service: &Service) -> &str {
    match service.state.as_str() {
        "inactive" | "failed" if waits_for_room(service).is_some() => "no room",
        "active" if service.frozen => "frozen",
        "activating" => "starting",
        "deactivating" => "stopping",
        other => other,
    }
}

/// How long a client has waited for room.
fn waits_for_room(service: &Service) -> Option<f64> {
    service.room.as_ref()?.waits_seconds
}

/// The time until it is stopped.
fn left(row: &Row) -> String {
    let service = &row.service;
    if service.held {
        return "held".into();
    }
    if service.waiting() > 0 {
        return "waiting".into();
    }
    if service.state != "active" || service.open_connections.is_none_or(|open| open > 0) {
        return String::new();
    }
    match service.stops_in_seconds {
        Some(left) if left <= 0.0 => "now".into(),
        Some(left) => seconds(Some(left)).unwrap_or_default(),
        None if service.room.as_ref().is_some_and(|room| room.goes_next) => "next".into(),
        None if service.idle_timeout_seconds.is_none() => "never".into(),
        None => String::new(),
    }
}

fn color(row: &Row) -> Color {
    match row.service.state.as_str() {
        _ if waits_for_room(&row.service).is_some() => Color::Yellow,
        "active" if row.service.frozen => Color::Cyan,
        "active" => Color::Green,
        "activating" | "deactivating" => Color::Yellow,
        "failed" => Color::Red,
        "inactive" => Color::Reset,
        _ => Color::Magenta,
    }
}
