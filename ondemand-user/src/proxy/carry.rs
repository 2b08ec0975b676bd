//! Carries one connection between its client and the backend.

use std::{
    io,
    os::fd::{AsRawFd as _, RawFd},
};

use bytes::{Buf, BufMut as _};
use nix::sys::socket;
use tokio::{
    io::Interest,
    net::{TcpStream, UnixStream},
    task::coop::consume_budget,
};

use super::{
    backend::Backend,
    buffers::{Buffer, LARGEST, SMALLEST},
    first::{self, Opened},
    source::Ends,
};

/// A connection of either kind.
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
}

/// Carries data in both directions until both have ended.
pub async fn carry(client: Stream, ends: Option<Ends>, backend: &Backend) {
    client.send_at_once();
    let carried = async {
        let opened = if backend.is_starting() {
            first::open(&client, ends, backend).await?
        } else {
            Opened::new(backend.connect(ends).await?)
        };
        let server = opened.server;
        let to_server = async {
            server.write_all(&mut opened.rest.as_slice()).await?;
            if opened.ended {
                server.end()
            } else {
                one_way(&client, &server).await
            }
        };
        let carried = tokio::try_join!(to_server, one_way(&server, &client));
        carried.inspect_err(|_| server.reset_at_close())
    };
    if let Err(error) = carried.await {
        log::debug!("a connection was aborted: {error}");
        // A truncated response must not look complete.
        client.reset_at_close();
    }
}

/// Carries bytes until `from` ends, and then ends `to` in this direction.
async fn one_way(from: &Stream, to: &Stream) -> io::Result<()> {
    let mut size = SMALLEST;
    loop {
        from.readable().await?;
        let mut buffer = Buffer::take(size);
        loop {
            match from.try_read(&mut buffer) {
                Ok(0) => return to.end(),
                Ok(read) if read == buffer.size() => size = (size * 2).min(LARGEST),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
            to.write_all(&mut buffer.bytes).await?;
            // A connection with much data must not block the others.
            consume_budget().await;
            if buffer.size() < size {
                buffer = Buffer::take(size);
            }
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

    /// Reads into an empty buffer, up to its capacity. Zero: the end.
    fn try_read(&self, buffer: &mut Buffer) -> io::Result<usize> {
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
    async fn write_all(&self, buffer: &mut impl Buf) -> io::Result<()> {
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

    fn reset_at_close(&self) {
        if let Self::Tcp(stream) = self {
            // It is closed in any case.
            let _ = stream.set_zero_linger();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use ondemand_core::config::Endpoint;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        task::JoinHandle,
        time::Instant,
    };

    use super::*;
    use crate::proxy::backend::PAUSE;

    /// A listener and its address.
    async fn listen() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    fn carrying(accepted: (TcpStream, SocketAddr), to: SocketAddr) -> JoinHandle<()> {
        let (client, peer) = accepted;
        let arrived = client.local_addr().unwrap();
        let backend = Backend::new("test", Endpoint::Tcp(to), Instant::now());
        tokio::spawn(async move {
            carry(Stream::Tcp(client), Some(Ends { arrived, peer }), &backend).await;
        })
    }

    /// A client whose connection is carried to the second stream.
    async fn carried() -> (TcpStream, TcpStream) {
        let ((front, at), (back, to)) = (listen().await, listen().await);
        let client = TcpStream::connect(at).await.unwrap();
        carrying(front.accept().await.unwrap(), to);
        let (server, _) = back.accept().await.unwrap();
        (client, server)
    }

    #[tokio::test]
    async fn a_client_that_half_closes_gets_its_answer() {
        let (mut client, mut server) = carried().await;
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut text = String::new();
        server.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "question");
        server.write_all(&[b'x'; 1 << 20]).await.unwrap();
        drop(server);
        let mut answer = Vec::new();
        assert_eq!(client.read_to_end(&mut answer).await.unwrap(), 1 << 20);
    }

    #[tokio::test]
    async fn what_is_cut_off_is_not_taken_for_the_whole() {
        let (mut client, mut server) = carried().await;
        server.write_all(b"half of ").await.unwrap();
        client.read_exact(&mut [0; 8]).await.unwrap();
        server.set_zero_linger().unwrap();
        drop(server);
        let error = client.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_backend_that_listens_again_soon_is_waited_for() {
        let ((front, at), (back, to)) = (listen().await, listen().await);
        drop(back);
        let mut client = TcpStream::connect(at).await.unwrap();
        let mut carrying = carrying(front.accept().await.unwrap(), to);
        // It does not end meanwhile.
        let ended = tokio::time::timeout(3 * PAUSE, &mut carrying).await;
        assert!(ended.is_err(), "{ended:?}");
        let back = TcpListener::bind(to).await.unwrap();
        let (mut server, _) = back.accept().await.unwrap();
        server.write_all(b"there").await.unwrap();
        client.read_exact(&mut [0; 5]).await.unwrap();
    }
}
