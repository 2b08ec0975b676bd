//! A moving picture of a terminal: an SVG whose lines appear one after the other, by itself, again and again. Whoever wants no
//! motion sees its end.

use std::fmt::Write as _;

use super::terminal::{self, COLUMN, LINE, Span};

/// A key, in seconds.
const KEY: f64 = 0.055;
/// Before the first key of a command, and after its last.
const PAUSE: f64 = 0.6;
/// A line of output, after the one before it.
const OUTPUT: f64 = 0.12;
/// The end stays.
const END: f64 = 6.0;
/// Around the text.
const MARGIN: f64 = 14.0;
const PROMPT: &str = "# ";

/// What is shown at a moment.
enum Shot {
    /// Lines of output.
    Lines(Vec<Vec<Span>>),
    /// A command that is typed until then.
    Typed(String, f64),
}

/// A film while it is made.
pub struct Film {
    columns: u16,
    /// How many lines are seen.
    lines: usize,
    now: f64,
    /// The next free line.
    next: usize,
    /// When, and its first line.
    shots: Vec<(f64, usize, Shot)>,
}

impl Film {
    /// An empty one of this size.
    pub fn new(columns: u16, lines: usize) -> Self {
        Self {
            columns,
            lines,
            now: 0.0,
            next: 0,
            shots: Vec::new(),
        }
    }

    /// Types a command.
    pub fn command(&mut self, text: &str) {
        self.now += PAUSE;
        let end = self.now + KEY * text.chars().count() as f64;
        let typed = Shot::Typed(text.to_owned(), end);
        self.shots.push((self.now, self.next, typed));
        self.next += 1;
        self.now = end + PAUSE;
    }

    /// Shows output at once, or line by line, and leaves `reading` seconds for it.
    pub fn output(&mut self, lines: &[Vec<Span>], is_slow: bool, reading: f64) {
        let chunk = if is_slow { 1 } else { lines.len().max(1) };
        for part in lines.chunks(chunk) {
            let shot = Shot::Lines(part.to_vec());
            self.shots.push((self.now, self.next, shot));
            self.next += part.len();
            self.now += OUTPUT;
        }
        self.now += reading;
    }

    /// Writes on in the line that was the last one.
    pub fn go_on(&mut self, span: Span) {
        let shot = Shot::Lines(vec![vec![span]]);
        self.shots.push((self.now, self.next - 1, shot));
        self.now += PAUSE;
    }

    /// An empty line.
    pub fn gap(&mut self) {
        self.next += 1;
    }

    /// The whole.
    pub fn svg(&self) -> String {
        let whole = self.now + END;
        let share = |at: f64| 100.0 * at / whole;
        let (mut style, mut body) = (String::new(), String::new());
        let mut scroll = "0%{transform:none}".to_owned();
        let mut hidden = 0;
        // Writing to a string cannot fail.
        for (number, (at, first, shot)) in self.shots.iter().enumerate() {
            let _ = write!(
                style,
                "@keyframes a{number}{{0%{{opacity:0}}{:.2}%{{opacity:1}}}}",
                share(*at)
            );
            let _ = write!(body, "<g class=\"f\" style=\"animation-name:a{number}\">");
            let y = |line: usize| MARGIN + (first + line) as f64 * LINE;
            let last = match shot {
                Shot::Lines(lines) => {
                    for (line, spans) in lines.iter().enumerate() {
                        body += &terminal::line(spans, y(line));
                    }
                    first + lines.len()
                }
                Shot::Typed(text, until) => {
                    let row = Span::plain(0, &format!("{PROMPT}{text}"));
                    body += &terminal::line(&[row], y(0));
                    let letters = text.chars().count();
                    let (from, width) = (PROMPT.len() as f64 * COLUMN, letters as f64 * COLUMN);
                    let _ = write!(
                        style,
                        "@keyframes t{number}{{0%,{:.2}%{{transform:none;opacity:1;animation-timing-function:steps({letters})}}{:.2}%{{\
                         transform:translateX({width:.1}px);opacity:1}}{:.2}%,100%{{transform:translateX({width:.1}px);\
                         opacity:0}}}}",
                        share(*at),
                        share(*until),
                        share(until + PAUSE)
                    );
                    // What is not typed yet is behind it; its left end is the cursor.
                    let _ = write!(
                        body,
                        "<g class=\"f\" opacity=\"0\" style=\"animation-name:t{number}\"><rect x=\"{from:.1}\" y=\"{0}\" \
                         width=\"{1:.1}\" height=\"{LINE}\" fill=\"{GROUND}\"/><rect x=\"{from:.1}\" y=\"{0}\" \
                         width=\"{COLUMN}\" height=\"{LINE}\" fill=\"#7f848e\"/></g>",
                        y(0),
                        width + COLUMN,
                        GROUND = terminal::GROUND,
                    );
                    first + 1
                }
            };
            body += "</g>\n";
            let above = last.saturating_sub(self.lines);
            if above > hidden {
                hidden = above;
                let up = above as f64 * LINE;
                let _ = write!(
                    scroll,
                    "{:.2}%{{transform:translateY(-{up}px)}}",
                    share(*at)
                );
            }
        }
        let up = hidden as f64 * LINE;
        let width = f64::from(self.columns) * COLUMN + 2.0 * MARGIN;
        let height = self.lines as f64 * LINE;
        format!(
            "{head}<style>.f{{animation:{whole:.1}s step-end infinite}}{style}@keyframes s{{{scroll}}}.s{{animation-name:s;\
             transform:translateY(-{up}px)}}@media(prefers-reduced-motion:reduce){{.f{{animation:none}}}}</style>\n\
             <svg x=\"{MARGIN}\" y=\"{MARGIN}\" width=\"{inside:.1}\" height=\"{height}\"><g class=\"f s\"><g \
             transform=\"translate(0 -{MARGIN})\">\n{body}</g></g></svg>\n</svg>\n",
            head = terminal::head(width, height + 2.0 * MARGIN),
            inside = width - 2.0 * MARGIN,
        )
    }
}
