//! What the page for browsers shows.

use std::time::Duration;

use ondemand_core::words::printable;

use crate::{
    bus::report::{Report, Service},
    observe::page::{Line, Table},
};

const DRY_RUN: &str = "dry run: the agent logs what it would stop, and stops nothing";

/// As `ondemand status` shows it: problems first.
pub fn table(report: &Report) -> Table {
    let notice = report.configuration.notice();
    let mut services: Vec<Line> = report.services.iter().map(line).collect();
    services.sort_by_key(|line| !line.has_problem);
    Table {
        summary: report
            .summary()
            .unwrap_or_else(|| "no service is configured".into()),
        notice: notice.or_else(|| report.dry_run.then(|| DRY_RUN.to_owned())),
        services,
    }
}

fn line(service: &Service) -> Line {
    let left = service.stops_in_seconds;
    Line {
        name: service.name.clone(),
        state: service.state.clone(),
        open: service.open_connections,
        memory: service.memory_bytes.or(service.given_back_bytes),
        stops_in: left.and_then(|left| Duration::try_from_secs_f64(left).ok()),
        listen: service.listen.clone(),
        has_problem: service.problem.is_some(),
        detail: printable(&service.detail_here()),
    }
}
