//! HTTP clients that report exactly how a request was lost.

use std::{
    fmt,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use nix::{
    libc,
    sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, sockopt},
};

/// How long a client waits for anything.
pub fn patience() -> Duration {
    Duration::from_secs(30) * crate::patience()
}

/// How a request was lost.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Loss {
    /// connect(2) failed.
    Connect(ErrorKind),
    /// The request could not be sent.
    Send(ErrorKind),
    /// The connection was closed before the first byte of the answer.
    Closed,
    /// The answer broke off.
    Truncated,
    /// Receiving failed.
    Receive(ErrorKind),
    /// The response was not the requested one.
    Status(String),
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The head, up to and with the empty line.
    pub head: String,
    /// Bytes of the body.
    pub body: usize,
    /// Bytes sent and received on the connection for this request.
    pub sent: u64,
    /// See `sent`.
    pub received: u64,
    /// From before connect(2), or the request's first byte on a kept connection, to the last byte.
    pub took: Duration,
}

impl Answer {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Bytes of the answer's body.
    pub download: usize,
    /// Bytes of the request's body.
    pub upload: usize,
    /// Whether the connection stays open.
    pub keep_alive: bool,
    /// Shut the sending side down behind the request.
    pub half_close: bool,
    /// More of the query: other actions of the test backend.
    pub query: &'static str,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            download: 1024,
            upload: 0,
            keep_alive: false,
            half_close: false,
            query: "",
        }
    }
}

/// CLOCK_MONOTONIC, which all processes of a machine share, in nanoseconds.
///
/// # Panics
///
/// A kernel without that clock.
pub fn monotonic_nanos() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("a clock");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// Connects.
///
/// # Errors
///
/// How it failed.
pub fn connect(address: SocketAddr) -> Result<TcpStream, Loss> {
    let stream = TcpStream::connect_timeout(&address, patience())
        .map_err(|error| Loss::Connect(error.kind()))?;
    prepare(stream)
}

/// Connects from one of several addresses of this host.
///
/// # Errors
///
/// How it failed.
pub fn connect_from(source: IpAddr, address: SocketAddr) -> Result<TcpStream, Loss> {
    let stream = open_from(source, address).map_err(|error| Loss::Connect(error.kind()))?;
    prepare(stream)
}

/// The same, with nothing set.
///
/// # Errors
///
/// It cannot be bound or connected.
pub fn open_from(source: IpAddr, address: SocketAddr) -> std::io::Result<TcpStream> {
    let family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let socket = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let source = SockaddrStorage::from(SocketAddr::new(source, 0));
    socket::bind(socket.as_raw_fd(), &source)?;
    socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(TcpStream::from(socket))
}

/// Makes the end of a connection a reset, which leaves no TIME_WAIT behind (socket(7), SO_LINGER).
///
/// # Errors
///
/// The kernel refuses the option.
pub fn reset_at_end(stream: &TcpStream) -> std::io::Result<()> {
    let at_once = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    Ok(socket::setsockopt(stream, sockopt::Linger, &at_once)?)
}

fn prepare(stream: TcpStream) -> Result<TcpStream, Loss> {
    stream
        .set_nodelay(true)
        .map_err(|error| Loss::Connect(error.kind()))?;
    stream
        .set_read_timeout(Some(patience()))
        .map_err(|error| Loss::Connect(error.kind()))?;
    stream
        .set_write_timeout(Some(patience()))
        .map_err(|error| Loss::Connect(error.kind()))?;
    Ok(stream)
}

/// One request on a connection of its own.
///
/// # Errors
///
/// How it was lost.
pub fn get(address: SocketAddr, request: Request) -> Result<Answer, Loss> {
    let start = Instant::now();
    let mut stream = connect(address)?;
    let mut answer = ask(&mut stream, request)?;
    answer.took = start.elapsed();
    Ok(answer)
}

/// One request on an open connection.
///
/// # Errors
///
/// How it was lost.
pub fn ask(stream: &mut TcpStream, request: Request) -> Result<Answer, Loss> {
    let start = Instant::now();
    let send = |error: std::io::Error| Loss::Send(error.kind());
    let head = format!(
        "POST /?{}&bytes={} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\nConnection: {}\r\n\r\n",
        request.query,
        request.download,
        request.upload,
        if request.keep_alive {
            "keep-alive"
        } else {
            "close"
        },
    );
    stream.write_all(head.as_bytes()).map_err(send)?;
    let block = [b'u'; 65_536];
    let mut left = request.upload;
    while left > 0 {
        let len = left.min(block.len());
        stream.write_all(&block[..len]).map_err(send)?;
        left -= len;
    }
    if request.half_close {
        stream.shutdown(Shutdown::Write).map_err(send)?;
    }
    let (head_text, body) = receive(stream)?;
    if !head_text.starts_with("HTTP/1.1 200") && !head_text.starts_with("HTTP/1.0 200") {
        return Err(Loss::Status(
            head_text.lines().next().unwrap_or_default().to_owned(),
        ));
    }
    Ok(Answer {
        sent: (head.len() + request.upload) as u64,
        received: (head_text.len() + body) as u64,
        head: head_text,
        body,
        took: start.elapsed(),
    })
}

/// Reads one answer: its head, and the length of its body.
fn receive(stream: &mut TcpStream) -> Result<(String, usize), Loss> {
    let mut buffer = vec![0; 65_536];
    let mut head = Vec::new();
    let read = |stream: &mut TcpStream, buffer: &mut [u8], any: bool| match stream.read(buffer) {
        Ok(0) if any => Err(Loss::Truncated),
        Ok(0) => Err(Loss::Closed),
        Ok(len) => Ok(len),
        Err(error) => Err(Loss::Receive(error.kind())),
    };
    let end = loop {
        if let Some(at) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        let len = read(stream, &mut buffer, !head.is_empty())?;
        head.extend_from_slice(&buffer[..len]);
    };
    let mut body = head.len() - end;
    head.truncate(end);
    let head = String::from_utf8_lossy(&head).into_owned();
    let length = head
        .lines()
        .find_map(|line| {
            line.to_ascii_lowercase()
                .strip_prefix("content-length: ")?
                .trim()
                .parse()
                .ok()
        })
        .ok_or_else(|| Loss::Status("no Content-Length".to_owned()))?;
    while body < length {
        body += read(stream, &mut buffer, true)?;
    }
    Ok((head, body))
}

/// Random numbers that are the same for the same seed (xorshift64*, Vigna 2016).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator.
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// Evenly distributed over [0, 1).
    pub fn unit(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// The time to the next arrival of a Poisson process with this mean gap.
    pub fn gap(&mut self, mean: Duration) -> Duration {
        mean.mul_f64(-(1.0 - self.unit()).ln())
    }

    /// Evenly distributed between two spans.
    pub fn between(&mut self, from: Duration, to: Duration) -> Duration {
        from + (to - from).mul_f64(self.unit())
    }
}

/// A client that stays connected.
#[derive(Debug)]
pub struct Kept(TcpStream);

impl Kept {
    /// Connects and is answered once.
    ///
    /// # Errors
    ///
    /// How that failed.
    pub fn connect(address: SocketAddr) -> Result<Self, Loss> {
        let mut kept = Self(connect(address)?);
        kept.ask()?;
        Ok(kept)
    }

    /// One more request.
    ///
    /// # Errors
    ///
    /// How it was lost.
    pub fn ask(&mut self) -> Result<Answer, Loss> {
        let request = Request {
            keep_alive: true,
            ..Request::default()
        };
        ask(&mut self.0, request)
    }
}
