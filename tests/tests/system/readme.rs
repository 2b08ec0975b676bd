//! The first two minutes, as the README shows them: typed into a terminal of a fresh system. `ONDEMAND_WRITE_README=1` writes
//! the transcript anew.

use std::{
    fs,
    time::{Duration, Instant},
};

use tests::{
    client::{self, Request},
    sandbox::{Cgroups, Sandbox},
    service::{self, SOON, front},
    source_tree,
    terminal::Terminal,
    wait_for,
};

use crate::{
    packages::{fresh, package},
    require_sandbox,
};

/// What is typed, and the answer to its question.
const COMMANDS: [(&str, &str); 5] = [
    ("apt install ./ondemand_*.deb", ""),
    ("ondemand adopt wiki.service", "y\n"),
    ("ondemand stop wiki", ""),
    ("curl http://localhost:8000/", ""),
    ("ondemand status", ""),
];
const BEGIN: &str = "\n```console\n";
const END: &str = "```\n";
/// Where lines are left out.
const LEFT_OUT: &str = "[...]";

/// What a terminal shows of a command.
fn typed(sandbox: &Sandbox, (command, answer): (&str, &str)) -> String {
    let options = "cd /root && export DEBIAN_FRONTEND=noninteractive TERM=dumb &&";
    let line = format!("{options} {command}");
    let mut terminal = Terminal::open(sandbox, (60, 200), &line).unwrap();
    if !answer.is_empty() {
        terminal.wait("[y/N]").unwrap();
        terminal.send(answer).unwrap();
    }
    let status = terminal.end().unwrap();
    let text = String::from_utf8(terminal.sent())
        .unwrap()
        .replace('\r', "");
    assert!(status.success(), "{command}: {text}");
    text
}

/// The lines that a reader needs.
fn shortened(command: &str, output: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for line in output.lines() {
        if line.trim().is_empty() {
            continue;
        }
        let is_kept = match command.split(' ').next() {
            Some("apt") => false,
            // What it is asked about, the question, and the end.
            Some("ondemand") if command.contains("adopt") => {
                ["client now", "[y/N]", "is on demand"]
                    .iter()
                    .any(|it| line.contains(it))
            }
            _ => true,
        };
        match is_kept {
            true => lines.push(line.trim_end().to_owned()),
            false if lines.last().is_some_and(|last| last == LEFT_OUT) => {}
            false => lines.push(LEFT_OUT.to_owned()),
        }
    }
    lines
}

/// Figures that differ from run to run, and the widths of their columns.
fn normalised(line: &str) -> Vec<String> {
    let units = ["B", "kB", "MB", "GB", "ms", "s", "min"];
    // What localhost is differs, too.
    let line = line.replace("by ::1.", "by 127.0.0.1.");
    let mut words: Vec<String> = Vec::new();
    for word in line.split_whitespace() {
        // As in `3.1 s/10 min`, or at the end of a sentence.
        let end = word.find([',', '.', '/']).unwrap_or(word.len());
        let (unit, rest) = word.split_at(end);
        // Of the process that answers.
        if words.last().is_some_and(|last| last.ends_with("Process")) {
            words.push(format!("N{rest}"));
            continue;
        }
        match words.last_mut() {
            Some(last) if units.contains(&unit) && last.parse::<f64>().is_ok() => {
                *last = "N".to_owned();
                words.push(format!("UNIT{rest}"));
            }
            _ => words.push(word.to_owned()),
        }
    }
    words
}

#[test]
fn its_first_two_minutes_are_true() {
    require_sandbox!();
    let package = match package() {
        Ok(package) => package,
        Err(why) => return tests::skip::part(why),
    };
    tests::require!(tests::skip::missing(&[
        "script",
        "apt",
        "curl",
        "/usr/bin/python3"
    ]));
    let sandbox = fresh(Cgroups::Accounted);
    let name = package.file_name().unwrap().to_str().unwrap();
    let inside = format!("/root/{name}");
    sandbox.write(&inside, fs::read(&package).unwrap()).unwrap();
    service::write_wiki(&sandbox).unwrap();
    wait_for("the wiki answers", SOON, || {
        let get = || client::get(front(), Request::default());
        sandbox.in_network(get).unwrap().ok()
    })
    .unwrap();

    let memory = sandbox.property("wiki.service", "MemoryCurrent").unwrap();
    if memory.parse::<u64>().is_err() {
        return tests::skip::part("this machine does not account memory, which the README shows");
    }

    let begin = Instant::now();
    let mut transcript = Vec::new();
    for typed_in in COMMANDS {
        transcript.push(format!("# {}", typed_in.0));
        transcript.extend(shortened(typed_in.0, &typed(&sandbox, typed_in)));
    }
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(120), "{took:?}");
    println!("{}", transcript.join("\n"));

    let path = source_tree().join("README.md");
    let readme = fs::read_to_string(&path).unwrap();
    let (before, rest) = readme.split_once(BEGIN).unwrap();
    let (shown, after) = rest.split_once(END).unwrap();
    if std::env::var_os("ONDEMAND_WRITE_README").is_some() {
        let block = transcript.join("\n");
        fs::write(path, format!("{before}{BEGIN}{block}\n{END}{after}")).unwrap();
        return;
    }
    let shown: Vec<_> = shown.lines().map(normalised).collect();
    let seen: Vec<_> = transcript.iter().map(|line| normalised(line)).collect();
    assert_eq!(
        shown,
        seen,
        "README.md shows something else; ONDEMAND_WRITE_README=1 writes it anew: {}",
        transcript.join("\n")
    );
}
