//! The first that an agent does: it opens what root has loaded, or loads it, and then gives up everything
//! that it may have had for it.

use anyhow::Result;
use nix::unistd::Gid;

use super::spool;
use crate::{
    host::{
        atomic_file,
        capabilities::{self, Keep},
        directories, identity,
    },
    kernel::{Kernel, catchers::RawSockets, maps::end_admission_of_the_last, requirements},
};

/// Opens raw sockets, the programs and the maps. Without the raw sockets no client is held. Afterwards this process has no capability, and can get none; one that was
/// root's continues as the user whose directories it uses. To be called before there is a second thread, and
/// before anything is read that another user can write.
///
/// # Errors
///
/// Like [`Kernel::open`], or the kernel refuses to drop a capability.
pub(super) fn open_and_drop() -> Result<(Kernel, Result<RawSockets>)> {
    let raw = RawSockets::open();
    let state = atomic_file::path();
    let owner = state.parent().and_then(identity::other_owner);
    let kernel = Kernel::open(owner.map_or(Gid::from_raw(0), |(_, group)| group))?;
    let keep = if requirements::demands_capability() {
        log::info!("this kernel demands CAP_BPF for bpf(2), so the agent keeps it");
        Keep::Bpf
    } else {
        Keep::None
    };
    capabilities::forbid_new(keep)?;
    if let Some((user, group)) = owner {
        // Root's agent does not read as root what that user can write.
        log::info!("continuing as the user {user}, as that is whose directories it uses");
        identity::become_owner((user, group), &directories::directory())?;
    }
    capabilities::drop_all(keep)?;
    Ok((kernel, raw))
}

/// Takes back what an agent that was killed could not. Returns whether datagrams wait at front sockets from now on.
///
/// # Errors
///
/// The programs are not loaded, or another agent runs.
pub(super) fn clean_up() -> Result<bool> {
    let (kernel, raw) = open_and_drop()?;
    end_admission_of_the_last(&kernel)?;
    if let Ok(raw) = raw
        && let Err(error) = spool::send_left(&kernel, &raw)
    {
        log::warn!("send the datagrams that the agent held: {error:#}");
    }
    Ok(kernel.lines_up())
}
