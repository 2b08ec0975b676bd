//! The result of `systemd-analyze security` for the agent's and the proxy's unit, and its change
//! without each directive.

use std::{collections::BTreeSet, fs, path::Path};

use ::tests::require;
use serde_json::Value;

use super::{
    hardening,
    host::systemd_version,
    tests::{no_systemd_analyze, systemd_analyze, unix, wiki},
};

/// The installed unit.
const AGENT: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../units/ondemand.service"
));
/// The unit that loads the programs.
const LOAD: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../units/ondemand-load.service"
));

/// What the table of systemd 252 finds open in each of these units.
fn open(units: &[String]) -> Vec<BTreeSet<String>> {
    let dir = tempfile::tempdir().unwrap();
    let paths: Vec<String> = (0..units.len())
        .map(|n| {
            dir.path()
                .join(format!("{n}.service"))
                .display()
                .to_string()
        })
        .collect();
    for (path, unit) in paths.iter().zip(units) {
        fs::write(path, unit).unwrap();
    }
    let mut arguments = vec!["security", "--offline=true", "--json=short"];
    arguments.extend(paths.iter().map(String::as_str));
    let (_, text) = systemd_analyze(&arguments, dir.path());
    let tables: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with('['))
        .map(|line| {
            let rows: Vec<Value> = serde_json::from_str(line).unwrap();
            let open = |row: &&Value| row["set"] == false && !row["exposure"].is_null();
            let name = |row: &Value| row["name"].as_str().unwrap().to_owned();
            rows.iter().filter(open).map(name).collect()
        })
        .collect();
    assert_eq!(tables.len(), units.len(), "{text}");
    tables
}

/// Checks that of `unit` only the rows in `expected` are open, and that each line of `part` closes
/// another one, except those that start with one of `unseen`.
#[track_caller]
fn check(unit: &str, part: &str, expected: &[&str], unseen: &[&str]) {
    let lines: Vec<&str> = part
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    let mut variants = vec![unit.to_owned()];
    variants.extend(
        lines
            .iter()
            .map(|line| unit.replacen(&format!("\n{line}\n"), "\n", 1)),
    );
    let tables = open(&variants);
    let (whole, without) = tables.split_first().unwrap();
    let expected: BTreeSet<String> = expected.iter().map(|&row| row.to_owned()).collect();
    let more: Vec<_> = whole.difference(&expected).collect();
    assert!(more.is_empty(), "open, and should not be: {more:?}");
    for (line, table) in lines.iter().zip(without) {
        // Later versions know that others imply it (257 and 262 do).
        if *line == "PrivateMounts=yes" && systemd_version().is_some_and(|version| version > 252) {
            continue;
        }
        let is_unseen = unseen.iter().any(|begin| line.starts_with(begin));
        let closes = !table.is_subset(whole);
        assert_ne!(closes, is_unseen, "without {line}: {table:?}");
    }
}

/// Directives of the agent's unit that the table does not have, or that another one covers.
const UNSEEN: [&str; 9] = [
    "AmbientCapabilities=",
    "Group=",
    "BindReadOnlyPaths=",
    "Environment=",
    "SystemCallFilter=bpf capset",
    "SystemCallErrorNumber=",
    "[Install]",
    "WantedBy=",
    "Also=",
];

#[test]
fn the_agent_may_do_what_it_must() {
    require!(no_systemd_analyze());
    let (_, part) = AGENT.split_once("\n# Root instead").unwrap();
    let (_, part) = part.split_once('\n').unwrap();
    let expected = [
        // It listens on an address, connects to the bus, and queries the kernel for sockets.
        "RestrictAddressFamilies=~AF_NETLINK",
        "RestrictAddressFamilies=~AF_UNIX",
        "RestrictAddressFamilies=~AF_(INET|INET6)",
        "PrivateNetwork=",
        "IPAddressDeny=",
        // Its first act: raw sockets.
        "AmbientCapabilities=",
        "CapabilityBoundingSet=~CAP_NET_(BIND_SERVICE|BROADCAST|RAW)",
        // It opens the pinned programs and maps.
        "SystemCallFilter=~@privileged",
        // Its veto programs look at the users of the host.
        "PrivateUsers=",
        // The kernel's version and the boot ID; veto programs, in any directory.
        "ProcSubset=",
        "RootDirectory=/RootImage=",
        // Read access to char-rtc, which ProtectClock= implies.
        "DeviceAllow=",
    ];
    check(AGENT, part, &expected, &UNSEEN);
}

#[test]
fn the_proxy_may_do_little() {
    require!(no_systemd_analyze());
    let rest = [
        "RestrictAddressFamilies=~AF_NETLINK",
        "RestrictAddressFamilies=~AF_UNIX",
        "RestrictAddressFamilies=~AF_(INET|INET6)",
        "PrivateNetwork=",
        "IPAddressDeny=",
        "PrivateUsers=",
        "RootDirectory=/RootImage=",
        "DeviceAllow=",
        // ProcSubset= and ReadOnlyPaths= stand for it.
        "ProtectKernelTunables=",
    ];
    let dac = [
        // TemporaryFileSystem=/:ro stands for it.
        "ProtectSystem=",
        "AmbientCapabilities=",
        "CapabilityBoundingSet=~CAP_(DAC_*|FOWNER|IPC_OWNER)",
    ];
    for (config, more) in [(wiki(""), &[][..]), (unix("/run/b.sock"), &dac)] {
        let part = hardening::proxy(&config.services["wiki"], "/bin/true", Some("ondemand"));
        let unit = format!("[Service]\nExecStart=/bin/true\n{part}");
        let unseen = [
            "AmbientCapabilities=",
            // It hides the whole file system, and the table does not know it.
            "TemporaryFileSystem=",
            "BindReadOnlyPaths=",
            "ReadOnlyPaths=",
        ];
        check(&unit, &part, &[&rest[..], more].concat(), &unseen);
    }
}

#[test]
fn the_scores() {
    require!(no_systemd_analyze());
    #[track_caller]
    fn check(unit: &str, most: f64) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.service");
        fs::write(&path, unit).unwrap();
        let threshold = format!("--threshold={}", (most * 10.0).round());
        let arguments = ["security", "--offline=true", "--no-pager", &threshold];
        let path = path.display().to_string();
        let arguments = [&arguments[..], &[&path]].concat();
        let (good, text) = systemd_analyze(&arguments, Path::new("/"));
        assert!(good, "{text}");
    }
    check(AGENT, 1.6);
    check(LOAD, 2.6);
    let proxy = |config: &ondemand_core::config::Config, user| {
        let part = hardening::proxy(&config.services["wiki"], "/bin/true", user);
        format!("[Service]\nExecStart=/bin/true\n{part}")
    };
    check(&proxy(&wiki(""), Some("ondemand")), 1.5);
    check(&proxy(&unix("/run/b.sock"), Some("ondemand")), 1.7);
    check(&proxy(&unix("/tmp/b.sock"), Some("ondemand")), 1.9);
    // Without a user for it.
    check(&proxy(&wiki(""), None), 1.6);
}
