//! A recorded trace of arrivals, replayed while it is read: `timestamp_seconds,service`.
//!
//! Memory grows with the number of services, which is bounded, and not with the file.

pub mod lines;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Seek as _},
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use lines::{Arrival, seconds};
use ondemand_core::{
    learned::{Terms, Trial},
    replay::{Replay, Timeouts},
};

/// Maximum number of services in a trace.
const MOST_SERVICES: usize = 32_768;
const MICROS: u64 = 1_000_000;

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

/// Where a trace comes from.
#[derive(Debug)]
pub struct Source {
    /// For messages.
    pub name: String,
    input: Input,
}

#[derive(Debug)]
enum Input {
    Stdin,
    Plain(File),
    /// Compressed by gzip.
    Packed(File),
}

impl Source {
    /// The file at `path`; `-` is standard input, and a name with `.gz` is decompressed.
    ///
    /// # Errors
    ///
    /// It cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        if path == Path::new("-") {
            return Ok(Self {
                name: "standard input".to_owned(),
                input: Input::Stdin,
            });
        }
        let name = path.display().to_string();
        let file = File::open(path).with_context(|| format!("open the trace {name}"))?;
        let is_directory = file.metadata().is_ok_and(|data| data.is_dir());
        ensure!(!is_directory, "{name} is a directory; name a file in it");
        let input = match path.extension().is_some_and(|extension| extension == "gz") {
            true => Input::Packed(file),
            false => Input::Plain(file),
        };
        Ok(Self { name, input })
    }

    /// Makes it one that can be read twice: what cannot is copied to a file without a name.
    ///
    /// # Errors
    ///
    /// It cannot be copied.
    pub fn twice(self) -> Result<Self> {
        let copy = |from: &mut dyn Read| -> Result<File> {
            let mut file = tempfile::tempfile()?;
            io::copy(from, &mut file)?;
            file.rewind()?;
            Ok(file)
        };
        let name = self.name;
        let context = || format!("copy {name} to a file, to read it twice");
        let input = match self.input {
            Input::Stdin => Input::Plain(copy(&mut io::stdin().lock()).with_context(context)?),
            Input::Plain(mut file) if (&file).rewind().is_err() => {
                Input::Plain(copy(&mut file).with_context(context)?)
            }
            Input::Packed(mut file) if (&file).rewind().is_err() => {
                Input::Packed(copy(&mut file).with_context(context)?)
            }
            input => input,
        };
        Ok(Self { name, input })
    }

    /// Calls `take` with each arrival.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is no trace: the message names file and line.
    pub fn scan(&mut self, take: impl FnMut(&Arrival<'_>) -> Result<(), String>) -> Result<()> {
        let name = &self.name;
        let file = match &mut self.input {
            Input::Stdin => return lines::scan(io::stdin().lock(), name, take),
            Input::Plain(file) => {
                // What cannot is read once.
                let _ = file.rewind();
                return lines::scan(file, name, take);
            }
            Input::Packed(file) => {
                let _ = file.rewind();
                file.try_clone()?
            }
        };
        let (mut child, output) = unpack(file).with_context(|| format!("decompress {name}"))?;
        let scanned = lines::scan(output, name, take);
        let status = child.wait().context("wait for gzip")?;
        // A wrong line closes the pipe, which ends gzip by a signal. If gzip exits with an error, its
        // error is the cause of what the reader found.
        ensure!(
            status.code().is_none_or(|code| code == 0),
            "{name}: gzip cannot decompress all of it ({status}); the file may be truncated"
        );
        scanned
    }

    /// Replays it.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is not a trace sorted by time: the message names file and line.
    pub fn replay(&mut self, timeouts: &Timeouts, learning: Terms) -> Result<Trace> {
        let mut fleet = Fleet::new(timeouts, learning);
        self.scan(|arrival| fleet.arrive(arrival.at, arrival.service))?;
        fleet.end().with_context(|| self.name.clone())
    }
}

/// Replays `input`; `name` is for messages.
///
/// # Errors
///
/// Like [`Source::replay`].
pub fn replay(input: impl Read, name: &str, timeouts: &Timeouts, learning: Terms) -> Result<Trace> {
    let mut fleet = Fleet::new(timeouts, learning);
    lines::scan(input, name, |arrival| {
        fleet.arrive(arrival.at, arrival.service)
    })?;
    fleet.end().with_context(|| name.to_owned())
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

    fn arrive(&mut self, at: u64, service: &[u8]) -> Result<(), String> {
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
                "more than {MOST_SERVICES} services; is the column \"service\" the right one?"
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
