//! What systemd starts again and again.

use super::*;

/// A service under the eyes of systemd 252.
struct World {
    lifecycle: Lifecycle,
    view: View,
    said: Vec<String>,
    /// How often its starts were forgotten.
    forgotten: usize,
}

impl World {
    /// Quiet, with its backend up since `START`, and its proxy down.
    fn new(options: Options) -> Self {
        let mut world = Self {
            lifecycle: Lifecycle::new(options),
            view: at(quiet(), SINCE),
            said: Vec::new(),
            forgotten: 0,
        };
        world.look(0);
        world.said.clear();
        world
    }

    /// A look after some milliseconds. Keeps what concerns loops.
    fn look(&mut self, after: u64) {
        self.put(after, Input::Changed);
    }

    fn put(&mut self, after: u64, input: Input) {
        self.view.now = self.view.now + Duration::from_millis(after);
        let commands = self.lifecycle.step(&self.view, input);
        let kept = |word: &String| {
            ["+restart", "+proxy", "let-go", "stop", "="]
                .iter()
                .any(|begin| word.starts_with(begin))
        };
        let forgets = |command: &&Command| **command == Command::ForgetStarts;
        self.forgotten += commands.iter().filter(forgets).count();
        self.said.extend(commands.iter().map(words).filter(kept));
    }

    /// It crashes, and is restarted after `pause`. `active`: its start succeeds.
    fn crash(&mut self, pause: u64, active: bool) {
        let now = Some(self.view.now);
        let backend = &mut self.view.units.backend;
        (backend.state, backend.inactive_enter) = (ActiveState::Failed, now);
        self.look(0);
        self.wait_for_restart();
        self.restart(pause, active);
    }

    fn wait_for_restart(&mut self) {
        let now = Some(self.view.now);
        let backend = &mut self.view.units.backend;
        (backend.state, backend.restarting) = (ActiveState::Activating, true);
        backend.inactive_exit = now;
        self.look(0);
    }

    fn restart(&mut self, pause: u64, active: bool) {
        let backend = &mut self.view.units.backend;
        (backend.state, backend.restarting, backend.job) = (ActiveState::Inactive, false, true);
        self.look(pause);
        let now = Some(self.view.now);
        let backend = &mut self.view.units.backend;
        (backend.state, backend.inactive_exit) = (ActiveState::Activating, now);
        self.look(0);
        if active {
            self.start();
        }
    }

    /// It is active, after a start by whomever.
    fn start(&mut self) {
        let now = Some(self.view.now);
        let backend = &mut self.view.units.backend;
        if backend.state.is_down() {
            backend.inactive_exit = now;
        }
        (backend.state, backend.active_enter, backend.job) = (ActiveState::Active, now, false);
        self.look(0);
    }

    /// It is down, and stays so.
    fn down(&mut self) {
        let backend = &mut self.view.units.backend;
        (backend.state, backend.restarting, backend.job) = (ActiveState::Inactive, false, false);
        self.look(10);
        self.look(150);
    }

    fn client(&mut self, open: u64) {
        let accepted = self.view.sample.map_or(0, |sample| sample.accepted());
        self.view.sample = Some(sample(accepted + 1));
        if open > 0 {
            self.view.verdict = Verdict::Busy { open };
        }
        self.look(0);
    }

    fn since(&self) -> Option<Ktime> {
        self.lifecycle.used_since(&self.view.units.backend)
    }

    #[track_caller]
    fn said(&mut self, expected: &str) {
        assert_eq!(std::mem::take(&mut self.said).join(" "), expected);
    }

    /// The proxy starts, and fails at once.
    fn fail(&mut self, after: u64) {
        let now = Some(self.view.now + Duration::from_millis(after));
        let proxy = &mut self.view.units.proxy;
        (proxy.state, proxy.restarting, proxy.active_enter) = (ActiveState::Active, false, now);
        self.look(after);
        self.view.units.proxy.state = ActiveState::Failed;
        self.look(0);
        let proxy = &mut self.view.units.proxy;
        (proxy.state, proxy.restarting) = (ActiveState::Activating, true);
        self.look(0);
    }

    /// The proxy is down.
    fn end_proxy(&mut self, after: u64) {
        let proxy = &mut self.view.units.proxy;
        (proxy.state, proxy.restarting) = (ActiveState::Inactive, false);
        self.look(after);
    }
}

#[test]
fn its_own_restarts_are_no_use() {
    for active in [true, false] {
        let mut world = World::new(STEERED);
        world.crash(100, active);
        assert_eq!(world.since(), Some(ms(START)), "{active}");
        world.crash(100, true);
        assert_eq!(world.since(), Some(ms(START)), "{active}");
        world.said("+restart +restart");
        // One that a client or a person starts is.
        world.down();
        world.start();
        assert_eq!(world.since(), Some(world.view.now), "{active}");
    }
}

#[test]
fn a_start_that_is_seen_before_any_end_is_a_use() {
    let mut world = World::new(STEERED);
    world.crash(100, true);
    world.view.now = world.view.now + Duration::from_secs(1);
    let now = Some(world.view.now);
    world.view.units.backend.active_enter = now;
    // The verdict of a look is made before its step.
    assert_eq!(world.since(), now);
    world.look(0);
    assert_eq!(world.since(), now);
    assert_eq!(world.lifecycle.restarts(world.view.now), 0);
}

#[test]
fn a_few_restarts_without_a_client_are_the_end() {
    for (active, pause) in [(true, 0), (true, 100), (false, 100), (false, 9_000)] {
        let mut world = World::new(PROXIED);
        for _ in 0..4 {
            world.crash(pause, active);
        }
        world.said("+restart +restart +restart +restart");
        assert_eq!(world.lifecycle.restarts(world.view.now), 4);
        world.view.units.backend.state = ActiveState::Failed;
        world.look(0);
        world.wait_for_restart();
        world.said("+restart stop");
        world.look(100);
        world.said("");
        world.down();
        world.said("");
        assert_eq!(world.lifecycle.restarts(world.view.now), 0);
    }
}

#[test]
fn one_that_crashes_seldom_goes_on() {
    let mut world = World::new(PROXIED);
    for _ in 0..20 {
        world.look(16_000);
        world.crash(100, true);
    }
    assert!(!world.said.contains(&"stop".to_owned()), "{:?}", world.said);
    assert_eq!(world.since(), Some(ms(START)));
    // Until it is idle.
    world.said.clear();
    world.view.verdict = Verdict::Idle { since: ms(SINCE) };
    world.view.units.lease.job = true; // no other way to stop it
    world.view.units.backend.state = ActiveState::Failed;
    world.look(0);
    world.wait_for_restart();
    world.said("+restart stop");
}

#[test]
fn new_clients_are_waited_for() {
    let mut world = World::new(PROXIED);
    for _ in 0..20 {
        world.client(0);
        world.crash(100, true);
    }
    assert!(!world.said.contains(&"stop".to_owned()), "{:?}", world.said);
    // One that waits is let go.
    world.client(1);
    world.said.clear();
    for _ in 0..5 {
        world.crash(100, false);
    }
    world.said("+restart +restart +restart +restart +restart let-go stop");
}

#[test]
fn a_dry_run_ends_nothing() {
    let mut world = World::new(DRY);
    for _ in 0..20 {
        world.crash(100, true);
        world.fail(7_000);
    }
    let ends = |word: &String| word.contains("stop") || word.contains("let-go");
    assert!(!world.said.iter().any(ends), "{:?}", world.said);
}

#[test]
fn a_requested_stop_of_one_that_is_restarted() {
    let mut world = World::new(PROXIED);
    world.crash(100, true);
    world.said.clear();
    world.view.units.lease.job = true;
    world.put(0, Input::Stop);
    world.view.verdict = Verdict::Idle { since: ms(SINCE) };
    // Its crash is no end of it.
    world.view.units.backend.state = ActiveState::Failed;
    world.look(10);
    world.said("");
    world.wait_for_restart();
    world.said("+restart stop");
    world.down();
    world.said("=stopped");
    // One whose start fails again and again is not "starting".
    world.start();
    world.view.verdict = quiet().verdict;
    world.crash(100, false);
    world.said.clear();
    world.put(0, Input::Stop);
    world.view.verdict = Verdict::Idle { since: ms(SINCE) };
    world.look(0);
    world.view.units.backend.state = ActiveState::Failed;
    world.look(10);
    world.wait_for_restart();
    world.said("+restart stop");
    world.down();
    world.said("=stopped");
}

#[test]
fn clients_of_a_proxy_that_cannot_run_are_let_go() {
    let mut world = World::new(PROXIED);
    for _ in 0..2 {
        world.fail(7_000);
    }
    world.said("+proxy-failed +proxy-failed");
    world.fail(7_000);
    world.said("+proxy-failed let-go");
    // By the restart of the socket.
    world.fail(10);
    world.end_proxy(10);
    world.end_proxy(5_000);
    world.said("+proxy-failed");
    assert_eq!(world.lifecycle.proxy_failures(), 4);
    // The next client's, not before the pause is over.
    world.fail(1_000);
    world.said("+proxy-failed");
    world.look(3_000);
    world.said("");
    world.look(1_000);
    world.said("let-go");
    // The pause has grown.
    world.end_proxy(10);
    world.fail(15_000);
    world.said("+proxy-failed");
    world.fail(7_000);
    world.said("+proxy-failed let-go");
}

#[test]
fn a_proxy_that_runs_is_forgiven() {
    #[track_caller]
    fn check(change: impl FnOnce(&mut World)) {
        let mut world = World::new(PROXIED);
        for _ in 0..3 {
            world.fail(7_000);
        }
        world.end_proxy(10);
        world.look(10_000);
        assert_eq!(world.lifecycle.proxy_failures(), 3);
        let now = Some(world.view.now);
        let proxy = &mut world.view.units.proxy;
        (proxy.state, proxy.active_enter) = (ActiveState::Active, now);
        world.look(0);
        change(&mut world);
        assert_eq!(world.lifecycle.proxy_failures(), 0);
    }
    check(|world| world.look(2_000));
    check(|world| {
        world.end_proxy(200);
        world.look(2_000);
    });
}

#[test]
fn starts_by_clients_are_taken_out_of_the_limit() {
    #[track_caller]
    fn check(limited: bool, change: impl FnOnce(&mut World), expected: usize) {
        let mut world = World::new(PROXIED);
        world.view.units.backend.start_limited = limited;
        world.down();
        world.forgotten = 0;
        change(&mut world);
        assert_eq!(world.forgotten, expected);
    }
    let stop = |world: &mut World| {
        world.view.units.backend.state = ActiveState::Inactive;
        world.look(0);
    };
    // Up for a while, or down for a moment.
    check(true, |world| world.start(), 0);
    check(true, |world| (world.start(), world.look(2_000)).1, 1);
    check(true, |world| (world.start(), world.down()).1, 1);
    check(false, |world| (world.start(), world.down()).1, 0);
    // Started again at once.
    let often = |world: &mut World| {
        for _ in 0..10 {
            world.start();
            world.look(10);
            stop(world);
            world.look(10);
        }
    };
    check(true, often, 9);
    // The same where no look finds it down.
    let unseen = |world: &mut World| {
        for _ in 0..10 {
            world.view.units.backend.inactive_exit = Some(world.view.now);
            world.start();
            world.look(10);
        }
    };
    check(true, unseen, 9);
    // systemd's own count, but for those after a new client.
    let crashes = |world: &mut World| {
        world.start();
        for _ in 0..4 {
            world.crash(100, true);
        }
    };
    check(true, crashes, 0);
    // Until they are over.
    let over = |world: &mut World, after| {
        crashes(world);
        world.down();
        world.look(after);
    };
    check(true, |world| over(world, 2_500), 0);
    check(true, |world| over(world, 3_000), 1);
    check(false, |world| over(world, 3_000), 0);
    let used = |world: &mut World| {
        world.start();
        world.crash(100, true);
        world.client(0);
        world.crash(100, true);
    };
    check(true, used, 1);
}
