//! Text in the format of OpenMetrics 1.0, sample by sample: of a thousand services there are a hundred thousand.

use std::fmt::Write as _;

/// A metric's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A value that may fall.
    Gauge,
    /// A value that only grows.
    Counter,
    /// Counts by an upper bound.
    Histogram,
    /// Labels alone.
    Info,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::Histogram => "histogram",
            Self::Info => "info",
        }
    }

    /// What follows a metric's name in a sample of it.
    fn suffix(self) -> &'static str {
        match self {
            Self::Gauge | Self::Histogram => "",
            Self::Counter => "_total",
            Self::Info => "_info",
        }
    }
}

/// A value.
pub trait Number: Copy {
    /// Appends it.
    fn write(self, text: &mut String);
}

impl Number for u64 {
    fn write(self, text: &mut String) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{self}");
    }
}

impl Number for u32 {
    fn write(self, text: &mut String) {
        u64::from(self).write(text);
    }
}

impl Number for f64 {
    fn write(self, text: &mut String) {
        if self.is_infinite() {
            text.push_str(if self > 0.0 { "+Inf" } else { "-Inf" });
            return;
        }
        // As above.
        let _ = write!(text, "{self}");
    }
}

/// All metrics.
#[derive(Debug)]
pub struct Exposition {
    text: String,
}

/// One metric. No label's value has a character that needs to be escaped.
#[derive(Debug)]
pub struct Family<'e> {
    text: &'e mut String,
    name: &'static str,
    suffix: &'static str,
}

impl Exposition {
    /// Nothing so far; `size`: what is expected, in bytes.
    pub fn with_capacity(size: usize) -> Self {
        Self {
            text: String::with_capacity(size),
        }
    }

    /// Begins a metric. `unit`: with which its name ends; empty: it has none.
    pub fn family(
        &mut self,
        kind: Kind,
        name: &'static str,
        unit: &'static str,
        help: &str,
    ) -> Family<'_> {
        debug_assert!(name.ends_with(unit), "{name} does not end with {unit}");
        let kind_name = kind.as_str();
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind_name}");
        if !unit.is_empty() {
            // As above.
            let _ = writeln!(self.text, "# UNIT {name} {unit}");
        }
        Family {
            text: &mut self.text,
            name,
            suffix: kind.suffix(),
        }
    }

    /// A metric that may fall.
    pub fn gauge(&mut self, name: &'static str, unit: &'static str, help: &str) -> Family<'_> {
        self.family(Kind::Gauge, name, unit, help)
    }

    /// A metric that only grows.
    pub fn counter(&mut self, name: &'static str, unit: &'static str, help: &str) -> Family<'_> {
        self.family(Kind::Counter, name, unit, help)
    }

    /// All of it.
    pub fn end(mut self) -> String {
        self.text.push_str("# EOF\n");
        self.text
    }
}

impl Family<'_> {
    /// Appends a sample.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Number) {
        self.line(self.suffix, labels, None, value);
    }

    /// Appends a histogram. `buckets`: an upper bound, and what is in this bucket alone.
    pub fn histogram(
        &mut self,
        labels: &[(&str, &str)],
        sum: f64,
        count: u64,
        buckets: &[(f64, u64)],
    ) {
        self.line("_sum", labels, None, sum);
        self.line("_count", labels, None, count);
        let mut below = 0;
        for (bound, inside) in buckets {
            below += inside;
            self.line("_bucket", labels, Some(*bound), below);
        }
    }

    fn line(
        &mut self,
        suffix: &str,
        labels: &[(&str, &str)],
        bound: Option<f64>,
        value: impl Number,
    ) {
        let text = &mut *self.text;
        text.push_str(self.name);
        text.push_str(suffix);
        let mut before = '{';
        if let Some(bound) = bound {
            text.push_str("{le=\"");
            match bound.is_finite() {
                // With a digit after the point: it is a part of the series' name.
                true => drop(write!(text, "{bound:?}")),
                false => bound.write(text),
            }
            text.push('"');
            before = ',';
        }
        for (name, value) in labels {
            text.push(before);
            before = ',';
            text.push_str(name);
            text.push_str("=\"");
            text.push_str(value);
            text.push('"');
        }
        if before == ',' {
            text.push('}');
        }
        text.push(' ');
        value.write(text);
        text.push('\n');
    }
}

/// Converts to the text format before OpenMetrics (version 0.0.4), which promtool and older
/// collectors read: there the name of a counter ends in `_total` in its descriptor too, and `info`
/// is not a type. Units stay as comments.
pub fn plain(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut lines = open_metrics.lines().peekable();
    let mut suffix = "";
    while let Some(line) = lines.next() {
        let mut words = line.splitn(4, ' ');
        let (Some("#"), Some(keyword), Some(name), Some(rest)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        if keyword == "HELP" {
            // The next line has the type.
            let kind = lines.peek().and_then(|line| line.split(' ').nth(3));
            suffix = match kind {
                Some("counter") => "_total",
                Some("info") => "_info",
                _ => "",
            };
        }
        let rest = if rest == "info" { "gauge" } else { rest };
        text.push_str(&format!("# {keyword} {name}{suffix} {rest}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_each_kind() {
        let mut all = Exposition::with_capacity(0);
        all.gauge("x_seconds", "seconds", "An x.")
            .sample(&[], f64::INFINITY);
        let mut family = all.counter("y", "", "Some y.");
        family.sample(&[("a", "1"), ("b", "2")], 7_u64);
        family.sample(&[("a", "3")], 0.25);
        let mut family = all.family(Kind::Histogram, "z", "", "Many z.");
        family.histogram(
            &[("a", "1")],
            2.5,
            3,
            &[(0.5, 1), (1.0, 0), (f64::INFINITY, 2)],
        );
        all.family(Kind::Info, "w", "", "A w.")
            .sample(&[("v", "1")], 1_u64);
        let expected = "\
# HELP x_seconds An x.
# TYPE x_seconds gauge
# UNIT x_seconds seconds
x_seconds +Inf
# HELP y Some y.
# TYPE y counter
y_total{a=\"1\",b=\"2\"} 7
y_total{a=\"3\"} 0.25
# HELP z Many z.
# TYPE z histogram
z_sum{a=\"1\"} 2.5
z_count{a=\"1\"} 3
z_bucket{le=\"0.5\",a=\"1\"} 1
z_bucket{le=\"1.0\",a=\"1\"} 1
z_bucket{le=\"+Inf\",a=\"1\"} 3
# HELP w A w.
# TYPE w info
w_info{v=\"1\"} 1
# EOF
";
        assert_eq!(all.end(), expected);
    }
}
