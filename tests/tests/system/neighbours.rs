//! Other users of the host: what they call or connect to blocks nothing, and the others are served.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use tests::{
    built,
    client::{self, Request},
    patience,
    sandbox::Sandbox,
    service::{CONFIG, SOON, front, on_demand, status, wait_state},
    wait_for,
};

use crate::{bus::check, require_sandbox};

/// Longer than any service's name, and almost the largest message of the bus.
const LONG: &str = "30000000";
/// Maximum time for `ondemand status`, with the start of its process, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(2);
/// What a flood of calls may take of the agent's memory.
const FLOOD_KIB: u64 = 32 << 10;
const STRANGER: &str = "runuser -u nobody -- test-stranger";

fn with_stranger(config: &str) -> Sandbox {
    let sandbox = on_demand(config, "").unwrap();
    let program = built("test-stranger").unwrap();
    sandbox.install(&program, "/usr/bin/test-stranger").unwrap();
    sandbox
}

/// This number of further services with long names.
fn others(count: usize) -> String {
    let service = |number: usize| {
        let name = format!("{}{number}", "a".repeat(50));
        format!(
            "[service.{name}]\nlisten = \"/run/f{number}\"\nbackend = \"/run/b{number}\"\n\
             unit = \"other{number}.service\"\n"
        )
    };
    (0..count).map(service).collect()
}

/// Asserts that the agent answers others in time.
#[track_caller]
fn is_served(sandbox: &Sandbox) {
    let begin = Instant::now();
    status(sandbox, "test").unwrap();
    let took = begin.elapsed();
    assert!(took < AT_ONCE * patience(), "{took:?}");
}

#[test]
fn a_name_of_thirty_megabytes_does_not_block_the_agent() {
    require_sandbox!();
    // The names that it would be compared with.
    let others = others(20);
    let sandbox = with_stranger(&format!("{CONFIG}{others}"));
    let pid = sandbox.main_pid("ondemand.service").unwrap();
    for method in ["Hold", "Release", "Start", "Stop", "WaitListening"] {
        let method = format!("--method {method} --name-bytes {LONG}");
        let mut stranger = sandbox
            .command("sh")
            .args(["-c", &format!("{STRANGER} {method}")])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let begin = Instant::now();
        loop {
            is_served(&sandbox);
            if stranger.try_wait().unwrap().is_some() {
                break;
            }
            assert!(begin.elapsed() < SOON, "{method}: no reply");
        }
        let output = stranger.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        // What is that long is not read at all.
        assert_eq!(
            said, "org.freedesktop.DBus.Error.InvalidArgs 1\n",
            "{method}"
        );
    }
    assert_eq!(sandbox.main_pid("ondemand.service").unwrap(), pid);
    // What is no name at all reaches the terminal without its control characters.
    check(
        &sandbox,
        "ondemand hold \"$(printf 'a\\033[2Jb')\" 2>/run/said; status=$?; cat -v /run/said; exit $status",
        2,
        &["no service \"a\\u{1b}[2Jb\""],
    );
}

#[test]
fn questions_to_polkit_are_limited_and_root_is_served() {
    require_sandbox!();
    let sandbox = with_stranger(CONFIG);
    sandbox
        .run(&["systemctl", "start", "polkit.service"])
        .unwrap();
    // It does not answer, as when it waits for a password.
    let signal = |name: &str| {
        let signal = format!("--signal={name}");
        sandbox
            .run(&["systemctl", "kill", &signal, "polkit.service"])
            .unwrap();
    };
    signal("STOP");
    // Two questions of a client are pending; the rest is answered at once.
    check(
        &sandbox,
        &format!("{STRANGER} --method Hold --calls 300 --unanswered 2"),
        0,
        &["org.freedesktop.DBus.Error.LimitsExceeded 298\n"],
    );
    // Of many clients there are 32 in total, which is less than two of each.
    check(
        &sandbox,
        &format!("{STRANGER} --method Hold --connections 15 --calls 100 --unanswered 2"),
        0,
        &["org.freedesktop.DBus.Error.LimitsExceeded 1470\n"],
    );
    check(
        &sandbox,
        &format!("{STRANGER} --method Hold --connections 10 --calls 10"),
        0,
        &["org.freedesktop.DBus.Error.LimitsExceeded 100\n"],
    );
    is_served(&sandbox);
    check(&sandbox, "ondemand hold test --for 1h", 0, &["held until"]);
    assert_eq!(status(&sandbox, "test").unwrap()["held"], true);
    // When the questions are answered there is room again.
    signal("CONT");
    wait_for("a question is answered", SOON, || {
        let said = sandbox.run(&["sh", "-c", &format!("{STRANGER} --method Hold")]);
        said.ok()?.contains("AuthorizationRequired").then_some(())
    })
    .unwrap();
}

/// The most memory that the agent has had. KiB.
fn peak(sandbox: &Sandbox) -> u64 {
    let pid = sandbox.main_pid("ondemand.service").unwrap();
    let status = sandbox
        .run(&["cat", &format!("/proc/{pid}/status")])
        .unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let figure = line.and_then(|line| line.split_whitespace().next());
    figure.unwrap().parse().unwrap()
}

#[test]
fn a_flood_of_status_takes_bounded_memory() {
    require_sandbox!();
    flood_of("Status");
}

/// As much is in the reply, and each caller listens from then on.
#[test]
fn a_flood_of_calls_for_all_objects_takes_bounded_memory() {
    require_sandbox!();
    tests::require_long!("it is served like Status");
    flood_of("GetManagedObjects");
}

fn flood_of(method: &str) {
    // Each reply is some 300 kB: those to all calls would be 500 MB.
    let sandbox = with_stranger(&format!("{CONFIG}{}", others(300)));
    is_served(&sandbox);
    let before = peak(&sandbox);
    let flood = format!("{STRANGER} --method {method} --connections 8 --calls 200");
    let mut strangers = sandbox
        .command("sh")
        .args(["-c", &flood])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    while strangers.try_wait().unwrap().is_none() {
        is_served(&sandbox);
        assert!(begin.elapsed() < 3 * SOON, "not all are answered");
    }
    let output = strangers.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let answered = |name: &str| -> u64 {
        let line = said.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0, |count| count.trim().parse().unwrap())
    };
    // Each client gets what it may have pending, and an answer to each call.
    let (replies, refused) = (
        answered("ok "),
        answered("org.freedesktop.DBus.Error.LimitsExceeded "),
    );
    assert!(replies >= 8 * 16, "{said}");
    assert_eq!(replies + refused, 8 * 200, "{said}");
    let after = peak(&sandbox);
    eprintln!("{before} KiB, then {after} KiB: {said}");
    assert!(after < before + FLOOD_KIB, "{before} KiB, then {after} KiB");
}

/// A pipe, with which opening waits for a writer, and a device.
#[test]
fn a_configuration_that_is_no_file_hangs_nothing() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    let file = "/etc/ondemand/ondemand.toml";
    for make in ["mkfifo", "ln -s /dev/zero"] {
        let make = format!("rm {file} && {make} {file}");
        sandbox.run(&["sh", "-c", &make]).unwrap();
        let refused = ["not a file", "regular file"];
        check(&sandbox, "timeout 20 ondemand check", 2, &refused);
        check(&sandbox, "timeout 20 ondemand units", 2, &refused);
        check(&sandbox, "timeout 20 systemctl daemon-reload", 0, &[]);
        // The units of the last correct one.
        let state = sandbox.property("ondemand-test.socket", "LoadState");
        assert_eq!(state.unwrap(), "loaded", "{make}");
        check(&sandbox, "timeout 20 ondemand reload", 2, &refused);
        is_served(&sandbox);
    }
}

/// systemd deletes a proxy's runtime directory when the proxy ends.
#[test]
fn no_service_has_a_directory_or_a_unit_of_ondemands_own() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    let own = ["/run/ondemand", "/run/ondemand-generator/last-good.toml"];
    let proxy = "ondemand-test.service";
    let directory = sandbox.property(proxy, "RuntimeDirectory").unwrap();
    assert_eq!(directory, "ondemand.proxies/test");
    sandbox
        .in_network(|| client::get(front(), Request::default()))
        .unwrap()
        .unwrap();
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    wait_state(&sandbox, proxy, "inactive").unwrap();
    let there = |path: &str| sandbox.path(path).exists();
    assert!(!there(&format!("/run/{directory}")), "it is deleted");
    assert!(own.iter().all(|path| there(path)), "{own:?}");
    // Names that are ondemand's own are refused, and the last correct configuration stays.
    let file = "/etc/ondemand/ondemand.toml";
    let right = std::fs::read_to_string(sandbox.path(file)).unwrap();
    for name in ["generator", "load"] {
        let other = "listen = \"/run/f\"\nbackend = \"/run/b\"\nunit = \"b.service\"\n";
        let wrong = format!("{right}\n[service.{name}]\n{other}");
        sandbox.write(file, wrong).unwrap();
        check(&sandbox, "ondemand check", 2, &["a reserved name", name]);
        sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
        let unit = format!("ondemand-{name}.socket");
        assert_eq!(sandbox.property(&unit, "LoadState").unwrap(), "not-found");
        assert!(own.iter().all(|path| there(path)), "{name}: {own:?}");
    }
}

/// A user who calls, connects and sends as much as eight processes can: nobody else notices.
#[test]
fn eight_processes_of_a_stranger_take_nothing_from_others() {
    require_sandbox!();
    const SPAN: Duration = Duration::from_secs(6);
    /// What the agent may have at most. KiB.
    const MOST: u64 = 60 << 10;
    let sandbox = with_stranger(&format!("{CONFIG}{}", others(50)));
    sandbox
        .run(&["systemctl", "start", "polkit.service"])
        .unwrap();
    let pid = sandbox.main_pid("ondemand.service").unwrap();
    let span = SPAN * patience();
    let calls = [
        format!("test-stranger --method Hold --name-bytes {LONG}"),
        format!("test-stranger --method Stop --name-bytes {LONG}"),
        "test-stranger --method Status --connections 20 --calls 40".to_owned(),
        "test-stranger --method Status --calls 200".to_owned(),
        "test-stranger --method Hold --connections 20 --calls 40".to_owned(),
        "test-stranger --method WaitListening --connections 4 --calls 17 --unanswered 16".to_owned(),
        "for i in 1 2 3 4 5 6 7 8 9; do bash -c 'exec 3<>/dev/tcp/127.0.0.1/9464 && sleep 1' & done; wait"
            .to_owned(),
        "bash -c 'exec 3<>/dev/tcp/127.0.0.1/8001 && sleep 0.2'".to_owned(),
    ];
    let mut strangers: Vec<_> = calls
        .iter()
        .map(|call| {
            let many = format!("while :; do {call}; done >/dev/null 2>&1");
            let seconds = span.as_secs().to_string();
            let mut command = sandbox.command("runuser");
            command.args(["-u", "nobody", "--", "timeout", &seconds, "sh", "-c", &many]);
            command.spawn().unwrap()
        })
        .collect();
    let begin = Instant::now();
    let (mut slowest, mut stops) = (Duration::ZERO, 0);
    let (mut looks, mut starts) = (Vec::new(), Vec::new());
    while begin.elapsed() < span {
        sandbox
            .in_network(|| client::get(front(), Request::default()))
            .unwrap()
            .expect("no request is lost");
        let asked = Instant::now();
        is_served(&sandbox);
        looks.push(asked.elapsed());
        let start = Instant::now();
        sandbox.run(&["ondemand", "--version"]).unwrap();
        starts.push(start.elapsed());
        wait_state(&sandbox, "app.service", "inactive").unwrap();
        slowest = slowest.max(asked.elapsed());
        stops += 1;
    }
    for stranger in &mut strangers {
        stranger.wait().unwrap();
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    let (status, start) = (median(&mut looks), median(&mut starts));
    let memory = peak(&sandbox);
    eprintln!(
        "{stops} stops, the slowest after {slowest:?}; status {status:?}, of which the process takes \
         {start:?} to start; {memory} KiB"
    );
    assert!(stops > 0);
    // The idle timeout, a second, and the looks from here.
    let latest = Duration::from_millis(300) + Duration::from_secs(2) * patience();
    assert!(slowest < latest, "a stop took {slowest:?}");
    assert!(memory < MOST, "{memory} KiB");
    assert_eq!(sandbox.main_pid("ondemand.service").unwrap(), pid);
}
