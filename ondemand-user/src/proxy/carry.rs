//! One connection, carried from its client to the backend and back.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use ondemand_core::config::Endpoint;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes},
    net::{TcpStream, UnixStream},
    time::Instant,
};

use super::is_absent;

/// Bytes of the buffer for each direction. Pages that nothing was read into take no memory. A download
/// ran at 586 MB/s with 32 KiB, 702 with 128 and 770 with 256 (medians of 4).
const BUFFER: usize = 128 * 1024;
/// How long to look for a backend that has just been there: it may be restarting.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// A connection of either kind.
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
}

/// Carries everything in both directions until both have ended.
pub async fn carry(mut client: Stream, backend: Endpoint) {
    client.send_at_once();
    let carried = async {
        let mut server = connect(&backend).await?;
        server.send_at_once();
        let copied = copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await;
        copied.inspect_err(|_| server.reset_at_close())
    };
    if let Err(error) = carried.await {
        log::debug!("a connection broke off: {error}");
        // Nobody shall take what was cut off for the whole.
        client.reset_at_close();
    }
}

async fn connect(backend: &Endpoint) -> io::Result<Stream> {
    let until = Instant::now() + PATIENCE;
    loop {
        let connected = match backend {
            Endpoint::Tcp(address) => TcpStream::connect(address).await.map(Stream::Tcp),
            Endpoint::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
        };
        match connected {
            Err(error) if is_absent(&error, backend) && Instant::now() < until => {
                tokio::time::sleep(PAUSE).await;
            }
            other => return other,
        }
    }
}

impl Stream {
    /// Without it, the last part of an answer waits for the client's next ACK (tcp(7),
    /// `TCP_NODELAY`).
    fn send_at_once(&self) {
        if let Self::Tcp(stream) = self {
            // It would only be slower.
            let _ = stream.set_nodelay(true);
        }
    }

    fn reset_at_close(&self) {
        if let Self::Tcp(stream) = self {
            // It is closed all the same.
            let _ = stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// A listener and its address.
    async fn listen() -> (TcpListener, std::net::SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// A client whose connection is being carried to the second stream.
    async fn carried() -> (TcpStream, TcpStream) {
        let ((front, at), (back, to)) = (listen().await, listen().await);
        let client = TcpStream::connect(at).await.unwrap();
        let (accepted, _) = front.accept().await.unwrap();
        tokio::spawn(carry(Stream::Tcp(accepted), Endpoint::Tcp(to)));
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
        let (accepted, _) = front.accept().await.unwrap();
        let carrying = tokio::spawn(carry(Stream::Tcp(accepted), Endpoint::Tcp(to)));
        tokio::time::sleep(3 * PAUSE).await;
        assert!(!carrying.is_finished());
        let back = TcpListener::bind(to).await.unwrap();
        let (mut server, _) = back.accept().await.unwrap();
        server.write_all(b"there").await.unwrap();
        client.read_exact(&mut [0; 5]).await.unwrap();
    }
}
