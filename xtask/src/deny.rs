//! Whether what others wrote may be a part of the program, by deny.toml.
//!
//! cargo-deny does this, and more; it takes many minutes to build. The three checks that need no
//! network are few lines over `cargo metadata`, so every run of the CI has them; where cargo-deny
//! is installed it does them itself.

use std::{collections::BTreeMap, fs, process::Command};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use spdx::{Expression, Licensee, ParseMode};

use crate::command::{Step, run};

/// The parts of deny.toml that are read here.
#[derive(Deserialize)]
struct Rules {
    licenses: Licenses,
    bans: Bans,
    sources: Sources,
}

#[derive(Deserialize)]
struct Licenses {
    allow: Vec<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
struct Ban {
    name: String,
    reason: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Sources {
    allow_registry: Vec<String>,
}

/// What `cargo metadata` says.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    /// `None`: it is a part of this workspace.
    source: Option<String>,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    req: String,
    source: Option<String>,
}

/// Checks licences, sources and bans.
///
/// # Errors
///
/// Something is not allowed: each is named in a line of its own.
pub fn deny() -> Result<()> {
    let has_cargo_deny = Command::new("cargo-deny")
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success());
    if has_cargo_deny {
        return run(&Step::cargo(&[
            "deny", "check", "licenses", "sources", "bans",
        ]));
    }
    let path = ::tests::source_tree().join("deny.toml");
    let rules = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let rules: Rules =
        toml::from_str(&rules).with_context(|| format!("read {}", path.display()))?;
    let output = Command::new("cargo")
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--all-features",
        ])
        .current_dir(::tests::source_tree())
        .output()
        .context("run cargo metadata")?;
    ensure!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Metadata =
        serde_json::from_slice(&output.stdout).context("read what cargo metadata says")?;
    let problems = problems(&rules, &metadata.packages)?;
    for problem in &problems {
        println!("✗ {problem}");
    }
    for (name, versions) in duplicates(&metadata.packages) {
        println!(
            "· {name} is there {} times: {}",
            versions.len(),
            versions.join(", ")
        );
    }
    if !problems.is_empty() {
        bail!("{} things are not allowed by deny.toml", problems.len());
    }
    let packages = metadata.packages.len();
    println!("✓ licences, sources and bans of {packages} packages are as deny.toml wants them");
    Ok(())
}

fn problems(rules: &Rules, packages: &[Package]) -> Result<Vec<String>> {
    let allow = rules
        .licenses
        .allow
        .iter()
        .map(|name| Licensee::parse(name));
    let allowed: Vec<Licensee> = allow.collect::<Result<_, _>>().context("licenses.allow")?;
    let mut problems = Vec::new();
    for package in packages {
        let Package { name, version, .. } = package;
        let mut problem = |what: &str| problems.push(format!("{name} {version}: {what}"));
        match package.license.as_deref() {
            None => problem("names no licence"),
            Some(license) => match Expression::parse_mode(license, ParseMode::LAX) {
                Err(_) => problem(&format!("its licence is no expression of SPDX: {license}")),
                Ok(expression) => {
                    let may = |it: &spdx::LicenseReq| allowed.iter().any(|a| a.satisfies(it));
                    if !expression.evaluate(may) {
                        problem(&format!("its licence is not allowed: {license}"));
                    }
                }
            },
        }
        if let Some(ban) = rules.bans.deny.iter().find(|ban| ban.name == *name) {
            problem(&format!("is banned: {}", ban.reason));
        }
        let registries = &rules.sources.allow_registry;
        let allowed = |source: &str| {
            let registry = source.strip_prefix("registry+");
            registry.is_some_and(|registry| registries.iter().any(|known| known == registry))
        };
        match &package.source {
            Some(source) if !allowed(source) => problem(&format!("comes from {source}")),
            Some(_) => {}
            None => {
                for Dependency { name, req, source } in &package.dependencies {
                    if req == "*" && source.is_some() {
                        problem(&format!("takes any version of {name}"));
                    }
                }
            }
        }
    }
    Ok(problems)
}

/// What is there in several versions.
fn duplicates(packages: &[Package]) -> BTreeMap<&str, Vec<&str>> {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in packages {
        versions
            .entry(&package.name)
            .or_default()
            .push(&package.version);
    }
    versions.retain(|_, versions| versions.len() > 1);
    versions
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A package of this licence and source, and what is wrong with it.
    #[track_caller]
    fn check(license: &str, source: &str, requirement: &str, expected: &[&str]) {
        let rules: Rules =
            toml::from_str(&fs::read_to_string(::tests::source_tree().join("deny.toml")).unwrap())
                .unwrap();
        let package = |name: &str, source: &str| Package {
            name: name.into(),
            version: "1.0.0".into(),
            license: (!license.is_empty()).then(|| license.into()),
            source: (!source.is_empty()).then(|| source.into()),
            dependencies: vec![Dependency {
                name: "x".into(),
                req: requirement.into(),
                source: Some(source.into()),
            }],
        };
        let found = problems(&rules, &[package("a", source)]).unwrap();
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.contains(expected), "{found} lacks {expected}");
        }
        let banned = problems(&rules, &[package("atty", source)]).unwrap();
        assert_eq!(banned.len(), expected.len() + 1, "{banned:?}");
    }

    #[test]
    fn what_is_not_allowed_is_named() {
        let crates = "registry+https://github.com/rust-lang/crates.io-index";
        check("MIT OR Apache-2.0", crates, "^1", &[]);
        check("MIT/Apache-2.0", crates, "*", &[]);
        check("Apache-2.0 WITH LLVM-exception OR MIT", "", "^1", &[]);
        check("(MIT OR GPL-2.0-only) AND Unicode-3.0", crates, "^1", &[]);
        check("GPL-3.0-only", crates, "^1", &["is not allowed: GPL"]);
        check("MIT AND LGPL-2.1-only", crates, "^1", &["not allowed"]);
        check("as you like", crates, "^1", &["no expression"]);
        check("", crates, "^1", &["names no licence"]);
        check(
            "MIT",
            "git+https://example.org/x",
            "^1",
            &["comes from git"],
        );
        check("MIT", "registry+https://example.org", "^1", &["comes from"]);
        check("MIT", "", "*", &["takes any version of x"]);
    }
}
