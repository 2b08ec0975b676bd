//! When the look-ups that are under way have ended.

use std::{io, time::Duration};

use nix::libc;

/// `MEMBARRIER_CMD_GLOBAL`, membarrier(2).
const GLOBAL: libc::c_int = 1;

/// A look-up that is older has ended, in doubt: it takes microseconds, on a virtual CPU that
/// was not run for a while milliseconds.
pub const LONGEST: Duration = Duration::from_secs(1);

/// Waits until every look-up that had begun has ended: its request socket is in the kernel's
/// tables, if there is to be one. Takes about as long as a scheduler tick; blocks.
///
/// A packet is looked up and put into the tables in one RCU read-side section
/// (`ip_local_deliver_finish`, net/ipv4/ip_input.c), and this call waits for the end of all of
/// them (`synchronize_rcu`, kernel/sched/membarrier.c).
///
/// # Errors
///
/// The kernel refuses: it lacks the call, or keeps CPUs free of its ticks (`nohz_full=`).
pub fn wait_until_over() -> io::Result<()> {
    // SAFETY: the call takes two integers and touches no memory of ours.
    match unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_tells() {
        super::wait_until_over().unwrap();
    }
}
