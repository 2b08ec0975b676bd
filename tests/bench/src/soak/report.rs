//! The results: the first third beside the last one.

use super::{Lap, Upset};
use crate::{
    plot::{Lines, Plot, Scale},
    report::{Figure, Limit, Report, Table, Target},
    stats::Series,
};

/// One figure of a lap.
struct Kind {
    name: &'static str,
    of: fn(&Lap) -> f64,
    /// Of several laps it is a sum, otherwise the median.
    is_sum: bool,
    digits: usize,
}

const fn sum(name: &'static str, of: fn(&Lap) -> f64) -> Kind {
    Kind {
        name,
        of,
        is_sum: true,
        digits: 0,
    }
}

const fn median(name: &'static str, digits: usize, of: fn(&Lap) -> f64) -> Kind {
    Kind {
        name,
        of,
        is_sum: false,
        digits,
    }
}

const REQUESTS: Kind = sum("requests", |lap| lap.clients.requests as f64);
const CONNECTIONS: Kind = sum("connections", |lap| lap.clients.connections as f64);
const BYTES: Kind = sum("MB there and back", |lap| {
    (lap.clients.sent + lap.clients.received) as f64 / 1e6
});
const STOPS: Kind = sum("stops", |lap| lap.stops);
const VETOES: Kind = sum("stops vetoed", |lap| lap.vetoes);
const KILLS: Kind = sum("agents killed", |lap| upsets(lap, &[Upset::Kill]));
const RESTARTS: Kind = sum("agents restarted", |lap| upsets(lap, &[Upset::Restart]));
const RELOADS: Kind = sum("reloads", |lap| {
    upsets(lap, &[Upset::Reload, Upset::DaemonReload])
});
const LOST: Kind = sum("requests lost", |lap| {
    lap.clients.lost.values().sum::<u64>() as f64
});
const MISCOUNTED: Kind = sum("miscounted", |lap| lap.miscounted as f64);
const DRIFT: Kind = sum("drift that the agent found", |lap| lap.drift);
const MEMORY: Kind = median("agent's own memory, MB", 2, |lap| lap.memory);
const DESCRIPTORS: Kind = median("agent's descriptors", 0, |lap| lap.descriptors);
const ENTRIES: Kind = median("entries in maps", 0, |lap| lap.entries);
const MAPS: Kind = median("maps, MB", 2, |lap| lap.map_memory);

const KINDS: [Kind; 15] = [
    REQUESTS,
    CONNECTIONS,
    BYTES,
    STOPS,
    VETOES,
    KILLS,
    RESTARTS,
    RELOADS,
    LOST,
    MISCOUNTED,
    DRIFT,
    MEMORY,
    DESCRIPTORS,
    ENTRIES,
    MAPS,
];

fn upsets(lap: &Lap, which: &[Upset]) -> f64 {
    let counts = which.iter().filter_map(|upset| lap.upsets.get(upset));
    counts.sum::<u64>() as f64
}

impl Kind {
    fn series(&self, laps: &[Lap]) -> Series {
        Series(laps.iter().map(self.of).collect())
    }

    fn value(&self, laps: &[Lap]) -> f64 {
        let series = self.series(laps);
        match self.is_sum {
            true => series.0.iter().sum(),
            false => series.median(),
        }
    }
}

pub(super) fn report(laps: &[Lap]) -> Report {
    let third = laps.len() / 3;
    let (first, rest) = laps.split_at(third);
    let (middle, last) = rest.split_at(rest.len() - third);
    let mut table = Table::default();
    let head = ["", "first third", "with agents killed", "last third", "all"];
    table.rows.push(head.map(str::to_owned).to_vec());
    for kind in &KINDS {
        let mut row = vec![kind.name.to_owned()];
        row.extend([first, middle, last, laps].map(|laps| {
            let digits = kind.digits;
            format!("{:.digits$}", kind.value(laps))
        }));
        table.rows.push(row);
    }
    let figures = KINDS.iter().map(|kind| Figure {
        what: kind.name.to_owned(),
        of: "a lap".to_owned(),
        series: kind.series(laps),
    });
    let lost = laps.iter().flat_map(|lap| &lap.clients.lost);
    let lost: Vec<String> = lost
        .map(|(loss, count)| format!("{count} {loss}"))
        .collect();
    let lost = match lost.is_empty() {
        true => String::new(),
        false => format!(" Lost: {}.", lost.join(", ")),
    };
    let minutes = laps.iter().map(|lap| lap.seconds).sum::<f64>() / 60.0;
    Report {
        name: "soak",
        title: "does anything get lost, drift or grow",
        method: format!(
            "{minutes:.1} minutes of load in {} laps. Four services (steered, steered with an application \
             that starts and stops slowly, proxied, proxied to a Unix socket) with idle timeouts of 300 to \
             500 ms; clients with single requests, keep-alive, downloads, uploads, and slow ones, half of \
             them aimed at the moment of the stop. All the time the configuration, systemd's units, holds, \
             starts and stops on request change; in the middle third agents are killed and restarted, too. \
             After each lap nobody comes until all services are stopped; then it is counted, and measured. \
             Miscounted is the sum of all differences in connections and bytes, of each service.{lost}",
            laps.len()
        ),
        figures: figures.collect(),
        table,
        targets: targets(laps, first, last),
    }
}

fn targets(laps: &[Lap], first: &[Lap], last: &[Lap]) -> Vec<Target> {
    let none = |kind: &Kind| Target {
        what: kind.name.to_owned(),
        // Of all together: a median would not see one.
        series: Series(vec![kind.value(laps)]),
        limit: Limit::AtMost(0.0),
        digits: 0,
    };
    let mut targets: Vec<Target> = [LOST, MISCOUNTED, DRIFT].iter().map(none).collect();
    // Less a part, an agent has found its size only after a while.
    let (begin, end) = (
        &first[first.len() / 4..first.len() / 2 + 1],
        &first[first.len() / 2..],
    );
    let ratio = |what: &str, kind: &Kind, end: &[Lap], begin: &[Lap], limit| Target {
        what: format!("{}: {what}", kind.name),
        series: Series(vec![kind.value(end) / kind.value(begin)]),
        limit: Limit::AtMost(limit),
        digits: 3,
    };
    targets.extend([
        ratio(
            "second / first half of the first third",
            &MEMORY,
            end,
            begin,
            1.05,
        ),
        ratio("last / first third", &MEMORY, last, first, 1.05),
        ratio("last / first third", &DESCRIPTORS, last, first, 1.0),
        ratio("last / first third", &ENTRIES, last, first, 1.0),
        ratio("last / first third", &MAPS, last, first, 1.0),
    ]);
    targets
}

/// What could grow, over the laps.
pub fn plots(report: &Report) -> Vec<Plot> {
    let line = |kind: &Kind| {
        let figure = report
            .figures
            .iter()
            .find(|figure| figure.what == kind.name);
        let values = figure.map_or(&[][..], |figure| &figure.series.0);
        let points = (1..).map(f64::from).zip(values.iter().copied());
        (kind.name.to_owned(), points.collect())
    };
    let plot = |title: &str, kinds: &[Kind]| {
        Plot::Lines(Lines {
            title: title.to_owned(),
            x: "lap".to_owned(),
            scale: Scale::Linear,
            lines: kinds.iter().map(line).collect(),
        })
    };
    vec![
        plot("memory, MB", &[MEMORY, MAPS]),
        plot("what is open", &[DESCRIPTORS, ENTRIES]),
        plot("load of a lap", &[REQUESTS, CONNECTIONS]),
        plot("stops of a lap", &[STOPS, VETOES, KILLS, LOST]),
    ]
}
