//! Holds many connections, and does nothing else with them.
//!
//!     test-holder --listen ADDRESS
//!         accepts every connection, and returns each byte that it receives
//!     test-holder --activated
//!         the same at the socket that systemd passes
//!     test-holder --connect ADDRESS,ADDRESS... --connections N --from ADDRESS
//!         opens N connections, evenly to these addresses, each with one byte there and back;
//!         prints `held`, waits for the end of its standard input, checks whether all of them
//!         are still open, prints `lost M`, and resets them, so that no TIME_WAIT is left.

use std::{
    collections::HashMap,
    env,
    io::{ErrorKind, Read as _, Write as _, stdin},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, FromRawFd as _, RawFd},
    process::exit,
    time::Duration,
};

use nix::sys::{
    epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
    resource::{Resource, getrlimit, setrlimit},
    socket::{Backlog, listen},
};
use tests::client;

/// The first descriptor that systemd passes (`SD_LISTEN_FDS_START`).
const PASSED: RawFd = 3;

/// How long a byte may take there and back: other work may keep the machine busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// Connections that are opened before the first reply is awaited: one after the other, each would
/// wait for two processes to be scheduled.
const AT_ONCE: usize = 64;

fn main() {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit of descriptors");
    setrlimit(Resource::RLIMIT_NOFILE, limit.1, limit.1).expect("raise the limit of descriptors");
    if env::args().any(|word| word == "--activated") {
        // SAFETY: systemd opened it for this process (sd_listen_fds(3)), and nothing else here uses it.
        serve(unsafe { TcpListener::from_raw_fd(PASSED) });
    }
    match option("--listen") {
        Some(address) => serve(TcpListener::bind(address).expect("listen")),
        None => hold(),
    }
}

fn serve(listener: TcpListener) -> ! {
    // std's queue is too short for thousands of simultaneous connections.
    listen(&listener, Backlog::MAXCONN).expect("a longer queue");
    listener.set_nonblocking(true).expect("a listener");
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("epoll");
    let watch = |fd: RawFd| EpollEvent::new(EpollFlags::EPOLLIN, fd as u64);
    let front = listener.as_raw_fd();
    epoll.add(&listener, watch(front)).expect("epoll");
    let mut held: HashMap<RawFd, TcpStream> = HashMap::new();
    let mut events = [EpollEvent::empty(); 256];
    loop {
        let count = match epoll.wait(&mut events, EpollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            count => count.expect("epoll"),
        };
        for event in &events[..count] {
            let fd = event.data() as RawFd;
            if fd == front {
                take(&listener, |stream| {
                    let fd = stream.as_raw_fd();
                    epoll.add(&stream, watch(fd)).expect("epoll");
                    held.insert(fd, stream);
                });
            } else if held.get_mut(&fd).is_some_and(|stream| !echo(stream)) {
                // Closing it takes it out of the epoll set.
                held.remove(&fd);
            }
        }
    }
}

/// All that wait at the listener.
fn take(listener: &TcpListener, mut take: impl FnMut(TcpStream)) {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true).expect("a connection");
                take(stream);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            // Its client has gone already.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => {
                eprintln!("test-holder: accept: {error}");
                exit(1);
            }
        }
    }
}

/// Whether the connection stays open.
fn echo(stream: &mut TcpStream) -> bool {
    let mut bytes = [0; 64];
    match stream.read(&mut bytes) {
        Ok(0) => false,
        Ok(len) => stream.write_all(&bytes[..len]).is_ok(),
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

fn hold() {
    let targets = option("--connect").expect("--connect ADDRESSES");
    let parse = |text: &str| text.parse().expect("an address");
    let targets: Vec<SocketAddrV4> = targets.split(',').map(parse).collect();
    let count: usize = option("--connections")
        .and_then(|text| text.parse().ok())
        .expect("--connections N");
    let from = option("--from").expect("--from ADDRESS");
    let from = from.parse().expect("an address");
    let mut held: Vec<TcpStream> = Vec::with_capacity(count);
    let targets: Vec<SocketAddrV4> = targets.iter().cycle().take(count).copied().collect();
    for some in targets.chunks(AT_ONCE) {
        let before = held.len();
        let opened = some.iter().try_for_each(|target| {
            held.push(open(from, *target)?);
            Ok(())
        });
        let mut new = held[before..].iter_mut();
        let answered = new.try_for_each(|stream| stream.read_exact(&mut [0]));
        if let Err(error) = opened.and(answered) {
            eprintln!("test-holder: connections {before} and on, to {some:?}: {error}");
            exit(1);
        }
    }
    println!("held");
    let _ = stdin().read(&mut [0]);
    let lost = held.iter().filter(|stream| !is_there(stream)).count();
    println!("lost {lost}");
    for stream in held {
        // One that is lost cannot be reset.
        let _ = client::reset_at_end(&stream);
    }
}

/// A connection on which a byte was sent.
fn open(from: Ipv4Addr, to: SocketAddrV4) -> std::io::Result<TcpStream> {
    let mut stream = client::open_from(from.into(), to.into())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"x")?;
    Ok(stream)
}

/// Whether nothing has happened on a connection: neither an end nor a byte is due.
fn is_there(stream: &TcpStream) -> bool {
    let waits = |error: std::io::Error| error.kind() == ErrorKind::WouldBlock;
    stream.set_nonblocking(true).is_ok() && stream.peek(&mut [0]).is_err_and(waits)
}

fn option(name: &str) -> Option<String> {
    env::args().skip_while(|word| word != name).nth(1)
}
