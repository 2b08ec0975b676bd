//! `ondemand check --fix`: runs what the findings name, where that can do no harm.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use nix::unistd::geteuid;
use ondemand_core::words::{counted, printable};

use super::consent;
use crate::{
    host::config_file,
    install::check::{self, Finding, Level},
};

/// What comes first in this order: the others may need it.
const ORDER: [&[&str]; 5] = [
    &["systemd-sysusers"],
    &["ondemand", "apply"],
    &["ondemand", "permit"],
    &["ondemand", "sieve"],
    // The agent last: it takes over what the others have made.
    &["systemctl"],
];

/// Shows what is wrong, asks, mends what it may, and shows what is left. Returns whether no error is.
///
/// # Errors
///
/// The configuration is invalid, this is not root, the person does not agree, or a command failed.
pub async fn run(config: &Path, yes: bool) -> Result<bool> {
    let config = config_file::load(config)?;
    ensure!(
        geteuid().is_root(),
        "only root may do this: `sudo ondemand check --fix`; without --fix everybody may look"
    );
    let findings = check::findings(&config).await;
    let plan = plan(&findings);
    say_left(&findings);
    if plan.is_empty() {
        println!("nothing that can be mended without a person's judgment");
        return Ok(check::worst(&findings) != Level::Error);
    }
    println!("will be done:");
    for (command, reasons) in &plan {
        println!("  {}", printable(&command.join(" ")));
        for reason in reasons {
            println!("      {}", printable(reason));
        }
    }
    println!("No application is stopped by it, and no connection cut.");
    let count = counted(plan.len() as u64, "command");
    if !consent::ask(&format!("run {count}?"), yes)? {
        println!("nothing was done");
        return Ok(check::worst(&findings) != Level::Error);
    }
    let mut failed = Vec::new();
    for (command, _) in &plan {
        let words = command.join(" ");
        println!("$ {}", printable(&words));
        if let Err(error) = execute(command) {
            eprintln!("ondemand: {}", printable(&format!("{error:#}")));
            failed.push(words);
        }
    }
    let after = check::findings(&config).await;
    print!("\n{}", printable(&check::text(&after)));
    ensure!(
        failed.is_empty(),
        "not everything could be done ({}); the lines above say why",
        failed.join("; ")
    );
    Ok(check::worst(&after) != Level::Error)
}

/// What is only said.
fn say_left(findings: &[Finding]) {
    let left = findings
        .iter()
        .filter(|finding| finding.level != Level::Ok && finding.fix.is_none());
    let mut head = Some("left to you:");
    for finding in left {
        if let Some(head) = head.take() {
            println!("{head}");
        }
        println!("  {}", printable(&words(finding)));
        if let Some(next) = &finding.next {
            println!("      -> {}", printable(next));
        }
    }
}

fn words(finding: &Finding) -> String {
    let service = finding.service.as_deref();
    let service = service.map(|name| format!("{name}: ")).unwrap_or_default();
    let message = finding.message.replace('\n', " ");
    format!("{service}{}: {message}", finding.what)
}

/// Each command once, in the order in which they are run, with what it is for.
fn plan(findings: &[Finding]) -> Vec<(Vec<String>, Vec<String>)> {
    let mut plan: Vec<(Vec<String>, Vec<String>)> = Vec::new();
    for finding in findings {
        let Some(fix) = &finding.fix else { continue };
        match plan.iter_mut().find(|(command, _)| command == fix) {
            Some((_, reasons)) => reasons.push(words(finding)),
            None => plan.push((fix.clone(), vec![words(finding)])),
        }
    }
    let place = |command: &[String]| {
        let begins = |with: &[&str]| command.iter().zip(with).all(|(word, other)| word == other);
        let first = ORDER.iter().position(|with| begins(with));
        let is_agent = command.iter().any(|word| word == check::agent::UNIT);
        (first.unwrap_or(ORDER.len()), is_agent)
    };
    plan.sort_by_key(|(command, _)| place(command));
    plan
}

fn execute(command: &[String]) -> Result<()> {
    let words = || command.join(" ");
    let (program, arguments) = command.split_first().context("an empty command")?;
    let mut child = match program.as_str() {
        // The one that has found it.
        "ondemand" => Command::new("/proc/self/exe"),
        program => Command::new(program),
    };
    let status = child
        .args(arguments)
        .status()
        .with_context(|| format!("run `{}`", words()))?;
    ensure!(status.success(), "`{}` failed: {status}", words());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_once_and_the_agent_last() {
        let start = &["systemctl", "start", "ondemand.service"];
        let found = [
            Finding::warning("agent", "it does not run", "x").fixed_by(start),
            Finding::warning("units", "old", "x")
                .fixed_by(&["ondemand", "apply"])
                .of("a"),
            Finding::error("listen", "down", "x")
                .fixed_by(&["systemctl", "start", "ondemand-a.socket"])
                .of("a"),
            Finding::warning("units", "old", "x")
                .fixed_by(&["ondemand", "apply"])
                .of("b"),
            Finding::error("unit", "failed", "judge"),
        ];
        let plan = plan(&found);
        let commands: Vec<_> = plan.iter().map(|(command, _)| command.join(" ")).collect();
        assert_eq!(
            commands,
            [
                "ondemand apply",
                "systemctl start ondemand-a.socket",
                "systemctl start ondemand.service"
            ]
        );
        assert_eq!(plan[0].1, ["a: units: old", "b: units: old"]);
    }
}
