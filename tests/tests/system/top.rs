//! `ondemand top` on a terminal, which must be left as it was.

use std::{
    io::Write as _,
    process::{Child, Stdio},
};

use tests::{
    sandbox::Sandbox,
    service::{self, CONFIG, on_demand, status},
    wait_for,
};

use crate::require_sandbox;

/// The alternate screen starts and ends (xterm's control sequences), and the cursor is visible again.
const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";
const CURSOR: &str = "\x1b[?25h";

/// The program on a terminal of 80 columns and 24 lines.
struct Top<'a> {
    sandbox: &'a Sandbox,
    script: Child,
}

impl<'a> Top<'a> {
    fn start(sandbox: &'a Sandbox) -> Self {
        Self::run(sandbox, "exec ondemand top")
    }

    fn run(sandbox: &'a Sandbox, program: &str) -> Self {
        let inside = format!(
            "stty rows 24 cols 80; sh -c 'echo $$ >/run/top.pid; {program}'; echo status $?; stty -a"
        );
        let script = sandbox
            .command("script")
            .args(["--quiet", "--flush", "--command", &inside, "/run/top"])
            .env("TERM", "xterm-256color")
            .env("SHELL", "/bin/sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let top = Self { sandbox, script };
        top.shows(ENTER);
        top
    }

    fn written(&self) -> String {
        let bytes = std::fs::read(self.sandbox.path("/run/top")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until a word was drawn. Between words there may be movements of the cursor.
    #[track_caller]
    fn shows(&self, text: &str) {
        wait_for(&format!("{text:?} is drawn"), service::SOON, || {
            self.written().contains(text).then_some(())
        })
        .unwrap_or_else(|error| panic!("{error}: {:?}", self.written()));
    }

    fn press(&mut self, keys: &str) {
        let stdin = self.script.stdin.as_mut().unwrap();
        stdin.write_all(keys.as_bytes()).unwrap();
        stdin.flush().unwrap();
    }

    /// Waits for the end, and looks at the terminal that is left.
    #[track_caller]
    fn ends_clean(mut self, code: i32) -> String {
        wait_for("the program ends", service::SOON, || {
            self.script.try_wait().unwrap()
        })
        .unwrap_or_else(|error| panic!("{error}: {:?}", self.written()));
        let written = self.written();
        let (_, after) = written.rsplit_once(LEAVE).expect(&written);
        assert!(after.contains(CURSOR), "{after:?}");
        assert!(after.contains(&format!("status {code}")), "{after:?}");
        for mode in ["icanon", "echo", "isig", "opost"] {
            let set = after.split_whitespace().any(|word| word == mode);
            assert!(set, "no {mode:?} in {after:?}");
        }
        after.to_owned()
    }

    fn pid(&self) -> String {
        let text = std::fs::read_to_string(self.sandbox.path("/run/top.pid")).unwrap();
        text.trim().to_owned()
    }
}

fn is_held(sandbox: &Sandbox) -> bool {
    status(sandbox, "test").is_ok_and(|status| status["held"] == true)
}

#[test]
fn it_shows_the_service_and_takes_keys() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    let mut top = Top::start(&sandbox);
    for words in ["test", "inactive", "app.service", "quit"] {
        top.shows(words);
    }
    top.press("h");
    wait_for("it is held", service::SOON, || {
        is_held(&sandbox).then_some(())
    })
    .unwrap();
    top.shows("until");
    top.press("r");
    wait_for("it is released", service::SOON, || {
        (!is_held(&sandbox)).then_some(())
    })
    .unwrap();
    top.press("?");
    top.shows("latest");
    top.press(" ");
    // The agent restarts meanwhile.
    sandbox
        .run(&["systemctl", "stop", "ondemand.service"])
        .unwrap();
    top.shows("retrying");
    service::start_agent(&sandbox).unwrap();
    sandbox.run(&["ondemand", "start", "test"]).unwrap();
    top.press("q");
    top.ends_clean(0);
}

#[test]
fn one_of_many_is_found_looked_at_started_and_stopped() {
    require_sandbox!();
    let sandbox = on_demand(&CONFIG.replace("300ms", "1h"), "").unwrap();
    let mut top = Top::start(&sandbox);
    top.shows("inactive");
    top.press("/nobody");
    top.shows("no service is shown");
    // Not Esc, which with what follows at once would be Alt.
    top.press(&"\x7f".repeat("nobody".len()));
    top.press("\r");
    // A no, and a yes.
    top.press("u");
    top.shows("any other key");
    top.press("n");
    top.press("u");
    top.press("y");
    service::wait_state(&sandbox, "app.service", "active").unwrap();
    top.shows("started");
    top.press("\r");
    top.shows("LAST");
    top.shows("JOURNAL");
    top.press("d");
    top.press("y");
    service::wait_state(&sandbox, "app.service", "inactive").unwrap();
    top.press("\r");
    top.press("q");
    top.ends_clean(0);
}

#[test]
fn it_leaves_the_terminal_as_it_was() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    let mut top = Top::start(&sandbox);
    top.press("\x03"); // Ctrl-C
    top.ends_clean(0);
    for signal in ["-TERM", "-INT", "-HUP", "-QUIT"] {
        std::fs::remove_file(sandbox.path("/run/top")).unwrap();
        let top = Top::start(&sandbox);
        sandbox.run(&["kill", signal, &top.pid()]).unwrap();
        top.ends_clean(0);
    }
}

#[test]
fn it_leaves_the_terminal_as_it_was_when_it_fails() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    let program = tests::built("ondemand-ablated").unwrap();
    sandbox
        .install(&program, "/usr/bin/ondemand-ablated")
        .unwrap();
    // In the loop itself, and in what it has begun and waits for.
    for place in ["draw", "ask"] {
        let run = format!("ONDEMAND_PANICS_IN={place} exec ondemand-ablated top");
        let after = Top::run(&sandbox, &run).ends_clean(101);
        let why = format!("on request, in {place}");
        assert!(after.contains(&why), "{after:?}");
        std::fs::remove_file(sandbox.path("/run/top")).unwrap();
    }
    // The bus itself goes away, and the agent with it.
    let mut top = Top::start(&sandbox);
    top.shows("inactive");
    sandbox
        .run(&["sh", "-c", "kill -KILL $(pidof dbus-daemon)"])
        .unwrap();
    top.shows("retrying");
    top.press("q");
    top.ends_clean(0);
}

#[test]
fn where_it_cannot_be_drawn() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    let check = |script: &str, words: &[&str]| {
        let output = sandbox.command("sh").args(["-c", script]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{script}: {said}");
        for word in words {
            assert!(said.contains(word), "{script}: no {word:?} in {said}");
        }
        assert!(!said.contains(ENTER), "{script}: {said:?}");
    };
    check("ondemand top", &["terminal", "ondemand status"]);
    check(
        "script -qec 'ondemand top </dev/null' /dev/null",
        &["input is not one", "ondemand status"],
    );
    check(
        "TERM=dumb script -qec 'ondemand top' /dev/null",
        &["TERM=dumb", "ondemand status"],
    );
    sandbox
        .run(&["systemctl", "stop", "ondemand.service"])
        .unwrap();
    check(
        "TERM=xterm script -qec 'ondemand top' /dev/null",
        &["no agent is running"],
    );
}
