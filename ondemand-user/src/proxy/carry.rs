//! Carries one connection between its client and the backend.

use std::io;

use super::{
    backend::Backend,
    first::{self, Opened},
    one_way::one_way,
    source::Ends,
    stream::Stream,
};

/// Carries data in both directions until both have ended.
pub async fn carry(client: Stream, ends: Option<Ends>, backend: &Backend) {
    client.send_at_once();
    let carried = async {
        // Connecting takes more memory than carrying, which may go on for days.
        let opened = Box::pin(open(&client, ends, backend)).await?;
        let Opened {
            server,
            rest,
            ended,
        } = opened;
        let to_server = async {
            server.write_all(rest).await?;
            if ended {
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

async fn open(client: &Stream, ends: Option<Ends>, backend: &Backend) -> io::Result<Opened> {
    if backend.is_starting() {
        first::open(client, ends, backend).await
    } else {
        Ok(Opened::new(backend.connect(ends).await?))
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use ondemand_core::config::Endpoint;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
        task::JoinHandle,
        time::Instant,
    };

    use super::*;
    use crate::kernel::sockets::listening::Application;
    use crate::proxy::{backend::PAUSE, stranger::Guard};

    /// A listener and its address.
    async fn listen() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    fn carrying(accepted: (TcpStream, SocketAddr), to: SocketAddr) -> JoinHandle<()> {
        let (client, peer) = accepted;
        let arrived = client.local_addr().unwrap();
        let endpoint = Endpoint::Tcp(to);
        let guard = Guard::new("test.service", &endpoint);
        let application = Application {
            backend: endpoint,
            own: Vec::new(),
        };
        let backend = Backend::new("test", application, guard, Instant::now());
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
