//! What a bench found: a table for people, Markdown for BENCHMARKS.md, JSON for programs.

use std::io::{IsTerminal as _, stdout};

use serde_json::{Value, json};

use crate::{machine::Machine, stats::Series};

/// The result of one bench.
pub struct Report {
    /// Its name in the registry.
    pub name: &'static str,
    /// One line: what is compared.
    pub title: &'static str,
    /// How it was measured, in a sentence or two.
    pub method: String,
    /// Everything that was measured.
    pub figures: Vec<Figure>,
    /// The figures as people want to see them.
    pub table: Table,
    /// What had to be reached.
    pub targets: Vec<Target>,
}

/// One figure.
pub struct Figure {
    /// What was measured.
    pub what: String,
    /// Of what.
    pub of: String,
    /// The values.
    pub series: Series,
}

/// Rows of text, the first of them the heading.
#[derive(Default)]
pub struct Table {
    /// Each as long as the first.
    pub rows: Vec<Vec<String>>,
}

/// A figure and its limit.
#[derive(Clone)]
pub struct Target {
    /// What the figure is.
    pub what: String,
    /// The values.
    pub series: Series,
    /// Where it should be.
    pub limit: Limit,
    /// Digits after the point.
    pub digits: usize,
}

/// Where a figure should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// Not below it.
    AtLeast(f64),
    /// Not above it.
    AtMost(f64),
}

impl Limit {
    /// Whether `value` is on the right side, a missing one is not; `slack` above 1 widens it.
    fn holds(self, value: f64, slack: f64) -> bool {
        match self {
            Self::AtLeast(limit) => value >= limit / slack,
            Self::AtMost(limit) => value <= limit * slack,
        }
    }
}

/// Off by more than this factor is not noise.
pub const ABSURD: f64 = 2.0;

impl Target {
    /// Whether its median is where it should be.
    pub fn is_met(&self) -> bool {
        self.limit.holds(self.series.median(), 1.0)
    }

    /// Whether it is off by more than this factor.
    pub fn is_off_by(&self, factor: f64) -> bool {
        !self.limit.holds(self.series.median(), factor)
    }

    /// Whether some of the middle half of the values is where it should be.
    fn is_within_spread(&self) -> bool {
        let spread = self.series.spread();
        self.limit.holds(*spread.start(), 1.0) || self.limit.holds(*spread.end(), 1.0)
    }

    fn row(&self) -> Vec<String> {
        let (digits, spread) = (self.digits, self.series.spread());
        let (sign, limit) = match self.limit {
            Limit::AtLeast(limit) => (">=", limit),
            Limit::AtMost(limit) => ("<=", limit),
        };
        let verdict = match (self.is_met(), self.is_within_spread()) {
            (true, _) => "reached",
            (false, true) => "MISSED, within the spread",
            (false, false) => "MISSED",
        };
        vec![
            self.what.clone(),
            format!("{:.digits$}", self.series.median()),
            format!("{:.digits$} to {:.digits$}", spread.start(), spread.end()),
            format!("{sign} {limit:.digits$}"),
            verdict.to_owned(),
        ]
    }
}

impl Report {
    /// The values of a figure; none if it was not measured.
    pub fn series(&self, what: &str, of: &str) -> Series {
        let mut figures = self.figures.iter();
        let figure = figures.find(|figure| figure.what == what && figure.of == of);
        figure
            .map(|figure| figure.series.clone())
            .unwrap_or_default()
    }

    /// Prints it; what is missed is red on a terminal.
    pub fn print(&self, machine: &Machine) {
        println!("{}: {}", self.name, self.title);
        println!("{}\n", machine.text());
        for line in self.table.aligned() {
            println!("{line}");
        }
        println!();
        let red = stdout().is_terminal();
        let lines = self.target_table().aligned();
        for (index, line) in lines.iter().enumerate() {
            // The first two lines are the heading.
            let target = index.checked_sub(2).and_then(|row| self.targets.get(row));
            match target {
                Some(target) if !target.is_met() && red => println!("\x1b[31m{line}\x1b[0m"),
                _ => println!("{line}"),
            }
        }
        println!("\n{}", self.method);
    }

    /// For BENCHMARKS.md.
    pub fn markdown(&self, machine: &Machine) -> String {
        format!(
            "### {}: {}\n\n{}.\n\n{}\n\n{}\n\n{}\n",
            self.name,
            self.title,
            machine.text(),
            self.table.markdown(),
            self.target_table()
                .markdown()
                .replace("MISSED", "**missed**"),
            self.method
        )
    }

    /// For programs.
    pub fn json(&self, machine: &Machine) -> Value {
        let figures: Vec<Value> = self
            .figures
            .iter()
            .map(|figure| {
                json!({"what": figure.what, "of": figure.of, "measured": figure.series.json()})
            })
            .collect();
        let targets: Vec<Value> = self
            .targets
            .iter()
            .map(|target| {
                let limit = match target.limit {
                    Limit::AtLeast(limit) => json!({"at_least": limit}),
                    Limit::AtMost(limit) => json!({"at_most": limit}),
                };
                json!({
                    "what": target.what,
                    "measured": target.series.json(),
                    "limit": limit,
                    "reached": target.is_met(),
                })
            })
            .collect();
        json!({
            "bench": self.name,
            "machine": machine.json(),
            "figures": figures,
            "targets": targets,
            "method": self.method,
        })
    }

    fn target_table(&self) -> Table {
        let head = ["target", "median", "middle half", "wanted", ""];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(self.targets.iter().map(Target::row));
        Table { rows }
    }
}

impl Table {
    /// Lines with columns of equal width, and a rule under the heading.
    fn aligned(&self) -> Vec<String> {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |column| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells
                .map(|cell: &String| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut lines: Vec<String> = self
            .rows
            .iter()
            .map(|row| {
                let cells = row.iter().zip(&widths).enumerate();
                let cells: Vec<String> = cells
                    .map(|(column, (cell, width))| match column {
                        0 => format!("{cell:<width$}"),
                        _ => format!("{cell:>width$}"),
                    })
                    .collect();
                cells.join("  ").trim_end().to_owned()
            })
            .collect();
        let whole = widths.iter().sum::<usize>() + 2 * columns.saturating_sub(1);
        lines.insert(1.min(lines.len()), "-".repeat(whole));
        lines
    }

    fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |", cells.join(" | "));
        let mut rows = self.rows.iter();
        let Some(head) = rows.next() else {
            return String::new();
        };
        let mut rule = vec!["---".to_owned()];
        rule.resize(head.len(), "---:".to_owned());
        let mut lines = vec![line(head), line(&rule)];
        lines.extend(rows.map(|row| line(row)));
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(values: &[f64], limit: Limit, verdict: &str, absurd: bool) {
        let target = Target {
            what: "it".to_owned(),
            series: Series(values.to_vec()),
            limit,
            digits: 2,
        };
        assert_eq!(target.row().last().map(String::as_str), Some(verdict));
        assert_eq!(target.is_off_by(ABSURD), absurd);
    }

    #[test]
    fn verdicts() {
        let (least, most) = (Limit::AtLeast(0.97), Limit::AtMost(50.0));
        check(&[0.97], least, "reached", false);
        check(&[0.96], least, "MISSED", false);
        check(
            &[0.90, 0.96, 0.98],
            least,
            "MISSED, within the spread",
            false,
        );
        check(&[0.40], least, "MISSED", true);
        check(&[50.0], most, "reached", false);
        check(&[60.0], most, "MISSED", false);
        check(&[101.0], most, "MISSED", true);
        check(&[], most, "MISSED", true);
    }

    #[test]
    fn tables() {
        let cells = |row: [&str; 2]| row.map(str::to_owned).to_vec();
        let table = Table {
            rows: vec![cells(["", "direct"]), cells(["requests/s", "12"])],
        };
        let lines = [
            "            direct",
            "------------------",
            "requests/s      12",
        ];
        assert_eq!(table.aligned(), lines);
        assert_eq!(
            table.markdown(),
            "|  | direct |\n| --- | ---: |\n| requests/s | 12 |"
        );
    }
}
