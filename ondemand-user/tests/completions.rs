//! What shells complete, with the scripts that `ondemand completions` prints, in these shells.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

const ONDEMAND: &str = env!("CARGO_BIN_EXE_ondemand");

/// A directory with the script of a shell by this name, and a configuration.
fn directory(shell: &str, file: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new(ONDEMAND).args(["completions", shell]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    fs::write(directory.path().join(file), output.stdout).unwrap();
    let config = "[service.wiki]\nlisten = \"0.0.0.0:80\"\nunit = \"wiki.service\"\n\
                  [service.llm]\nlisten = \"0.0.0.0:81\"\nunit = \"llm.service\"\n";
    fs::write(directory.path().join("config"), config).unwrap();
    fs::write(directory.path().join("wrong"), "[service.wiki]\n").unwrap();
    directory
}

/// What a shell prints. `None`: there is no such shell here.
fn run(shell: &str, arguments: &[&str], directory: &Path) -> Option<Vec<String>> {
    let mut path = vec![PathBuf::from(ONDEMAND).parent().unwrap().to_owned()];
    path.extend(env::split_paths(&env::var_os("PATH").unwrap()));
    let output = Command::new(shell)
        .args(arguments)
        .current_dir(directory)
        .env("HOME", directory)
        .env("PATH", env::join_paths(path).unwrap())
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => {
            tests::skip::part(format_args!("{shell} (the package {shell}): {error}"));
            return None;
        }
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{output:?}");
    let lines = String::from_utf8(output.stdout).unwrap();
    // What stands beside a candidate explains it.
    let words = lines
        .lines()
        .map(|line| line.split(['\t', ':']).next().unwrap());
    Some(words.map(str::to_owned).collect())
}

/// Each line that is typed, and what completes its last word.
const ROWS: &[(&str, &str, &[&str])] = &[
    ("hold", "", &["llm", "wiki"]),
    ("hold", "w", &["wiki"]),
    ("report", "l", &["llm"]),
    ("hold", "--fo", &["--for"]),
    ("completions", "z", &["zsh"]),
    ("help", "key", &["keys"]),
];

#[track_caller]
fn check(shell: &str, words: Option<Vec<String>>, last: &str, expected: &[&str]) -> bool {
    let Some(mut words) = words else { return false };
    if last.is_empty() {
        words.retain(|word| !word.starts_with('-'));
    }
    words.retain(|word| !word.is_empty());
    assert_eq!(words, expected, "{shell}: {last:?}");
    true
}

#[test]
fn bash_completes() {
    let directory = directory("bash", "ondemand");
    for (command, last, expected) in ROWS {
        let script = format!(
            "source ./ondemand; COMP_WORDS=(ondemand --config=config {command} '{last}'); COMP_CWORD=3; COMP_TYPE=9
             complete -p ondemand >/dev/null
             _clap_complete_ondemand ondemand '{last}' {command}; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let words = run("bash", &["--norc", "-c", &script], directory.path());
        if !check("bash", words, last, expected) {
            return;
        }
    }
}

#[test]
fn zsh_completes_from_the_first_time_on() {
    let directory = directory("zsh", "_ondemand");
    for (command, last, expected) in ROWS {
        // Outside of an editor's line nothing can be shown: what would be is printed.
        let script = format!(
            "fpath=($PWD $fpath); autoload -U compinit; compinit -u -D
             _describe() {{ print -l -- ${{(P)3}} }}
             [[ ${{_comps[ondemand]}} == _ondemand ]] || exit 1
             words=(ondemand --config=config {command} '{last}'); CURRENT=4; _ondemand"
        );
        let words = run("zsh", &["-f", "-c", &script], directory.path());
        if !check("zsh", words, last, expected) {
            return;
        }
    }
}

#[test]
fn fish_completes() {
    let directory = directory("fish", "ondemand.fish");
    for (command, last, expected) in ROWS {
        let script = format!(
            "source ondemand.fish; complete -C 'ondemand --config=config {command} {last}'"
        );
        let words = run("fish", &["--no-config", "-c", &script], directory.path());
        if !check("fish", words, last, expected) {
            return;
        }
    }
}

#[test]
fn a_wrong_configuration_completes_no_service_and_says_nothing() {
    let directory = directory("bash", "ondemand");
    for config in ["wrong", "none"] {
        let output = Command::new(ONDEMAND)
            .args(["--", "ondemand", "--config", config, "hold", ""])
            .env("ONDEMAND_COMPLETES", "bash")
            .env("_CLAP_COMPLETE_INDEX", "4")
            .current_dir(directory.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
        let words = String::from_utf8(output.stdout).unwrap();
        assert!(!words.contains("wiki"), "{words}");
    }
}
