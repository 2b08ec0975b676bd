//! The endpoint of the metrics, to which any program that reaches its address may send; and answers of applications
//! that are asked whether they are ready.

use std::{cell::RefCell, path::Path};

use ondemand_core::{caught::Tally, measure::unit::ActiveState, probing};
use tokio::{runtime::Runtime, sync::mpsc};

use crate::observe::{
    metrics::{
        Configuration, Observation, Observations, Question,
        books::Books,
        record::Record,
        server::{OTHER_HOST, Server, Terms},
    },
    page::Table,
};

/// All possible response bodies.
const ANSWERS: [&str; 6] = [
    "",
    "GET and HEAD are served\n",
    "ondemand: metrics are at /metrics\n",
    "metrics are at /metrics\n",
    "there is no history of it\n",
    OTHER_HOST,
];
const STATUS: [&str; 7] = ["200", "400", "403", "404", "405", "414", "431"];

struct Endpoint {
    runtime: Runtime,
    server: Server,
    questions: mpsc::Receiver<Question>,
}

thread_local! {
    static ENDPOINT: RefCell<Endpoint> = RefCell::new(Endpoint::new());
}

impl Endpoint {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        // Nothing exists there, and nothing is written.
        let mut books = Books::new(Record::at(Path::new("/proc/ondemand")));
        books.configure(vec![("wiki".into(), "wiki.service".into())]);
        let (asks, questions) = mpsc::channel(1);
        let server = Server::new(books, asks);
        server.set(Terms {
            page: true,
            ..Terms::default()
        });
        Self {
            runtime: runtime.expect("an event loop"),
            server,
            questions,
        }
    }
}

fn observations() -> Observations {
    let service = Observation {
        service: "wiki".into(),
        state: Some(ActiveState::Active),
        sample: None,
        open: Some(1),
        unused: None,
        kept: None,
        idle: None,
        idle_timeout: None,
        learned: Default::default(),
        ready: None,
        held: Tally::default(),
        frozen: (false, false, 0),
        room: None,
        prewarms: [0; 2],
        datagrams: None,
    };
    Observations {
        configuration: Configuration {
            last_reload_successful: true,
            last_reload_success: None,
        },
        services: vec![service],
    }
}

fn table() -> Table {
    Table {
        summary: "1 of 1 up".into(),
        ..Table::default()
    }
}

/// The bytes of a client: it gets no response, or one of the known responses without anything that
/// it sent.
pub fn http(data: &[u8]) {
    if let probing::Head::Status(code, location) = probing::head(data) {
        assert!(code == 101 || (200..=999).contains(&code), "{code}");
        let shown = location.unwrap_or_default();
        assert!(shown.len() <= 480 && !shown.chars().any(char::is_control));
    }
    ENDPOINT.with_borrow_mut(|endpoint| {
        let Endpoint {
            runtime,
            server,
            questions,
        } = endpoint;
        let answer = runtime.block_on(async {
            let agent = async {
                while let Some(question) = questions.recv().await {
                    // The scraper may be gone.
                    match question {
                        Question::Scrape(answer) => drop(answer.send(observations())),
                        Question::Table(answer) => drop(answer.send(table())),
                    }
                }
            };
            tokio::select! {
                answer = server.respond(data) => answer,
                () = agent => unreachable!("the server keeps its channel open"),
            }
        });
        check(&answer);
    });
}

fn check(answer: &[u8]) {
    if answer.is_empty() {
        return;
    }
    let answer = std::str::from_utf8(answer).expect("an answer is text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole head");
    let mut words = head.split([' ', '\r']);
    let version = words.next().unwrap_or_default();
    assert!(["HTTP/1.0", "HTTP/1.1"].contains(&version), "{head}");
    let status = words.next().unwrap_or_default();
    assert!(STATUS.contains(&status), "{head}");
    let metrics = status == "200" && body.starts_with("# ") && body.contains("service=\"wiki\"");
    let page = status == "200"
        && (body.starts_with("<!doctype html>") || body.starts_with("{\"summary\""));
    assert!(
        metrics || page || ANSWERS.contains(&body),
        "{head}: {body:?}"
    );
}
