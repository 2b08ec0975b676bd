//! Carries the bytes of one direction. A connection that carries nothing has no buffer, and one whose receiver is
//! slower than its sender seldom: what the receiver does not take stays with the sender's socket, in the kernel.

use std::io;

use tokio::task::coop::consume_budget;

use super::{
    buffers::{self, Buffer, Kept, LARGEST},
    silence,
    stream::Stream,
};

/// What is read at once at first, in bytes. It is read for good, so that a small message takes one call, and
/// what the receiver does not take of it is kept.
const SMALLEST: usize = 8 * 1024;

/// Carries bytes until `from` ends, and then ends `to` in this direction.
pub async fn one_way(from: &Stream, to: &Stream) -> io::Result<()> {
    let mut size = SMALLEST;
    loop {
        match pass_on(from, to, &mut size)? {
            Passed::All => {}
            Passed::Nothing => from.readable().await?,
            Passed::Small(rest) => to.write_all(rest).await?,
            Passed::Large(rest) => to.write_all(rest).await?,
            Passed::Left => to.writable().await?,
            Passed::End => return to.end(),
        }
        // A connection with much data must not block the others.
        consume_budget().await;
    }
}

/// What became of a read.
enum Passed {
    /// All of it is written.
    All,
    /// There was nothing to read.
    Nothing,
    /// This is not written yet.
    Small(Vec<u8>),
    /// This is not written yet.
    Large(Kept),
    /// What is not written is to be read again.
    Left,
    /// The sender has ended.
    End,
}

/// Reads once, at most `size`, and writes what the receiver takes. Sets the size of the next read.
fn pass_on(from: &Stream, to: &Stream, size: &mut usize) -> io::Result<Passed> {
    let mut buffer = Buffer::take();
    let is_small = *size == SMALLEST;
    // Otherwise it is taken out of the socket when it is written.
    let is_taken = is_small || buffers::may_be_kept();
    let room = &mut buffer.bytes()[..*size];
    let read = match is_taken {
        true => from.try_read_bytes(room),
        false => from.try_peek(room),
    };
    let read = match read {
        Ok(0) => return Ok(Passed::End),
        Ok(read) => {
            silence::ends();
            read
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            *size = (*size / 2).max(SMALLEST);
            return Ok(Passed::Nothing);
        }
        Err(error) => return Err(error),
    };
    let written = to.try_write_all(&room[..read])?;
    if !is_taken {
        from.discard(written, room)?;
    }
    if written == read {
        if read == *size {
            *size = (*size * 2).min(LARGEST);
        }
        return Ok(Passed::All);
    }
    Ok(if is_small {
        Passed::Small(room[written..read].to_vec())
    } else if is_taken {
        Passed::Large(buffer.keep(written..read))
    } else {
        // What is read beyond the receiver's room is copied in vain.
        *size = (written * 2).clamp(SMALLEST, LARGEST);
        Passed::Left
    })
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use tokio::{
        io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
        net::{TcpListener, TcpSocket, TcpStream, UnixStream},
        task::{JoinSet, LocalSet, yield_now},
    };

    use super::*;

    /// More than fits into the sockets.
    const LENGTH: usize = 1_000_000;
    /// More than may keep a buffer.
    const MANY: usize = 40;

    fn data(seed: usize) -> Vec<u8> {
        (0..LENGTH).map(|at| (at / 3 + seed) as u8).collect()
    }

    /// Both ends of a TCP connection with small buffers.
    async fn tcp() -> (TcpStream, TcpStream) {
        let socket = || {
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_send_buffer_size(65_536).unwrap();
            socket.set_recv_buffer_size(65_536).unwrap();
            socket
        };
        let listener = socket();
        listener.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener: TcpListener = listener.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let near = socket().connect(address).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    /// Carries it to a receiver that does not read until all the buffers are kept.
    async fn carries(
        seed: usize,
        full: Rc<Cell<bool>>,
        mut sender: impl AsyncWrite + Unpin,
        from: Stream,
        to: Stream,
        mut receiver: impl AsyncRead + Unpin,
    ) {
        let send = async {
            sender.write_all(&data(seed)).await.unwrap();
            sender.shutdown().await.unwrap();
        };
        let receive = async {
            while !full.get() {
                full.set(!buffers::may_be_kept());
                yield_now().await;
            }
            let mut received = Vec::new();
            receiver.read_to_end(&mut received).await.unwrap();
            assert!(received == data(seed), "{seed}");
        };
        let carry = async { one_way(&from, &to).await.unwrap() };
        tokio::join!(send, carry, receive);
    }

    #[tokio::test]
    async fn what_slow_receivers_do_not_take_reaches_them_later() {
        let all = async {
            let (mut all, full) = (JoinSet::new(), Rc::new(Cell::new(false)));
            for seed in 0..MANY {
                let ((sender, from), (to, receiver)) = (tcp().await, tcp().await);
                let (from, to) = (Stream::Tcp(from), Stream::Tcp(to));
                all.spawn_local(carries(seed, Rc::clone(&full), sender, from, to, receiver));
            }
            all.join_all().await;
            let (mut all, full) = (JoinSet::new(), Rc::new(Cell::new(false)));
            for seed in 0..MANY {
                let (sender, from) = UnixStream::pair().unwrap();
                let (to, receiver) = UnixStream::pair().unwrap();
                let (from, to) = (Stream::Unix(from), Stream::Unix(to));
                all.spawn_local(carries(seed, Rc::clone(&full), sender, from, to, receiver));
            }
            all.join_all().await;
        };
        LocalSet::new().run_until(all).await;
    }
}
