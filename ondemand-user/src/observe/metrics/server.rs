//! HTTP for whoever scrapes, and no harm from whoever does worse.
//!
//! One request a connection, a few connections, a short time for each. A client that is one too
//! many takes the place of the one that has been there longest without asking for anything: who
//! asks is served, however many others hold connections open.

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

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

use super::{Question, books::Books, render};
use crate::host::clock;

/// Connections at one time. Each may hold one answer, which is the most memory that clients cost.
const MOST_CONNECTIONS: usize = 16;
/// How long a client may take to ask.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may last.
const LIFETIME: Duration = Duration::from_secs(10);
/// The largest head of a request in bytes, the least that hyper accepts.
const LARGEST_HEAD: usize = 8 << 10;
/// How long the agent's loop may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);
/// Whoever asks sooner again gets the same: scrapers cannot keep the agent's loop busy.
const FRESH: Duration = Duration::from_millis(100);
/// How long to wait before an address is tried again.
const RETRY: Duration = Duration::from_secs(5);

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves, at one address at a time.
pub struct Server {
    shared: Arc<Shared>,
    /// Where, and the task that does it.
    listening: Option<(SocketAddr, JoinHandle<()>)>,
}

struct Shared {
    books: Mutex<Books>,
    questions: mpsc::Sender<Question>,
    /// The last answer and its age.
    last: tokio::sync::Mutex<Option<(Instant, Bytes)>>,
}

impl Server {
    /// One that does not serve yet.
    pub fn new(books: Books, questions: mpsc::Sender<Question>) -> Self {
        let shared = Shared {
            books: Mutex::new(books),
            questions,
            last: tokio::sync::Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
            listening: None,
        }
    }

    /// What is shown.
    pub fn books(&self) -> MutexGuard<'_, Books> {
        self.shared.books()
    }

    /// Serves there from now on; `None`: nowhere.
    pub async fn listen(&mut self, address: Option<SocketAddr>) {
        if self.listening.as_ref().map(|(address, _)| *address) == address {
            return;
        }
        if let Some((_, task)) = self.listening.take() {
            task.abort();
            // It ends by being aborted: the address is free then.
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
    log::info!("serves metrics at http://{address}/metrics");
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

/// Tries until it succeeds.
async fn bind(address: SocketAddr) -> TcpListener {
    let mut complained = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) if !complained => {
                complained = true;
                log::warn!(
                    "metrics cannot be served at {address}: {error}; goes on without, and tries \
                     again every {} s (who has the address: `ss -ltnp`; another one, or none: \
                     `metrics =` in [agent])",
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
    /// The oldest first, and whether it has asked for something.
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
        let task = converse(stream, Arc::clone(&asked), Arc::clone(shared));
        self.open.push_back((asked, self.tasks.spawn(task)));
    }
}

/// A connection.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for T {}

async fn converse(stream: impl Stream, asked: Arc<AtomicBool>, shared: Arc<Shared>) {
    let answer = |request: Request<Incoming>| {
        asked.store(true, Ordering::Relaxed);
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(shared.answer(&request).await) }
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(LARGEST_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service_fn(answer));
    match timeout(LIFETIME, connection).await {
        Ok(Ok(())) | Err(_) => {}
        // What clients do wrong is no news.
        Ok(Err(error)) => log::debug!("a scraper: {error}"),
    }
}

impl Shared {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD are served\n");
            let allowed = http::HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(header::ALLOW, allowed);
            return response;
        }
        match request.uri().path() {
            "/metrics" => self.metrics(wants_open_metrics(request.headers())).await,
            "/" => text(StatusCode::OK, "ondemand: metrics are at /metrics\n"),
            _ => text(StatusCode::NOT_FOUND, "metrics are at /metrics\n"),
        }
    }

    async fn metrics(&self, open_metrics: bool) -> Response<Full<Bytes>> {
        let Some(body) = self.render().await else {
            return text(
                StatusCode::SERVICE_UNAVAILABLE,
                "the agent does not answer; see `journalctl -u ondemand`\n",
            );
        };
        if open_metrics {
            return response(StatusCode::OK, OPEN_METRICS, body);
        }
        let body = render::plain(&String::from_utf8_lossy(&body));
        response(StatusCode::OK, PLAIN, body.into())
    }

    /// One at a time asks the agent.
    async fn render(&self) -> Option<Bytes> {
        let mut last = self.last.lock().await;
        if let Some((at, body)) = &*last
            && at.elapsed() < FRESH
        {
            return Some(body.clone());
        }
        let ask = async {
            let (answer, answered) = oneshot::channel();
            self.questions.send(answer).await.ok()?;
            answered.await.ok()
        };
        let observations = timeout(ANSWER_TIMEOUT, ask).await.ok()??;
        let rows = self.books().rows(observations, clock::now());
        let body = Bytes::from(render::open_metrics(rows).ok()?);
        *last = Some((Instant::now(), body.clone()));
        Some(body)
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl Server {
    /// What a client gets that sends these bytes, waits a moment, and closes its side.
    pub(crate) async fn respond(&self, bytes: &[u8]) -> Vec<u8> {
        use std::task::Poll;

        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};

        let (mut client, stream) = tokio::io::duplex(bytes.len().max(64 << 10));
        let conversation = converse(stream, Arc::default(), Arc::clone(&self.shared));
        let client = async move {
            let mut answer = Vec::new();
            // If it was turned away there is nobody to take the rest.
            let _ = client.write_all(bytes).await;
            // Everything that is awaited here is ready after a few rounds.
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

/// Prometheus names OpenMetrics. Who names something else is older, and who names nothing gets
/// what this endpoint was made for.
fn wants_open_metrics(headers: &http::HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT);
    let names = |value: &http::HeaderValue| {
        value
            .to_str()
            .is_ok_and(|text| text.contains("application/openmetrics-text"))
    };
    accepted.iter().next().is_none() || accepted.iter().any(names)
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
