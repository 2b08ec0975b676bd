//! A recorded trace of arrivals, replayed while it is read: `timestamp_seconds,service`.
//!
//! Memory grows with the number of services, which is bounded, and not with the file.

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead as _, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use csv_core::ReadRecordResult;
use ondemand_core::{
    learned::{Terms, Trial},
    replay::{Replay, Timeouts},
    words::counted,
};

/// Maximum number of services in a trace.
const MOST_SERVICES: usize = 32_768;
/// Maximum length of a line. Bytes.
const LONGEST_LINE: u64 = 64 << 10;
/// Times from here on are not in seconds: it is the year 5138. Microseconds.
const LATEST: u64 = 100_000_000_000 * MICROS;
const MICROS: u64 = 1_000_000;

const TIME: &str = "timestamp_seconds";
const SERVICE: &str = "service";

/// A replayed trace.
#[derive(Debug)]
pub struct Trace {
    /// In the order of their first arrivals.
    pub services: Vec<Service>,
    /// The first and the last arrival. Microseconds.
    pub span: (u64, u64),
}

/// One service of a trace.
#[derive(Debug)]
pub struct Service {
    /// The name in the file.
    pub name: String,
    /// Its gaps.
    pub replay: Replay,
    /// The same by the learned timeout.
    pub trial: Trial,
    /// Arrivals by hour of the week, UTC, starting on Monday at midnight.
    pub week: Box<[u32; 168]>,
    last: u64,
}

/// Replays the file at `path`; `-` is standard input, and a name with `.gz` is decompressed.
///
/// # Errors
///
/// It cannot be read, or is not a trace sorted by time: the message names file and line.
pub fn read(path: &Path, timeouts: &Timeouts, learning: Terms) -> Result<Trace> {
    if path == Path::new("-") {
        return replay(io::stdin().lock(), "standard input", timeouts, learning);
    }
    let name = path.display().to_string();
    let file = File::open(path).with_context(|| format!("open the trace {name}"))?;
    let is_directory = file.metadata().is_ok_and(|data| data.is_dir());
    ensure!(!is_directory, "{name} is a directory; name a file in it");
    if path.extension().is_none_or(|extension| extension != "gz") {
        return replay(file, &name, timeouts, learning);
    }
    let (mut child, output) = unpack(file).with_context(|| format!("decompress {name}"))?;
    let trace = replay(output, &name, timeouts, learning);
    let status = child.wait().context("wait for gzip")?;
    // A wrong line closes the pipe, which ends gzip by a signal. If gzip exits with an error, its
    // error is the cause of what the reader found.
    ensure!(
        status.code().is_none_or(|code| code == 0),
        "{name}: gzip cannot decompress all of it ({status}); the file may be truncated"
    );
    trace
}

fn unpack(file: File) -> Result<(Child, impl Read)> {
    let mut child = Command::new("gzip")
        .arg("-dc")
        .stdin(file)
        .stdout(Stdio::piped())
        .spawn()
        .context("run gzip (is it installed?)")?;
    let output = child.stdout.take().context("read from gzip")?;
    Ok((child, output))
}

/// Replays `input`; `name` is for messages.
///
/// # Errors
///
/// Like [`read`].
pub fn replay(input: impl Read, name: &str, timeouts: &Timeouts, learning: Terms) -> Result<Trace> {
    let mut input = BufReader::with_capacity(1 << 16, input);
    let mut fleet = Fleet::new(timeouts, learning);
    let (mut columns, mut record) = (None, Record::new());
    let (mut line, mut number) = (Vec::new(), 0_u64);
    loop {
        line.clear();
        number += 1;
        let limit = LONGEST_LINE + 1;
        let length = (&mut input).take(limit).read_until(b'\n', &mut line);
        let length = length.with_context(|| format!("read {name}, line {number}"))?;
        if length == 0 {
            break;
        }
        let known = if length as u64 == limit {
            Err(format!(
                "longer than {} KiB; is it a trace?",
                LONGEST_LINE >> 10
            ))
        } else if line.trim_ascii().is_empty() {
            continue;
        } else if let Some(columns) = &columns {
            fleet.line(&line, columns, &mut record)
        } else {
            Columns::find(&line, &mut record).map(|found| columns = Some(found))
        };
        known.map_err(|why| anyhow!("{name}:{number}: {why}"))?;
    }
    ensure!(columns.is_some(), "{name}: is empty; {}", expected());
    fleet.end().with_context(|| name.to_owned())
}

fn expected() -> String {
    format!("the first line of a trace is \"{TIME},{SERVICE}\"")
}

/// The columns of the fields.
struct Columns {
    time: usize,
    service: usize,
    count: usize,
}

impl Columns {
    /// Finds them in the first line.
    fn find(line: &[u8], record: &mut Record) -> Result<Self, String> {
        // RFC 1952.
        if line.starts_with(b"\x1f\x8b") {
            return Err(
                "is compressed with gzip; let its name end in .gz, or decompress it (gzip -dc FILE | \
                 ondemand report --trace -)"
                    .into(),
            );
        }
        let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        record.read(line)?;
        let column = |wanted: &str| {
            record
                .fields()
                .position(|field| field.trim_ascii() == wanted.as_bytes())
                .ok_or_else(|| format!("no column {wanted:?}; {}", expected()))
        };
        Ok(Self {
            time: column(TIME)?,
            service: column(SERVICE)?,
            count: record.count,
        })
    }

    fn check(&self, count: usize) -> Result<(), String> {
        if count == self.count {
            return Ok(());
        }
        let fields = counted(count as u64, "field");
        Err(format!("{fields}, the first line has {}", self.count))
    }
}

/// A line with all of CSV's syntax, except fields over several lines.
struct Record {
    // Its tables take longer to build than a line takes to read.
    reader: csv_core::Reader,
    text: Vec<u8>,
    ends: Vec<usize>,
    count: usize,
}

impl Record {
    fn new() -> Self {
        Self {
            reader: csv_core::Reader::new(), // `default()` builds one without its tables.
            text: Vec::new(),
            ends: Vec::new(),
            count: 0,
        }
    }

    fn read(&mut self, line: &[u8]) -> Result<(), String> {
        // A quote inside a quoted field is written twice, so quotes come in pairs.
        if line.iter().filter(|byte| **byte == b'"').count() % 2 == 1 {
            return Err("a quote is not closed".into());
        }
        self.reader.reset();
        // The output is never longer than the input, and each field has at least its comma.
        self.text.resize(line.len() + 1, 0);
        self.ends.resize(line.len() + 1, 0);
        let (mut read, mut written) = (0, 0);
        self.count = 0;
        loop {
            let text = &mut self.text[written..];
            let ends = &mut self.ends[self.count..];
            // At the end of the input, an empty slice marks the end.
            let (result, input, output, fields) =
                self.reader.read_record(&line[read..], text, ends);
            read += input;
            written += output;
            self.count += fields;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::Record | ReadRecordResult::End => break,
                ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull => {
                    return Err("it is not valid CSV".into());
                }
            }
        }
        if !line[read..].trim_ascii().is_empty() {
            return Err("it contains a carriage return".into());
        }
        Ok(())
    }

    fn fields(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.count).map(|number| self.field(number))
    }

    fn field(&self, number: usize) -> &[u8] {
        let begin = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[begin..self.ends[number]]
    }
}

/// All services during the reading of the trace.
struct Fleet<'a> {
    timeouts: &'a Timeouts,
    learning: Terms,
    numbers: HashMap<Box<[u8]>, usize>,
    services: Vec<Service>,
    begin: u64,
    now: u64,
}

impl<'a> Fleet<'a> {
    fn new(timeouts: &'a Timeouts, learning: Terms) -> Self {
        Self {
            timeouts,
            learning,
            numbers: HashMap::new(),
            services: Vec::new(),
            begin: 0,
            now: 0,
        }
    }

    /// Handles one line of the file. The error says what is wrong with it.
    fn line(&mut self, line: &[u8], columns: &Columns, record: &mut Record) -> Result<(), String> {
        if line.contains(&b'"') {
            record.read(line)?;
            columns.check(record.count)?;
            return self.arrive(record.field(columns.time), record.field(columns.service));
        }
        let (mut time, mut service, mut count) = (&[][..], &[][..], 0);
        for field in line.trim_ascii_end().split(|byte| *byte == b',') {
            if count == columns.time {
                time = field;
            } else if count == columns.service {
                service = field;
            }
            count += 1;
        }
        columns.check(count)?;
        self.arrive(time, service)
    }

    fn arrive(&mut self, time: &[u8], service: &[u8]) -> Result<(), String> {
        let (at, service) = (micros(time)?, service.trim_ascii());
        if at < self.now {
            return Err(format!(
                "{} is earlier than the time of the line before it, {}; sort the trace by time \
                 (sort -n, below the first line)",
                seconds(at),
                seconds(self.now)
            ));
        }
        if self.services.is_empty() {
            self.begin = at;
        }
        self.now = at;
        let hour = hour_of_week(at);
        match self.numbers.get(service) {
            Some(&number) => {
                let service = &mut self.services[number];
                let gap = at - service.last;
                service.replay.gap(self.timeouts, gap);
                service.trial.gap(gap);
                service.last = at;
                service.week[hour] = service.week[hour].saturating_add(1);
            }
            None => self.first_arrival(at, hour, service)?,
        }
        Ok(())
    }

    fn first_arrival(&mut self, at: u64, hour: usize, name: &[u8]) -> Result<(), String> {
        let text = std::str::from_utf8(name)
            .map_err(|_| "the service's name is not UTF-8 text".to_owned())?;
        if text.trim().is_empty() {
            return Err("the service's name is missing".into());
        }
        // It is displayed on terminals, which would interpret it.
        if text.contains(char::is_control) {
            return Err("the service's name contains a control character".into());
        }
        if self.services.len() == MOST_SERVICES {
            return Err(format!(
                "more than {MOST_SERVICES} services; is the column {SERVICE:?} the right one?"
            ));
        }
        self.numbers.insert(name.into(), self.services.len());
        let mut service = Service {
            name: text.to_owned(),
            replay: Replay::new(self.timeouts),
            trial: Trial::new(self.learning),
            week: Box::new([0; 168]),
            last: at,
        };
        service.replay.first();
        service.trial.first();
        service.week[hour] = 1;
        self.services.push(service);
        Ok(())
    }

    fn end(mut self) -> Result<Trace> {
        ensure!(!self.services.is_empty(), "no arrivals");
        for service in &mut self.services {
            let quiet = self.now - service.last;
            service.replay.end(quiet);
            service.trial.end(quiet);
        }
        Ok(Trace {
            services: self.services,
            span: (self.begin, self.now),
        })
    }
}

/// The hour of the week, UTC, of microseconds since 1970, which began on a Thursday.
fn hour_of_week(at: u64) -> usize {
    ((at / (3600 * MICROS) + 3 * 24) % 168) as usize
}

fn seconds(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / MICROS, micros % MICROS);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Parses seconds of a trace to microseconds. Digits below that are cut off.
fn micros(text: &[u8]) -> Result<u64, String> {
    let text = text.trim_ascii();
    // A terminal would interpret control characters.
    let shown = || {
        let text = String::from_utf8_lossy(&text[..text.len().min(40)]);
        text.replace(char::is_control, "?")
    };
    let point = text.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = text.split_at(point.unwrap_or(text.len()));
    let fraction = fraction.get(1..).unwrap_or_default();
    let digits = |text: &[u8]| text.iter().all(u8::is_ascii_digit);
    if !digits(whole) || !digits(fraction) || whole.len() + fraction.len() == 0 {
        return Err(match text {
            [] => "the time is missing".into(),
            [b'-', ..] => format!("the time {} is negative", shown()),
            _ => format!("the time {:?} is not a number of seconds", shown()),
        });
    }
    let number = |digits: &[u8]| {
        digits.iter().fold(0_u64, |number, digit| {
            number
                .saturating_mul(10)
                .saturating_add(u64::from(digit - b'0'))
        })
    };
    let kept = &fraction[..fraction.len().min(6)];
    let below = number(kept) * 10_u64.pow(6 - kept.len() as u32);
    let at = number(whole).saturating_mul(MICROS).saturating_add(below);
    if at >= LATEST {
        return Err(format!(
            "the time {} is too large; are these seconds?",
            shown()
        ));
    }
    Ok(at)
}
