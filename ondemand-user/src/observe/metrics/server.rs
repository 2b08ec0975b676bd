//! HTTP for scrapers, with limits against misuse.
//!
//! One request per connection, a few connections, a short time for each. If there are too many, a new
//! client replaces the oldest one that has not sent a request: a client with a request is served,
//! however many others hold connections open.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io::Write as _,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use flate2::{Compression, write::GzEncoder};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header, http,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    task::{AbortHandle, JoinHandle, JoinSet},
    time::{Instant, sleep, timeout},
};

use super::{Observations, Question, books::Books, exposition, host, render};
use crate::{
    host::{clock, complaints::Complaints},
    observe::page::{
        self, Table,
        week::{Found, Week},
    },
};

/// Maximum number of connections. Each may hold one response, which bounds the memory of clients.
const MOST_CONNECTIONS: usize = 16;
/// Maximum time for a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum lifetime of a connection.
const LIFETIME: Duration = Duration::from_secs(10);
/// Maximum size of a request's head in bytes, hyper's minimum.
const LARGEST_HEAD: usize = 8 << 10;
/// Maximum time of the agent's loop for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);
/// An earlier request gets the same response: scrapers cannot keep the agent's loop busy.
const FRESH: Duration = Duration::from_millis(100);
/// An earlier request for the page gets the same table. Its script asks every two seconds.
const FRESH_TABLE: Duration = Duration::from_secs(1);
/// The pause before an address is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// What is larger is compressed for a client that accepts it, as Prometheus does. Bytes.
const LARGE: usize = 64 << 10;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";

/// The response to a request with a name that is not this server's.
pub(crate) const OTHER_HOST: &str = "the Host header has to be localhost, a loopback address, the address \
                                     of this server, or one of `metrics_names`; use its address\n";

/// What is served besides the metrics, and under which names.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// Names of this server, in lower case.
    pub names: Vec<String>,
    /// Whether there is a page.
    pub page: bool,
    /// What it draws.
    pub history: Option<PathBuf>,
}

/// A server on at most one address.
pub struct Server {
    shared: Arc<Shared>,
    /// The address, and its task.
    listening: Option<(SocketAddr, JoinHandle<()>)>,
}

struct Shared {
    books: Mutex<Books>,
    questions: mpsc::Sender<Question>,
    terms: Mutex<Terms>,
    week: Week,
    /// The last response and its age.
    last: tokio::sync::Mutex<Option<(Instant, Bytes)>>,
    /// The last table and its age.
    table: tokio::sync::Mutex<Option<(Instant, Arc<Table>)>>,
}

impl Server {
    /// A server without an address.
    pub fn new(books: Books, questions: mpsc::Sender<Question>) -> Self {
        let shared = Shared {
            books: Mutex::new(books),
            questions,
            terms: Mutex::default(),
            week: Week::default(),
            last: tokio::sync::Mutex::default(),
            table: tokio::sync::Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
            listening: None,
        }
    }

    /// The contents.
    pub fn books(&self) -> MutexGuard<'_, Books> {
        self.shared.books()
    }

    /// Sets what is served besides the metrics.
    pub fn set(&self, terms: Terms) {
        let history = terms.history.clone().filter(|_| terms.page);
        self.shared.week.configure(history);
        *self.shared.terms() = terms;
    }

    /// Serves at this address from now on; `None`: at none.
    pub async fn listen(&mut self, address: Option<SocketAddr>) {
        if self.listening.as_ref().map(|(address, _)| *address) == address {
            return;
        }
        if let Some((_, task)) = self.listening.take() {
            task.abort();
            // It ends by abort: then the address is free.
            let _ = task.await;
        }
        self.listening = address.map(|address| {
            let task = tokio::spawn(serve(address, Arc::clone(&self.shared)));
            (address, task)
        });
    }
}

async fn serve(address: SocketAddr, shared: Arc<Shared>) {
    let listener = bind(address).await;
    log::info!("serving metrics at http://{address}/metrics");
    let mut connections = Connections::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => connections.take(stream, &shared),
            Err(error) => {
                // Out of descriptors, for example. It passes, or the next scrape fails too.
                log::debug!("accept a scraper: {error}");
                sleep(FRESH).await;
            }
        }
    }
}

/// Retries until it succeeds.
async fn bind(address: SocketAddr) -> TcpListener {
    let mut complaints = Complaints::default();
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            // Another error is another complaint.
            Err(error) if complaints.is_new((), &error) => {
                log::warn!(
                    "metrics cannot be served at {address}: {error}; running without them, retrying \
                     every {} s (`ss -ltnp` shows who has the address; `metrics =` in [agent] sets \
                     another one, or none)",
                    RETRY.as_secs()
                );
            }
            Err(_) => {}
        }
        sleep(RETRY).await;
    }
}

/// The open connections; dropping it closes them.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    /// The oldest first, and whether it has sent a request.
    open: VecDeque<(Arc<AtomicBool>, AbortHandle)>,
}

impl Connections {
    fn take(&mut self, stream: TcpStream, shared: &Arc<Shared>) {
        while self.tasks.try_join_next().is_some() {}
        self.open.retain(|(_, task)| !task.is_finished());
        if self.open.len() >= MOST_CONNECTIONS {
            let silent = |(asked, _): &(Arc<AtomicBool>, _)| !asked.load(Ordering::Relaxed);
            let index = self.open.iter().position(silent).unwrap_or(0);
            if let Some((_, task)) = self.open.remove(index) {
                task.abort();
            }
        }
        let asked = Arc::new(AtomicBool::new(false));
        let arrived = stream.local_addr().ok().map(|address| address.ip());
        let task = converse(stream, arrived, Arc::clone(&asked), Arc::clone(shared));
        self.open.push_back((asked, self.tasks.spawn(task)));
    }
}

/// A connection.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for T {}

/// `arrived`: this side's address.
async fn converse(
    stream: impl Stream,
    arrived: Option<IpAddr>,
    asked: Arc<AtomicBool>,
    shared: Arc<Shared>,
) {
    let answer = |request: Request<Incoming>| {
        asked.store(true, Ordering::Relaxed);
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(shared.answer(&request, arrived).await) }
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(LARGEST_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service_fn(answer));
    match timeout(LIFETIME, connection).await {
        Ok(Ok(())) | Err(_) => {}
        // Errors of clients are not logged as warnings.
        Ok(Err(error)) => log::debug!("a scraper: {error}"),
    }
}

impl Shared {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn terms(&self) -> MutexGuard<'_, Terms> {
        self.terms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer<B>(
        &self,
        request: &Request<B>,
        arrived: Option<IpAddr>,
    ) -> Response<Full<Bytes>> {
        let terms = self.terms().clone();
        let mut response = if !host::is_ours(request, arrived, &terms.names) {
            text(StatusCode::FORBIDDEN, OTHER_HOST)
        } else if ![Method::GET, Method::HEAD].contains(request.method()) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD are served\n");
            let allowed = http::HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(header::ALLOW, allowed);
            response
        } else {
            match request.uri().path() {
                "/metrics" => {
                    let headers = request.headers();
                    self.metrics(wants_open_metrics(headers), takes_gzip(headers))
                        .await
                }
                "/" if terms.page => self.page().await,
                "/table.json" if terms.page => self.table_json().await,
                "/week.json" if terms.page => self.week(request.uri().query()),
                "/" => text(StatusCode::OK, "ondemand: metrics are at /metrics\n"),
                _ => text(StatusCode::NOT_FOUND, "metrics are at /metrics\n"),
            }
        };
        // For browsers: nothing is guessed, kept, or read by another site's page.
        for (name, value) in [
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::CACHE_CONTROL, "no-store"),
            (header::REFERRER_POLICY, "no-referrer"),
            (
                http::HeaderName::from_static("cross-origin-resource-policy"),
                "same-origin",
            ),
        ] {
            let value = http::HeaderValue::from_static(value);
            response.headers_mut().insert(name, value);
        }
        response
    }

    async fn page(&self) -> Response<Full<Bytes>> {
        let Some(table) = self.table().await else {
            return no_answer();
        };
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let page = table.html(host.trim());
        let mut response = response(StatusCode::OK, HTML, page.into());
        // It has no character that a header may not have.
        if let Ok(policy) = http::HeaderValue::from_str(&page::POLICY) {
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_SECURITY_POLICY, policy);
        }
        response
    }

    async fn table_json(&self) -> Response<Full<Bytes>> {
        match self.table().await {
            Some(table) => response(StatusCode::OK, JSON, table.json().into()),
            None => no_answer(),
        }
    }

    /// The plots' data, of all services or of one.
    fn week(&self, service: Option<&str>) -> Response<Full<Bytes>> {
        let none = || text(StatusCode::NOT_FOUND, "there is no history of it\n");
        match self.week.ask() {
            None => none(),
            Some(Found::Failed(_)) => text(
                StatusCode::SERVICE_UNAVAILABLE,
                "the history cannot be read; see `journalctl -u ondemand`\n",
            ),
            Some(Found::Nothing | Found::Making) => {
                text(StatusCode::ACCEPTED, "the history is being read\n")
            }
            Some(Found::Made(plots)) => {
                let json = match service {
                    Some(service) => plots.services.get(service),
                    None => Some(&plots.all),
                };
                json.map_or_else(none, |json| response(StatusCode::OK, JSON, json.clone()))
            }
        }
    }

    async fn metrics(&self, open_metrics: bool, gzip: bool) -> Response<Full<Bytes>> {
        let Some(body) = self.render().await else {
            return no_answer();
        };
        let (kind, body) = match open_metrics {
            true => (OPEN_METRICS, body),
            false => {
                let body = exposition::plain(&String::from_utf8_lossy(&body));
                (PLAIN, body.into())
            }
        };
        let compressed = (gzip && body.len() > LARGE).then(|| compress(&body));
        let Some(compressed) = compressed.flatten() else {
            return response(StatusCode::OK, kind, body);
        };
        let mut response = response(StatusCode::OK, kind, compressed);
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_ENCODING,
            http::HeaderValue::from_static("gzip"),
        );
        headers.insert(
            header::VARY,
            http::HeaderValue::from_static("accept-encoding"),
        );
        response
    }

    /// Asks the agent, one request at a time.
    async fn render(&self) -> Option<Bytes> {
        let mut last = self.last.lock().await;
        if let Some((at, body)) = &*last
            && at.elapsed() < FRESH
        {
            return Some(body.clone());
        }
        let observed: Observations = self.ask(Question::Scrape).await?;
        let body = {
            let mut books = self.books();
            let rows = books.rows(observed.services, clock::now());
            render::open_metrics(&rows, &observed.configuration, books.whatif, books.uses())
        };
        let body = Bytes::from(body);
        *last = Some((Instant::now(), body.clone()));
        Some(body)
    }
}

impl Shared {
    async fn table(&self) -> Option<Arc<Table>> {
        let mut last = self.table.lock().await;
        if let Some((at, table)) = &*last
            && at.elapsed() < FRESH_TABLE
        {
            return Some(Arc::clone(table));
        }
        let table = Arc::new(self.ask(Question::Table).await?);
        *last = Some((Instant::now(), Arc::clone(&table)));
        Some(table)
    }

    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let ask = async {
            self.questions.send(question(answer)).await.ok()?;
            answered.await.ok()
        };
        timeout(ANSWER_TIMEOUT, ask).await.ok()?
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl Server {
    /// The response for a client that sends these bytes, waits, and closes its side.
    pub(crate) async fn respond(&self, bytes: &[u8]) -> Vec<u8> {
        use std::task::Poll;

        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};

        let (mut client, stream) = tokio::io::duplex(bytes.len().max(64 << 10));
        let conversation = converse(stream, None, Arc::default(), Arc::clone(&self.shared));
        let client = async move {
            let mut answer = Vec::new();
            // If it was refused there is no receiver of the rest.
            let _ = client.write_all(bytes).await;
            // Everything awaited here is ready after a few rounds.
            for _ in 0..16 {
                let mut part = [0; 1024];
                let mut part = ReadBuf::new(&mut part);
                let read = std::future::poll_fn(|context| {
                    let client = std::pin::Pin::new(&mut client);
                    Poll::Ready(client.poll_read(context, &mut part).is_ready())
                });
                if read.await && part.filled().is_empty() {
                    break;
                }
                answer.extend_from_slice(part.filled());
                tokio::task::yield_now().await;
            }
            let _ = client.shutdown().await;
            let _ = client.read_to_end(&mut answer).await;
            answer
        };
        tokio::join!(conversation, client).1
    }
}

/// Prometheus requests OpenMetrics. A client that requests another format is older, and one that
/// requests none gets this endpoint's main format.
fn wants_open_metrics(headers: &http::HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT);
    let names = |value: &http::HeaderValue| {
        value
            .to_str()
            .is_ok_and(|text| text.contains("application/openmetrics-text"))
    };
    accepted.iter().next().is_none() || accepted.iter().any(names)
}

/// Prometheus always does.
fn takes_gzip(headers: &http::HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT_ENCODING).iter();
    let accepted = accepted.filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        // RFC 9110, section 12.4.2: a weight of zero means "not acceptable".
        let weight = weight.trim().trim_start_matches("q=");
        name.trim().eq_ignore_ascii_case("gzip") && weight.parse() != Ok(0.0)
    })
}

/// `None` does not occur: a vector takes all.
pub(crate) fn compress(body: &[u8]) -> Option<Bytes> {
    let room = Vec::with_capacity(body.len() / 8);
    let mut encoder = GzEncoder::new(room, Compression::fast());
    encoder.write_all(body).ok()?;
    encoder.finish().ok().map(Bytes::from)
}

fn no_answer() -> Response<Full<Bytes>> {
    text(
        StatusCode::SERVICE_UNAVAILABLE,
        "the agent does not answer; see `journalctl -u ondemand`\n",
    )
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    response(
        status,
        "text/plain; charset=utf-8",
        Bytes::from_static(text.as_bytes()),
    )
}

fn response(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let kind = http::HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_gzip() {
        #[track_caller]
        fn check(accepted: &[&'static str], expected: bool) {
            let mut headers = http::HeaderMap::new();
            for accepted in accepted {
                let value = http::HeaderValue::from_static(accepted);
                headers.append(header::ACCEPT_ENCODING, value);
            }
            assert_eq!(takes_gzip(&headers), expected, "{accepted:?}");
        }
        check(&[], false);
        check(&["gzip"], true);
        check(&["deflate, GZIP;q=0.5"], true);
        check(&["br", "gzip ; q=1"], true);
        check(&["gzip;q=0, identity"], false);
        check(&["gzip;q=0.000"], false);
        check(&["identity"], false);
        check(&["x-gzip"], false);
    }
}
