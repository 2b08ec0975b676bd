//! What an agent learns from its history.

use ondemand_core::learned::Starts;

use super::*;
use crate::observe::history::past::{Listener, tell};

#[derive(Default)]
struct Heard {
    starts: Starts,
    gaps: Vec<(String, u64)>,
}

impl Listener for Heard {
    fn start(&mut self, service: &str, took: Duration) {
        assert_eq!(service, "wiki");
        self.starts.add(took);
    }

    fn gap(&mut self, service: &str, length: Duration, _: i64) {
        self.gaps.push((service.to_owned(), length.as_secs()));
    }
}

fn heard(path: &Path, now: &Moment) -> Heard {
    let mut heard = Heard::default();
    tell(path, now, &mut heard).unwrap();
    heard
}

fn arrived(name: &str, minute: i64, gap: Option<i64>) -> Record {
    let (at, gap) = (minute * MINUTE, gap.map(|seconds| seconds * 1000));
    of(name, What::Arrived { at, gap })
}

#[test]
fn gaps_and_starts_that_are_over() {
    let (_directory, path) = place();
    assert!(
        heard(&path, &moment(0)).gaps.is_empty(),
        "there is no history yet"
    );
    let now = moment(60 * MINUTE);
    let mut store = Store::open(&path, &now).unwrap();
    let mut records = two_runs();
    records.push(arrived("wiki", 31, Some(40)));
    records.push(arrived("forge", 32, Some(7)));
    records.push(arrived("wiki", 33, None));
    records.push(arrived("wiki", 50, Some(0)));
    store.write(&records, &now).unwrap();
    let expected =
        [("wiki", 40), ("forge", 7), ("wiki", 0)].map(|(name, gap)| (name.to_owned(), gap));
    let found = heard(&path, &now);
    // After a gap of a quarter of an hour, the second of the two runs.
    let gaps: Vec<_> = found
        .gaps
        .iter()
        .filter(|(_, gap)| *gap != 900)
        .cloned()
        .collect();
    assert_eq!(gaps, expected);
    assert_eq!(found.starts.usual(), Some(Duration::from_millis(250)));
    // What ended later was learned when it ended.
    let before = heard(&path, &moment(32 * MINUTE + 1));
    assert_eq!(before.gaps.last(), Some(&expected[1]));
    // On another boot all of it is over, whatever the clock says.
    let next = Moment {
        boot: "next".to_owned(),
        monotonic: 5,
        wall: 0,
    };
    assert_eq!(heard(&path, &next).gaps, found.gaps);
}

#[test]
fn what_cannot_be_read_is_an_error() {
    let (_directory, path) = place();
    let now = moment(60 * MINUTE);
    drop(Store::open(&path, &now).unwrap());
    let db = Connection::open(&path).unwrap();
    // Of no service, of no length that could be.
    db.execute_batch(
        "INSERT INTO service VALUES (1, 'wiki', NULL);
         INSERT INTO gap VALUES (1, 1, -5), (2, 9, 5), (3, 1, 9223372036854775807), (4, 1, 'x'), (5, 1, 3000)",
    )
    .unwrap();
    let gaps = heard(&path, &now).gaps;
    assert_eq!(gaps.last(), Some(&("wiki".to_owned(), 3)));
    assert_eq!(gaps.len(), 2, "{gaps:?}");
    db.pragma_update(None, "user_version", 99).unwrap();
    drop(db);
    let error = tell(&path, &now, &mut Heard::default()).unwrap_err();
    assert!(format!("{error:#}").contains("history.db"), "{error:#}");
    fs::write(&path, "no database").unwrap();
    assert!(tell(&path, &now, &mut Heard::default()).is_err());
}
