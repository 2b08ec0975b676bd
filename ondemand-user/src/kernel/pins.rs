//! Checks that the programs are still attached, and that their pins still exist, by which the next
//! agent finds them.

use std::{
    fmt,
    fs::{self, File},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya::programs::links::{FdLink, PinnedLink};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

/// Excludes other agents while it is held: two agents would open and close the same gates without
/// knowing of each other.
///
/// # Errors
///
/// Another agent holds the lock, or `directory` cannot be opened.
pub fn lock(directory: &Path) -> Result<Flock<File>> {
    let file = File::open(directory).with_context(|| format!("open {}", directory.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, Errno::EWOULDBLOCK)) => bail!(InUse),
        Err((_, error)) => Err(error).with_context(|| format!("lock {}", directory.display())),
    }
}

/// An agent has the lock.
#[derive(Debug)]
pub struct InUse;

impl fmt::Display for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "another agent is running, and only one may run at a time: systemctl stop ondemand.service",
        )
    }
}

impl std::error::Error for InUse {}

/// A pin or an attachment that no longer exists: its counters are not maintained.
#[derive(Debug)]
pub struct Gone(pub String);

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Gone {}

/// The pins of one set of programs, and the links behind them.
pub struct Pins {
    /// Kept open, so that removing a pin of a running agent detaches nothing.
    links: Vec<Held>,
    /// Each pin with its inode number: a replaced pin has another number.
    files: Vec<(PathBuf, u64)>,
}

/// An attached program.
struct Held {
    program: String,
    /// Keeps it attached.
    _link: FdLink,
    /// The link's fdinfo (proc_pid_fdinfo(5)). Kept open, so that it can be read when no descriptor is
    /// left.
    info: File,
    id: u32,
}

impl Pins {
    /// Opens the pins of these maps, and those of the links of these programs. An optional program may
    /// have no link.
    ///
    /// # Errors
    ///
    /// A pin is missing, which is a [`Gone`], or cannot be opened.
    pub fn open<'a>(
        directory: &Path,
        maps: &[&str],
        programs: impl IntoIterator<Item = (&'a str, bool)>,
    ) -> Result<Self> {
        let mut files = Vec::new();
        for map in maps {
            let path = directory.join(map);
            match find(&path)? {
                Some(inode) => files.push((path, inode)),
                None => return Err(missing(&path)),
            }
        }
        let mut links = Vec::new();
        for (program, required) in programs {
            let path = directory.join(format!("link_{program}"));
            match find(&path)? {
                Some(inode) => files.push((path.clone(), inode)),
                None if required => return Err(missing(&path)),
                None => continue,
            }
            links.push(Held::open(&path, program)?);
        }
        Ok(Self { links, files })
    }

    /// The pins are found in `directory` from now on, which is another path to it.
    pub fn found_at(&mut self, directory: &Path) {
        for (path, _) in &mut self.files {
            if let Some(name) = path.file_name() {
                *path = directory.join(name);
            }
        }
    }

    /// Whether this program has a link.
    pub fn has(&self, program: &str) -> bool {
        self.links.iter().any(|held| held.program == program)
    }

    /// Fails if a program is no longer attached, or if the next agent would not find a pin.
    /// It takes some microseconds per pin.
    ///
    /// # Errors
    ///
    /// Names what is missing, as a [`Gone`], or what could not be read.
    pub fn check(&self) -> Result<()> {
        for held in &self.links {
            held.check()?;
        }
        for (path, before) in &self.files {
            if find(path)? != Some(*before) {
                bail!(Gone(format!(
                    "{} was removed or replaced, so the next agent would not find these counters",
                    path.display()
                )));
            }
        }
        Ok(())
    }
}

impl Held {
    fn open(pin: &Path, program: &str) -> Result<Self> {
        let what = || format!("open {}", pin.display());
        let link = FdLink::from(PinnedLink::from_pin(pin).with_context(what)?);
        let id = link.info().with_context(what)?.id();
        let info = info_of(id).with_context(what)?;
        let info = File::open(&info).with_context(|| format!("open {}", info.display()))?;
        Ok(Self {
            program: program.to_owned(),
            _link: link,
            info,
            id,
        })
    }

    fn check(&self) -> Result<()> {
        // Longer than any link's fdinfo, which is read as a whole.
        let mut bytes = [0; 512];
        let len = self
            .info
            .read_at(&mut bytes, 0)
            .with_context(|| format!("read what the link of {} is attached to", self.program))?;
        let text = String::from_utf8_lossy(&bytes[..len]);
        if field(&text, "link_id") != Some(u64::from(self.id)) || is_detached(&text) {
            bail!(Gone(format!(
                "the program {} is no longer attached: it was detached, or its cgroup or network namespace \
                 no longer exists",
                self.program
            )));
        }
        Ok(())
    }
}

/// Returns a file's inode number. `None`: the file does not exist.
fn find(path: &Path) -> Result<Option<u64>> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(found.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("find {}", path.display())),
    }
}

fn missing(path: &Path) -> anyhow::Error {
    Gone(format!("{} does not exist", path.display())).into()
}

/// Finds the fdinfo of a link of this process: aya does not expose its descriptor.
fn info_of(id: u32) -> Result<PathBuf> {
    let directory = Path::new("/proc/self/fdinfo");
    let entries =
        fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            // Another thread has closed it since.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        if field(&text, "link_id") == Some(u64::from(id)) {
            return Ok(path);
        }
    }
    bail!("{} has no link {id}", directory.display())
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key == name).then(|| value.trim().parse().ok()).flatten()
    })
}

/// A link of a cgroup or of a network namespace outlives its target, and shows zero from then on
/// (`bpf_cgroup_link_show_fdinfo`, kernel/bpf/cgroup.c, and `bpf_netns_link_show_fdinfo`,
/// kernel/bpf/net_namespace.c).
fn is_detached(fdinfo: &str) -> bool {
    ["cgroup_id", "netns_ino"]
        .into_iter()
        .any(|name| field(fdinfo, name) == Some(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CGROUP: &str = "pos:\t0\nflags:\t02000000\nmnt_id:\t15\nino:\t1057\nlink_type:\tcgroup\n\
                          link_id:\t7\nprog_tag:\t8da0a04e1b6a2af0\nprog_id:\t31\n\
                          cgroup_id:\t1\nattach_type:\t3\n";

    #[track_caller]
    fn check(fdinfo: &str, detached: bool) {
        assert_eq!(is_detached(fdinfo), detached, "{fdinfo}");
        assert_eq!(field(fdinfo, "link_id"), Some(7));
    }

    #[test]
    fn what_a_link_was_attached_to_is_zero_when_it_is_gone() {
        check(CGROUP, false);
        check(&CGROUP.replace("cgroup_id:\t1", "cgroup_id:\t0"), true);
        let netns = CGROUP.replace("cgroup_id:\t1", "netns_ino:\t4026531840");
        check(&netns, false);
        check(&netns.replace("4026531840", "0"), true);
        // Unknown for links of other kinds.
        check(
            "link_type:\ttracing\nlink_id:\t7\nattach_type:\t24\n",
            false,
        );
    }
}
