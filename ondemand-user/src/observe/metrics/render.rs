//! Formats the metrics.

mod clients;
mod host;
mod idle;
mod runs;
mod state;
#[cfg(test)]
pub(crate) mod tests;

use ondemand_core::config::WhatIfBy;

use super::{
    exposition::{Exposition, Family, Number},
    ledger::Ledger,
    observation::{Configuration, Observation, Row},
    uses::Uses,
    whatif,
};

/// Formats all metrics as OpenMetrics text.
pub fn open_metrics(
    rows: &[Row],
    configuration: &Configuration,
    by: WhatIfBy,
    uses: &Uses,
) -> String {
    let a_service = if by == WhatIfBy::Service { 8192 } else { 4096 };
    let mut text = Exposition::with_capacity(8192 + rows.len() * a_service);
    clients::write(&mut text, rows);
    idle::write(&mut text, rows);
    state::write(&mut text, rows);
    runs::write(&mut text, rows);
    host::write(&mut text, configuration, uses.waits());
    whatif::write(&mut text, by, rows, uses);
    text.end()
}

impl Family<'_> {
    /// A sample for each service of which it is known.
    fn each<N: Number>(mut self, rows: &[Row], value: impl Fn(&Observation, &Ledger) -> Option<N>) {
        for (row, ledger) in rows {
            if let Some(value) = value(row, ledger) {
                self.sample(&[("service", &row.service)], value);
            }
        }
    }

    /// Some for each service of which they are known, by a further label.
    fn by<N: Number, const COUNT: usize>(
        mut self,
        rows: &[Row],
        label: &str,
        values: impl Fn(&Observation, &Ledger) -> Option<[(&'static str, N); COUNT]>,
    ) {
        for (row, ledger) in rows {
            for (word, value) in values(row, ledger).into_iter().flatten() {
                self.sample(&[("service", &row.service), (label, word)], value);
            }
        }
    }
}
