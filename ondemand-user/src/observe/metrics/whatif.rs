//! Formats what other idle timeouts would have meant.
//!
//! Of a thousand services these are more samples than all others together.

use ondemand_core::{
    config::WhatIfBy,
    replay::{LADDER, Timeouts},
    whatif::WhatIf,
};

use super::{
    exposition::{Exposition, Family, Number},
    observation::Row,
    uses::Uses,
};

/// The last place of the labels is that of the learned timeout. Cold starts, and microseconds up and unused.
type Outcomes = [(u64, u128); LADDER.len() + 1];

fn outcomes(gaps: &WhatIf) -> Outcomes {
    let mut all = [(0, 0); LADDER.len() + 1];
    let fixed = gaps.replay().outcomes(Timeouts::ladder());
    for (into, outcome) in all.iter_mut().zip(fixed) {
        *into = (outcome.cold_starts, outcome.warm_idle);
    }
    let auto = gaps.auto();
    all[LADDER.len()] = (auto.cold_starts, auto.warm_idle.into());
    all
}

/// Appends the families.
pub fn write(text: &mut Exposition, by: WhatIfBy, rows: &[Row], uses: &Uses) {
    // What was never used since the boot has no gaps either: that is known, and zero.
    let none = WhatIf::default();
    let all: Vec<(Option<&str>, Outcomes)> = match by {
        WhatIfBy::Off => return,
        WhatIfBy::Total => vec![(None, outcomes(&uses.total()))],
        WhatIfBy::Service => {
            let each = rows.iter().map(|(row, _)| row.service.as_str());
            each.map(|name| (Some(name), outcomes(uses.of(name).unwrap_or(&none))))
                .collect()
        }
    };
    each(
        text.counter(
            "ondemand_whatif_cold_starts",
            "",
            "Clients that would have waited for a cold start, by idle timeout: in seconds, and auto (the learned one). A gap between clients counts when it is over.",
        ),
        &all,
        |outcome| outcome.0,
    );
    each(
        text.counter(
            "ondemand_whatif_idle_seconds",
            "seconds",
            "Time that the service would have been up and unused, by idle timeout: of each gap between clients that is over, the timeout at most.",
        ),
        &all,
        // To the millisecond, as they were measured: an f64 is exact to the microsecond for 285 years.
        |outcome| outcome.1 as f64 / 1e6,
    );
}

/// A sample for each service, or for all together, and each timeout.
fn each<N: Number>(
    mut family: Family<'_>,
    all: &[(Option<&str>, Outcomes)],
    value: impl Fn(&(u64, u128)) -> N,
) {
    let timeouts = LADDER.map(|seconds| seconds.to_string());
    let timeouts = timeouts.iter().map(String::as_str).chain(["auto"]);
    for (service, outcomes) in all {
        for (timeout, outcome) in timeouts.clone().zip(outcomes) {
            let (timeout, value) = (("timeout", timeout), value(outcome));
            match service {
                Some(name) => family.sample(&[("service", name), timeout], value),
                None => family.sample(&[timeout], value),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::observe::history::What;

    fn text(by: WhatIfBy, rows: &[Row], uses: &Uses) -> String {
        let mut text = Exposition::with_capacity(0);
        write(&mut text, by, rows, uses);
        text.end()
    }

    #[test]
    fn each_service_or_all_with_those_that_have_left() {
        let directory = tempfile::tempdir().unwrap();
        let mut uses = Uses::open(directory.path().join("gaps"));
        for (service, gap) in [("wiki", 1500), ("wiki", 90_000), ("gone", 60_000)] {
            let arrived = What::Arrived {
                at: 0,
                gap: Some(gap),
            };
            uses.take(service, &arrived, Duration::from_secs(30));
        }
        let rows = ["wiki", "unused"].map(super::super::render::tests::row);
        #[track_caller]
        fn check(text: &str, sample: &str) {
            assert!(
                text.lines().any(|line| line == sample),
                "{sample} in\n{text}"
            );
        }
        let each = text(WhatIfBy::Service, &rows, &uses);
        for (end, cold_starts, idle) in [
            ("service=\"wiki\",timeout=\"1\"", 2, "2"),
            ("service=\"wiki\",timeout=\"2\"", 1, "3.5"),
            ("service=\"wiki\",timeout=\"120\"", 0, "91.5"),
            ("service=\"wiki\",timeout=\"auto\"", 1, "31.5"),
            ("service=\"unused\",timeout=\"604800\"", 0, "0"),
        ] {
            check(
                &each,
                &format!("ondemand_whatif_cold_starts_total{{{end}}} {cold_starts}"),
            );
            check(
                &each,
                &format!("ondemand_whatif_idle_seconds_total{{{end}}} {idle}"),
            );
        }
        assert_eq!(
            each.lines().filter(|line| !line.starts_with('#')).count(),
            100
        );
        let total = text(WhatIfBy::Total, &rows, &uses);
        check(
            &total,
            "ondemand_whatif_cold_starts_total{timeout=\"60\"} 1",
        );
        check(
            &total,
            "ondemand_whatif_idle_seconds_total{timeout=\"60\"} 121.5",
        );
        check(
            &total,
            "ondemand_whatif_cold_starts_total{timeout=\"auto\"} 2",
        );
        assert_eq!(
            total.lines().filter(|line| !line.starts_with('#')).count(),
            50
        );
        assert_eq!(text(WhatIfBy::Off, &rows, &uses), "# EOF\n");
    }

    #[test]
    fn a_thousand_services_are_small_on_the_wire() {
        let directory = tempfile::tempdir().unwrap();
        let mut uses = Uses::open(directory.path().join("gaps"));
        let names: Vec<String> = (0..1000)
            .map(|n| format!("application-{n}.example"))
            .collect();
        let mut seed = 7_u64;
        for name in &names {
            for at in 0..100 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let gap = Some(1000 + (seed >> 36) as i64 % (1 << (10 + seed % 20)));
                uses.take(name, &What::Arrived { at, gap }, Duration::from_secs(30));
            }
        }
        let rows: Vec<Row> = names
            .iter()
            .map(|name| super::super::render::tests::row(name))
            .collect();
        let configuration = super::super::Configuration {
            last_reload_successful: true,
            last_reload_success: None,
        };
        let measure = |by| {
            let begin = Instant::now();
            let text = super::super::render::open_metrics(&rows, &configuration, by, &uses);
            let (rendered, text) = (begin.elapsed(), text.into_bytes());
            let compressed = super::super::server::compress(&text).unwrap();
            eprintln!(
                "{by:?}: {} bytes in {rendered:?}, {} compressed in {:?}",
                text.len(),
                compressed.len(),
                begin.elapsed() - rendered
            );
            (text.len(), compressed.len())
        };
        let (total, service) = (measure(WhatIfBy::Total), measure(WhatIfBy::Service));
        assert!(total.0 < 6_500_000, "{total:?}");
        assert!(service.1 < 1_500_000, "{service:?}");
    }
}
