//! The clients that wait at the sockets which systemd passed.

use std::{
    env,
    os::fd::{AsRawFd as _, BorrowedFd, RawFd},
};

use super::super::datagrams;
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::socket::{SockFlag, accept4},
    unistd::close,
};

/// The first passed descriptor (`SD_LISTEN_FDS_START`, sd_listen_fds(3)).
const FIRST: RawFd = 3;

/// Inherited listening sockets. They are only polled here: the proxy takes them over.
pub struct Clients {
    sockets: Vec<RawFd>,
    /// Those at which datagrams wait.
    datagrams: Vec<RawFd>,
}

impl Clients {
    /// The sockets that systemd passed to this process, if any.
    pub fn inherited() -> Self {
        let variable = |name| env::var(name).ok();
        let count = passed(
            variable("LISTEN_PID").as_deref(),
            variable("LISTEN_FDS").as_deref(),
            std::process::id(),
        );
        let (datagrams, sockets) = (FIRST..FIRST + count).partition(|fd| datagrams::is_front(*fd));
        Self { sockets, datagrams }
    }

    /// None.
    pub fn none() -> Self {
        Self {
            sockets: Vec::new(),
            datagrams: Vec::new(),
        }
    }

    /// Their descriptors.
    pub fn sockets(&self) -> &[RawFd] {
        &self.sockets
    }

    /// The descriptors of the sockets at which datagrams wait.
    pub fn datagrams(&self) -> &[RawFd] {
        &self.datagrams
    }

    /// Accepts and closes all waiting connections, and drops the datagrams; returns the number of both.
    pub fn let_go(&self) -> [u64; 2] {
        let datagrams = self
            .datagrams
            .iter()
            .map(|socket| datagrams::drop_all(*socket));
        [self.close(), datagrams.sum()]
    }

    fn close(&self) -> u64 {
        self.sockets.iter().map(|socket| drain(*socket)).sum()
    }
}

/// The number of descriptors passed to this process.
fn passed(pid: Option<&str>, count: Option<&str>, this: u32) -> RawFd {
    let ours = pid.and_then(|pid| pid.parse().ok()) == Some(this);
    let count = count.and_then(|count| count.parse().ok()).unwrap_or(0);
    if ours { RawFd::max(count, 0) } else { 0 }
}

fn drain(socket: RawFd) -> u64 {
    // SAFETY: systemd passed this descriptor to this process, and nothing here closes it.
    let listener = unsafe { BorrowedFd::borrow_raw(socket) };
    // accept(2) must not block. Nothing else uses the socket after this: the process exits, and
    // PID 1 sets its own flags when it polls.
    let Ok(flags) = fcntl(listener, FcntlArg::F_GETFL) else {
        return 0;
    };
    let flags = OFlag::from_bits_retain(flags);
    if fcntl(listener, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).is_err() {
        return 0;
    }
    let mut count = 0;
    while let Ok(client) = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
        // Data that it sent is not read: a reset reports this to the client.
        let _ = close(client);
        count += 1;
    }
    // The flag belongs to the open file, which PID 1 shares.
    let _ = fcntl(listener, FcntlArg::F_SETFL(flags));
    count
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read as _,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[test]
    fn only_what_was_passed_to_this_process_is_taken() {
        assert_eq!(passed(Some("7"), Some("2"), 7), 2);
        assert_eq!(passed(Some("8"), Some("2"), 7), 0);
        assert_eq!(passed(None, Some("2"), 7), 0);
        assert_eq!(passed(Some("7"), None, 7), 0);
        assert_eq!(passed(Some("7"), Some("-3"), 7), 0);
        assert_eq!(passed(Some("x"), Some("y"), 7), 0);
    }

    #[test]
    fn waiting_clients_are_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut clients: Vec<_> = (0..5)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        let inherited = Clients {
            sockets: vec![listener.as_raw_fd()],
            datagrams: Vec::new(),
        };
        assert_eq!(inherited.let_go(), [5, 0]);
        assert_eq!(inherited.let_go(), [0, 0]);
        for client in &mut clients {
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
        }
        // The next client finds the socket unchanged.
        let flags = OFlag::from_bits_retain(fcntl(&listener, FcntlArg::F_GETFL).unwrap());
        assert!(!flags.contains(OFlag::O_NONBLOCK));
    }
}
