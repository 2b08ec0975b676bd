//! A connection of either kind, as both directions share it.

use std::{
    io,
    os::fd::{AsRawFd as _, RawFd},
};

use bytes::{Buf, BufMut as _};
use nix::sys::socket;
use tokio::{
    io::Interest,
    net::{TcpStream, UnixStream},
};

use super::buffers::Buffer;

/// A connection of either kind.
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
}

impl Stream {
    /// Waits until there is something to read.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.readable().await,
            Self::Unix(stream) => stream.readable().await,
        }
    }

    /// Reads into an empty buffer, up to its capacity. Zero: the end.
    pub fn try_read(&self, buffer: &mut Buffer) -> io::Result<usize> {
        let room = buffer.size();
        // Reclaims the written part at its front.
        buffer.bytes.reserve(room);
        let mut bytes = (&mut buffer.bytes).limit(room);
        match self {
            Self::Tcp(stream) => stream.try_read_buf(&mut bytes),
            Self::Unix(stream) => stream.try_read_buf(&mut bytes),
        }
    }

    /// Reads what fits. Zero: the end.
    pub fn try_read_bytes(&self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(bytes),
            Self::Unix(stream) => stream.try_read(bytes),
        }
    }

    /// How much there is to read, at most one byte, which stays. Zero: the end.
    pub fn peek(&self) -> io::Result<usize> {
        let peek = || {
            let peeked = socket::recv(self.descriptor(), &mut [0], socket::MsgFlags::MSG_PEEK);
            Ok(peeked?)
        };
        match self {
            Self::Tcp(stream) => stream.try_io(Interest::READABLE, peek),
            Self::Unix(stream) => stream.try_io(Interest::READABLE, peek),
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

    /// Writes all of the buffer, which is empty then.
    pub async fn write_all(&self, buffer: &mut impl Buf) -> io::Result<()> {
        while buffer.has_remaining() {
            match self.try_write(buffer.chunk()) {
                Ok(written) => buffer.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
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
