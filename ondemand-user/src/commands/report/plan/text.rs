//! A plan as text.

use std::fmt::{self, Write as _};

use ondemand_core::words::counted;

use super::{GIB, Plan, Policy};
use crate::commands::report::{headline::gib, text::span_of};

/// The heads of the table.
pub const HEADS: [&str; 9] = [
    "IDLE TIMEOUT",
    "COLD STARTS",
    "WAITED IN ALL",
    "WAIT P50",
    "WAIT P99",
    "UP AT P50",
    "UP AT P99",
    "HOSTS AT P99",
    "AT HOME ON",
];

/// What the last two columns mean.
pub const CAPTION: &str = "HOSTS AT P99: how many have the memory that was up at 99 % of the time, if each service could run \
     on any of them; no plan does with less. AT HOME ON: each service placed on one of so many hosts, first fit by memory, \
     none had more up than its memory for more than 1 % of the time";

/// Formats `20 hosts of 16.0 GiB; the services take 312.5 GiB, 21 hosts if they are always up`.
pub fn head(plan: &Plan) -> String {
    let [each, all] = [plan.memory_per_host_bytes, plan.memory_bytes].map(size);
    let hosts = |hosts: u32| counted(hosts.into(), "host");
    format!(
        "{} of {each}; the services take {all}, {} if they are always up",
        hosts(plan.hosts),
        hosts(plan.always_up_hosts)
    )
}

/// The numbers of hosts that were tried.
pub fn tried(plan: &Plan) -> String {
    let first = plan.policies.first();
    let tried = first.map_or(&[][..], |policy| &policy.placed);
    let tried: Vec<String> = tried.iter().map(|it| it.hosts.to_string()).collect();
    tried.join(", ")
}

/// The cells of a policy's row.
pub fn cells(policy: &Policy) -> [String; 9] {
    let span = |seconds: Option<f64>| seconds.map_or("-".into(), |it| span_of(it).to_string());
    let bytes = |bytes: Option<u64>| bytes.map_or("-".into(), size);
    let hosts = |hosts: Option<u64>| hosts.map_or("-".into(), |it| it.to_string());
    [
        policy
            .timeout_seconds
            .map_or("auto".into(), |it| span_of(it).to_string()),
        policy.cold_starts.to_string(),
        span_of(policy.waited.seconds).to_string(),
        span(policy.waited.p50_seconds),
        span(policy.waited.p99_seconds),
        bytes(policy.up.p50_bytes),
        bytes(policy.up.p99_bytes),
        hosts(policy.hosts_at_p99),
        hosts(policy.fewest_placed_hosts.map(u64::from)),
    ]
}

/// Writes it.
///
/// # Errors
///
/// None: writing to a string cannot fail.
pub fn write(text: &mut String, plan: &Plan) -> fmt::Result {
    writeln!(text, "HOW MANY HOSTS: {}", head(plan))?;
    let mut row = |mark: char, cells: [&str; 9]| {
        write!(text, "{mark}")?;
        for (cell, width) in cells.iter().zip([14, 11, 13, 9, 9, 11, 11, 12, 10]) {
            write!(text, " {cell:>width$}")?;
        }
        writeln!(text)
    };
    row(' ', HEADS)?;
    for policy in &plan.policies {
        let mark = if policy.recommended { '>' } else { ' ' };
        let cells = cells(policy);
        row(mark, cells.each_ref().map(String::as_str))?;
    }
    writeln!(text, "\n{CAPTION} (tried: {}).\n", tried(plan))
}

fn size(bytes: u64) -> String {
    gib(bytes as f64 / GIB)
}
