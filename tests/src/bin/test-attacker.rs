//! An agent that was taken over: tries what would make it root, and looks for what it can write to. Prints
//!
//!     did WHAT          for each that succeeded and should not
//!     opens PATH        for each pin of a map or program that it may use
//!     writes PATH       for each directory and file that this user may write to (links, sockets and devices
//!                       left out), but not below /proc and /dev
//!     done

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, symlink},
    path::{Path, PathBuf},
};

use nix::{
    libc,
    unistd::{AccessFlags, Uid, access, setuid},
};
use tests::bpf;

/// Types of programs with what they attach to (`enum bpf_prog_type`, `enum bpf_attach_type`): each of them
/// changes or reads what belongs to others.
const PROGRAMS: [(&str, u32, u32); 9] = [
    (
        "a program for getsockopt(2), which forges SO_PEERCRED",
        25,
        21,
    ),
    ("a program for setsockopt(2)", 25, 22),
    ("a raw tracepoint, which sends signals", 17, 0),
    ("a kprobe", 2, 0),
    ("a program of packets", 8, 0),
    ("sock_ops", 13, 3),
    ("sk_lookup", 30, 36),
    ("a tracing program", 26, 24),
    ("a program for sysctl", 23, 18),
];

/// Where the agent finds the pins, and where they are.
const PINS: [&str; 2] = ["/run/ondemand-bpf", "/sys/fs/bpf/ondemand"];

fn main() -> io::Result<()> {
    for (what, kind, expected) in PROGRAMS {
        report(what, bpf::load(kind, expected).map(drop));
    }
    report(
        "listed the programs of others",
        bpf::first_program().map(drop),
    );
    for root in PINS.map(Path::new) {
        pins(root);
    }
    report("became root", setuid(Uid::from_raw(0)).map_err(Into::into));
    report("got all capabilities", all_capabilities());
    let namespace = Path::new("/proc/self/ns/user");
    report("left its user namespace", fs::write(namespace, ""));
    report("linked to root's file", hard_link());
    walk(Path::new("/"));
    println!("done");
    Ok(())
}

fn report(what: impl std::fmt::Display, result: io::Result<()>) {
    if result.is_ok() {
        println!("did {what}");
    }
}

/// Replaces, removes, adds.
fn pins(root: &Path) {
    let sets = fs::read_dir(root).into_iter().flatten().flatten();
    let mut directories: Vec<PathBuf> = sets.map(|entry| entry.path()).collect();
    directories.push(root.to_owned());
    for directory in directories {
        let shown = directory.display();
        let new = directory.join("evil");
        report(format!("made a link in {shown}"), symlink("/etc", &new));
        report(format!("made {}", new.display()), fs::create_dir(&new));
        let moved = directory.with_extension("evil");
        report(format!("moved {shown}"), fs::rename(&directory, moved));
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let (pin, shown) = (entry.path(), entry.path());
            let shown = shown.display();
            if let Ok(object) = bpf::pinned(&pin) {
                println!("opens {shown}");
                report(format!("pinned {shown} again"), bpf::pin(&object, &new));
                let own = Path::new("/run/ondemand/evil");
                report(format!("pinned {shown} elsewhere"), bpf::pin(&object, own));
            }
            report(format!("renamed {shown}"), fs::rename(&pin, &new));
            if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                report(format!("removed {shown}"), fs::remove_file(&pin));
            }
            let opened = std::os::unix::fs::PermissionsExt::from_mode(0o666);
            report(format!("opened {shown}"), fs::set_permissions(&pin, opened));
        }
    }
}

fn all_capabilities() -> io::Result<()> {
    // `_LINUX_CAPABILITY_VERSION_3` for this thread; then effective, permitted, inheritable, twice.
    let header: [u32; 2] = [0x2008_0522, 0];
    let data = [u32::MAX, u32::MAX, 0, 0x1ff, 0x1ff, 0];
    // SAFETY: both have the layout of this version of the call, which reads them only.
    match unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What root then changes the owner of.
fn hard_link() -> io::Result<()> {
    fs::hard_link("/etc/shadow", "/var/lib/ondemand/shadow")
}

fn walk(path: &Path) {
    let Ok(data) = fs::symlink_metadata(path) else {
        return;
    };
    let kind = data.file_type();
    if ["/proc", "/dev"].map(Path::new).contains(&path) || kind.is_symlink() || kind.is_socket() {
        return;
    }
    if access(path, AccessFlags::W_OK).is_ok() {
        println!("writes {}", path.display());
    }
    if kind.is_dir() {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.for_each(|entry| walk(&entry.path()));
    }
}
