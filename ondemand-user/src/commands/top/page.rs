//! The page of one service: what the table says of it, who is connected, its last starts and stops, and its journal.

use ondemand_core::words::printable;
use ratatui::{
    Frame,
    layout::Rect,
    style::{Style, Stylize as _},
    text::Line,
    widgets::{Block, Borders, Paragraph},
};

use super::{
    model::Model,
    view,
    words::{bars, bytes},
};

/// Draws it; keeps what it is scrolled to within its lines.
pub fn draw(frame: &mut Frame<'_>, model: &mut Model, area: Rect) {
    let block = Block::new()
        .borders(Borders::TOP)
        .border_style(Style::new().dim());
    let inner = block.inner(area);
    let mut lines = match model.row() {
        Some(row) => {
            let service = &row.service;
            let width = usize::from(inner.width).saturating_sub(12);
            let mut lines = view::lines(row, inner.width);
            lines.push(Line::from(format!(
                "BYTES/S {}",
                bars(row.traffic.iter(), width)
            )));
            let memory = service.memory_bytes.or(service.given_back_bytes);
            let memory = memory.map_or("?".into(), |memory| bytes(memory as f64));
            lines.push(Line::from(format!(
                "{}; memory {memory}; clients connect to {}",
                service.state,
                service.listen.join(", ")
            )));
            lines
        }
        None => vec![Line::from("it is no longer configured")],
    };
    let Some(page) = &mut model.page else {
        return;
    };
    let past = page.past.as_deref().unwrap_or("\nreading its journal ...");
    lines.extend(past.lines().map(|line| {
        let is_head = !line.is_empty() && line.chars().all(|c| c.is_ascii_uppercase() || c == ' ');
        let line = Line::from(printable(line));
        if is_head { line.bold() } else { line }
    }));
    let below = lines.len().saturating_sub(usize::from(inner.height));
    page.scroll = page.scroll.min(u16::try_from(below).unwrap_or(u16::MAX));
    let block = match below {
        0 => block,
        below => {
            let end = format!(" line {} of {} ", usize::from(page.scroll) + 1, below + 1);
            block.title_top(Line::from(end).right_aligned())
        }
    };
    frame.render_widget(
        Paragraph::new(lines).block(block).scroll((page.scroll, 0)),
        area,
    );
}
