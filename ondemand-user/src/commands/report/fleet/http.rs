//! Requests to a server of the user's: what it costs to wait, and to ask again.

use std::{
    fmt, fs, io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, StatusCode, Uri,
    body::Bytes,
    header::{
        ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
        USER_AGENT,
    },
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

use super::encoding::{base64, decoded, encoded};
use crate::host::probe;

/// Maximum size of an answer. Bytes.
const MOST_BYTES: usize = 64 << 20;
/// How long to wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How often a request is sent if the server is away or has too much to do.
const ATTEMPTS: u32 = 5;
/// The pause before the second attempt; before each further one it is twice as long.
const PAUSE: Duration = Duration::from_millis(250);
/// The longest pause that a server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// What may be wrong if there is no connection at all.
const IS_IT_PROMETHEUS: &str = "; is this the address of a Prometheus?";

/// Where the server is, and what it wants to be told with each request.
pub struct Server {
    /// The address without a user or a password: for messages.
    pub name: String,
    host: String,
    port: u16,
    is_tls: bool,
    path: String,
    headers: HeaderMap,
    patience: Duration,
    runtime: tokio::runtime::Runtime,
}

/// An answer, whatever it says.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: StatusCode,
    /// What is in it.
    pub body: Bytes,
}

/// The server cannot answer so much at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TooMuch(pub String);

impl std::error::Error for TooMuch {}

impl fmt::Display for TooMuch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why there is no answer.
#[derive(Debug)]
enum Failure {
    /// It may be there a moment later.
    Passing(String),
    Lasting(String),
    /// There may be one if less is asked.
    TooMuch(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Passing(why) | Self::Lasting(why) | Self::TooMuch(why)) = self;
        f.write_str(why)
    }
}

impl Server {
    /// Parses `http://user:password@host:9090/prefix`. `headers`: a file with a line for each header, such as
    /// `Authorization: Bearer TOKEN`. `patience`: how long to wait for an answer.
    ///
    /// # Errors
    ///
    /// It is no address of a server, or the file cannot be read.
    pub fn new(url: &str, headers: Option<&Path>, patience: Duration) -> Result<Self> {
        let wrong = || "--prometheus: not the address of a server; write it like http://prometheus.example.org:9090";
        let uri: Uri = url.trim_end_matches('/').parse().with_context(wrong)?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => bail!(wrong()),
        };
        let authority = uri.authority().with_context(wrong)?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        ensure!(!host.is_empty(), wrong());
        ensure!(
            uri.query().is_none(),
            "--prometheus: the address has a query; --match selects"
        );
        let shown = authority.as_str();
        let (user, shown) = match shown.rsplit_once('@') {
            Some((user, shown)) => (Some(user), shown),
            None => (None, shown),
        };
        let path = uri.path().trim_end_matches('/').to_owned();
        let mut all = HeaderMap::new();
        all.insert(HOST, HeaderValue::from_str(shown)?);
        all.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("ondemand/", env!("CARGO_PKG_VERSION"))),
        );
        all.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(user) = user {
            let user = user.split(':').map(decoded).collect::<Vec<_>>().join(":");
            let value = format!("Basic {}", base64(user.as_bytes()));
            all.insert(AUTHORIZATION, secret(&value)?);
        }
        if let Some(path) = headers {
            let text =
                fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
            add(&mut all, &text).with_context(|| path.display().to_string())?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        Ok(Self {
            name: format!("{}://{shown}{path}", if is_tls { "https" } else { "http" }),
            port: authority
                .port_u16()
                .unwrap_or(if is_tls { 443 } else { 80 }),
            host,
            is_tls,
            path,
            headers: all,
            patience,
            runtime: runtime.context("start a runtime")?,
        })
    }

    /// Sends a form to `path`, or with `is_get` its fields as a query, again if the server is away or says that it has
    /// too much to do.
    ///
    /// # Errors
    ///
    /// There is no answer.
    pub fn ask(&self, path: &str, fields: &[(&str, &str)], is_get: bool) -> Result<Answer> {
        let form: Vec<String> = fields
            .iter()
            .map(|(name, value)| format!("{name}={}", encoded(value)))
            .collect();
        let form = form.join("&");
        let begin = Instant::now();
        let mut pause = PAUSE;
        for attempt in 1.. {
            let answer = self.runtime.block_on(self.once(path, &form, is_get));
            let (why, wait) = match answer {
                Ok((answer, after)) => match answer.status.as_u16() {
                    429 | 502 | 503 | 504 => {
                        (format!("answers {}", answer.status), after.unwrap_or(pause))
                    }
                    _ => return Ok(answer),
                },
                Err(Failure::Passing(why)) => (why, pause),
                Err(Failure::Lasting(why)) => {
                    bail!("{}: {why}", self.name)
                }
                Err(Failure::TooMuch(why)) => {
                    return Err(TooMuch(format!("{}: {why}", self.name)).into());
                }
            };
            if attempt == ATTEMPTS {
                let took = ondemand_core::words::Span(begin.elapsed());
                bail!(
                    "{}: {why} ({attempt} attempts in {took}); is it running there?",
                    self.name
                );
            }
            log::debug!("{}: {why}; asking again", self.name);
            let pausing = async { tokio::time::sleep(wait.min(LONGEST_PAUSE)).await };
            self.runtime.block_on(pausing);
            pause *= 2;
        }
        Err(anyhow!("no attempt"))
    }

    async fn once(
        &self,
        path: &str,
        form: &str,
        is_get: bool,
    ) -> Result<(Answer, Option<Duration>), Failure> {
        let address = (self.host.as_str(), self.port);
        let stream = timeout(CONNECT, TcpStream::connect(address)).await;
        let stream =
            stream.map_err(|_| Failure::Passing("does not accept the connection".into()))?;
        let stream = stream.map_err(|error| connecting(&error))?;
        let _ = stream.set_nodelay(true);
        let exchange = async {
            if !self.is_tls {
                return self.exchange(stream, path, form, is_get).await;
            }
            let name = ServerName::try_from(self.host.clone());
            let name = name
                .map_err(|_| Failure::Lasting("is no name that a certificate can have".into()))?;
            let connector = TlsConnector::from(Arc::clone(&probe::trusted()));
            let stream = connector.connect(name, stream).await;
            let stream = stream.map_err(|error| encrypting(&error))?;
            self.exchange(stream, path, form, is_get).await
        };
        let waited = timeout(self.patience, exchange).await;
        waited.unwrap_or_else(|_| {
            let patience = ondemand_core::words::Span(self.patience);
            Err(Failure::Lasting(format!(
                "has not answered within {patience}; ask for less (--last, --match), or wait longer (--patience)"
            )))
        })
    }

    async fn exchange<S>(
        &self,
        stream: S,
        path: &str,
        form: &str,
        is_get: bool,
    ) -> Result<(Answer, Option<Duration>), Failure>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let broken = |error: hyper::Error| {
            let mut why = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(inner) = cause {
                why += &format!(": {inner}");
                cause = inner.source();
            }
            // A server that is restarted.
            Failure::Passing(format!("the connection broke: {why}"))
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let connection = tokio::spawn(connection);
        let target = match is_get {
            true => format!("{}{path}?{form}", self.path),
            false => format!("{}{path}", self.path),
        };
        let mut request = Request::builder().uri(target);
        request = match is_get {
            true => request.method(Method::GET),
            false => request.method(Method::POST),
        };
        let body = if is_get {
            String::new()
        } else {
            form.to_owned()
        };
        let mut request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| Failure::Lasting(error.to_string()))?;
        request.headers_mut().extend(self.headers.clone());
        if !is_get {
            let form = HeaderValue::from_static("application/x-www-form-urlencoded");
            request.headers_mut().insert(CONTENT_TYPE, form);
        }
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|after| after.to_str().ok()?.parse().ok());
        let body = Limited::new(response.into_body(), MOST_BYTES)
            .collect()
            .await;
        let body = body.map_err(|error| match error.downcast_ref::<hyper::Error>() {
            Some(error) => Failure::Passing(format!("the answer broke off: {error}")),
            None => Failure::TooMuch(format!(
                "its answer has more than {} MiB; ask for less (--last, --match)",
                MOST_BYTES >> 20
            )),
        })?;
        drop(sender);
        connection.abort();
        Ok((
            Answer {
                status,
                body: body.to_bytes(),
            },
            after.map(Duration::from_secs),
        ))
    }
}

/// Who is away may come back; who does not exist does not.
fn connecting(error: &io::Error) -> Failure {
    let why = format!("no connection: {error}");
    match error.kind() {
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::TimedOut => Failure::Passing(why),
        _ => Failure::Lasting(why + IS_IT_PROMETHEUS),
    }
}

/// An authority of one's own can be named as for other programs.
fn encrypting(error: &io::Error) -> Failure {
    let next = match probe::is_untrusted(error) {
        true => "; trust your own authority with SSL_CERT_FILE=FILE in the environment",
        false => IS_IT_PROMETHEUS,
    };
    Failure::Lasting(format!("no connection over TLS: {error}{next}"))
}

fn secret(value: &str) -> Result<HeaderValue> {
    let mut value =
        HeaderValue::from_str(value).map_err(|_| anyhow!("a header must be printable text"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Adds lines like `X-Scope-OrgID: team`. No message has what is in them.
fn add(headers: &mut HeaderMap, text: &str) -> Result<()> {
    for (line, number) in text.lines().zip(1..) {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let header = line.split_once(':').and_then(|(name, value)| {
            let name: HeaderName = name.trim().parse().ok()?;
            Some((name, secret(value.trim()).ok()?))
        });
        let wrong =
            || format!("line {number} is no header; write it like \"Authorization: Bearer TOKEN\"");
        let (name, value) = header.with_context(wrong)?;
        headers.insert(name, value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let parse = |url: &str| Server::new(url, None, Duration::from_secs(1));
        let server = parse("https://me:s%40x@prom.example.org/prefix/").unwrap();
        assert_eq!(server.name, "https://prom.example.org/prefix");
        assert_eq!(
            (server.host.as_str(), server.port, server.is_tls),
            ("prom.example.org", 443, true)
        );
        assert_eq!(server.headers[AUTHORIZATION], "Basic bWU6c0B4");
        let server = parse("http://[::1]:9090").unwrap();
        assert_eq!(
            (server.host.as_str(), server.port, server.path.as_str()),
            ("::1", 9090, "")
        );
        for url in [
            "",
            "prometheus",
            "prometheus:9090",
            "ftp://x",
            "http://",
            "http://x/?a=b",
            "http://x y",
        ] {
            assert!(parse(url).is_err(), "{url}");
        }
    }

    #[test]
    fn headers_are_lines() {
        let mut headers = HeaderMap::new();
        add(
            &mut headers,
            "# mine\nAuthorization: Bearer a:b\n\nX-Scope-OrgID: team\n",
        )
        .unwrap();
        assert_eq!(headers[AUTHORIZATION], "Bearer a:b");
        assert_eq!(headers["x-scope-orgid"], "team");
        let error = add(&mut headers, "x: y\nsecret\n").unwrap_err().to_string();
        assert!(
            error.starts_with("line 2 is no header") && !error.contains("secret"),
            "{error}"
        );
    }
}
