//! The agent's maps, for any program that may open the pins: their memory, and their number of
//! entries.

use std::{
    fs, io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use nix::libc;
use tests::{
    bpf::{bpf, pinned},
    process::field,
    sandbox::Sandbox,
};

// Commands and types of include/uapi/linux/bpf.h.
const MAP_GET_NEXT_KEY: libc::c_long = 4;
/// The types with a varying number of entries: hashes, with all their variants. All others are
/// arrays and buffers, which are full from the start, and socket-local storage.
const HASHES: [u32; 6] = [1, 5, 9, 10, 13, 18];

/// All maps together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Maps {
    /// How many there are.
    pub count: u32,
    /// Bytes of kernel memory, by the kernel's own account. Storage that hangs on a socket is
    /// not in it.
    pub memory: f64,
    /// Entries of the maps with a varying number of entries.
    pub entries: u64,
}

/// Looks at the maps that are pinned.
///
/// # Errors
///
/// None is, or one cannot be read.
pub fn maps(sandbox: &Sandbox) -> Result<Maps> {
    let root = sandbox.path("/sys/fs/bpf/ondemand");
    let list = |path: &Path| -> Result<Vec<_>> {
        let entries = fs::read_dir(path).with_context(|| format!("list {}", path.display()))?;
        let entries: io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.path())).collect();
        entries.with_context(|| format!("list {}", path.display()))
    };
    let mut all = Maps::default();
    for layout in list(&root)? {
        for pin in list(&layout)? {
            let look = look(&pin).with_context(|| format!("look at {}", pin.display()))?;
            if let Some((memory, entries)) = look {
                all.count += 1;
                all.memory += memory;
                all.entries += entries;
            }
        }
    }
    ensure!(all.count > 0, "no map is pinned in {}", root.display());
    Ok(all)
}

/// Bytes and entries of a map. `None`: something else is pinned there.
fn look(pin: &Path) -> Result<Option<(f64, u64)>> {
    let fd = pinned(pin)?;
    let path = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let Some(kind) = field(&text, "map_type") else {
        return Ok(None);
    };
    let number = |name| -> Result<usize> {
        let value = field(&text, name).with_context(|| format!("{name} in {path}"))?;
        value.parse().with_context(|| format!("{name} in {path}"))
    };
    let kind = kind.parse().context("the map's type")?;
    let entries = match HASHES.contains(&kind) {
        true => entries(&fd, number("key_size")?, number("max_entries")?)?,
        false => 0,
    };
    Ok(Some((number("memlock")? as f64, entries)))
}

/// Walks the keys. If entries are added and removed meanwhile, the number is approximate, and the
/// walk still ends.
fn entries(map: &OwnedFd, key_size: usize, most: usize) -> Result<u64> {
    #[repr(C)]
    struct Attributes {
        map: u32,
        pad: u32,
        key: u64,
        next: u64,
    }
    let (mut key, mut next) = (vec![0u8; key_size], vec![0u8; key_size]);
    for found in 0..=most {
        let mut attributes = Attributes {
            map: map.as_raw_fd() as u32,
            pad: 0,
            // Without a key it is the first one.
            key: if found == 0 { 0 } else { key.as_ptr() as u64 },
            next: next.as_mut_ptr() as u64,
        };
        // SAFETY: the attributes of this command; both keys are as long as the map's are.
        match unsafe { bpf(MAP_GET_NEXT_KEY, &mut attributes) } {
            Ok(_) => std::mem::swap(&mut key, &mut next),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(found as u64),
            Err(error) => return Err(error).context("read the keys"),
        }
    }
    Ok(most as u64)
}
