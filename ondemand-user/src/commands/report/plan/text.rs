//! A plan as text.

use std::fmt::{self, Write as _};

use ondemand_core::words::counted;

use super::{Budget, GIB, Plan, Policy, Up, Waited};
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

/// The heads of the table of budgets.
pub const BUDGET_HEADS: [&str; 8] = [
    "HOSTS",
    "COLD STARTS",
    "WAITED IN ALL",
    "WAIT P50",
    "WAIT P99",
    "UP AT P50",
    "UP AT P99",
    "OVER",
];

/// What a budget is.
pub const BUDGET_CAPTION: &str = "With memory_budget a service has no timeout: it stays up while it fits on its host, and who starts takes \
     the room of those that are least worth keeping. OVER: for how much of the time services that started had more than the \
     memory of their host, at worst";

/// Formats `with a budget 10 of 20 hosts have no more cold starts than with auto`.
pub fn budget(plan: &Plan) -> String {
    let of = counted(plan.hosts.into(), "host");
    match plan.budget_hosts {
        Some(hosts) => {
            format!("with a budget {hosts} of {of} have no more cold starts than with auto")
        }
        None => format!("with a budget {of} have more cold starts than with auto"),
    }
}

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

/// What became of clients and memory: the cells that both tables have.
fn outcome(cold_starts: u64, waited: &Waited, up: &Up) -> [String; 6] {
    let span = |seconds: Option<f64>| seconds.map_or("-".into(), |it| span_of(it).to_string());
    let bytes = |bytes: Option<u64>| bytes.map_or("-".into(), size);
    [
        cold_starts.to_string(),
        span_of(waited.seconds).to_string(),
        span(waited.p50_seconds),
        span(waited.p99_seconds),
        bytes(up.p50_bytes),
        bytes(up.p99_bytes),
    ]
}

/// The cells of a policy's row.
pub fn cells(policy: &Policy) -> Vec<String> {
    let timeout = policy.timeout_seconds;
    let hosts = |hosts: Option<u64>| hosts.map_or("-".into(), |it| it.to_string());
    let mut cells = vec![timeout.map_or("auto".into(), |it| span_of(it).to_string())];
    cells.extend(outcome(policy.cold_starts, &policy.waited, &policy.up));
    cells.push(hosts(policy.hosts_at_p99));
    cells.push(hosts(policy.fewest_placed_hosts.map(u64::from)));
    cells
}

/// The cells of a budget's row.
pub fn budget_cells(of: &Budget) -> Vec<String> {
    let mut cells = vec![of.placed.hosts.to_string()];
    cells.extend(outcome(of.cold_starts, &of.waited, &of.up));
    cells.push(format!("{:.1} %", 100.0 * of.placed.worst_over_ratio));
    cells
}

/// Writes it.
///
/// # Errors
///
/// None: writing to a string cannot fail.
pub fn write(text: &mut String, plan: &Plan) -> fmt::Result {
    writeln!(text, "HOW MANY HOSTS: {}", head(plan))?;
    row(text, ' ', &HEADS.map(str::to_owned))?;
    for policy in &plan.policies {
        let mark = if policy.recommended { '>' } else { ' ' };
        row(text, mark, &cells(policy))?;
    }
    writeln!(text, "\n{CAPTION} (tried: {}).\n", tried(plan))?;
    row(text, ' ', &BUDGET_HEADS.map(str::to_owned))?;
    for of in &plan.budget {
        let mark = if plan.budget_hosts == Some(of.placed.hosts) {
            '>'
        } else {
            ' '
        };
        row(text, mark, &budget_cells(of))?;
    }
    writeln!(text, "\n{BUDGET_CAPTION}; {}.\n", budget(plan))
}

fn row(text: &mut String, mark: char, cells: &[String]) -> fmt::Result {
    write!(text, "{mark}")?;
    for (cell, width) in cells.iter().zip([14, 11, 13, 9, 9, 11, 11, 12, 10]) {
        write!(text, " {cell:>width$}")?;
    }
    writeln!(text)
}

fn size(bytes: u64) -> String {
    gib(bytes as f64 / GIB)
}
