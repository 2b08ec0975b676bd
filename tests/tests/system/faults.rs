//! Shared by the tests of faults: steady clients, and expected log lines.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use tests::{
    client::{self, Loss, Random, Request},
    pause::arrive_at,
    sandbox::Sandbox,
    service::front,
    wait_for,
};

/// How long anything may take until it is right again, on a machine that has much else to do.
/// It takes seconds on one that has not.
const RIGHT_AGAIN: Duration = Duration::from_secs(60);

/// Ends the load, also when a step fails.
struct Over<'f>(&'f AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs clients at the front at random times during `work`; none may be lost.
#[track_caller]
pub(crate) fn under_load<T>(sandbox: &Sandbox, mean_gap: Duration, work: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    let (done, (requests, lost)) = thread::scope(|scope| {
        let load = scope.spawn(|| {
            sandbox
                .in_network(|| arrivals(front(), mean_gap, &over))
                .unwrap()
        });
        let ends = Over(&over);
        let done = work();
        drop(ends);
        (done, load.join().unwrap())
    });
    eprintln!("{requests} requests meanwhile, lost {lost:?}");
    assert!(lost.is_empty(), "lost {lost:?} of {requests}");
    assert!(requests > 10, "only {requests} requests");
    done
}

/// One-shot clients until it is over; how many, and how they were lost.
fn arrivals(
    address: SocketAddr,
    mean_gap: Duration,
    over: &AtomicBool,
) -> (usize, BTreeMap<Loss, u32>) {
    let mut random = Random::new(5);
    let mut next = Instant::now();
    thread::scope(|scope| {
        let mut clients = Vec::new();
        while !over.load(Ordering::Relaxed) {
            next += random.gap(mean_gap);
            arrive_at(next);
            clients.push(scope.spawn(move || client::get(address, Request::default()).err()));
        }
        let requests = clients.len();
        let mut lost = BTreeMap::new();
        for loss in clients
            .into_iter()
            .filter_map(|client| client.join().unwrap())
        {
            *lost.entry(loss).or_default() += 1;
        }
        (requests, lost)
    })
}

/// How often a line with all these words is in the journal of a unit.
pub(crate) fn said(sandbox: &Sandbox, unit: &str, words: &[&str]) -> usize {
    let journal = sandbox.journal(unit);
    let has_all = |line: &&str| words.iter().all(|word| line.contains(word));
    journal.lines().filter(has_all).count()
}

/// Waits until the agent has logged this number of lines with all these words.
#[track_caller]
pub(crate) fn wait_said(sandbox: &Sandbox, times: usize, words: &[&str]) {
    let unit = "ondemand.service";
    wait_for(&format!("{unit} logs {words:?}"), RIGHT_AGAIN, || {
        (said(sandbox, unit, words) >= times).then_some(())
    })
    .unwrap();
}

/// Runs a line of shell inside.
#[track_caller]
pub(crate) fn shell(sandbox: &Sandbox, line: &str) -> String {
    sandbox.run(&["sh", "-c", line]).unwrap()
}

/// The agent's process id.
#[track_caller]
pub(crate) fn agent_pid(sandbox: &Sandbox) -> u32 {
    sandbox.main_pid("ondemand.service").unwrap()
}

/// Waits until another agent than this one is ready.
#[track_caller]
pub(crate) fn wait_next_agent(sandbox: &Sandbox, before: u32) {
    wait_for("the next agent runs", RIGHT_AGAIN, || {
        let state = sandbox.property("ondemand.service", "ActiveState").ok()?;
        let pid = sandbox.main_pid("ondemand.service").ok()?;
        (state == "active" && pid != before).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {}", sandbox.journal("ondemand.service")));
}

/// Which run of the application it is.
pub(crate) fn run_of_app(sandbox: &Sandbox) -> String {
    sandbox
        .property("app.service", "ActiveEnterTimestampMonotonic")
        .unwrap()
}
