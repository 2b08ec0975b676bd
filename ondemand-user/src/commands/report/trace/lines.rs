//! The lines of a trace, and what is wrong with them.

use std::io::{BufRead as _, BufReader, Read};

use anyhow::{Context as _, Result, anyhow, ensure};
use csv_core::ReadRecordResult;
use ondemand_core::words::counted;

use super::MICROS;

/// Maximum length of a line. Bytes.
const LONGEST_LINE: u64 = 64 << 10;
/// Times from here on are not in seconds: it is the year 5138. Microseconds.
const LATEST: u64 = 100_000_000_000 * MICROS;

const TIME: &str = "timestamp_seconds";
const SERVICE: &str = "service";
/// The column with what a service takes while it is up; it need not be there.
pub const MEMORY: &str = "memory_bytes";
/// The column with how long a start of a service takes; it need not be there.
pub const START: &str = "start_seconds";

/// A line: a client comes.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// Microseconds.
    pub at: u64,
    /// The service's name.
    pub service: &'a [u8],
    /// What is in [`MEMORY`]; empty without it.
    pub memory: &'a [u8],
    /// What is in [`START`]; empty without it.
    pub start: &'a [u8],
}

/// Calls `take` with each arrival of `input`, whose name is for messages.
///
/// # Errors
///
/// It cannot be read, or is no trace: the message has the number of the line, also before what `take` says of one.
pub fn scan(
    input: impl Read,
    name: &str,
    mut take: impl FnMut(&Arrival<'_>) -> Result<(), String>,
) -> Result<()> {
    let mut input = BufReader::with_capacity(1 << 16, input);
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
            arrival(&line, columns, &mut record).and_then(|arrival| take(&arrival))
        } else {
            Columns::find(&line, &mut record).map(|found| columns = Some(found))
        };
        known.map_err(|why| anyhow!("{name}:{number}: {why}"))?;
    }
    ensure!(columns.is_some(), "{name}: is empty; {}", expected());
    Ok(())
}

fn expected() -> String {
    format!("the first line of a trace is \"{TIME},{SERVICE}\"")
}

/// Reads one line of the file. The error says what is wrong with it.
fn arrival<'a>(
    line: &'a [u8],
    columns: &Columns,
    record: &'a mut Record,
) -> Result<Arrival<'a>, String> {
    let mut found = [&[][..]; 4];
    let places = [
        Some(columns.time),
        Some(columns.service),
        columns.memory,
        columns.start,
    ];
    if line.contains(&b'"') {
        record.read(line)?;
        columns.check(record.count)?;
        for (field, place) in found.iter_mut().zip(places) {
            *field = place.map_or(&[][..], |place| record.field(place));
        }
    } else {
        let mut count = 0;
        for text in line.trim_ascii_end().split(|byte| *byte == b',') {
            for (field, place) in found.iter_mut().zip(places) {
                if place == Some(count) {
                    *field = text;
                }
            }
            count += 1;
        }
        columns.check(count)?;
    }
    let [time, service, memory, start] = found.map(<[u8]>::trim_ascii);
    Ok(Arrival {
        at: micros(time)?,
        service,
        memory,
        start,
    })
}

/// The columns of the fields.
struct Columns {
    time: usize,
    service: usize,
    memory: Option<usize>,
    start: Option<usize>,
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
        let find = |wanted: &str| {
            let mut fields = record.fields();
            fields.position(|field| field.trim_ascii() == wanted.as_bytes())
        };
        let column = |wanted: &str| {
            find(wanted).ok_or_else(|| format!("no column {wanted:?}; {}", expected()))
        };
        Ok(Self {
            time: column(TIME)?,
            service: column(SERVICE)?,
            memory: find(MEMORY),
            start: find(START),
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

/// Formats microseconds as seconds.
pub fn seconds(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / MICROS, micros % MICROS);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Parses seconds of a trace to microseconds. Digits below that are cut off.
pub fn micros(text: &[u8]) -> Result<u64, String> {
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
