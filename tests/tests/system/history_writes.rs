//! What a service costs that is started and stopped all day: lines of the journal, writes of the history.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt as _,
    time::{Duration, Instant},
};

use tests::{
    require_long,
    sandbox::Sandbox,
    service::{self, SOON, number, wait_state},
    wait_for,
};

use crate::{
    history::{HISTORY, ask, prepared},
    require_sandbox,
};

/// Two writes are this far apart, but for the first of an agent.
const APART: Duration = Duration::from_millis(4_900);

/// Lines of ondemand itself.
fn lines(sandbox: &Sandbox) -> usize {
    sandbox.run(&["journalctl", "--sync"]).unwrap();
    let words = ["journalctl", "--output=cat", "--quiet", "_COMM=ondemand"];
    sandbox.run(&words).unwrap().lines().count()
}

#[test]
fn a_cycle_is_a_line_and_a_share_of_a_write() {
    require_sandbox!();
    require_long!("it is about cost, not about what is kept");
    // systemd stops 16 units in 10 s that are not needed any more (`StopWhenUnneeded=`).
    let sandbox = prepared(HISTORY, "700ms");
    service::start_agent(&sandbox).unwrap();
    let log = sandbox.path(&format!("{HISTORY}-wal"));
    wait_for("the first write", SOON, || log.exists().then_some(())).unwrap();
    let (said, begin) = (lines(&sandbox), Instant::now());
    let mut written = BTreeSet::new();
    let mut size = 0;
    let mut stops = 0;
    // One write takes a moment.
    let apart = |written: &BTreeSet<(i64, i64)>| -> Vec<Duration> {
        let times = written
            .iter()
            .map(|(seconds, nanos)| Duration::new(*seconds as u64, *nanos as u32));
        let times: Vec<Duration> = times.collect();
        let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
        gaps.filter(|gap| *gap > Duration::from_millis(100))
            .collect()
    };
    wait_for("three writes", 2 * SOON, || {
        ask(&sandbox);
        stops += 1;
        wait_for("it is stopped", SOON, || {
            let log = fs::metadata(&log).unwrap();
            written.insert((log.mtime(), log.mtime_nsec()));
            size = log.size();
            (number(&sandbox, "test", "stops").ok()? == stops).then_some(())
        })
        .unwrap();
        (apart(&written).len() >= 2).then_some(())
    })
    .unwrap();
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    let said = lines(&sandbox) - said;
    eprintln!(
        "{stops} cycles in {:?}: {said} lines, {} writes, {size} bytes",
        begin.elapsed(),
        written.len()
    );
    let journal = || sandbox.run(&["journalctl", "--output=cat", "_COMM=ondemand"]);
    assert!(
        said as u64 <= stops,
        "{said} lines for {stops} cycles: {}",
        journal().unwrap()
    );
    let apart = apart(&written);
    assert!(apart.iter().skip(1).all(|gap| *gap > APART), "{apart:?}");
}
