//! Whether an application is ready, as `ready` of the configuration says: when it is asked, and what an answer means.
//! Pure: time and answers are arguments.

use std::time::Duration;

use crate::{
    config::Statuses,
    measure::{
        Ktime,
        unit::{ActiveState, Unit},
    },
};

/// Maximum time of one question, from connect(2) to the answer's status.
pub const ATTEMPT: Duration = Duration::from_secs(5);
/// How long a connection must last, if nothing is asked on it.
pub const LASTS: Duration = Duration::from_millis(100);
/// Maximum length of an answer's head in bytes. What follows is not read.
pub const MOST_HEAD: usize = 16 * 1024;

/// A question that takes longer has no answer for now.
const LONG: Duration = Duration::from_secs(1);
/// The pause after the first answer that says "not yet". Each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest pause.
pub const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause for an application that should have been ready long ago.
const LATE_PAUSE: Duration = Duration::from_secs(2);

/// What an application says that is not ready. A sentence without a subject, such as "answers 503".
pub type NotYet = String;

/// The request for `path`. The connection ends with its answer.
pub fn request(host: &str, path: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: ondemand/{version} (ready)\r\nAccept: */*\r\n\
         Connection: close\r\n\r\n"
    )
}

/// What has come of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Head {
    /// Not enough.
    Unfinished,
    /// Its status, and where it redirects to.
    Status(u16, Option<String>),
    /// It is no answer in HTTP, or its head is too long.
    Garbage(NotYet),
}

/// Reads the head of an answer (RFC 9112), of which `bytes` have come. Interim answers (1xx) are passed over.
pub fn head(mut bytes: &[u8]) -> Head {
    let is_long = bytes.len() >= MOST_HEAD;
    loop {
        let begin = b"HTTP/1.";
        let common = bytes.len().min(begin.len());
        if bytes[..common] != begin[..common] {
            return Head::Garbage("answers something that is not HTTP".into());
        }
        let Some(end) = end_of_head(bytes) else {
            return match is_long {
                true => Head::Garbage(format!(
                    "answers with a head of more than {} KiB",
                    MOST_HEAD / 1024
                )),
                false => Head::Unfinished,
            };
        };
        let text = String::from_utf8_lossy(&bytes[..end]);
        let mut lines = text.lines();
        let code = lines.next().and_then(|line| line.split(' ').nth(1));
        let code = code
            .filter(|code| code.len() == 3)
            .and_then(|code| code.parse().ok());
        match code {
            Some(101 | 200..=999) => {}
            Some(100..=199) => {
                bytes = &bytes[end..];
                continue;
            }
            _ => return Head::Garbage("answers without a status".into()),
        }
        let location = lines.find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("location")
                .then(|| shown(value.trim()))
        });
        return Head::Status(code.unwrap_or_default(), location);
    }
}

/// Behind the empty line.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let with = |end: &[u8]| {
        let found = bytes.windows(end.len()).position(|window| window == end);
        found.map(|at| at + end.len())
    };
    [with(b"\r\n\r\n"), with(b"\n\n")]
        .into_iter()
        .flatten()
        .min()
}

/// The text of a stranger for a message: printable, and not long.
pub fn shown(text: &str) -> String {
    let clean = text.chars().map(|c| if c.is_control() { '?' } else { c });
    clean.take(120).collect()
}

/// What a status means.
///
/// # Errors
///
/// The application is not ready.
pub fn judge(code: u16, location: Option<&str>, wanted: &Statuses) -> Result<(), NotYet> {
    if wanted.contains(code) {
        return Ok(());
    }
    Err(match location {
        Some(to) if (300..400).contains(&code) => {
            format!("answers {code} to {to}, which is not followed (ready_status: {wanted})")
        }
        _ => format!("answers {code} (ready_status: {wanted})"),
    })
}

/// The questions to one application. Each run of it is asked until it is ready.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probing {
    /// The run, by its begin, and when its first question was due. `None`: it is down.
    run: Option<(Option<Ktime>, Ktime)>,
    /// The number of the present question.
    ticket: u64,
    is_under_way: bool,
    /// When it was asked.
    asked: Ktime,
    /// When the next one is due.
    next: Ktime,
    pause: Duration,
    /// When it was ready.
    ready: Option<Ktime>,
    why: Option<NotYet>,
}

impl Probing {
    /// Follows the application's unit. Returns the number of a question that is to be asked now.
    pub fn follow(&mut self, now: Ktime, backend: &Unit, start_timeout: Duration) -> Option<u64> {
        let is_there = match backend.state {
            ActiveState::Active | ActiveState::Reloading => true,
            ActiveState::Activating => !backend.restarting,
            _ => false,
        };
        let run = is_there.then_some(backend.inactive_exit);
        if self.run.map(|(run, _)| run) != run {
            *self = Self {
                run: run.map(|run| (run, now)),
                // An answer to an earlier question is none of this run.
                ticket: self.ticket + 1,
                next: now,
                pause: FIRST_PAUSE,
                ..Self::default()
            };
        }
        if self.run.is_none() || self.ready.is_some() || self.is_under_way || now < self.next {
            return None;
        }
        self.is_under_way = true;
        self.asked = now;
        self.ticket += 1;
        if self.waited(now) > start_timeout {
            self.pause = self.pause.max(LATE_PAUSE / 2);
        }
        Some(self.ticket)
    }

    /// It began to listen: it is asked now.
    pub fn hurry(&mut self, now: Ktime) {
        self.next = now;
        self.pause = FIRST_PAUSE;
    }

    /// Takes an answer. Returns whether the application became ready.
    pub fn take(&mut self, now: Ktime, ticket: u64, answer: Result<(), NotYet>) -> bool {
        if ticket != self.ticket || !self.is_under_way {
            return false;
        }
        self.is_under_way = false;
        match answer {
            Ok(()) => {
                self.ready = Some(now);
                self.why = None;
            }
            Err(why) => {
                // A question may have been hurried meanwhile.
                if self.next <= now {
                    self.next = now + self.pause;
                }
                let longest = if self.pause > LONGEST_PAUSE {
                    LATE_PAUSE
                } else {
                    LONGEST_PAUSE
                };
                self.pause = (self.pause * 2).min(longest);
                self.why = Some(why);
            }
        }
        self.ready.is_some()
    }

    /// Whether the present run was ready.
    pub fn is_ready(&self) -> bool {
        self.ready.is_some()
    }

    /// Why it is not ready. `None`: it is, or is down, or was not asked yet.
    pub fn why(&self, now: Ktime) -> Option<&str> {
        let waits = self.is_under_way.then_some("has not answered yet");
        // What it said before is no longer true: it refused connections, and takes this one.
        let is_long = now.since(self.asked).is_some_and(|age| age >= LONG);
        match &self.why {
            Some(why) if !(is_long && self.is_under_way) => Some(why),
            _ => waits,
        }
    }

    /// How long the present run has been asked.
    pub fn waited(&self, now: Ktime) -> Duration {
        let began = self.run.map(|(_, began)| began);
        let until = self.ready.unwrap_or(now);
        began
            .and_then(|began| until.since(began))
            .unwrap_or_default()
    }

    /// When the next question is due.
    pub fn due(&self) -> Option<Ktime> {
        let is_asked = self.run.is_some() && self.ready.is_none() && !self.is_under_way;
        is_asked.then_some(self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        #[track_caller]
        fn check(text: &str, expected: Head) {
            assert_eq!(head(text.as_bytes()), expected, "{text:?}");
        }
        let status = |code| Head::Status(code, None);
        check("", Head::Unfinished);
        check("HTT", Head::Unfinished);
        check("HTTP/1.1 200 OK\r\n", Head::Unfinished);
        check("HTTP/1.1 200 OK\r\n\r\n", status(200));
        check("HTTP/1.0 503\n\n<html>", status(503));
        check(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 x\r\nA: b\r\n\r\n",
            status(204),
        );
        check("HTTP/1.1 103 Early\r\n\r\n", Head::Unfinished);
        check("HTTP/1.1 101 Switching\r\n\r\n", status(101));
        let to = Head::Status(302, Some("/login".into()));
        check("HTTP/1.1 302 Found\r\nlocation: /login\r\n\r\n", to);
        for garbage in [
            "SSH-2.0-OpenSSH",
            "\0",
            "HTTP/2 200 OK\r\n\r\n",
            "HTTP/1.1 2000 x\r\n\r\n",
            "HTTP/1.1\r\n\r\n",
            "HTTP/1.1 -20 x\r\n\r\n",
        ] {
            assert!(
                matches!(head(garbage.as_bytes()), Head::Garbage(_)),
                "{garbage:?}"
            );
        }
        let long = format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(MOST_HEAD));
        assert!(matches!(head(long.as_bytes()), Head::Garbage(why) if why.contains("16 KiB")));
        // An endless row of interim answers is bounded, too.
        let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(MOST_HEAD / 25 + 1);
        assert!(!matches!(head(interim.as_bytes()), Head::Status(..)));
    }

    #[test]
    fn what_is_shown_of_a_stranger_is_printable() {
        assert_eq!(shown("a\x1b[2Jb"), "a?[2Jb");
        assert_eq!(shown(&"x".repeat(500)).len(), 120);
        let wanted = "200".parse().unwrap();
        let why = judge(302, Some("/login"), &wanted).unwrap_err();
        assert!(why.contains("302 to /login"), "{why}");
        assert!(judge(200, None, &wanted).is_ok());
        assert!(judge(404, None, &Statuses::default()).is_ok());
        assert!(judge(503, None, &Statuses::default()).is_err());
    }

    fn at(ms: u64) -> Ktime {
        Ktime::from_nanos(ms * 1_000_000)
    }

    fn unit(state: ActiveState, began: u64) -> Unit {
        Unit {
            state,
            inactive_exit: Some(at(began)),
            ..Unit::default()
        }
    }

    const TIMEOUT: Duration = Duration::from_secs(10);

    #[test]
    fn a_run_is_asked_until_it_is_ready() {
        let mut probing = Probing::default();
        let (down, up) = (unit(ActiveState::Inactive, 1), unit(ActiveState::Active, 5));
        assert_eq!(probing.follow(at(1), &down, TIMEOUT), None);
        assert_eq!(probing.due(), None);
        let first = probing.follow(at(5), &up, TIMEOUT).unwrap();
        assert_eq!(probing.follow(at(6), &up, TIMEOUT), None, "one at a time");
        assert!(!probing.take(at(7), first, Err("answers 503".into())));
        assert_eq!(
            (probing.why(at(7)), probing.is_ready()),
            (Some("answers 503"), false)
        );
        assert_eq!(probing.due(), Some(at(17)));
        assert_eq!(probing.follow(at(16), &up, TIMEOUT), None);
        let second = probing.follow(at(17), &up, TIMEOUT).unwrap();
        assert!(!probing.take(at(18), first, Ok(())), "it is late");
        assert_eq!(probing.why(at(18)), Some("answers 503"));
        assert_eq!(probing.why(at(2_000)), Some("has not answered yet"));
        assert!(probing.take(at(18), second, Ok(())));
        assert!(probing.is_ready() && probing.why(at(19)).is_none() && probing.due().is_none());
        assert_eq!(probing.waited(at(99)), Duration::from_millis(13));
        assert_eq!(probing.follow(at(1000), &up, TIMEOUT), None);
        // The next run, whatever was seen in between.
        let next = unit(ActiveState::Activating, 2000);
        let third = probing.follow(at(2000), &next, TIMEOUT).unwrap();
        assert!(!probing.is_ready());
        probing.follow(at(2001), &down, TIMEOUT);
        assert!(!probing.take(at(2002), third, Ok(())), "it has ended");
    }

    #[test]
    fn the_pauses_grow_and_end_with_a_listener() {
        let mut probing = Probing::default();
        let up = unit(ActiveState::Active, 0);
        let (mut now, mut asked) = (at(0), 0);
        while now < at(9_000) {
            let ticket = probing.follow(now, &up, TIMEOUT).unwrap();
            probing.take(now, ticket, Err(String::new()));
            asked += 1;
            assert!(probing.due().unwrap() <= now + LONGEST_PAUSE);
            now = probing.due().unwrap();
        }
        assert!((30..45).contains(&asked), "{asked}");
        probing.hurry(now + FIRST_PAUSE);
        assert_eq!(probing.due(), Some(now + FIRST_PAUSE));
        // One that should have been ready long ago is asked seldom.
        now = at(60_000);
        for _ in 0..3 {
            let ticket = probing.follow(now, &up, TIMEOUT).unwrap();
            probing.take(now, ticket, Err(String::new()));
            assert!(probing.due().unwrap() >= now + LATE_PAUSE / 2);
            now = probing.due().unwrap();
        }
    }
}
