//! One HTTP request, and all of its answer.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use anyhow::{Context as _, Result};

use crate::{client::patience, sandbox::Sandbox};

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status code; 0 if the connection was closed without one.
    pub status: u16,
    /// The head, in lower case.
    pub head: String,
    /// The body.
    pub body: String,
}

/// Requests a path with these header lines in the network of a sandbox.
///
/// # Errors
///
/// The request fails, or the response is truncated.
pub fn get(sandbox: &Sandbox, address: SocketAddr, path: &str, header: &str) -> Result<Reply> {
    // Of version 1.0, so that the body ends with the connection.
    send(
        sandbox,
        address,
        &format!("GET {path} HTTP/1.0\r\n{header}\r\n"),
    )
}

/// Sends this text and reads until the connection's end.
///
/// # Errors
///
/// As for [`get`].
pub fn send(sandbox: &Sandbox, address: SocketAddr, text: &str) -> Result<Reply> {
    sandbox.in_network(|| {
        let mut stream = TcpStream::connect_timeout(&address, patience()).context("connect")?;
        stream.set_read_timeout(Some(patience()))?;
        // A server that closes early may have responded already.
        let sent = stream.write_all(text.as_bytes());
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        if answer.is_empty() {
            sent.context("send")?;
            read.context("receive")?;
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Ok(Reply {
            status: status.unwrap_or(0),
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        })
    })?
}

/// For a query string.
pub fn encode(text: &str) -> String {
    let encoded = text.bytes().map(|byte| match byte {
        byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    });
    encoded.collect()
}
