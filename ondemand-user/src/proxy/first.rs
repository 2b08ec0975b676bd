//! The first connections of a start. A listener says little about whether the application is ready: one
//! that refuses, resets or closes a connection before it has sent a byte is taken for not ready yet,
//! until `start_timeout` is over.
//!
//! What the client has sent is kept, and sent again on each new connection: an application that takes
//! requests and closes without a word gets them more than once. After the first byte of the application
//! on any connection, nothing is sent twice for clients that come later.

use std::{
    io,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{
    backend::{Backend, PAUSE},
    silence,
    source::Ends,
    stream::Stream,
};

/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// What is kept of a client, in bytes. One that sends more before the application answers is not tried
/// again.
const MOST_KEPT: usize = 64 * 1024;
/// What is kept of all clients.
const BUDGET: usize = 16 * 1024 * 1024;

/// What is read at once, in bytes.
const CHUNK: usize = 4096;

static KEPT: AtomicUsize = AtomicUsize::new(0);

/// A connection to the application.
pub struct Opened {
    /// The connection.
    pub server: Stream,
    /// What the client has sent and the application has not received yet.
    pub rest: Vec<u8>,
    /// Whether the client has ended.
    pub ended: bool,
}

impl Opened {
    /// One with nothing sent on it yet.
    pub fn new(server: Stream) -> Self {
        server.send_at_once();
        Self {
            server,
            rest: Vec::new(),
            ended: false,
        }
    }
}

/// What became of a connection.
#[derive(Debug)]
enum Seen {
    /// The application answers.
    Answer,
    /// There is nothing more to wait for: both sides have ended, or the client sends more than is kept.
    Enough,
    /// The application closed it without a word.
    Closed,
    /// The application refused or aborted it.
    Failed(io::Error),
}

/// Connects again and again until the application sends a byte.
///
/// # Errors
///
/// The client aborted the connection, or the application was not ready in time.
pub async fn open(client: &Stream, ends: Option<Ends>, backend: &Backend) -> io::Result<Opened> {
    let start = Instant::now();
    let mut kept = Kept::default();
    let mut pause = PAUSE;
    loop {
        let (server, seen) = match backend.try_connect(ends).await {
            Ok(server) => {
                server.send_at_once();
                let seen = converse(client, &server, &mut kept).await?;
                (Some(server), seen)
            }
            Err(error) if backend.is_not_there(&error) => (None, Seen::Failed(error)),
            Err(error) => return Err(error),
        };
        let is_over = Instant::now() >= backend.starting_until();
        let why = match (&seen, server) {
            (Seen::Answer, Some(server)) => {
                backend.answers(start.elapsed());
                return Ok(kept.opened(server));
            }
            (Seen::Enough, Some(server)) => return Ok(kept.opened(server)),
            (Seen::Closed, Some(server)) if is_over => {
                backend.gave_up(start.elapsed(), "it closes connections");
                return Ok(kept.opened(server));
            }
            (Seen::Failed(error), _) => error.to_string(),
            _ => "it closes connections".to_owned(),
        };
        if let Seen::Failed(error) = seen
            && is_over
        {
            backend.gave_up(start.elapsed(), &why);
            return Err(error);
        }
        backend.is_late(start.elapsed(), &why);
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Sends all that the client has sent and sends, until the application does something.
///
/// # Errors
///
/// The client aborted its connection.
async fn converse(client: &Stream, server: &Stream, kept: &mut Kept) -> io::Result<Seen> {
    kept.written = 0;
    let mut end_passed = false;
    loop {
        let all_written = kept.written == kept.bytes.len();
        if all_written && kept.ended && !end_passed {
            if let Err(error) = server.end() {
                return Ok(Seen::Failed(error));
            }
            end_passed = true;
        }
        let done = tokio::select! {
            // What the application does decides, whatever the client has sent meanwhile.
            biased;
            readable = server.readable() => match readable.and_then(|()| server.try_peek(&mut [0])) {
                Ok(0) if end_passed => return Ok(Seen::Enough),
                Ok(0) => return Ok(Seen::Closed),
                Ok(_) => return Ok(Seen::Answer),
                Err(error) => Err(error),
            },
            writable = server.writable(), if !all_written => {
                let written = writable.and_then(|()| server.try_write(&kept.bytes[kept.written..]));
                written.map(|count| kept.written += count)
            }
            readable = client.readable(), if all_written && !kept.ended => {
                readable?;
                match kept.read(client) {
                    Ok(true) => Ok(()),
                    Ok(false) => return Ok(Seen::Enough),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
                    Err(error) => return Err(error),
                }
            }
        };
        match done {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                return Ok(Seen::Failed(error));
            }
            _ => {}
        }
    }
}

/// What a client has sent.
#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    /// How much of it is written to the connection of the moment.
    written: usize,
    /// The client has ended after it.
    ended: bool,
}

impl Kept {
    /// Reads more of the client. `false`: it is not read, because too much is kept.
    fn read(&mut self, client: &Stream) -> io::Result<bool> {
        let mut chunk = [0; CHUNK];
        if self.bytes.len() + CHUNK > MOST_KEPT || KEPT.load(Ordering::Relaxed) > BUDGET {
            return Ok(false);
        }
        let read = client.try_read_bytes(&mut chunk)?;
        silence::ends();
        KEPT.fetch_add(read, Ordering::Relaxed);
        self.bytes.extend_from_slice(&chunk[..read]);
        self.ended = read == 0;
        Ok(true)
    }

    fn opened(&self, server: Stream) -> Opened {
        Opened {
            server,
            rest: self.bytes[self.written..].to_vec(),
            ended: self.ended,
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        KEPT.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ondemand_core::config::Endpoint;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::kernel::sockets::listening::Application;
    use crate::proxy::carry::carry;
    use crate::proxy::stranger::Guard;

    const LONG: Duration = Duration::from_secs(60);

    /// An application, and a client that is carried to it.
    struct Pair {
        application: TcpListener,
        client: TcpStream,
        backend: Arc<Backend>,
    }

    async fn pair(patience: Duration) -> Pair {
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let application = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = Endpoint::Tcp(application.local_addr().unwrap());
        let guard = Guard::new("test.service", &to);
        let place = Application {
            backend: to,
            own: Vec::new(),
        };
        let backend = Arc::new(Backend::new(
            "test",
            place,
            guard,
            Instant::now() + patience,
        ));
        let address = front.local_addr().unwrap();
        let client = TcpStream::connect(address).await.unwrap();
        let (accepted, _) = front.accept().await.unwrap();
        let carried = Arc::clone(&backend);
        tokio::spawn(async move { carry(Stream::Tcp(accepted), None, &carried).await });
        Pair {
            application,
            client,
            backend,
        }
    }

    impl Pair {
        async fn accept(&self) -> TcpStream {
            self.application.accept().await.unwrap().0
        }

        /// No further connection is made.
        async fn is_left_alone(&self) {
            let more = tokio::time::timeout(3 * LONGEST_PAUSE, self.accept()).await;
            assert!(more.is_err(), "{more:?}");
        }
    }

    async fn read(stream: &mut TcpStream, length: usize) -> String {
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).await.unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[tokio::test]
    async fn what_was_sent_is_sent_again_until_there_is_an_answer() {
        let mut pair = pair(LONG).await;
        drop(pair.accept().await); // before a byte
        pair.client.write_all(b"ques").await.unwrap();
        let mut second = pair.accept().await;
        assert_eq!(read(&mut second, 4).await, "ques");
        second.set_zero_linger().unwrap();
        drop(second); // reset
        let mut third = pair.accept().await;
        assert_eq!(read(&mut third, 4).await, "ques");
        drop(third); // closed in order, and the client waits
        pair.client.write_all(b"tion").await.unwrap();
        let mut fourth = pair.accept().await;
        assert_eq!(read(&mut fourth, 8).await, "question");
        fourth.write_all(b"answer").await.unwrap();
        assert_eq!(read(&mut pair.client, 6).await, "answer");
        assert!(!pair.backend.is_starting());
        // From now on an end is an end.
        drop(fourth);
        assert_eq!(pair.client.read(&mut [0]).await.unwrap(), 0);
        pair.is_left_alone().await;
    }

    #[tokio::test]
    async fn a_client_that_has_ended_is_sent_once_to_one_that_says_nothing() {
        let mut pair = pair(LONG).await;
        pair.client.write_all(b"log line").await.unwrap();
        pair.client.shutdown().await.unwrap();
        let mut text = String::new();
        let mut sink = pair.accept().await;
        sink.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "log line");
        drop(sink);
        assert_eq!(pair.client.read(&mut [0]).await.unwrap(), 0);
        pair.is_left_alone().await;
    }

    #[tokio::test]
    async fn more_than_is_kept_is_carried_and_not_sent_again() {
        let mut pair = pair(LONG).await;
        let upload = vec![b'u'; 3 * MOST_KEPT];
        let mut server = pair.accept().await;
        let (mut from, mut to) = pair.client.split();
        let mut received = vec![0; upload.len()];
        let (sent, got) = tokio::join!(to.write_all(&upload), server.read_exact(&mut received));
        sent.unwrap();
        got.unwrap();
        assert_eq!(received, upload);
        server.set_zero_linger().unwrap();
        drop(server);
        let error = from.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        pair.is_left_alone().await;
    }

    #[tokio::test]
    async fn patience_ends() {
        let mut pair = pair(Duration::from_millis(300)).await;
        let closing = async {
            loop {
                drop(pair.application.accept().await);
            }
        };
        let mut byte = [0];
        tokio::select! {
            () = closing => {}
            end = pair.client.read(&mut byte) => assert_eq!(end.unwrap(), 0),
        }
    }
}
