//! The results, and their growth.

use super::{FEW, KINDS, Kind, SHORT, SIZES, Size, Values};
use crate::{
    plot::{Lines, Plot, Scale},
    report::{Figure, Limit, Report, Table, Target},
    stats::Series,
};

pub(super) fn report(values: &Values, sizes: &[Size], rounds: u32) -> Report {
    let series = |kind, size| values.get(&(kind, size)).cloned().unwrap_or_default();
    let mut table = Table::default();
    let head = ["services", "connections"].into_iter();
    let head = head.chain(KINDS.iter().map(|kind| kind.name()));
    table.rows.push(head.map(str::to_owned).collect());
    for size in sizes {
        let mut row = vec![size.services.to_string(), size.connections.to_string()];
        row.extend(KINDS.map(|kind| {
            let digits = kind.digits();
            format!("{:.digits$}", series(kind, *size).median())
        }));
        table.rows.push(row);
    }
    let varied = |few: &&Size| few.services == FEW;
    let most = sizes.iter().filter(varied).max();
    let fewest = sizes.iter().filter(varied).min();
    let (most, fewest) = (
        most.copied().unwrap_or(SIZES[0]),
        fewest.copied().unwrap_or(SIZES[0]),
    );
    let worst = |kind| {
        let of_kind = values.iter().filter(|((found, _), _)| *found == kind);
        let all = of_kind.flat_map(|(_, series)| &series.0);
        Series(vec![all.copied().fold(0.0, f64::max)])
    };
    let targets = vec![
        Target {
            what: "connections and bytes that were miscounted, at worst".to_owned(),
            series: worst(Kind::Miscounted),
            limit: Limit::AtMost(0.0),
            digits: 0,
        },
        Target {
            what: "connections that were lost while agents were replaced, at worst".to_owned(),
            series: worst(Kind::Lost),
            limit: Limit::AtMost(0.0),
            digits: 0,
        },
        Target {
            what: format!(
                "a sample with {} connections / with {}",
                most.connections, fewest.connections
            ),
            series: series(Kind::Sample, most).ratio_to(&series(Kind::Sample, fewest)),
            limit: Limit::AtMost(1.25),
            digits: 2,
        },
        Target {
            what: "the agent's memory, at most, MB".to_owned(),
            series: worst(Kind::Peak),
            limit: Limit::AtMost(40.0),
            digits: 1,
        },
        Target {
            what: "a scrape, agent's CPU at worst, ms".to_owned(),
            series: worst(Kind::ScrapeCpu),
            limit: Limit::AtMost(20.0),
            digits: 1,
        },
        Target {
            what: "the same with what-if of each service".to_owned(),
            series: worst(Kind::WhatIfCpu),
            limit: Limit::AtMost(50.0),
            digits: 1,
        },
        Target {
            what: "its size, as gzip, at worst, MB".to_owned(),
            series: worst(Kind::WhatIfSize),
            limit: Limit::AtMost(3.0),
            digits: 2,
        },
    ];
    let figures = values.iter().map(|((kind, size), series)| Figure {
        what: kind.name().to_owned(),
        of: size.name(),
        series: series.clone(),
    });
    Report {
        name: "scale",
        title: "many services, many connections",
        method: format!(
            "Medians of {rounds} rounds, in alternating order. The services are up and steered, each \
             with a process of its own; connections are spread over them evenly, each with one byte \
             there and back. Miscounted is the sum of all differences between what the clients did and \
             what `ondemand status` says, of each service, when all are open, after a restart of the \
             agent, and when all are gone. A sample reads one service's counters, a snapshot all sockets \
             of the kernel's tables (both ends, as all are on this machine); the agent logs what they \
             take. A whole stop is `ondemand stop` of a service without clients beside them. A scrape is as Prometheus asks for it, with \
             `whatif = \"total\"` and then \"service\". Maps have \
             their full size from the begin; the kernel's account leaves out what hangs on sockets."
        ),
        figures: figures.collect(),
        table,
        targets,
    }
}

/// What grows, over the connections and over the services.
pub fn plots(report: &Report) -> Vec<Plot> {
    let line = |kind: Kind, over_services: bool| {
        let mut sizes: Vec<Size> = SIZES.into_iter().chain(SHORT).collect();
        sizes.retain(|size| match over_services {
            true => size.connections == SIZES[0].connections,
            false => size.services == FEW,
        });
        sizes.sort();
        sizes.dedup();
        let point = |size: Size| {
            let median = report.series(kind.name(), &size.name()).median();
            if median.is_nan() {
                return None;
            }
            let x = match over_services {
                true => f64::from(size.services),
                false => f64::from(size.connections),
            };
            Some((x, median))
        };
        (
            kind.name().to_owned(),
            sizes.into_iter().filter_map(point).collect(),
        )
    };
    let costs = [
        Kind::Snapshot,
        Kind::Stop,
        Kind::Scrape,
        Kind::ScrapeCpu,
        Kind::WhatIf,
    ];
    let sizes = [Kind::Peak, Kind::Resident, Kind::MapMemory];
    let mut plots = Vec::new();
    for (over_services, over) in [(false, "connections"), (true, "services")] {
        for (title, kinds) in [
            ("sample, µs", &[Kind::Sample][..]),
            ("milliseconds", &costs),
            ("memory, MB", &sizes),
        ] {
            let lines: Vec<_> = kinds
                .iter()
                .map(|kind| line(*kind, over_services))
                .collect();
            // A short run does not vary the services.
            if lines
                .iter()
                .any(|(_, points): &(String, Vec<_>)| points.len() > 1)
            {
                plots.push(Plot::Lines(Lines {
                    title: format!("{title}, over {over}"),
                    x: over.to_owned(),
                    scale: Scale::Logarithmic,
                    lines,
                }));
            }
        }
    }
    plots
}
