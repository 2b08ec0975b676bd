//! The agent's connection for its callers: apart from the one over which it speaks to systemd, so that no
//! caller can use up what the bus allows that one, and with a limit for what a caller can make it hold in
//! memory. The bus passes on messages of up to 128 MiB.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};
use zbus::{
    Address, Connection,
    address::transport::{Transport, UnixSocket},
    connection::{
        Builder,
        socket::{ReadHalf, Socket, Split, WriteHalf},
    },
    export::async_trait::async_trait,
};

/// The fixed part of a header (D-Bus specification, "Message Format"), with the length of the fields behind
/// it. Bytes.
const HEADER: usize = 16;
/// The longest body, and the longest header, that is read: no method takes more than a name. Bytes.
const LONGEST: u32 = 64 << 10;
/// What is read at once of what is not kept. Bytes.
const SCRAP: usize = 16 << 10;

/// Connects to the system bus.
///
/// # Errors
///
/// There is none.
pub(super) async fn connect() -> Result<Connection> {
    let address = Address::system().context("find the system bus")?;
    let path = match address.transport() {
        Transport::Unix(unix) => match unix.path() {
            UnixSocket::File(path) => Some(path.clone()),
            _ => None,
        },
        _ => None,
    };
    let builder = match path {
        Some(path) => {
            let stream = UnixStream::connect(&path).await;
            let stream = stream.with_context(|| format!("connect to {}", path.display()))?;
            Builder::socket(Limited(stream))
        }
        // Not a system bus as distributions have it.
        None => Builder::system(),
    };
    builder.build().await.context("connect to the system bus")
}

/// A connection whose messages are limited.
struct Limited(UnixStream);

impl Socket for Limited {
    type ReadHalf = Reader;
    type WriteHalf = Writer;

    fn split(self) -> Split<Reader, Writer> {
        let (read, write) = self.0.into_split();
        Split::new(Reader::new(read), Writer(write))
    }
}

/// Reads messages, without the bodies of those that are too long: an empty body is one that no method
/// takes, so the caller gets an error.
#[derive(Debug)]
struct Reader {
    stream: OwnedReadHalf,
    /// What is read and not passed on yet.
    ready: Vec<u8>,
    /// Bytes of the present message that are still to be passed on.
    wanted: u64,
    /// Bytes that are to be dropped after these.
    dropped: u64,
}

impl Reader {
    fn new(stream: OwnedReadHalf) -> Self {
        Self {
            stream,
            ready: Vec::new(),
            wanted: 0,
            dropped: 0,
        }
    }

    /// Reads the begin of a message, or a line of the authentication before the first one. Returns false at
    /// the stream's end.
    async fn begin(&mut self) -> io::Result<bool> {
        let mut header = [0; HEADER];
        let (first, rest) = header.split_at_mut(1);
        if self.stream.read(first).await? == 0 {
            return Ok(false);
        }
        // The authentication's lines begin with a capital letter, a message with its byte order.
        let is_big = match first {
            [b'l'] => false,
            [b'B'] => true,
            _ => {
                self.ready.extend(&*first);
                while self.ready.last() != Some(&b'\n') && self.ready.len() < HEADER * SCRAP {
                    self.ready.push(self.stream.read_u8().await?);
                }
                return Ok(true);
            }
        };
        self.stream.read_exact(rest).await?;
        let number = |at: usize| {
            let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
            match is_big {
                true => u32::from_be_bytes(bytes),
                false => u32::from_le_bytes(bytes),
            }
        };
        let (body, fields) = (number(4), number(12));
        // The body begins at a multiple of eight.
        let fields_with_padding = u64::from(fields).next_multiple_of(8);
        if fields > LONGEST {
            self.dropped = fields_with_padding + u64::from(body);
            return Ok(true);
        }
        self.wanted = fields_with_padding;
        if body > LONGEST {
            self.dropped = u64::from(body);
            header[4..8].fill(0);
        } else {
            self.wanted += u64::from(body);
        }
        self.ready.extend(header);
        Ok(true)
    }
}

#[async_trait]
impl ReadHalf for Reader {
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        loop {
            if !self.ready.is_empty() {
                let length = buffer.len().min(self.ready.len());
                buffer[..length].copy_from_slice(&self.ready[..length]);
                self.ready.drain(..length);
                return Ok((length, Vec::new()));
            }
            if self.wanted > 0 {
                let most = usize::try_from(self.wanted).unwrap_or(usize::MAX);
                let most = most.min(buffer.len());
                let length = self.stream.read(&mut buffer[..most]).await?;
                self.wanted -= length as u64;
                return Ok((length, Vec::new()));
            }
            while self.dropped > 0 {
                let mut scrap = [0; SCRAP];
                let most = usize::try_from(self.dropped).unwrap_or(SCRAP).min(SCRAP);
                match self.stream.read(&mut scrap[..most]).await? {
                    0 => return Ok((0, Vec::new())),
                    length => self.dropped -= length as u64,
                }
            }
            if !self.begin().await? {
                return Ok((0, Vec::new()));
            }
        }
    }
}

#[derive(Debug)]
struct Writer(OwnedWriteHalf);

#[async_trait]
impl WriteHalf for Writer {
    async fn sendmsg(&mut self, buffer: &[u8], _fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        self.0.write(buffer).await
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.0.flush().await
    }

    async fn close(&mut self) -> io::Result<()> {
        self.0.shutdown().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message with headers and a body of these lengths.
    fn message(order: u8, fields: u32, body: u32) -> Vec<u8> {
        let number = |number: u32| match order {
            b'B' => number.to_be_bytes(),
            _ => number.to_le_bytes(),
        };
        let mut bytes = vec![order, 1, 0, 1];
        bytes.extend(number(body));
        bytes.extend(number(7));
        bytes.extend(number(fields));
        bytes.resize(HEADER + fields.next_multiple_of(8) as usize, b'f');
        bytes.resize(bytes.len() + body as usize, b'b');
        bytes
    }

    /// What is passed on of `sent`, which may come in parts of any size.
    async fn passed(sent: Vec<u8>, part: usize) -> Vec<u8> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let sending = tokio::spawn(async move {
            for part in sent.chunks(part) {
                theirs.write_all(part).await.unwrap();
            }
        });
        let (read, _write) = ours.into_split();
        let mut reader = Reader::new(read);
        let mut all = Vec::new();
        let mut buffer = [0; 100];
        loop {
            let (length, _) = reader.recvmsg(&mut buffer).await.unwrap();
            if length == 0 {
                break;
            }
            all.extend(&buffer[..length]);
        }
        sending.await.unwrap();
        all
    }

    #[tokio::test]
    async fn long_bodies_are_left_out() {
        let auth = b"OK 0123\r\nAGREE_UNIX_FD\r\n".to_vec();
        for order in [b'l', b'B'] {
            let small = message(order, 21, 9);
            let none = message(order, 8, 0);
            let long = message(order, 30, LONGEST + 1);
            let monster = message(order, LONGEST + 1, 40);
            let sent = [&auth, &small, &long, &none, &monster, &small].map(|it| it.clone());
            let expected = [
                auth.clone(),
                small.clone(),
                message(order, 30, 0),
                none,
                small,
            ];
            for part in [7, 100_000] {
                let passed = passed(sent.concat(), part).await;
                assert!(
                    passed == expected.concat(),
                    "{order} {part}: {}",
                    passed.len()
                );
            }
        }
    }
}
