//! Connections of Unix sockets, from a sock_diag snapshot.
//!
//! No eBPF program counts them: sock_ops and the iterators see TCP only.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};

use crate::kernel::sockets::{
    listening::File,
    sock_diag::{self, UnixSocket},
};

/// The sockets at one path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// The number of listening sockets.
    pub listeners: u64,
    /// Accepted connections that the server has not closed.
    pub accepted: u64,
    /// Connections that wait to be accepted.
    pub waiting: u64,
}

impl Connections {
    /// The number of connected clients.
    pub fn open(&self) -> u64 {
        self.accepted + self.waiting
    }
}

/// Counts the sockets at each of `paths`. A path without sockets is included, with zeros.
///
/// The cost depends on the number of all Unix sockets of this network namespace.
///
/// # Errors
///
/// The kernel does not answer, or a path cannot be read.
pub fn connections<'a>(
    paths: impl IntoIterator<Item = &'a Path>,
) -> Result<HashMap<PathBuf, Connections>> {
    let paths: Vec<_> = paths.into_iter().collect();
    if paths.is_empty() {
        return Ok(HashMap::new());
    }
    let mut counts = count(&paths)?;
    // The kernel lists its sockets one after the other. A connection that is accepted during the
    // listing may appear in neither of its two places: there is no connection only if two
    // listings agree.
    if counts.values().any(|count| count.open() == 0) {
        for (path, again) in count(&paths)? {
            let first = counts.entry(path).or_default();
            if again.open() > first.open() {
                *first = again;
            }
        }
    }
    Ok(counts)
}

/// Lists and counts once.
fn count(paths: &[&Path]) -> Result<HashMap<PathBuf, Connections>> {
    let mut counts: HashMap<_, _> = paths
        .iter()
        .map(|path| (path.to_path_buf(), Connections::default()))
        .collect();
    let mut by_inode: HashMap<u32, Vec<File<'_>>> = HashMap::new();
    let mut unseen = Vec::new();
    for path in paths {
        // Without a file, connections of a former listener may remain.
        let Some(file) = File::at(path)? else {
            continue;
        };
        match file.inode() {
            Some(inode) => by_inode.entry(inode).or_default().push(file),
            None => unseen.push(*path),
        }
    }
    for socket in sock_diag::unix_sockets(false)? {
        if let Some(path) = path_of(&socket, &counts, &by_inode)
            && let Some(count) = counts.get_mut(&path)
        {
            match socket.waiting {
                Some(waiting) => {
                    count.listeners += 1;
                    count.waiting += u64::from(waiting);
                }
                None => count.accepted += 1,
            }
        }
    }
    // The listener may have bound it under another name.
    for path in unseen {
        let count = &counts[path];
        ensure!(
            count.listeners + count.open() > 0,
            "the agent's user has no access to {}; grant it access to the directories of the path",
            path.display()
        );
    }
    Ok(counts)
}

/// The path that `socket` belongs to. The name alone suffices: a connection outlives the file of
/// its listener, and one connection too many keeps a service up while one too few stops it.
fn path_of(
    socket: &UnixSocket,
    counts: &HashMap<PathBuf, Connections>,
    by_inode: &HashMap<u32, Vec<File<'_>>>,
) -> Option<PathBuf> {
    if counts.contains_key(&socket.path) {
        return Some(socket.path.clone());
    }
    let (_, inode) = socket.file?;
    let file = by_inode
        .get(&inode)?
        .iter()
        .find(|file| file.is_of(socket))?;
    Some(file.path().to_owned())
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read as _,
        os::unix::net::{UnixListener, UnixStream},
        sync::mpsc,
        thread,
    };

    use super::*;

    #[test]
    fn connections_are_counted_from_connect_to_close() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("x.sock"), dir.path().join("y.sock"));
        #[track_caller]
        fn check(paths: [&Path; 2], listeners: u64, accepted: u64, waiting: u64) {
            let counts = connections(paths).unwrap();
            assert_eq!(
                counts[paths[0]],
                Connections {
                    listeners,
                    accepted,
                    waiting
                }
            );
            assert_eq!(counts[paths[1]], Connections::default());
        }
        let paths = [path.as_path(), other.as_path()];
        check(paths, 0, 0, 0);
        let listener = UnixListener::bind(&path).unwrap();
        check(paths, 1, 0, 0);
        let first = UnixStream::connect(&path).unwrap();
        let second = UnixStream::connect(&path).unwrap();
        check(paths, 1, 0, 2);
        let (accepted, _) = listener.accept().unwrap();
        check(paths, 1, 1, 1);
        drop((first, second));
        // The server has not closed its side yet.
        check(paths, 1, 1, 1);
        drop(accepted);
        check(paths, 1, 0, 1);
        let (accepted, _) = listener.accept().unwrap();
        drop(listener);
        std::fs::remove_file(&path).unwrap();
        check(paths, 0, 1, 0);
        drop(accepted);
        check(paths, 0, 0, 0);
    }

    #[test]
    fn a_connection_that_is_accepted_during_the_look_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sock");
        // A slow listing.
        let crowd: Vec<_> = (0..500)
            .map(|n| UnixListener::bind(dir.path().join(n.to_string())).unwrap())
            .collect();
        let listener = UnixListener::bind(&path).unwrap();
        let (begin, begun) = mpsc::channel();
        let server = thread::spawn(move || {
            while begun.recv().is_ok() {
                let (mut accepted, _) = listener.accept().unwrap();
                // Until the client has disconnected.
                let _ = accepted.read(&mut [0]);
            }
        });
        for _ in 0..2_000 {
            let client = UnixStream::connect(&path).unwrap();
            begin.send(()).unwrap();
            let open = connections([path.as_path()]).unwrap()[&path].open();
            assert_ne!(open, 0);
            drop(client);
        }
        drop(begin);
        server.join().unwrap();
        drop(crowd);
    }

    #[test]
    fn nothing_to_count_is_no_error() {
        assert!(connections([]).unwrap().is_empty());
    }
}
