//! The live page: what `ondemand status` shows, for a browser, and the plots of the last week.
//!
//! It is whole without its script, which only asks for the same table again. Names and details are text, whatever is in
//! them, and the browser loads and runs nothing but what is in the page: its policy has the digests of both.

mod policy;
pub mod week;

use std::{fmt::Write as _, sync::LazyLock};

use ondemand_core::words::{Bytes, Span};
use serde::Serialize;
use std::time::Duration;

/// How pages of this program look.
pub const STYLE: &str = include_str!("style.css");
/// The plots of a report, for a page that has its figures.
pub const PLOTS: &str = include_str!("plots.js");

const OWN_STYLE: &str = concat!(include_str!("style.css"), include_str!("live.css"));
const SCRIPT: &str = concat!(include_str!("plots.js"), include_str!("live.js"));

/// From this number of services on, details are cut: 1,000 of them are a page of at most 200 kB.
const MANY: usize = 200;
/// To this length. Characters.
const SHORT_DETAIL: usize = 64;

/// The `Content-Security-Policy` of the page.
pub static POLICY: LazyLock<String> = LazyLock::new(|| policy::only(SCRIPT, OWN_STYLE));

/// What the page shows of all services.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// One line about all of them.
    pub summary: String,
    /// What is wrong with the configuration, or that nothing is stopped.
    pub notice: Option<String>,
    /// In the order in which they are shown.
    pub services: Vec<Line>,
}

/// A service. `None`: unknown, or there is none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Line {
    /// The name in the configuration.
    pub name: String,
    /// The state of its unit.
    pub state: String,
    /// Open connections.
    pub open: Option<u64>,
    /// Memory in bytes; while it is down, what it does not take.
    pub memory: Option<u64>,
    /// Time until it is stopped.
    pub stops_in: Option<Duration>,
    /// Where its clients connect.
    pub listen: Vec<String>,
    /// Whether something does not work.
    pub has_problem: bool,
    /// Why it is up, or what happens next.
    pub detail: String,
}

const HEAD: [&str; 7] = [
    "Service", "State", "Clients", "Memory", "Stops in", "Address", "Why",
];

impl Line {
    fn is_up(&self) -> bool {
        !matches!(self.state.as_str(), "inactive" | "failed")
    }

    /// The words that its row is styled by.
    fn class(&self) -> &'static str {
        match (self.has_problem || self.state == "failed", self.is_up()) {
            (true, _) => "problem",
            (false, true) => "up",
            (false, false) => "down",
        }
    }

    fn cells(&self, is_short: bool) -> [String; 7] {
        let dash = || "-".to_owned();
        let detail = match self.detail.char_indices().nth(SHORT_DETAIL) {
            Some((end, _)) if is_short => format!("{}\u{2026}", &self.detail[..end]),
            _ => self.detail.clone(),
        };
        [
            self.name.clone(),
            self.state.clone(),
            self.open.map_or("?".into(), |open| open.to_string()),
            self.memory.map_or_else(dash, |bytes| {
                let sign = if self.is_up() { "" } else { "-" };
                format!("{sign}{}", Bytes(bytes))
            }),
            self.stops_in
                .map_or_else(dash, |left| Span(left).to_string()),
            self.listen.join(", "),
            detail,
        ]
    }
}

#[derive(Serialize)]
struct Json<'a> {
    summary: &'a str,
    notice: Option<&'a str>,
    /// The class of each row, and its cells.
    rows: Vec<(&'static str, [String; 7])>,
}

impl Table {
    fn rows(&self) -> impl Iterator<Item = (&'static str, [String; 7])> + '_ {
        let is_short = self.services.len() > MANY;
        let each = self.services.iter();
        each.map(move |line| (line.class(), line.cells(is_short)))
    }

    /// What the page's script asks for.
    pub fn json(&self) -> String {
        let json = Json {
            summary: &self.summary,
            notice: self.notice.as_deref(),
            rows: self.rows().collect(),
        };
        // Strings always serialize.
        serde_json::to_string(&json).unwrap_or_default()
    }

    /// The page; `host`: of which host it is.
    pub fn html(&self, host: &str) -> String {
        let mut head = String::new();
        let mut rows = String::with_capacity(self.services.len() * 160);
        // Writing to a string cannot fail.
        for title in HEAD {
            let _ = write!(head, "<th>{title}");
        }
        for (class, cells) in self.rows() {
            let _ = write!(rows, "<tr class={class}>");
            for cell in cells {
                let _ = write!(rows, "<td>{}", escaped(&cell));
            }
            rows.push('\n');
        }
        let hidden = match self.notice {
            Some(_) => "",
            None => " hidden",
        };
        format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
             <title>{host}: ondemand</title>\n\
             <noscript><meta http-equiv=\"refresh\" content=\"5\"></noscript>\n\
             <style>{OWN_STYLE}</style></head>\n<body>\n\
             <h1>ondemand on {host}</h1>\n<p id=\"summary\">{summary}</p>\n\
             <p id=\"notice\"{hidden}>{notice}</p>\n<p id=\"lost\" role=\"status\" hidden></p>\n\
             <p id=\"choose\" hidden><input id=\"search\" type=\"search\" placeholder=\"search\" aria-label=\"search for \
             services\"> <label><input id=\"active\" type=\"checkbox\"> only those that are up</label> <output \
             id=\"found\"></output></p>\n\
             <div class=\"scroll\"><table id=\"services\"><thead><tr>{head}</thead><tbody>\n{rows}</tbody></table></div>\n\
             {FIGURES}<p class=\"quiet\">Memory: what a service takes; with a minus, what it gives back while it is down. All figures: <a \
             href=\"metrics\">/metrics</a></p>\n<script>{SCRIPT}</script>\n</body></html>\n",
            host = escaped(host),
            summary = escaped(&self.summary),
            notice = escaped(self.notice.as_deref().unwrap_or_default()),
        )
    }
}

const FIGURES: &str = "\
<section id=\"plots\" hidden><h2>The last week: <span id=\"subject\"></span> <button id=\"all\" hidden>show all services</button></h2>
<p class=\"quiet\">Choose a service in the table to see its own.</p>
<div class=\"plots\">
<figure id=\"states\"><h2>States</h2><output></output><figcaption>When it was up: a stronger colour means longer. Of all \
services, those that save most</figcaption></figure>
<figure id=\"week\"><h2>When clients come</h2><output></output><figcaption>Arrivals by hour and weekday</figcaption></figure>
<figure id=\"gaps\"><h2>Gaps between uses</h2><output></output><figcaption>What a timeout is chosen by</figcaption></figure>
<figure id=\"what-if\"><h2>Other idle timeouts</h2><output></output><figcaption><span class=\"first\">Cold starts</span> and \
<span class=\"second\">time up and idle</span> with each idle timeout; dashed: with the learned one; the upright line is the \
best of them</figcaption></figure>
</div></section>
";

/// Escapes text for HTML.
pub fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            letter if letter.is_control() => escaped.push('\u{fffd}'),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(services: usize) -> Table {
        let line = |at: usize| {
            Line {
            name: format!("service-with-a-name-{at:04}"),
            state: "inactive".into(),
            open: Some(0),
            memory: Some(123_400_000),
            stops_in: None,
            listen: vec![format!("192.168.178.20:{}", 10_000 + at)],
            has_problem: false,
            detail: "starts with the next connection; idle timeout auto: 5 min, because that is what it is".into(),
        }
        };
        Table {
            summary: "0 of some up".into(),
            notice: None,
            services: (0..services).map(line).collect(),
        }
    }

    #[test]
    fn a_page_of_a_thousand_services_is_small() {
        let begin = std::time::Instant::now();
        let (page, json) = (table(1000).html("host"), table(1000).json());
        println!(
            "{} and {} bytes, {:?}",
            page.len(),
            json.len(),
            begin.elapsed()
        );
        assert!(page.len() < 200_000, "{}", page.len());
        assert!(json.len() < 200_000, "{}", json.len());
        // Of a few nothing is cut.
        assert!(table(3).html("host").contains("that is what it is"));
    }

    #[test]
    fn names_are_text() {
        let mut hostile = table(1);
        let text = "</td><script>alert(\"1\")</script>&\u{1b}[1m";
        hostile.services[0].name = text.into();
        hostile.services[0].detail = text.into();
        hostile.services[0].listen = vec![text.into()];
        hostile.summary = text.into();
        hostile.notice = Some(text.into());
        let page = hostile.html(text);
        assert_eq!(page.matches("<script>").count(), 1, "{page}");
        assert!(!page.contains('\u{1b}'));
        assert!(page.contains("&lt;script&gt;alert(&quot;1&quot;)"));
    }

    #[test]
    fn it_asks_for_nothing_from_elsewhere() {
        let page = table(1)
            .html("host")
            .replace("http://www.w3.org/2000/svg", "");
        for foreign in [
            "http:",
            "https:",
            "src=",
            "<link",
            "@import",
            "url(",
            "eval(",
            "innerHTML",
        ] {
            assert!(!page.contains(foreign), "{foreign}");
        }
    }
}
