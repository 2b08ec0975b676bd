//! A small HTTP server that behaves well, or badly in the ways that applications do.
//!
//! `GET /PATH?bytes=N` answers with N bytes, `?wait=MS` thinks first; a request's body is
//! read and thrown away. `X-Peer` is the client's address as the server saw it, `X-Worker` the
//! number of the listener that accepted it; `X-Started` and `X-Listened` are when the program
//! began and when it listened, in nanoseconds of CLOCK_MONOTONIC. `?close` closes that listener after the answer,
//! and `?reopen=MS` opens it again after a while. `?drip=MS` pauses after each thousand bytes. `?eat=N` takes N MiB of memory for this answer, `?grow=N` for
//! good.
//!
//! `--no-reuse`: without SO_REUSEADDR. `--also ADDRESS` listens there, too.
//!
//! `--udp ADDRESS`: answers datagrams there, too; alone unless `--listen` is given. `--udp-connects`: with a connected
//! socket for each client. `--udp-pushes ADDRESS`: sends some there all the time.
//!
//! `--unready-ms N` with `--unready WAY`: for N ms after it has listened it loses each connection: `reset`,
//! `close`, `read` and then close, or `refuse` those that come after the first. Or it answers badly: with the status
//! `503`, a `redirect` to where it was asked, `garbage`, megabytes of a head (`endless`), or never (`silent`).

use std::{
    env,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::net::{UnixDatagram, UnixListener},
    },
    process::exit,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicI32, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use nix::{
    libc,
    sys::{
        signal::{SigHandler, Signal, signal},
        socket::{
            AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, listen,
            setsockopt, sockopt,
        },
    },
};
use tests::{datagrams::Application, pause::work_for};

/// When the program began, and when it listened first, in nanoseconds.
static STARTED: AtomicU64 = AtomicU64::new(0);
static LISTENED: AtomicU64 = AtomicU64::new(0);

fn main() {
    STARTED.store(tests::client::monotonic_nanos(), Ordering::Relaxed);
    if flag("--crash") {
        eprintln!("test-backend: crashing, on request");
        exit(3);
    }
    if flag("--deaf") {
        // SAFETY: no handler is set.
        unsafe { signal(Signal::SIGTERM, SigHandler::SigIgn) }.expect("ignore SIGTERM");
    }
    STOP_DELAY.store(option("--stop-delay-ms", 0), Ordering::Relaxed);
    STOP_STATUS.store(option("--stop-status", 0), Ordering::Relaxed);
    if option("--stop-delay-ms", 0) > 0 {
        // SAFETY: the handler calls async-signal-safe functions only.
        unsafe { signal(Signal::SIGTERM, SigHandler::Handler(slow_stop)) }.expect("set a handler");
    }
    work_ms(option("--start-delay-ms", 0));
    if flag("--never-listen") {
        notify();
        loop {
            thread::park();
        }
    }
    let is_udp = answer_datagrams();
    let address: String = option("--listen", "127.0.0.1:8080".to_owned());
    if is_udp && option("--listen", String::new()).is_empty() {
        if flag("--notify") {
            notify();
        }
        loop {
            thread::park();
        }
    }
    if address.starts_with('/') {
        let _ = std::fs::remove_file(&address);
        let listener = UnixListener::bind(&address).expect("listen");
        if flag("--notify") {
            notify();
        }
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream, "unix", None));
        }
        return;
    }
    let address: SocketAddr = address.parse().expect("an address");
    let workers = option("--workers", 1usize);
    let mut workers: Vec<Worker> = (0..workers)
        .map(|number| Worker::new(number, address, workers > 1))
        .collect();
    let also: String = option("--also", String::new());
    if !also.is_empty() {
        work_ms(option("--also-delay-ms", 0));
        let also = also.parse().expect("an address");
        workers.push(Worker::new(workers.len(), also, false));
    }
    if flag("--notify") {
        notify();
    }
    work_ms(option("--accept-delay-ms", 0));
    let threads: Vec<_> = workers
        .into_iter()
        .map(|worker| thread::spawn(move || worker.run()))
        .collect();
    for thread in threads {
        let _ = thread.join();
    }
}

/// Whether it does.
fn answer_datagrams() -> bool {
    let addresses: String = option("--udp", String::new());
    for address in addresses.split(',').filter(|it| !it.is_empty()) {
        let address = address.parse().expect("an address");
        let application = Application::bind(address, flag("--udp-connects")).expect("bind");
        let push: String = option("--udp-pushes", String::new());
        if !push.is_empty() {
            let to = push.parse().expect("an address");
            let every = Duration::from_millis(20);
            application.push(to, every).expect("push");
        }
        thread::spawn(move || application.run());
    }
    !addresses.is_empty()
}

/// One listener and what becomes of it.
struct Worker {
    number: usize,
    address: SocketAddr,
    reuse_port: bool,
    listener: TcpListener,
}

/// What a client may request of the listener that accepted it.
struct Door {
    worker: usize,
    listener: OwnedFd,
    /// Milliseconds to open it again; zero: never.
    reopen: Arc<AtomicU64>,
}

impl Door {
    fn close(&self, reopen: u64) {
        self.reopen.store(reopen, Ordering::Release);
        // It wakes accept(). SAFETY: a descriptor that is open.
        unsafe { libc::shutdown(self.listener.as_raw_fd(), libc::SHUT_RD) };
    }
}

impl Worker {
    fn new(number: usize, address: SocketAddr, reuse_port: bool) -> Self {
        let listener = match flag("--inherited") {
            true => inherited(),
            false => tcp_listener(address, reuse_port),
        };
        Self {
            number,
            address,
            reuse_port,
            listener,
        }
    }

    fn run(mut self) {
        loop {
            let reopen = Arc::new(AtomicU64::new(0));
            accept(&self.listener, self.number, &reopen);
            drop(self.listener);
            let wait = reopen.load(Ordering::Acquire);
            if wait == 0 {
                return;
            }
            work_ms(wait);
            self.listener = tcp_listener(self.address, self.reuse_port);
        }
    }
}

/// Returns when the listener was closed.
fn accept(listener: &TcpListener, worker: usize, reopen: &Arc<AtomicU64>) {
    let door = Arc::new(Door {
        worker,
        listener: OwnedFd::from(listener.try_clone().expect("a descriptor")),
        reopen: Arc::clone(reopen),
    });
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                let _ = stream.set_nodelay(true);
                if let Some(way) = unready() {
                    if let Some(answer) = bad_answer(&way) {
                        thread::spawn(move || answer_badly(stream, &answer));
                        continue;
                    }
                    lose(stream, &way);
                    if way == "refuse" {
                        door.close(option("--unready-ms", 0));
                    }
                    continue;
                }
                if late_ack() > 0 {
                    keep_all_packets(&stream);
                }
                let door = Arc::clone(&door);
                thread::spawn(move || serve(stream, &peer.to_string(), Some(door)));
            }
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return,
            Err(error) => {
                eprintln!("test-backend: accept: {error}");
                work_ms(10);
            }
        }
    }
}

/// How a connection is lost, as long as that is so.
fn unready() -> Option<String> {
    let age = tests::client::monotonic_nanos() - LISTENED.load(Ordering::Relaxed);
    let is_unready = age / 1_000_000 < option("--unready-ms", 0);
    is_unready.then(|| option("--unready", "reset".to_owned()))
}

fn lose(mut stream: TcpStream, way: &str) {
    match way {
        "close" => {}
        "read" => {
            let _ = stream.read(&mut [0; 65_536]);
        }
        _ => tests::client::reset_at_end(&stream).expect("SO_LINGER"),
    }
}

/// What it says again and again, for these ways.
fn bad_answer(way: &str) -> Option<String> {
    Some(match way {
        "503" => "HTTP/1.1 503 Loading\r\nContent-Length: 0\r\n\r\n".into(),
        "redirect" => "HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n".into(),
        "garbage" => "\x01\x02 this is not HTTP\n".into(),
        "endless" => {
            "HTTP/1.1 200 OK\r\n".to_owned() + &"X-Padding: 0123456789\r\n".repeat(500_000)
        }
        "silent" => String::new(),
        _ => return None,
    })
}

fn answer_badly(mut stream: TcpStream, answer: &str) {
    while !matches!(stream.read(&mut [0; 65_536]), Ok(0) | Err(_)) {
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn late_ack() -> u32 {
    option("--late-ack", 0)
}

/// Makes the listener drop this percentage of packets other than SYNs (socket(7),
/// SO_ATTACH_FILTER): final ACKs of handshakes come late, as over a bad network.
fn lose_packets(socket: &OwnedFd, percent: u32) {
    let step = |code: u32, jt, jf, k| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let (load, jump, end) = (libc::BPF_LD, libc::BPF_JMP | libc::BPF_K, libc::BPF_RET);
    let random = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM) as u32;
    let mut program = [
        step(load | libc::BPF_B | libc::BPF_ABS, 0, 0, 13), // the flags of TCP's header
        step(jump | libc::BPF_JSET, 2, 0, 0x02),            // SYN
        step(load | libc::BPF_W | libc::BPF_ABS, 0, 0, random),
        step(jump | libc::BPF_JGE, 0, 1, u32::MAX / 100 * percent),
        step(end | libc::BPF_K, 0, 0, u32::MAX),
        step(end | libc::BPF_K, 0, 0, 0),
    ];
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the program is copied by the kernel during the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as u32,
        )
    };
    assert_eq!(result, 0, "SO_ATTACH_FILTER");
}

/// Takes the listener's filter off a connection.
fn keep_all_packets(stream: &TcpStream) {
    let none = 0i32;
    // SAFETY: an integer of the size that is given.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_DETACH_FILTER,
            (&raw const none).cast(),
            4,
        )
    };
    assert_eq!(result, 0, "SO_DETACH_FILTER");
}

/// The first socket that systemd has passed on (sd_listen_fds(3)).
fn inherited() -> TcpListener {
    // SAFETY: descriptor 3 is the first of them, and open; each listener has a copy of its own.
    let copy = unsafe { libc::fcntl(3, libc::F_DUPFD_CLOEXEC, 4) };
    assert!(
        copy >= 0,
        "a socket of systemd's: {}",
        std::io::Error::last_os_error()
    );
    // SAFETY: just opened, and owned here.
    unsafe { OwnedFd::from_raw_fd(copy) }.into()
}

/// std has neither the backlog nor the options that the tests want.
fn tcp_listener(address: SocketAddr, reuse_port: bool) -> TcpListener {
    let family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let protocol = if flag("--mptcp") {
        libc::IPPROTO_MPTCP
    } else {
        0
    };
    // nix's socket() has no MPTCP.
    // SAFETY: plain integers; the result is checked.
    let fd = unsafe {
        libc::socket(
            family as i32,
            SockType::Stream as i32 | SockFlag::SOCK_CLOEXEC.bits(),
            protocol,
        )
    };
    assert!(fd >= 0, "socket: {}", std::io::Error::last_os_error());
    // SAFETY: just opened, and owned here.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    if !flag("--no-reuse") {
        setsockopt(&socket, sockopt::ReuseAddr, &true).expect("SO_REUSEADDR");
    }
    if reuse_port {
        setsockopt(&socket, sockopt::ReusePort, &true).expect("SO_REUSEPORT");
    }
    let keepalive: u32 = option("--keepalive-s", 0);
    if keepalive > 0 {
        setsockopt(&socket, sockopt::KeepAlive, &true).expect("SO_KEEPALIVE");
        setsockopt(&socket, sockopt::TcpKeepIdle, &keepalive).expect("TCP_KEEPIDLE");
    }
    let defer: i32 = option("--defer-accept", 0);
    if defer > 0 {
        // SAFETY: an integer of the size that is given.
        let result = unsafe {
            libc::setsockopt(
                fd,
                libc::IPPROTO_TCP,
                libc::TCP_DEFER_ACCEPT,
                (&raw const defer).cast(),
                4,
            )
        };
        assert_eq!(result, 0, "TCP_DEFER_ACCEPT");
    }
    let late = late_ack();
    if late > 0 {
        lose_packets(&socket, late);
    }
    match address {
        SocketAddr::V4(v4) => bind(socket.as_raw_fd(), &SockaddrIn::from(v4)),
        SocketAddr::V6(v6) => bind(socket.as_raw_fd(), &SockaddrIn6::from(v6)),
    }
    .expect("bind");
    let now = tests::client::monotonic_nanos();
    let backlog = Backlog::new(option("--backlog", 4096)).expect("a backlog");
    listen(&socket, backlog).expect("listen");
    // Of the first listener: the exchange fails for all others.
    let _ = LISTENED.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    TcpListener::from(socket)
}

fn serve(mut stream: impl Read + Write, peer: &str, door: Option<Arc<Door>>) {
    let worker = door.as_ref().map_or(0, |door| door.worker);
    let mut buffer = Vec::new();
    let mut chunk = vec![0; 65_536];
    loop {
        let head = loop {
            if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            match stream.read(&mut chunk) {
                Ok(0) | Err(_) => return,
                Ok(len) => buffer.extend_from_slice(&chunk[..len]),
            }
        };
        let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
        buffer.drain(..head);
        let mut body = header(&text, "content-length: ").unwrap_or(0usize);
        let buffered = body.min(buffer.len());
        buffer.drain(..buffered);
        body -= buffered;
        while body > 0 {
            match stream.read(&mut chunk[..body.min(65_536)]) {
                Ok(0) | Err(_) => return,
                Ok(len) => body -= len,
            }
        }
        work_ms(header(&text, "wait=").unwrap_or(0));
        if let Some(mebibytes) = header::<usize>(&text, "eat=") {
            // Every page is written to: it is memory, not only addresses.
            std::hint::black_box(vec![1u8; mebibytes << 20]);
        }
        if let Some(mebibytes) = header::<usize>(&text, "grow=") {
            std::mem::forget(std::hint::black_box(vec![1u8; mebibytes << 20]));
        }
        let mut left = header(&text, "bytes=").unwrap_or(1024usize);
        let keep = !text.contains("connection: close") && !text.contains(" http/1.0");
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {left}\r\nX-Peer: {peer}\r\nX-Worker: {worker}\r\nX-Pid: {}\r\n\
             X-Started: {}\r\nX-Listened: {}\r\nConnection: {}\r\n\r\n",
            std::process::id(),
            STARTED.load(Ordering::Relaxed),
            LISTENED.load(Ordering::Relaxed),
            if keep { "keep-alive" } else { "close" },
        );
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
        chunk.fill(b'x');
        let drip = header(&text, "drip=");
        let step = if drip.is_some() { 1000 } else { chunk.len() };
        while left > 0 {
            let len = left.min(step);
            if stream.write_all(&chunk[..len]).is_err() {
                return;
            }
            left -= len;
            work_ms(drip.unwrap_or(0));
        }
        if let Some(door) = &door {
            if let Some(after) = header(&text, "reopen=") {
                door.close(after);
            } else if text.contains("?close") {
                door.close(0);
            }
        }
        if !keep {
            return;
        }
    }
}

/// The number behind `key` in a request's head.
fn header<T: FromStr>(text: &str, key: &str) -> Option<T> {
    let rest = &text[text.find(key)? + key.len()..];
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    rest[..end].parse().ok()
}

fn notify() {
    let Ok(path) = env::var("NOTIFY_SOCKET") else {
        return;
    };
    let socket = UnixDatagram::unbound().expect("a socket");
    let _ = socket.send_to(b"READY=1", path);
}

static STOP_DELAY: AtomicU64 = AtomicU64::new(0);
static STOP_STATUS: AtomicI32 = AtomicI32::new(0);

extern "C" fn slow_stop(_: i32) {
    let delay = STOP_DELAY.load(Ordering::Relaxed);
    let status = STOP_STATUS.load(Ordering::Relaxed);
    // SAFETY: both are async-signal-safe (signal-safety(7)).
    unsafe {
        libc::poll(std::ptr::null_mut(), 0, delay as i32);
        libc::_exit(status);
    }
}

fn flag(name: &str) -> bool {
    env::args().any(|word| word == name)
}

fn option<T: FromStr>(name: &str, default: T) -> T {
    let mut words = env::args().skip_while(|word| word != name).skip(1);
    match words.next() {
        Some(value) => value.parse().unwrap_or_else(|_| panic!("{name} {value}?")),
        None => default,
    }
}

fn work_ms(ms: u64) {
    work_for(Duration::from_millis(ms));
}
