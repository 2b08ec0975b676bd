//! Whether a service works without a client: by the CPU time and the bytes of disks of its cgroup, over a window before it
//! would be idle. Pure: time and what was read are arguments.

use std::{fmt, time::Duration};

use crate::{config::Limits, measure::Ktime, words::Bytes};

/// The longest window.
const LONGEST: Duration = Duration::from_secs(60);
/// The shortest: below that, single writes decide.
const SHORTEST: Duration = Duration::from_secs(1);
/// How long it is known that a service does not work: longer than a veto program may take.
pub const KNOWN: Duration = Duration::from_secs(15);

/// The window of a service.
pub fn window(idle_timeout: Duration) -> Duration {
    idle_timeout.clamp(SHORTEST, LONGEST)
}

/// What the kernel has accounted to a cgroup since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time of all its processes. `None`: not accounted.
    pub cpu: Option<Duration>,
    /// Bytes read from and written to disks. `None`: not accounted.
    pub io: Option<u64>,
}

/// The work in one window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Share of one CPU.
    cpu: Option<f64>,
    /// Bytes a second.
    io: Option<f64>,
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpu = self.cpu.map(|cpu| format!("{:.1} % of a CPU", cpu * 100.0));
        let io = self.io.map(|io| format!("{}/s of disks", Bytes(io as u64)));
        let both: Vec<_> = [cpu, io].into_iter().flatten().collect();
        f.write_str(&both.join(", "))
    }
}

/// What is known of the work of one service.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// When it was last seen to work.
    pub worked: Option<Ktime>,
    /// The end of the last window in which it did not.
    calm: Option<Ktime>,
    /// The begin of the present window.
    began: Option<(Ktime, Usage)>,
    /// What cannot be known. It works until that is known.
    pub unknown: Option<Unknown>,
    /// The last window.
    pub rate: Option<Rate>,
}

/// What is not accounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// CPU time.
    Cpu,
    /// Bytes of disks.
    Io,
    /// The cgroup cannot be read.
    Cgroup,
}

impl Work {
    /// When the next reading is due, if the service would be idle at `idle_at` otherwise.
    pub fn due(&self, idle_at: Ktime, window: Duration) -> Ktime {
        match self.began {
            Some((began, _)) => began + window,
            None => before(idle_at, window),
        }
    }

    /// Takes a reading.
    pub fn take(
        &mut self,
        now: Ktime,
        read: Result<Usage, Unknown>,
        limits: &Limits,
        window: Duration,
    ) {
        let lacks = |usage: &Usage| match (limits.cpu, usage.cpu, limits.io, usage.io) {
            (Some(_), None, ..) => Some(Unknown::Cpu),
            (_, _, Some(_), None) => Some(Unknown::Io),
            _ => None,
        };
        self.unknown = read.map_or_else(Some, |usage| lacks(&usage));
        let Some(usage) = read.ok().filter(|_| self.unknown.is_none()) else {
            self.began = None;
            return;
        };
        let before = self.began.replace((now, usage));
        let Some((began, before)) = before else {
            return;
        };
        let Some(span) = now.since(began).filter(|span| *span >= window / 2) else {
            // Too short a window says nothing: it goes on.
            self.began = Some((began, before));
            return;
        };
        let seconds = span.as_secs_f64();
        let cpu = usage
            .cpu
            .zip(before.cpu)
            .map(|(now, then)| now.saturating_sub(then).as_secs_f64() / seconds);
        let io = usage
            .io
            .zip(before.io)
            .map(|(now, then)| now.saturating_sub(then) as f64 / seconds);
        let over_cpu = limits
            .cpu
            .zip(cpu)
            .is_some_and(|(most, cpu)| cpu * 1000.0 > f64::from(most));
        let over_io = limits.io.zip(io).is_some_and(|(most, io)| io > most as f64);
        self.rate = Some(Rate {
            cpu: cpu.filter(|_| limits.cpu.is_some()),
            io: io.filter(|_| limits.io.is_some()),
        });
        if over_cpu || over_io {
            self.worked = Some(now);
        } else {
            self.calm = Some(now);
        }
    }

    /// It is used, or down: a window begins anew before it would be idle.
    pub fn forget(&mut self) {
        self.began = None;
        self.calm = None;
    }

    /// Whether it is known not to work.
    pub fn is_calm(&self, now: Ktime) -> bool {
        let age = self.calm.and_then(|at| now.since(at));
        self.unknown.is_none() && age.is_some_and(|age| age < KNOWN)
    }

    /// Whether it was working when that was last looked at.
    pub fn is_working(&self) -> bool {
        self.worked > self.calm
    }
}

fn before(at: Ktime, span: Duration) -> Ktime {
    let span = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    Ktime::from_nanos(at.as_nanos().saturating_sub(span))
}

/// Reads `cpu.stat` of a cgroup (cgroup-v2.rst): `usage_usec`.
pub fn cpu(text: &str) -> Option<Duration> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "))?;
    line.trim().parse().ok().map(Duration::from_micros)
}

/// Reads `io.stat` of a cgroup (cgroup-v2.rst): `rbytes` and `wbytes` of all disks.
pub fn io(text: &str) -> Option<u64> {
    let mut sum = 0_u64;
    for word in text.split_whitespace() {
        let number = word
            .strip_prefix("rbytes=")
            .or_else(|| word.strip_prefix("wbytes="));
        if let Some(number) = number {
            sum = sum.saturating_add(number.parse().ok()?);
        }
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Ktime {
        Ktime::from_nanos(ms * 1_000_000)
    }

    const WINDOW: Duration = Duration::from_secs(10);
    const LIMITS: Limits = Limits {
        cpu: Some(50),
        io: Some(1_000_000),
    };

    fn usage(cpu: u64, io: u64) -> Result<Usage, Unknown> {
        Ok(Usage {
            cpu: Some(Duration::from_millis(cpu)),
            io: Some(io),
        })
    }

    #[test]
    fn a_window_decides() {
        let mut work = Work::default();
        assert_eq!(work.due(at(60_000), WINDOW), at(50_000));
        work.take(at(50_000), usage(1_000, 0), &LIMITS, WINDOW);
        assert_eq!(work.due(at(60_000), WINDOW), at(60_000));
        assert!(!work.is_calm(at(50_000)) && !work.is_working());
        // 4 % of a CPU, 0.9 MB/s.
        work.take(at(60_000), usage(1_400, 9_000_000), &LIMITS, WINDOW);
        assert!(work.is_calm(at(60_001)) && !work.is_calm(at(75_000)));
        // 6 %.
        work.take(at(70_000), usage(2_000, 9_000_000), &LIMITS, WINDOW);
        assert!(work.is_working() && work.worked == Some(at(70_000)));
        // 2 MB/s.
        work.take(at(80_000), usage(2_000, 29_000_000), &LIMITS, WINDOW);
        assert_eq!(work.worked, Some(at(80_000)));
        assert_eq!(
            work.rate.unwrap().to_string(),
            "0.0 % of a CPU, 2.0 MB/s of disks"
        );
        // A reading that comes too early ends no window.
        work.take(at(81_000), usage(9_000, 29_000_000), &LIMITS, WINDOW);
        assert_eq!(work.due(at(0), WINDOW), at(90_000));
        work.take(at(90_000), usage(2_100, 29_000_000), &LIMITS, WINDOW);
        assert!(work.is_calm(at(90_000)) && !work.is_working());
        work.forget();
        assert!(!work.is_calm(at(90_001)));
        assert_eq!(work.due(at(200_000), WINDOW), at(190_000));
    }

    #[test]
    fn what_is_not_accounted_is_unknown() {
        let mut work = Work::default();
        let none = Usage::default();
        work.take(at(0), Ok(none), &LIMITS, WINDOW);
        assert_eq!(work.unknown, Some(Unknown::Cpu));
        let cpu = Usage {
            cpu: Some(Duration::ZERO),
            io: None,
        };
        work.take(at(10_000), Ok(cpu), &LIMITS, WINDOW);
        assert_eq!(work.unknown, Some(Unknown::Io));
        work.take(at(20_000), Err(Unknown::Cgroup), &LIMITS, WINDOW);
        assert_eq!(work.unknown, Some(Unknown::Cgroup));
        assert!(!work.is_calm(at(20_000)));
        // What nobody asks for may be missing.
        let only = Limits {
            cpu: Some(50),
            io: None,
        };
        work.take(at(30_000), Ok(cpu), &only, WINDOW);
        work.take(at(40_000), Ok(cpu), &only, WINDOW);
        assert!(work.is_calm(at(40_000)));
    }

    #[test]
    fn the_files_of_a_cgroup() {
        assert_eq!(
            cpu("usage_usec 1500\nuser_usec 9\n"),
            Some(Duration::from_micros(1500))
        );
        assert_eq!(cpu("user_usec 9\n"), None);
        assert_eq!(cpu("usage_usec x"), None);
        let two =
            "8:0 rbytes=100 wbytes=20 rios=9 wios=9 dbytes=7 dios=1\n253:0 rbytes=3 wbytes=0\n";
        assert_eq!(io(two), Some(123));
        assert_eq!(io(""), Some(0), "no disk was used yet");
        assert_eq!(io("8:0 rbytes=x"), None);
    }
}
