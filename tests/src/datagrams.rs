//! Datagrams: an application that answers each, and clients that number theirs.

use std::{
    collections::{HashMap, HashSet},
    io::{self, ErrorKind},
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};

use crate::pause::think;

/// A client's receive buffer, in bytes.
const RECEIVES: usize = 8 << 20;
/// The largest datagram.
const LARGEST: usize = 65_507;

/// An application that answers each datagram with the same bytes.
#[derive(Debug)]
pub struct Application {
    socket: UdpSocket,
    address: SocketAddr,
    /// Whether it has a connected socket for each client, as servers of DTLS have.
    connects: bool,
}

impl Application {
    /// Binds its socket.
    ///
    /// # Errors
    ///
    /// It cannot be bound.
    pub fn bind(address: SocketAddr, connects: bool) -> io::Result<Self> {
        Ok(Self {
            socket: bound(address, connects)?,
            address,
            connects,
        })
    }

    /// Sends a datagram there again and again.
    ///
    /// # Errors
    ///
    /// It has no more descriptors.
    pub fn push(&self, to: SocketAddr, every: Duration) -> io::Result<()> {
        let socket = self.socket.try_clone()?;
        thread::spawn(move || {
            loop {
                // What it is told of the last one.
                let _ = socket.send_to(b"push", to);
                think(every);
            }
        });
        Ok(())
    }

    /// Answers until the process ends.
    pub fn run(self) {
        let mut buffer = vec![0; LARGEST];
        let mut clients: HashMap<SocketAddr, UdpSocket> = HashMap::new();
        loop {
            // An error is about a datagram that it has sent.
            let Ok((len, client)) = self.socket.recv_from(&mut buffer) else {
                continue;
            };
            if self.connects && !clients.contains_key(&client) {
                let own = bound(self.address, true).expect("bind again");
                own.connect(client).expect("connect");
                let mut other = own.try_clone().expect("a descriptor");
                thread::spawn(move || answer_connected(&mut other));
                clients.insert(client, own);
            }
            let _ = self.socket.send_to(&buffer[..len], client);
        }
    }
}

/// Until `bye`, or until the peer is gone.
fn answer_connected(socket: &mut UdpSocket) {
    let mut buffer = vec![0; LARGEST];
    while let Ok(len) = socket.recv(&mut buffer) {
        let _ = socket.send(&buffer[..len]);
        if &buffer[..len] == b"bye" {
            std::process::exit(0);
        }
    }
}

fn bound(address: SocketAddr, reuse: bool) -> io::Result<UdpSocket> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &reuse)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(UdpSocket::from(socket))
}

/// A client, whose socket is connected: it hears nothing but the address that it sends to.
#[derive(Debug)]
pub struct Client(UdpSocket);

impl Client {
    /// A client of the present network namespace.
    ///
    /// # Errors
    ///
    /// There is no way there.
    pub fn new(to: SocketAddr) -> io::Result<Self> {
        let any: SocketAddr = match to {
            SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
            SocketAddr::V6(_) => ([0_u16; 8], 0).into(),
        };
        let socket = UdpSocket::bind(any)?;
        // Whatever else the machine does, an answer that came is heard.
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVES)?;
        socket.connect(to)?;
        Ok(Self(socket))
    }

    /// Its own address.
    ///
    /// # Panics
    ///
    /// If the kernel does not tell.
    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("an address")
    }

    /// Sends one without waiting for an answer.
    pub fn send(&self, bytes: &[u8]) {
        // The error is about an earlier one.
        if self.0.send(bytes).is_err() {
            let _ = self.0.send(bytes);
        }
    }

    /// The next answer, if it comes in time.
    ///
    /// # Errors
    ///
    /// None comes, or the client is refused (ICMP).
    pub fn hear(&self, patience: Duration) -> io::Result<Vec<u8>> {
        self.0.set_read_timeout(Some(patience))?;
        let mut buffer = vec![0; LARGEST];
        let len = self.0.recv(&mut buffer)?;
        buffer.truncate(len);
        Ok(buffer)
    }

    /// Sends one, and waits for its answer.
    ///
    /// # Errors
    ///
    /// As for [`Client::hear`].
    pub fn ask(&self, bytes: &[u8], patience: Duration) -> io::Result<()> {
        self.send(bytes);
        loop {
            if self.hear(patience)? == bytes {
                return Ok(());
            }
        }
    }

    /// Sends this many numbered ones, with a pause after each, which gets its number. Returns the numbers of the answers in the order
    /// in which they came: all that come within `patience` after the last.
    ///
    /// # Panics
    ///
    /// If a thread panics.
    pub fn count(
        &self,
        number: u32,
        pause: impl Fn(u32) -> Duration + Sync,
        patience: Duration,
    ) -> Vec<u32> {
        thread::scope(|scope| {
            let sender = scope.spawn(|| {
                for n in 0..number {
                    self.send(&n.to_be_bytes());
                    think(pause(n));
                }
            });
            let mut heard = Vec::new();
            let mut until = None;
            while heard.len() < number as usize {
                match self.hear(Duration::from_millis(100)) {
                    Ok(bytes) => {
                        let n = bytes.try_into().map(u32::from_be_bytes);
                        heard.push(n.expect("a number"));
                        until = None;
                    }
                    Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                    Err(_) if !sender.is_finished() => {}
                    Err(_) => {
                        let until = *until.get_or_insert(Instant::now() + patience);
                        if Instant::now() >= until {
                            break;
                        }
                    }
                }
            }
            heard
        })
    }
}

/// What is missing of so many numbers, and which came behind a later one: the first ten of each.
pub fn gaps(heard: &[u32], number: u32) -> (Vec<u32>, Vec<u32>) {
    let there: HashSet<u32> = heard.iter().copied().collect();
    let missing = (0..number).filter(|n| !there.contains(n)).take(10);
    let pairs = heard.windows(2).filter(|pair| pair[1] <= pair[0]);
    (
        missing.collect(),
        pairs.map(|pair| pair[1]).take(10).collect(),
    )
}

impl From<UdpSocket> for Client {
    /// A socket that is connected.
    fn from(socket: UdpSocket) -> Self {
        Self(socket)
    }
}
