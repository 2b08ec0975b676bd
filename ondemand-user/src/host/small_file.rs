//! Reads small files, of which there are thousands.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use nix::fcntl::OFlag;

/// What most unit files and records are shorter than. Bytes.
const USUAL: usize = 4096;

/// Reads the file at `path`, or its first `most` bytes. Three system calls for a short one, where
/// [`std::fs::read`] has five. A pipe is not waited for.
///
/// # Errors
///
/// It cannot be opened or read.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let mut file = File::options()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)?;
    let mut bytes = vec![0; USUAL];
    let length = file.read(&mut bytes)?;
    bytes.truncate(length);
    // A regular file is read as far as there is room, unless it ends.
    if length == USUAL {
        file.take(most.saturating_sub(USUAL as u64))
            .read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn short_and_long_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        for length in [0, 1, USUAL - 1, USUAL, USUAL + 1, 3 * USUAL] {
            let bytes = vec![b'x'; length];
            fs::write(&path, &bytes).unwrap();
            assert_eq!(read(&path, 1 << 20).unwrap(), bytes);
        }
        assert_eq!(read(&path, 2 * USUAL as u64).unwrap().len(), 2 * USUAL);
        assert!(read(directory.path(), 1).is_err());
        assert!(read(&path.with_file_name("none"), 1).is_err());
        // Nobody writes to it.
        let pipe = path.with_file_name("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read(&pipe, 1).unwrap(), b"");
    }
}
