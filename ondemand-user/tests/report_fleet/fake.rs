//! A server that answers as Prometheus does, with what hosts that never were would have told it.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::hosts::Host;

/// How far back it looks for a sample. Milliseconds.
const LOOKBACK: i64 = 300_000;

/// What it does instead of an answer.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// So many requests at the begin get this status.
    pub first: (usize, u16),
    /// All requests whose path contains the text get this status and body.
    pub always: Option<(&'static str, u16, &'static str)>,
    /// How long it takes for each.
    pub delay: Duration,
    /// What it warns of.
    pub warning: Option<&'static str>,
    /// It refuses questions about more hosts than that.
    pub at_once: Option<usize>,
    /// What must be in the head.
    pub wants: Option<&'static str>,
}

pub struct Fake {
    pub address: SocketAddr,
    requests: Arc<AtomicUsize>,
    /// The most points that a series of an answer had.
    most: Arc<Mutex<usize>>,
}

impl Fake {
    pub fn start(hosts: Vec<Host>, now: i64, faults: Faults) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let most = Arc::new(Mutex::new(0));
        let (hosts, counted, points) = (Arc::new(hosts), Arc::clone(&requests), Arc::clone(&most));
        // It ends with the test.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let number = counted.fetch_add(1, Ordering::SeqCst);
                let served = serve(stream.unwrap(), &hosts, now, &faults, number, &points);
                // Who does not wait has closed the connection.
                let _ = served;
            }
        });
        Self {
            address,
            requests,
            most,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    pub fn most_points(&self) -> usize {
        *self.most.lock().unwrap()
    }
}

fn serve(
    mut stream: TcpStream,
    hosts: &[Host],
    now: i64,
    faults: &Faults,
    number: usize,
    most: &Mutex<usize>,
) -> std::io::Result<()> {
    let mut input = BufReader::new(stream.try_clone()?);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        input.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        head += &line;
    }
    let mut body = vec![0; length];
    input.read_exact(&mut body)?;
    tests::pause::work_for(faults.delay);
    let target = head.split(' ').nth(1).unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let form = format!("{query}&{}", String::from_utf8_lossy(&body));
    let field = |name: &str| {
        let fields = form.split('&').filter_map(|field| field.split_once('='));
        let found = fields.into_iter().find(|field| decoded(field.0) == name);
        found.map(|field| decoded(field.1)).unwrap_or_default()
    };
    let refused =
        |status: u16, why: &str| (status, json!({"status": "error", "error": why}).to_string());
    let query = field("query");
    let asked = query.split_once("instance=~\"").map_or("", |after| after.1);
    let asked = asked
        .split('"')
        .next()
        .unwrap_or_default()
        .split('|')
        .count();
    let is_too_much = faults.at_once.is_some_and(|most| asked > most);
    let is_wanted = faults.wants.is_none_or(|wanted| head.contains(wanted));
    let (status, text) = if number < faults.first.0 {
        refused(faults.first.1, "later")
    } else if is_too_much {
        refused(422, "too many samples")
    } else if !is_wanted {
        refused(401, "who are you?")
    } else if let Some((_, status, body)) = faults.always.filter(|fault| path.contains(fault.0)) {
        (status, body.to_owned())
    } else {
        let millis = |name: &str| (field(name).parse::<f64>().unwrap_or(0.0) * 1e3).round() as i64;
        let result = if path.ends_with("/label/instance/values") {
            let found = select(
                hosts,
                &field("match[]"),
                &[millis("end")],
                millis("end") - millis("start"),
            );
            let names = found
                .keys()
                .filter_map(|labels| labels.iter().find(|label| label.0 == "instance"));
            let mut names: Vec<&String> = names.map(|label| &label.1).collect();
            names.dedup();
            json!({"status": "success", "data": names})
        } else if field("query") == "time()" {
            let now = now as f64 / 1e3;
            json!({"status": "success", "data": {"resultType": "scalar", "result": [now, now.to_string()]}})
        } else if path.ends_with("/query") {
            answer(hosts, &field("query"), &[millis("time")], most)
        } else {
            let (start, end, step) = (millis("start"), millis("end"), millis("step"));
            let moments: Vec<i64> = (0..)
                .map(|number| start + number * step)
                .take_while(|at| *at <= end)
                .collect();
            assert!(moments.len() <= 11_000, "{} points", moments.len());
            answer(hosts, &field("query"), &moments, most)
        };
        let mut result = result;
        if let Some(warning) = faults.warning {
            result["warnings"] = json!([warning]);
        }
        (200, result.to_string())
    };
    write!(
        stream,
        "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
        text.len()
    )
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let pair = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&pair).unwrap(), 16).unwrap()
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).unwrap()
}

type Labels = Vec<(String, String)>;
type Found = BTreeMap<Labels, Vec<(i64, f64)>>;

fn answer(hosts: &[Host], query: &str, moments: &[i64], most: &Mutex<usize>) -> Value {
    let (query, only) = match query.strip_suffix(" == 1") {
        Some(query) => (query, Some(1.0)),
        None => (query, None),
    };
    let is_last = query
        .strip_prefix("last_over_time(")
        .and_then(|query| query.strip_suffix(')'));
    let query = is_last.unwrap_or(query);
    let (selector, range) = match query.split_once("}[") {
        Some((selector, range)) => (format!("{selector}}}"), Some(range.trim_end_matches(']'))),
        None => (query.to_owned(), None),
    };
    let range = range.map(|range| {
        let number = range.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match &range[number.len()..] {
            "ms" => 1,
            "h" => 3_600_000,
            "d" => 86_400_000,
            unit => panic!("{unit}"),
        };
        number.parse::<i64>().unwrap() * unit
    });
    let is_raw = range.is_some() && is_last.is_none();
    let found = match is_raw {
        true => select(hosts, &selector, moments, range.unwrap()),
        false => {
            let mut found = Found::new();
            for moment in moments {
                for (labels, points) in
                    select(hosts, &selector, &[*moment], range.unwrap_or(LOOKBACK))
                {
                    let last = points.last().unwrap().1;
                    if only.is_none_or(|only| last == only) {
                        found.entry(labels).or_default().push((*moment, last));
                    }
                }
            }
            found
        }
    };
    let is_vector = moments.len() == 1 && !is_raw;
    let sample = |(at, value): &(i64, f64)| json!([*at as f64 / 1e3, value.to_string()]);
    let rows: Vec<Value> = found
        .iter()
        .map(|(labels, points)| {
            let mut most = most.lock().unwrap();
            *most = points.len().max(*most);
            let metric: serde_json::Map<String, Value> =
                labels.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
            match is_vector {
                true => json!({"metric": metric, "value": sample(&points[0])}),
                false => json!({"metric": metric, "values": points.iter().map(sample).collect::<Vec<_>>()}),
            }
        })
        .collect();
    let kind = if is_vector { "vector" } else { "matrix" };
    json!({"status": "success", "data": {"resultType": kind, "result": rows}})
}

/// The samples that a selector matches, from `back` before the last moment on.
fn select(hosts: &[Host], selector: &str, moments: &[i64], back: i64) -> Found {
    let matchers = matchers(selector);
    let until = *moments.last().unwrap();
    let mut found = Found::new();
    for host in hosts {
        // What is in all of its series is looked at first.
        let mut own = matchers
            .iter()
            .filter(|matcher| ["instance", "job"].contains(&matcher.0.as_str()));
        let value_of = |wanted: &str| {
            let found = host.labels.iter().find(|label| label.0 == wanted);
            found.map_or("", |label| label.1.as_str())
        };
        if !own.all(|(label, is_it)| is_it(value_of(label))) {
            continue;
        }
        let known = RefCell::new(HashMap::<String, bool>::new());
        let wants = |name: &str| {
            if let Some(known) = known.borrow().get(name) {
                return *known;
            }
            let whole = format!("ondemand_{name}");
            let mut names = matchers.iter().filter(|matcher| matcher.0 == "__name__");
            let is_wanted = names.all(|(_, is_it)| is_it(&whole));
            known.borrow_mut().insert(name.to_owned(), is_wanted);
            is_wanted
        };
        let samples = host.samples(until - back, until);
        // It would be too much: who is there is seen from a part of them, too.
        let nth = if back > 25 * 3_600_000 {
            samples.len().div_ceil(100)
        } else {
            1
        };
        let samples: Vec<i64> = samples.into_iter().step_by(nth.max(1)).collect();
        // Of an instant only the last one matters.
        let samples: Vec<i64> = match back {
            LOOKBACK => samples.into_iter().rev().take(1).collect(),
            _ => samples,
        };
        for at in samples {
            for (name, mut labels, value) in host.at(at, wants).unwrap_or_default() {
                labels.push(("__name__".into(), name));
                labels.sort();
                let value_of = |wanted: &str| {
                    let found = labels.iter().find(|label| label.0 == wanted);
                    found.map_or("", |label| label.1.as_str())
                };
                if matchers.iter().all(|(label, is_it)| is_it(value_of(label))) {
                    found.entry(labels).or_default().push((at, value));
                }
            }
        }
    }
    found
}

type Matcher = (String, Box<dyn Fn(&str) -> bool>);

/// `name{label="value",other=~"a|b.*"}`. Of regular expressions there are alternatives, at the end `.*`, and groups.
fn matchers(selector: &str) -> Vec<Matcher> {
    let (name, rest) = selector.split_once('{').unwrap();
    let mut found: Vec<Matcher> = Vec::new();
    if !name.is_empty() {
        let name = name.to_owned();
        found.push(("__name__".into(), Box::new(move |value| value == name)));
    }
    let mut rest = rest.trim_end_matches('}');
    while !rest.is_empty() {
        let (label, after) = rest.split_once('=').unwrap();
        let is_pattern = after.starts_with('~');
        let (value, after) = after.trim_start_matches('~')[1..].split_once('"').unwrap();
        rest = after.trim_start_matches(',').trim_start();
        let value = value.replace("\\\\", "\\");
        let test: Box<dyn Fn(&str) -> bool> = match is_pattern {
            true => {
                let all = alternatives(&value);
                Box::new(move |text| {
                    all.iter().any(|one| match one.strip_suffix(".*") {
                        Some(begin) => text.starts_with(begin),
                        None => text == one.replace('\\', ""),
                    })
                })
            }
            false => Box::new(move |text| text == value),
        };
        found.push((label.trim().to_owned(), test));
    }
    found
}

/// `a|b(c|d)e` as `a`, `bce`, `bde`.
fn alternatives(pattern: &str) -> Vec<String> {
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for letter in pattern.chars() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            '|' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().unwrap().push(letter);
    }
    let mut found = Vec::new();
    for part in parts {
        match (part.find('('), part.find(')')) {
            (Some(open), Some(close)) => {
                for inner in part[open + 1..close].split('|') {
                    found.extend(alternatives(&format!(
                        "{}{inner}{}",
                        &part[..open],
                        &part[close + 1..]
                    )));
                }
            }
            _ => found.push(part),
        }
    }
    found
}

/// The same hosts as text for `promtool tsdb create-blocks-from openmetrics`.
pub fn open_metrics(hosts: &[Host], from: i64, until: i64) -> String {
    let mut families: BTreeMap<String, String> = BTreeMap::new();
    for host in hosts {
        for at in host.samples(from, until) {
            for (name, labels, value) in host.at(at, |_| true).unwrap_or_default() {
                let family = families.entry(name.clone()).or_default();
                let labels: Vec<String> = labels
                    .iter()
                    .map(|(name, value)| format!("{name}=\"{value}\""))
                    .collect();
                writeln!(
                    family,
                    "{name}{{{}}} {value} {}",
                    labels.join(","),
                    at as f64 / 1e3
                )
                .unwrap();
            }
        }
    }
    let mut text = String::new();
    for samples in families.values() {
        text += samples;
    }
    text + "# EOF\n"
}
