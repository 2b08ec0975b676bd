//! Runs and clients that no agent saw: found by the next one, and counted once.

use super::*;

#[test]
fn runs_of_which_nobody_saw_the_end() {
    let check = |what: What, active: i64, activations: u64, unseen: u64| {
        // Minutes.
        let (_directory, path) = place();
        let mut records = two_runs();
        records.push(of("wiki", what));
        let _store = written(&path, &records);
        let found = load(&path, 0, 60 * MINUTE);
        let figures = (found.active / MINUTE, found.activations, found.stops[3]);
        assert_eq!(figures, (active, activations, unseen), "{what:?}");
    };
    // The same start, by a clock that was set in between.
    let started = 30 * MINUTE + 1500;
    check(What::Up { started }, 40, 2, 0);
    let started = 50 * MINUTE;
    check(What::Up { started }, 40, 3, 1);
    check(What::Down { since: 35 * MINUTE }, 15, 2, 1);
    check(What::Down { since: 5 * MINUTE }, 10, 2, 1);
    // A whole run without an agent, and one that it had seen.
    let ran = |started: i64, ended: i64| What::Ran {
        started: started * MINUTE,
        ended: ended * MINUTE,
    };
    check(ran(40, 50), 10 + 10 + 10, 3, 2);
    check(ran(30, 35), 15, 2, 1);
    // The end of the run before a restart, and that before the present run.
    check(What::Before { ended: 35 * MINUTE }, 15, 2, 1);
    check(What::Before { ended: 25 * MINUTE }, 40, 2, 0);
}

#[test]
fn a_client_that_no_agent_saw_counts_once() {
    // What was known: the last arrival and since when it is quiet; then what is found; minutes.
    let check = |known: &[What], found: (Option<i64>, i64), expected: &[(i64, Option<i64>)]| {
        let (_directory, path) = place();
        let mut store = written(&path, &[watched(0)]);
        let known: Vec<Record> = known.iter().map(|what| of("wiki", *what)).collect();
        store.write(&known, &moment(0)).unwrap();
        let (started, used) = (found.0.map(|at| at * MINUTE), found.1 * MINUTE);
        for _ in 0..2 {
            let what = What::Found { started, used };
            store.write(&[of("wiki", what)], &moment(0)).unwrap();
            store
                .write(&[of("wiki", What::Quiet { since: used })], &moment(0))
                .unwrap();
        }
        let mut gaps = store.db().prepare("SELECT ended, length FROM gap").unwrap();
        let minutes = |row: &rusqlite::Row<'_>| {
            let length: Option<i64> = row.get(1)?;
            Ok((row.get::<_, i64>(0)? / MINUTE, length.map(|it| it / MINUTE)))
        };
        let gaps = gaps.query_map([], minutes).unwrap();
        let gaps: Vec<(i64, Option<i64>)> = gaps.map(Result::unwrap).collect();
        assert_eq!(gaps, expected, "{known:?} {found:?}");
    };
    let arrived = |minute: i64| What::Arrived {
        at: minute * MINUTE,
        gap: None,
    };
    let quiet = |minute: i64| What::Quiet {
        since: minute * MINUTE,
    };
    // Nothing was known: a client began the run, or used it later; or nobody did.
    check(&[], (Some(10), 10), &[(10, None)]);
    check(&[], (Some(10), 15), &[(10, None)]);
    check(&[], (Some(10), 5), &[]);
    check(&[], (None, 5), &[]);
    // An agent saw its client, which was connected at that agent's end, or had left.
    check(&[arrived(10)], (Some(10), 10), &[(10, None)]);
    check(&[arrived(10)], (Some(10), 15), &[(10, None)]);
    check(&[arrived(10), quiet(12)], (Some(10), 12), &[(10, None)]);
    // Another one came to the same run, or began the next.
    check(
        &[arrived(10), quiet(12)],
        (Some(10), 20),
        &[(10, None), (20, Some(8))],
    );
    check(
        &[arrived(10), quiet(12)],
        (Some(20), 25),
        &[(10, None), (20, Some(8))],
    );
    check(&[arrived(10)], (Some(20), 20), &[(10, None), (20, None)]);
    // A person did.
    check(&[arrived(10), quiet(12)], (Some(20), 12), &[(10, None)]);
}
