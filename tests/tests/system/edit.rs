//! `ondemand apply` says what differs, and `ondemand edit` loses nothing.

use std::{fs, io::Write as _, os::unix::fs::PermissionsExt as _, process::Stdio};

use tests::{
    sandbox::Sandbox,
    service::{self, CONFIG, on_demand, wait_state},
};

use crate::require_sandbox;

const MAIN: &str = "/etc/ondemand/ondemand.toml";
const OTHER: &str = "/etc/ondemand/conf.d/other.toml";

fn read(sandbox: &Sandbox, path: &str) -> String {
    fs::read_to_string(sandbox.path(path)).unwrap()
}

/// Runs a command, and returns its exit code and what it said.
fn run(sandbox: &Sandbox, words: &[&str]) -> (i32, String) {
    let mut command = sandbox.command("/usr/bin/env");
    let output = command.args(words).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[test]
fn apply_says_what_differs_and_refuses_as_a_whole() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    sandbox.run(&["ondemand", "apply"]).unwrap();
    let (code, said) = run(&sandbox, &["ondemand", "apply", "--dry-run"]);
    assert_eq!((code, said.trim()), (0, "nothing has changed"));

    let other = CONFIG
        .replace("8000", "8001")
        .replace("8080", "8090")
        .replace("app.service", "other.service");
    sandbox
        .write(OTHER, format!("[service.other]\n{other}"))
        .unwrap();
    let text = read(&sandbox, MAIN);
    sandbox.write(MAIN, text.replace("300ms", "400ms")).unwrap();
    let (code, said) = run(&sandbox, &["ondemand", "apply", "--dry-run"]);
    assert_eq!(code, 0, "{said}");
    for line in [
        "+ other: new",
        "~ test: idle_timeout = \"300ms\" -> \"400ms\"",
        "starts ondemand-other.socket",
    ] {
        assert!(said.lines().any(|it| it == line), "{line}: {said}");
    }
    let loaded = sandbox
        .property("ondemand-other.socket", "LoadState")
        .unwrap();
    assert_eq!(loaded, "not-found", "nothing was done");

    // One mistake: nothing of it is done.
    sandbox
        .write(OTHER, format!("[service.other]\n{other}x = 1\n"))
        .unwrap();
    for words in [
        &["ondemand", "apply"][..],
        &["ondemand", "apply", "--dry-run"],
    ] {
        let (code, said) = run(&sandbox, words);
        assert_eq!(code, 2, "{said}");
        assert!(said.contains("conf.d/other.toml:"), "{said}");
    }
    let status = service::status(&sandbox, "test").unwrap();
    assert_eq!(status["idle_timeout_seconds"], 0.3, "{status}");

    sandbox
        .write(OTHER, format!("[service.other]\n{other}"))
        .unwrap();
    let (code, said) = run(&sandbox, &["ondemand", "apply"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("+ other: new"), "{said}");
    wait_state(&sandbox, "ondemand-other.socket", "active").unwrap();
    let status = service::status(&sandbox, "test").unwrap();
    assert_eq!(status["idle_timeout_seconds"], 0.4, "{status}");

    sandbox.run(&["rm", OTHER]).unwrap();
    let (code, said) = run(&sandbox, &["ondemand", "apply", "--dry-run"]);
    assert_eq!(code, 0, "{said}");
    assert!(
        said.contains("- other: gone") && said.contains("stops ondemand-other.socket"),
        "{said}"
    );
    let (code, said) = run(&sandbox, &["ondemand", "apply"]);
    assert_eq!(code, 0, "{said}");
    wait_state(&sandbox, "ondemand-other.socket", "inactive").unwrap();
}

/// Calls the editor that is a script with these lines; `$1` is the copy.
fn edit(sandbox: &Sandbox, script: &str, name: &[&str]) -> (i32, String) {
    sandbox
        .write("/usr/bin/test-editor", format!("#!/bin/sh\n{script}\n"))
        .unwrap();
    let path = sandbox.path("/usr/bin/test-editor");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    run(
        sandbox,
        &[&["VISUAL=test-editor --wait", "ondemand", "edit"], name].concat(),
    )
}

#[test]
fn edit_replaces_a_file_by_a_correct_text_and_loses_none() {
    require_sandbox!();
    let sandbox = on_demand(CONFIG, "").unwrap();
    let before = read(&sandbox, MAIN);
    let (code, said) = edit(&sandbox, "exit 0", &[]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("unchanged"), "{said}");
    let (code, said) = edit(&sandbox, "sed -i s/300ms/301ms/ \"$2\"; exit 3", &[]);
    assert_eq!((code, read(&sandbox, MAIN) == before), (1, true), "{said}");
    let (code, said) = edit(&sandbox, "exit 0", &["tset"]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("did you mean \"test\""), "{said}");

    // With an argument of the editor's, the mode kept, and through a link; in force at once.
    sandbox.run(&["chmod", "640", MAIN]).unwrap();
    sandbox.run(&["chgrp", "ondemand-agent", MAIN]).unwrap();
    sandbox.run(&["mv", MAIN, "/etc/real.toml"]).unwrap();
    sandbox.run(&["ln", "-s", "../real.toml", MAIN]).unwrap();
    let (code, said) = edit(
        &sandbox,
        "[ \"$1\" = --wait ] && sed -i s/300ms/400ms/ \"$2\"",
        &["test.service"],
    );
    assert_eq!(code, 0, "{said}");
    assert!(read(&sandbox, "/etc/real.toml").contains("400ms"));
    let data = sandbox
        .run(&["stat", "-c", "%a %G", "/etc/real.toml"])
        .unwrap();
    assert_eq!(data.trim(), "640 ondemand-agent");
    assert_eq!(
        sandbox.run(&["stat", "-c", "%F", MAIN]).unwrap().trim(),
        "symbolic link"
    );
    let status = service::status(&sandbox, "test").unwrap();
    assert_eq!(status["idle_timeout_seconds"], 0.4, "{status}");

    // A wrong text, and one that meets another's: the file is as it was, and the text is kept.
    let before = read(&sandbox, MAIN);
    let (code, said) = edit(&sandbox, "sed -i s/400ms/soon/ \"$2\"", &[]);
    assert_eq!((code, read(&sandbox, MAIN)), (2, before.clone()), "{said}");
    assert!(
        said.contains(MAIN) && said.contains("idle_timeout"),
        "{said}"
    );
    let kept = said.split_whitespace().last().unwrap();
    assert!(read(&sandbox, kept).contains("soon"), "{said}");
    let other = "sed -i s/400ms/1s/ \"$2\"; echo '# another' >>/etc/real.toml";
    let (code, said) = edit(&sandbox, other, &[]);
    assert_eq!(code, 1, "{said}");
    assert_eq!(read(&sandbox, MAIN), before + "# another\n");
    let kept = said.split_whitespace().last().unwrap();
    assert!(read(&sandbox, kept).contains("1s"), "{said}");

    // On a terminal a wrong text is edited again.
    let script = "n=$(cat /run/edits 2>/dev/null); echo \"x$n\" >/run/edits\n\
                  case \"$n\" in '') sed -i s/400ms/soon/ \"$2\";; *) sed -i s/soon/500ms/ \"$2\";; esac";
    let body = format!("#!/bin/sh\n{script}\n");
    sandbox.write("/usr/bin/test-editor", body).unwrap();
    let mut terminal = sandbox
        .command("script")
        .args([
            "--quiet",
            "--return",
            "--command",
            "VISUAL='test-editor --wait' ondemand edit",
            "/run/typed",
        ])
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    terminal.stdin.take().unwrap().write_all(b"y\n").unwrap();
    let status = terminal.wait().unwrap();
    let typed = read(&sandbox, "/run/typed");
    assert!(status.success(), "{typed}");
    assert!(typed.contains("Edit it again?"), "{typed}");
    assert!(read(&sandbox, MAIN).contains("500ms"), "{typed}");
    let status = service::status(&sandbox, "test").unwrap();
    assert_eq!(status["idle_timeout_seconds"], 0.5, "{status}");
}
