//! What must hold for the sources of the tests themselves.

use std::{fs, path::Path};

use crate::source_tree;

/// Where tests are.
const FOLDERS: [&str; 3] = ["tests/src", "tests/tests", "ondemand-user"];

/// The files that sleep, under names that say why.
const MAY_SLEEP: [&str; 2] = ["tests/src/pause.rs", "tests/src/wait.rs"];

/// Functions that let time pass, of std, tokio, nix and libc.
const SLEEPS: [&str; 6] = [
    "sleep",
    "sleep_ms",
    "sleep_until",
    "usleep",
    "nanosleep",
    "park_timeout",
];

/// Whether a line of Rust calls one of [`SLEEPS`], passes it on or renames it.
fn sleeps(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    SLEEPS.iter().any(|name| {
        code.match_indices(name).any(|(at, _)| {
            let (before, after) = (&code[..at], &code[at + name.len()..]);
            let is_whole = !before.ends_with(is_part) && !after.starts_with(is_part);
            let is_path = before.ends_with("::");
            is_whole && (is_path || after.starts_with('(') || after.starts_with(" as "))
        })
    })
}

/// The part of a source file that is tests, with line numbers from 1. `path` is that in the
/// source tree.
fn tests_of<'a>(path: &str, text: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    let all = path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs");
    (1..)
        .zip(text.lines())
        .skip_while(move |(_, line)| !all && line.trim() != "mod tests {")
}

/// Calls `look` with the path and the text of each Rust file in a folder of the source tree.
fn each_file(folder: &str, look: &mut impl FnMut(&str, &str)) {
    let listed = fs::read_dir(source_tree().join(folder)).unwrap();
    for entry in listed.map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let path = format!("{folder}/{name}");
        if entry.file_type().unwrap().is_dir() {
            if name != "target" {
                each_file(&path, look);
            }
        } else if Path::new(&name).extension().is_some_and(|it| it == "rs") {
            look(&path, &fs::read_to_string(entry.path()).unwrap());
        }
    }
}

#[test]
fn only_named_pauses_sleep() {
    let (mut found, mut allowed) = (Vec::new(), Vec::new());
    for folder in FOLDERS {
        each_file(folder, &mut |path, text| {
            for (number, _) in tests_of(path, text).filter(|(_, line)| sleeps(line)) {
                if MAY_SLEEP.contains(&path) {
                    allowed.push(path.to_owned());
                } else if path != "tests/src/sources.rs" {
                    found.push(format!("{path}:{number}"));
                }
            }
        });
    }
    assert!(
        found.is_empty(),
        "wait for the event with tests::wait_for, or name the pause as tests::pause has it: {found:#?}"
    );
    for file in MAY_SLEEP {
        assert!(
            allowed.iter().any(|path| path == file),
            "{file} was not read"
        );
    }
}

#[test]
fn sleeps_are_recognised() {
    #[track_caller]
    fn check(line: &str, expected: bool) {
        assert_eq!(sleeps(line), expected, "{line}");
    }
    check(
        "    thread::sleep(Duration::from_secs(1)); // a second",
        true,
    );
    check("std::thread::sleep(next - now)", true);
    check("        tokio::time::sleep(3 * PAUSE).await;", true);
    check("sleep(FRESH).await;", true);
    check("() = tokio::time::sleep_until(at) => {}", true);
    check("thread::sleep_ms(5);", true);
    check("thread::park_timeout(span);", true);
    check("libc::usleep(10);", true);
    check("use std::thread::sleep;", true);
    check("use tokio::time::{Instant, sleep as nap};", true);
    check("spans.for_each(thread::sleep);", true);
    check("// thread::sleep(span) would be too late", false);
    check("sandbox.command(\"sleep\").arg(\"1000\")", false);
    check("ExecStart=/bin/sleep 1000", false);
    check("wait_for(\"sleep ends\", SOON, || None)", false);
    check("let asleep = is_asleep(now);", false);
}

#[test]
fn tests_are_recognised() {
    #[track_caller]
    fn check(path: &str, text: &str, expected: &[usize]) {
        let numbers: Vec<usize> = tests_of(path, text).map(|(number, _)| number).collect();
        assert_eq!(numbers, expected, "{path}");
    }
    let text = "fn product() {}\n#[cfg(test)]\nmod tests {\n}\n";
    check("tests/tests/system/race.rs", text, &[1, 2, 3, 4]);
    check("ondemand-user/tests/report_page.rs", text, &[1, 2, 3, 4]);
    check("ondemand-user/src/units/tests.rs", text, &[1, 2, 3, 4]);
    check("ondemand-user/src/proxy/carry.rs", text, &[3, 4]);
    check("ondemand-user/src/main.rs", "fn main() {}\n", &[]);
}
