//! A connection of either kind, as both directions share it.

use std::{
    io,
    os::fd::{AsRawFd as _, RawFd},
};

use nix::sys::socket::{self, MsgFlags};
use tokio::{
    io::Interest,
    net::{TcpStream, UnixStream},
};

use super::source;

/// A connection of either kind.
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Self::Tcp(stream) = self {
            source::closes(stream);
        }
    }
}

impl Stream {
    /// Waits until there is something to read.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.readable().await,
            Self::Unix(stream) => stream.readable().await,
        }
    }

    /// Reads what fits. Zero: the end.
    pub fn try_read_bytes(&self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(bytes),
            Self::Unix(stream) => stream.try_read(bytes),
        }
    }

    /// Reads what fits, and leaves it there to be read again. Zero: the end.
    pub fn try_peek(&self, bytes: &mut [u8]) -> io::Result<usize> {
        self.try_receive(bytes, MsgFlags::MSG_PEEK)
    }

    /// Reads as many bytes as that, which are there. `scratch`: has room for them.
    pub fn discard(&self, count: usize, scratch: &mut [u8]) -> io::Result<()> {
        // TCP does not copy them then (tcp(7)); a Unix socket does.
        let flags = match self {
            Self::Tcp(_) => MsgFlags::MSG_TRUNC,
            Self::Unix(_) => MsgFlags::empty(),
        };
        let mut left = count;
        while left > 0 {
            match self.try_receive(&mut scratch[..left], flags)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                discarded => left -= discarded,
            }
        }
        Ok(())
    }

    fn try_receive(&self, bytes: &mut [u8], flags: MsgFlags) -> io::Result<usize> {
        let receive = || Ok(socket::recv(self.descriptor(), bytes, flags)?);
        match self {
            Self::Tcp(stream) => stream.try_io(Interest::READABLE, receive),
            Self::Unix(stream) => stream.try_io(Interest::READABLE, receive),
        }
    }

    /// Waits until something can be written.
    pub async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.writable().await,
            Self::Unix(stream) => stream.writable().await,
        }
    }

    /// Writes what fits.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
        }
    }

    /// Writes what fits, even if that takes several calls.
    pub fn try_write_all(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut written = 0;
        while written < bytes.len() {
            match self.try_write(&bytes[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    /// Writes all of it, and drops it.
    pub async fn write_all(&self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let bytes = bytes.as_ref();
        let mut written = 0;
        loop {
            written += self.try_write_all(&bytes[written..])?;
            if written == bytes.len() {
                return Ok(());
            }
            self.writable().await?;
        }
    }

    fn descriptor(&self) -> RawFd {
        match self {
            Self::Tcp(stream) => stream.as_raw_fd(),
            Self::Unix(stream) => stream.as_raw_fd(),
        }
    }

    /// The peer reads an end after what was written.
    pub fn end(&self) -> io::Result<()> {
        match socket::shutdown(self.descriptor(), socket::Shutdown::Write) {
            // The peer has closed already, and has read all that it wanted.
            Err(nix::errno::Errno::ENOTCONN) => Ok(()),
            result => Ok(result?),
        }
    }

    /// Without it, the last part of a response waits for the client's next ACK (tcp(7),
    /// `TCP_NODELAY`).
    pub fn send_at_once(&self) {
        if let Self::Tcp(stream) = self {
            // Without it the connection is only slower.
            let _ = stream.set_nodelay(true);
        }
    }

    /// The peer gets a reset instead of an end when this is dropped.
    pub fn reset_at_close(&self) {
        if let Self::Tcp(stream) = self {
            // It is closed in any case.
            let _ = stream.set_zero_linger();
        }
    }
}
