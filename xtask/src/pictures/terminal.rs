//! What a terminal shows, as a drawing.

use std::num::NonZeroU16;

/// The ground of all pictures.
pub const GROUND: &str = "#16181d";
/// The colour of text.
const INK: &str = "#d5d8de";

/// A stretch of a line in one style.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its first column.
    pub column: u16,
    /// Its text.
    pub text: String,
    style: Style,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Style {
    front: String,
    back: String,
    is_bold: bool,
    is_dim: bool,
}

/// What these bytes make of an empty screen of so many lines and columns.
pub fn screen(bytes: &[u8], (lines, columns): (u16, u16)) -> Vec<Vec<Span>> {
    let some = |count| NonZeroU16::new(count).unwrap_or(NonZeroU16::MIN);
    let (lines, columns) = (some(lines), some(columns));
    let mut terminal = vt100::Parser::new(lines, columns, 0);
    terminal.process(bytes);
    let line = |row| {
        let mut spans: Vec<Span> = Vec::new();
        for column in 0..columns.get() {
            let Some(cell) = terminal.screen().cell(row, column) else {
                continue;
            };
            let style = style(cell);
            let text = match cell.contents() {
                "" => " ",
                text => text,
            };
            match spans.last_mut() {
                Some(last) if last.style == style => last.text.push_str(text),
                _ => spans.push(Span {
                    column,
                    text: text.to_owned(),
                    style,
                }),
            }
        }
        // Nothing is drawn for what is as empty as the ground.
        spans.retain_mut(|span| {
            if span.style.back == GROUND {
                span.text.truncate(span.text.trim_end().len());
            }
            !span.text.is_empty()
        });
        spans
    };
    (0..lines.get()).map(line).collect()
}

impl Span {
    /// Text without a style.
    pub fn plain(column: u16, text: &str) -> Self {
        Self {
            column,
            text: text.to_owned(),
            style: Style {
                front: INK.to_owned(),
                back: GROUND.to_owned(),
                is_bold: false,
                is_dim: false,
            },
        }
    }

    /// Its width in columns.
    pub fn width(&self) -> usize {
        self.text.chars().count()
    }

    /// The colour behind it, if that is not the ground's.
    pub fn back(&self) -> Option<&str> {
        Some(self.style.back.as_str()).filter(|back| *back != GROUND)
    }

    /// The attributes of an SVG's text.
    pub fn attributes(&self) -> String {
        let mut text = String::new();
        if self.style.front != INK {
            text += &format!(" fill=\"{}\"", self.style.front);
        }
        if self.style.is_bold {
            text += " font-weight=\"bold\"";
        }
        if self.style.is_dim {
            text += " opacity=\".6\"";
        }
        text
    }

    /// Its text, escaped for XML.
    pub fn escaped(&self) -> String {
        self.text
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
    }
}

/// The beginning of an SVG of text on the ground of a terminal.
pub fn head(width: f64, height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace\" font-size=\"{FONT}\" \
         fill=\"{INK}\">\n<rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"{GROUND}\"/>\n"
    )
}

/// The size of letters.
pub const FONT: f64 = 14.0;
/// The width of a column.
pub const COLUMN: f64 = 8.4;
/// The height of a line.
pub const LINE: f64 = 18.0;

/// A line of an SVG, whose top is at `y`. Each span has its width whatever the font's is.
pub fn line(spans: &[Span], y: f64) -> String {
    let mut text = String::new();
    for span in spans {
        let (x, width) = (
            f64::from(span.column) * COLUMN,
            span.width() as f64 * COLUMN,
        );
        if let Some(back) = span.back() {
            text += &format!(
                "<rect x=\"{x:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"{LINE}\" fill=\"{back}\"/>"
            );
        }
        text += &format!(
            "<text x=\"{x:.1}\" y=\"{:.1}\" textLength=\"{width:.1}\" xml:space=\"preserve\"{}>{}</text>",
            y + LINE - 5.0,
            span.attributes(),
            span.escaped()
        );
    }
    text
}

fn style(cell: &vt100::Cell) -> Style {
    let (mut front, mut back) = (color(cell.fgcolor(), INK), color(cell.bgcolor(), GROUND));
    if cell.inverse() {
        std::mem::swap(&mut front, &mut back);
    }
    Style {
        front,
        back,
        is_bold: cell.bold(),
        is_dim: cell.dim(),
    }
}

/// xterm's colours: the first sixteen are those of its palette.
fn color(color: vt100::Color, default: &str) -> String {
    const PALETTE: [&str; 16] = [
        "#2b2e36", "#e06c75", "#98c379", "#e5c07b", "#61afef", "#c678dd", "#56b6c2", "#d5d8de",
        "#7f848e", "#e06c75", "#98c379", "#e5c07b", "#61afef", "#c678dd", "#56b6c2", "#ffffff",
    ];
    match color {
        vt100::Color::Default => default.to_owned(),
        vt100::Color::Rgb(red, green, blue) => format!("rgb({red},{green},{blue})"),
        vt100::Color::Idx(index) => match PALETTE.get(usize::from(index)) {
            Some(color) => (*color).to_owned(),
            None => default.to_owned(),
        },
    }
}
