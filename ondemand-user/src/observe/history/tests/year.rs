//! The size and read time of a year.

use std::fs;

use super::*;

/// A measurement: `cargo test --release -p ondemand --lib -- --ignored a_year --nocapture`.
#[test]
#[ignore = "writes 22 million records, which takes minutes"]
fn a_year_of_a_hundred_services_is_small_and_soon_read() {
    let (_directory, path) = place();
    let mut store = Store::open(&path, &moment(0)).unwrap();
    let services: Vec<String> = (0..100).map(|number| format!("service-{number}")).collect();
    store
        .write(
            &[Record::Watched {
                services: services.clone(),
                at: 0,
            }],
            &moment(0),
        )
        .unwrap();
    let day = |day: i64| day * MILLIS_A_DAY;
    let step = MILLIS_A_DAY / 100;
    for number in 0..365 * 100 {
        let mut records = Vec::new();
        // In ascending order, as they arrive: each service is up for a fifth of it.
        for part in 0..100 {
            let tell = |records: &mut Vec<Record>, service: i64, what: &[What]| {
                let name = &services[service as usize];
                records.extend(what.iter().map(|what| of(name, *what)));
            };
            let at = number * step + part * (step / 100);
            let jitter = (number * 7919 + part * 104_729) % 4000;
            let gap = (number > 0).then_some(step - step / 5 + jitter);
            tell(
                &mut records,
                part,
                &[
                    What::Arrived { at, gap },
                    What::Up { started: at },
                    What::Listening {
                        after: 500 + jitter,
                    },
                    What::FirstByte {
                        after: 600 + jitter,
                    },
                ],
            );
            let before = (part + 80) % 100;
            let started = (number - i64::from(part < 20)) * step + before * (step / 100);
            if started < 0 {
                continue;
            }
            let end = at + jitter;
            tell(
                &mut records,
                before,
                &[
                    What::Quiet {
                        since: at - 600_000,
                    },
                    What::Usage {
                        started,
                        memory: Some(300_000_000 + jitter * 4096),
                        cpu: Some(1_000_000 + jitter * 1000),
                    },
                    What::Stopped {
                        at: end,
                        reason: StopReason::Idle,
                        connections: 10 + jitter % 100,
                        received: 20_000 + jitter,
                        sent: 3_000_000 + jitter * 1000,
                        proxied: 0,
                        silent: 0,
                        ways: Some(Ways::default()),
                        turns: Turns::default(),
                    },
                ],
            );
        }
        store.write(&records, &moment(number * step)).unwrap();
    }
    store
        .db()
        .execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
        .unwrap();
    let size = fs::metadata(&path).unwrap().len();
    let begin = std::time::Instant::now();
    let (_, services) = read_at(&path, None, day(365)).unwrap();
    let took = begin.elapsed();
    eprintln!("{size} bytes, read in {took:?}");
    assert_eq!(
        services
            .iter()
            .map(|service| service.activations)
            .sum::<u64>(),
        3_650_000
    );
    assert!(size < 500_000_000, "{size}");
    assert!(
        took.as_secs_f64() < 2.0 || cfg!(debug_assertions),
        "{took:?}"
    );
}
