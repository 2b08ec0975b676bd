//! The arrows between the rooms, read from the sources and compared with the table in
//! ARCHITECTURE.md: a room imports only rooms above it in that table, and none of its "never
//! imports". So no two rooms import each other, and the core stays free of input, output and
//! clocks.

mod paths;

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use paths::{bare, paths};

/// What the core must not import: with one of these it could wait, fail or read the time.
const NOT_IN_CORE: [&str; 19] = [
    "tokio",
    "aya",
    "zbus",
    "nix",
    "libc",
    "rusqlite",
    "hyper",
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "std::thread",
    "std::os",
    "std::io",
    "path::absolute",
    "SystemTime",
    "Instant",
    "Timestamp::now",
    "Zoned::now",
];

/// What it must not call: methods of a path that access the file system, and output.
const NOT_CALLED_IN_CORE: [&str; 8] = [
    ".exists(",
    ".is_file(",
    ".is_dir(",
    ".canonicalize(",
    ".metadata(",
    ".read_dir(",
    "println!",
    "dbg!",
];

/// What the core must not depend on, directly or indirectly.
const NOT_BELOW_CORE: [&str; 9] = [
    "tokio", "mio", "aya", "zbus", "nix", "libc", "rustix", "rusqlite", "hyper",
];

/// Maximum number of rooms: a newcomer finds the way by their names.
const MOST_ROOMS: usize = 16;

/// A row of the table.
#[derive(Debug)]
struct Room {
    name: String,
    /// Its folders, relative to the top of the source tree.
    folders: Vec<String>,
    never: Vec<String>,
}

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The table under "Rooms", from the ground up.
fn rooms() -> Vec<Room> {
    let text = fs::read_to_string(top().join("ARCHITECTURE.md")).unwrap();
    let table = text.split("\n## Rooms\n").nth(1).expect("a section Rooms");
    let rows = table
        .lines()
        .skip_while(|line| !line.starts_with("| room |"));
    let rows = rows.skip(2).take_while(|line| line.starts_with('|'));
    let words = |cell: &str| {
        let quoted = cell.split('`').skip(1).step_by(2);
        quoted.map(str::to_owned).collect::<Vec<_>>()
    };
    let room = |row: &str| {
        let cells: Vec<&str> = row.split('|').collect();
        let [_, name, folders, _, never, _] = cells[..] else {
            panic!("four columns: {row}");
        };
        Room {
            name: words(name).remove(0),
            folders: words(folders),
            never: words(never),
        }
    };
    rows.map(room).collect()
}

/// The sources below a folder; a file is its own source.
fn sources(folder: &Path) -> Vec<PathBuf> {
    if folder.is_file() {
        return vec![folder.to_owned()];
    }
    let mut found = Vec::new();
    for entry in
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
    {
        let path = entry.unwrap().path();
        if path.ends_with("target") {
            continue; // Built by cargo-fuzz.
        }
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
    found
}

/// The room of a file: the one with the longest folder.
fn room_of<'a>(rooms: &'a [Room], file: &str) -> Option<&'a str> {
    let folders = rooms
        .iter()
        .flat_map(|room| room.folders.iter().map(move |folder| (folder, &room.name)));
    folders
        .filter(|(folder, _)| Path::new(file).starts_with(folder))
        .max_by_key(|(folder, _)| folder.len())
        .map(|(_, name)| name.as_str())
}

/// The rooms that a file in `room` imports.
fn imports(rooms: &[Room], room: &str, file: &str, text: &str) -> BTreeSet<String> {
    let of_program = |segments: &[String]| {
        let first = segments.first().map(String::as_str).unwrap_or_default();
        let is_room = rooms.iter().any(|room| room.name == first);
        is_room.then(|| first.to_owned())
    };
    // The folder whose modules `crate` is, for the rooms of the program itself.
    let modules = Path::new(file).strip_prefix("ondemand-user/src").ok();
    let to_room = |path: &Vec<String>| match path[0].as_str() {
        "ondemand_ebpf" => Some("ebpf".to_owned()),
        "ondemand_core" => Some("core".to_owned()),
        "ondemand" => of_program(&path[1..]),
        "tests" if ["bench", "xtask"].contains(&room) => Some("tests".to_owned()),
        "crate" if modules.is_some() => of_program(&path[1..]),
        // To leave the folder of the room: one `super` for each folder, and the file's own.
        "super" => {
            let ups = path
                .iter()
                .take_while(|segment| *segment == "super")
                .count();
            let mut folders: Vec<_> = modules?
                .with_extension("")
                .iter()
                .map(|part| part.to_string_lossy().into_owned())
                .collect();
            if folders.last().is_some_and(|last| last == "mod") {
                folders.pop();
            }
            // Inside an inline module one more is needed, so this finds too much, never too little.
            (ups >= folders.len())
                .then(|| of_program(&path[ups..]))
                .flatten()
        }
        _ => None,
    };
    let mut found: BTreeSet<String> = paths(text).iter().filter_map(to_room).collect();
    found.remove(room);
    found
}

/// Returns the forbidden imports of a file.
fn wrong(rooms: &[Room], file: &str, text: &str) -> Vec<String> {
    let Some(name) = room_of(rooms, file) else {
        return vec![format!("{file} is in no room of ARCHITECTURE.md")];
    };
    let place = |name: &str| rooms.iter().position(|room| room.name == name);
    let room = &rooms[place(name).unwrap()];
    let mut wrong = Vec::new();
    for import in imports(rooms, name, file, text) {
        if place(&import) > place(name) {
            wrong.push(format!(
                "{file}: {name} imports {import}, a room below it in the table"
            ));
        }
        if room.never.contains(&import) {
            wrong.push(format!("{file}: {name} never imports {import} (the table)"));
        }
    }
    if name == "core" && file.contains("/src/") {
        let paths = paths(text);
        let imported = |name: &&str| {
            let name: Vec<&str> = name.split("::").collect();
            let mut all = paths.iter();
            all.any(|path| path.windows(name.len()).any(|part| part == name))
        };
        let text = bare(text);
        let called = |name: &&str| text.contains(name);
        let imported = NOT_IN_CORE.into_iter().filter(imported);
        let called = NOT_CALLED_IN_CORE.into_iter().filter(called);
        wrong.extend(
            imported
                .chain(called)
                .map(|name| format!("{file}: {name} in the core")),
        );
    }
    wrong
}

#[test]
fn no_arrow_runs_back() {
    let rooms = rooms();
    assert!(rooms.len() <= MOST_ROOMS, "{} rooms", rooms.len());
    let mut problems = BTreeSet::new();
    let mut files = 0;
    for folder in rooms.iter().flat_map(|room| &room.folders) {
        for file in sources(&top().join(folder)) {
            files += 1;
            let text = fs::read_to_string(&file).unwrap();
            let file = file
                .strip_prefix(top())
                .unwrap()
                .to_string_lossy()
                .into_owned();
            problems.extend(wrong(&rooms, &file, &text));
        }
    }
    assert!(files > 200, "{files} files: the table names other folders");
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn the_core_depends_on_nothing_that_does_io() {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "tree",
            "--package",
            "ondemand-core",
            "--edges",
            "normal",
            "--prefix",
            "none",
        ])
        .args(["--locked", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let tree = String::from_utf8(output.stdout).unwrap();
    assert!(tree.starts_with("ondemand-core "), "{tree}");
    let below = tree.lines().filter_map(|line| line.split(' ').next());
    let bad: Vec<&str> = below.filter(|name| NOT_BELOW_CORE.contains(name)).collect();
    assert!(bad.is_empty(), "{bad:?}");
}

#[track_caller]
fn check(file: &str, text: &str, expected: &[&str]) {
    let found = wrong(&rooms(), file, text);
    assert_eq!(found.len(), expected.len(), "{text}: {found:?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.contains(expected), "{found}");
    }
}

#[test]
fn arrows_are_seen() {
    let agent = "ondemand-user/src/agent/look.rs";
    check(
        agent,
        "use crate::{bus, host::clock};\nuse ondemand_core::policy;",
        &[],
    );
    check(
        agent,
        "use crate::{bus, commands::{top, args}};",
        &["agent imports commands"],
    );
    check(
        agent,
        "fn f() { crate::commands::top::run() }",
        &["agent imports commands"],
    );
    check(
        agent,
        "use super::super::commands;",
        &["agent imports commands"],
    );
    check(agent, "use super::commands;", &[]);
    check(
        agent,
        "// crate::commands::top\nconst A: &str = \"crate::commands\";",
        &[],
    );
    let bus = "ondemand-user/src/bus/mod.rs";
    check(
        bus,
        "use crate::{agent,commands};",
        &["bus imports agent", "bus imports commands"],
    );
    check(bus, "use super::install::units;", &["bus imports install"]);
    check(
        "ondemand-user/src/observe/metrics/mod.rs",
        "use crate::kernel::maps;",
        &["never imports kernel"],
    );
    check(
        "ondemand-user/src/systemd/mod.rs",
        "use crate::kernel::Kernel;",
        &["never imports kernel"],
    );
    check(
        "xtask/src/main.rs",
        "use tests::sandbox;\nuse ondemand::bus::names;",
        &[],
    );
    check("elsewhere/src/main.rs", "", &["in no room"]);
    let core = "ondemand-user/core/src/policy.rs";
    check(
        core,
        "use std::{fmt, time::Duration};\nuse core::net::IpAddr;",
        &[],
    );
    check(core, "let a = std::time::Instant::now();", &["Instant"]);
    check(core, "std::fs::read(path)", &["std::fs"]);
    check(core, "use ondemand::host::clock;", &["core imports host"]);
    check(core, "use tokio::time;", &["tokio"]);
    check(core, "use std::{fmt, net::IpAddr};", &["std::net"]);
    check(core, "if path.exists() {}", &[".exists("]);
    check(core, "let instantly = '\"'; // std::time::Instant", &[]);
}
