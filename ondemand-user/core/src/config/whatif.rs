//! `whatif` of `[agent]`: for whom the metrics have what other idle timeouts would have meant.

use super::{error::Problem, table::Value};

/// What the metrics of other idle timeouts are summed by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhatIfBy {
    /// There are none.
    Off,
    /// All services together: 50 series a host.
    #[default]
    Total,
    /// Each service: 50 series a service.
    Service,
}

const EXAMPLE: &str = "\"off\", \"total\" or \"service\"";

/// Reads the value.
pub(super) fn read(value: Option<&Value<'_>>) -> Result<WhatIfBy, Problem> {
    let Some(value) = value else {
        return Ok(WhatIfBy::default());
    };
    match value.string(EXAMPLE)? {
        "off" => Ok(WhatIfBy::Off),
        "total" => Ok(WhatIfBy::Total),
        "service" => Ok(WhatIfBy::Service),
        other => {
            let message = format!("{other:?} is none of {EXAMPLE}");
            Err(value.place.problem(message))
        }
    }
}
