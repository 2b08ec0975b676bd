//! Waits for the end of the look-ups in progress.

use std::{io, time::Duration};

use nix::libc;

/// `MEMBARRIER_CMD_GLOBAL`, membarrier(2).
const GLOBAL: libc::c_int = 1;

/// Fallback: an older look-up has ended. It takes microseconds, or milliseconds on a virtual CPU
/// that was not scheduled.
pub const LONGEST: Duration = Duration::from_secs(1);

/// Waits until every look-up in progress has ended: its request socket, if any, is then in the
/// kernel's tables. Takes about one scheduler tick; blocks.
///
/// A packet is looked up and put into the tables in one RCU read-side section
/// (`ip_local_deliver_finish`, net/ipv4/ip_input.c), and this call waits for the end of all of
/// them (`synchronize_rcu`, kernel/sched/membarrier.c).
///
/// # Errors
///
/// The kernel refuses: it lacks the call, or keeps CPUs free of its ticks (`nohz_full=`).
pub fn wait_until_over() -> io::Result<()> {
    // SAFETY: the call takes two integers and accesses no memory of this process.
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
