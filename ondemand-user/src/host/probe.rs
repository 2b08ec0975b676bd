//! Asks an application whether it is ready, as `ready` of the configuration says. Its time and its memory are bounded,
//! whatever the application answers.

mod tls;

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

use ondemand_core::{
    config::{By, Ready},
    probing::{self, ATTEMPT, Head, LASTS, MOST_HEAD, NotYet},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

pub use tls::{is_untrusted, trusted};

/// A question before its connection is made.
pub struct Question {
    socket: TcpSocket,
    /// Where the connection will come from, if that is known: the application is on this host.
    pub from: Option<SocketAddr>,
}

impl Question {
    /// Makes the socket.
    ///
    /// # Errors
    ///
    /// There is no socket, port or route: the application cannot be asked.
    pub fn new(ready: &Ready) -> Result<Self, NotYet> {
        let to = ready.address;
        let make = || {
            let socket = match to {
                SocketAddr::V4(_) => TcpSocket::new_v4()?,
                SocketAddr::V6(_) => TcpSocket::new_v6()?,
            };
            let from = match source(to)? {
                Some(source) => {
                    socket.bind(SocketAddr::new(source, 0))?;
                    Some(socket.local_addr()?)
                }
                None => None,
            };
            Ok(Self { socket, from })
        };
        make().map_err(|error: io::Error| failed(&error))
    }

    /// Asks.
    ///
    /// # Errors
    ///
    /// The application is not ready.
    pub async fn ask(self, ready: &Ready) -> Result<(), NotYet> {
        let asked = async {
            let connected = self.socket.connect(ready.address).await;
            let mut stream = connected.map_err(|error| failed(&error))?;
            match &ready.by {
                By::Connect => lasts(&mut stream).await,
                By::Http {
                    tls,
                    host,
                    path,
                    status,
                } => {
                    let answer = if *tls {
                        let mut stream = tls::handshake(stream, ready.address).await?;
                        get(&mut stream, host, path).await
                    } else {
                        get(&mut stream, host, path).await
                    };
                    let (code, location) = answer?;
                    probing::judge(code, location.as_deref(), status)
                }
            }
        };
        let seconds = ATTEMPT.as_secs();
        let in_time = timeout(ATTEMPT, asked).await;
        in_time.unwrap_or_else(|_| Err(format!("does not answer within {seconds} s")))
    }
}

/// Asks with a connection that is counted like any other.
///
/// # Errors
///
/// The application is not ready.
pub async fn ask(ready: &Ready) -> Result<(), NotYet> {
    Question::new(ready)?.ask(ready).await
}

/// An application that is not ready may take a connection and reset or close it.
async fn lasts(stream: &mut TcpStream) -> Result<(), NotYet> {
    match timeout(LASTS, stream.read(&mut [0])).await {
        Ok(Ok(0)) => Err("closes connections at once".into()),
        Ok(Err(error)) => Err(failed(&error)),
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}

/// Sends a request, and returns the status and where it redirects to. The body is not read.
async fn get(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    host: &str,
    path: &str,
) -> Result<(u16, Option<String>), NotYet> {
    let request = probing::request(host, path);
    let sent = stream.write_all(request.as_bytes()).await;
    sent.map_err(|error| failed(&error))?;
    let mut bytes = Vec::new();
    loop {
        let mut chunk = [0; 2048];
        let room = (MOST_HEAD - bytes.len()).min(chunk.len());
        let read = stream.read(&mut chunk[..room]).await;
        let read = read.map_err(|error| failed(&error))?;
        bytes.extend_from_slice(&chunk[..read]);
        match probing::head(&bytes) {
            Head::Status(code, location) => return Ok((code, location)),
            Head::Garbage(why) => return Err(why),
            Head::Unfinished if read == 0 => {
                return Err("closes connections without an answer".into());
            }
            Head::Unfinished => {}
        }
    }
}

fn failed(error: &io::Error) -> NotYet {
    if let Some(why) = tls::explain(error) {
        return why;
    }
    match error.kind() {
        ErrorKind::ConnectionRefused => "refuses connections".into(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => "resets connections".into(),
        _ => format!("cannot be reached: {error}"),
    }
}

/// The address of this host from which it is connected to. `None`: it is on another host.
///
/// # Errors
///
/// There is no route.
fn source(to: SocketAddr) -> io::Result<Option<IpAddr>> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // A UDP socket has a route, and sends nothing.
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    let source = socket.local_addr()?.ip();
    // To its own addresses a host connects from loopback, or from the address itself.
    Ok((source.is_loopback() || source == to.ip()).then_some(source))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use tokio::net::TcpListener;

    use super::*;

    async fn application() -> (TcpListener, Ready) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, format!("http://{address}/x").parse().unwrap())
    }

    /// One that sends these bytes again and again, and reads nothing more.
    async fn answers(bytes: &'static [u8], times: usize) -> Result<(), NotYet> {
        let (listener, ready) = application().await;
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 512];
            let read = stream.read(&mut request).await.unwrap();
            let text = String::from_utf8_lossy(&request[..read]).into_owned();
            for _ in 0..times {
                if stream.write_all(bytes).await.is_err() {
                    break;
                }
            }
            text
        });
        let answer = ask(&ready).await;
        let text = task.await.unwrap();
        assert!(
            text.starts_with("GET /x HTTP/1.1\r\nHost: 127.0.0.1:"),
            "{text}"
        );
        answer
    }

    #[tokio::test]
    async fn answers_are_judged() {
        let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n";
        assert_eq!(answers(ok, 1).await, Ok(()));
        let not_yet = answers(b"HTTP/1.1 503 Loading\r\n\r\n", 1)
            .await
            .unwrap_err();
        assert!(not_yet.contains("answers 503"), "{not_yet}");
        let garbage = answers(b"\xff\xfe\x00garbage", 1).await.unwrap_err();
        assert!(garbage.contains("not HTTP"), "{garbage}");
        // Megabytes: what is read is bounded, and so is the time.
        let start = Instant::now();
        let endless = answers(
            b"HTTP/1.1 200 OK\r\nA: bbbbbbbbbbbbbbbbbbbbbbbbbb",
            1_000_000,
        )
        .await;
        let endless = endless.unwrap_err();
        assert!(endless.contains("16 KiB"), "{endless}");
        assert!(start.elapsed() < ATTEMPT);
        let closed = answers(b"", 1).await.unwrap_err();
        assert!(closed.contains("without an answer"), "{closed}");
    }

    #[tokio::test]
    async fn silence_has_an_end() {
        let (listener, ready) = application().await;
        let silent = tokio::spawn(async move {
            let _accepted = listener.accept().await.unwrap();
            std::future::pending::<()>().await;
        });
        let start = Instant::now();
        let answer = ask(&ready).await.unwrap_err();
        assert!(answer.contains("does not answer within"), "{answer}");
        assert!(start.elapsed() < ATTEMPT + Duration::from_secs(2));
        silent.abort();
    }

    #[tokio::test]
    async fn a_connection_must_last() {
        let (listener, http) = application().await;
        let ready = Ready {
            by: By::Connect,
            ..http
        };
        let (answer, accepted) = tokio::join!(ask(&ready), listener.accept());
        drop(accepted);
        assert_eq!(answer, Ok(()));
        let ask_closing = |reset: bool| {
            let (ready, listener) = (&ready, &listener);
            async move {
                let accept = async {
                    let (stream, _) = listener.accept().await.unwrap();
                    if reset {
                        stream.set_zero_linger().unwrap();
                    }
                };
                tokio::join!(ask(ready), accept).0.unwrap_err()
            }
        };
        assert!(ask_closing(false).await.contains("closes"));
        assert!(ask_closing(true).await.contains("resets"));
        drop(listener);
        assert!(ask(&ready).await.unwrap_err().contains("refuses"));
    }

    #[test]
    fn connections_on_this_host_have_a_known_source() {
        let to = |text: &str| source(text.parse().unwrap()).unwrap();
        assert_eq!(to("127.0.0.1:80"), Some("127.0.0.1".parse().unwrap()));
    }
}
