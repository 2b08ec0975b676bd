//! `ready` and `ready_status`: when an application counts as ready for its clients.

use core::net::SocketAddr;
use std::{fmt, ops::RangeInclusive, str::FromStr};

use super::{Endpoint, endpoint, error::Problem, table::Value};

const EXAMPLE: &str =
    "\"http://127.0.0.1:8080/health\", \"https://127.0.0.1:8443/\" or \"tcp:127.0.0.1:5432\"";
const STATUS_EXAMPLE: &str = "\"200-399\" or [\"200-299\", \"401\"]";

/// Maximum length of a URL in bytes.
const MAX_URL: usize = 1024;
/// Maximum number of ranges of status codes.
const MAX_RANGES: usize = 32;

/// Who is asked whether an application is ready, and which answer says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Where.
    pub address: SocketAddr,
    /// How.
    pub by: By,
}

/// How it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// It is ready if a connection is made and not closed at once.
    Connect,
    /// It is ready if a `GET` is answered with one of these status codes.
    Http {
        /// Whether over TLS.
        tls: bool,
        /// The address as it was written, for the `Host` field.
        host: String,
        /// From the first `/` on.
        path: String,
        /// The status codes.
        status: Statuses,
    },
}

/// Status codes of HTTP, as ranges. Without any: those below 500.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statuses(Vec<RangeInclusive<u16>>);

impl Statuses {
    /// Whether an application that answers with this code is ready.
    pub fn contains(&self, code: u16) -> bool {
        match self.0.as_slice() {
            [] => code < 500,
            ranges => ranges.iter().any(|range| range.contains(&code)),
        }
    }

    /// Whether nothing was said, and codes below 500 are taken.
    pub fn is_default(&self) -> bool {
        self.0.is_empty()
    }
}

/// Parses `200-399,404`.
impl FromStr for Statuses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ranges: Result<Vec<_>, _> = text.split(',').map(|part| range(part.trim())).collect();
        let ranges = ranges?;
        if ranges.len() > MAX_RANGES {
            return Err(format!(
                "{} ranges; the maximum is {MAX_RANGES}",
                ranges.len()
            ));
        }
        Ok(Self(ranges))
    }
}

/// Formats them as they are parsed.
impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_default() {
            return f.write_str("100-499");
        }
        for (place, range) in self.0.iter().enumerate() {
            let comma = if place > 0 { "," } else { "" };
            match (range.start(), range.end()) {
                (one, same) if one == same => write!(f, "{comma}{one}")?,
                (first, last) => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

fn range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let code = |text: &str| {
        let is_code = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse()
            .ok()
            .filter(|code| is_code && (100..=599).contains(code))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (code(first.trim()), code(last.trim())) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        (Some(first), Some(last)) => Err(format!(
            "{text:?} begins after its end; write \"{last}-{first}\""
        )),
        _ => Err(format!(
            "{text:?} is not a status code or a range of them, from 100 to 599; write it like {STATUS_EXAMPLE}"
        )),
    }
}

/// Parses `http://ADDRESS/path`, `https://ADDRESS/path` or `tcp:ADDRESS`. The error says what to write instead.
impl FromStr for Ready {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() > MAX_URL {
            return Err(format!("{} bytes; the maximum is {MAX_URL}", text.len()));
        }
        if let Some(bad) = text.chars().find(|c| !c.is_ascii_graphic()) {
            return Err(format!(
                "{text:?} contains {bad:?}; in a URL such a character is written as %XX (RFC 3986)"
            ));
        }
        if let Some(address) = text.strip_prefix("tcp:") {
            let address = address.trim_start_matches('/');
            let address = specific(address, 0)?;
            return Ok(Self {
                address,
                by: By::Connect,
            });
        }
        let (tls, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(format!("{text:?} is none of {EXAMPLE}")),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (host, path) = rest.split_at(end);
        if host.contains('@') {
            return Err(format!(
                "{text:?} has a user, whose password would be readable for all; let the path be open without one"
            ));
        }
        if path.contains('#') {
            return Err(format!(
                "{text:?}: leave out what begins with '#', which is never sent"
            ));
        }
        let path = match path {
            path if path.starts_with('/') => path.to_owned(),
            path => format!("/{path}"),
        };
        let address = specific(host, if tls { 443 } else { 80 })?;
        let (host, status) = (host.to_owned(), Statuses::default());
        let by = By::Http {
            tls,
            host,
            path,
            status,
        };
        Ok(Self { address, by })
    }
}

/// Parses an address; `port`: the one that may be left out, 0: none.
fn specific(text: &str, port: u16) -> Result<SocketAddr, String> {
    let bare = text.parse().ok().or_else(|| {
        let v6 = text.strip_prefix('[')?.strip_suffix(']')?;
        v6.parse::<core::net::Ipv6Addr>().ok().map(Into::into)
    });
    let address = match bare {
        Some(ip) if port > 0 => SocketAddr::new(ip, port),
        _ => endpoint::tcp(text)?,
    };
    if address.ip().is_unspecified() {
        let own = if address.is_ipv4() {
            "127.0.0.1"
        } else {
            "[::1]"
        };
        return Err(format!(
            "{text:?} means all addresses; write one of them, such as \"{own}:{}\"",
            address.port()
        ));
    }
    Ok(address)
}

/// Formats it as it is parsed. The status codes are not part of it.
impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.by {
            By::Connect => write!(f, "tcp:{}", self.address),
            By::Http {
                tls, host, path, ..
            } => {
                let scheme = if *tls { "https" } else { "http" };
                write!(f, "{scheme}://{host}{path}")
            }
        }
    }
}

impl Ready {
    /// The same with these status codes.
    ///
    /// # Errors
    ///
    /// It has none.
    pub fn with_status(mut self, wanted: Statuses) -> Result<Self, String> {
        match &mut self.by {
            By::Http { status, .. } => *status = wanted,
            By::Connect => {
                return Err(
                    "requires `ready` with http:// or https://: only these answer with a status"
                        .into(),
                );
            }
        }
        Ok(self)
    }

    /// The status codes that were given.
    pub fn status(&self) -> Option<&Statuses> {
        match &self.by {
            By::Http { status, .. } => Some(status).filter(|status| !status.is_default()),
            By::Connect => None,
        }
    }
}

/// Reads both values. `listen`, `backend`: `None` is wrong by itself.
pub(super) fn read(
    value: Option<&Value<'_>>,
    status: Option<&Value<'_>>,
    listen: Option<&[Endpoint]>,
    backend: Option<&Endpoint>,
) -> Result<Option<Ready>, Problem> {
    let Some(value) = value else {
        return match status {
            None => Ok(None),
            Some(status) => Err(status.place.problem(
                "requires `ready`: it says which of the answers to that mean that the application is ready",
            )),
        };
    };
    let text = value.string(EXAMPLE)?;
    let ready: Ready = text
        .parse()
        .map_err(|message: String| value.place.problem(message))?;
    let at = Endpoint::Tcp(ready.address);
    let front = listen
        .unwrap_or_default()
        .iter()
        .find(|front| front.overlaps(&at));
    if let Some(front) = front.filter(|_| backend.is_some_and(|backend| !backend.overlaps(&at))) {
        return Err(value.place.problem(format!(
            "{at} is the front address {front}, whose clients wait until the application is ready; write an \
             address of the application itself"
        )));
    }
    let Some(status) = status else {
        return Ok(Some(ready));
    };
    let mut wanted = Statuses::default();
    for (place, text) in status.strings_or_integers(STATUS_EXAMPLE)? {
        let Statuses(more) = text
            .parse()
            .map_err(|message: String| place.problem(message))?;
        wanted.0.extend(more);
    }
    if wanted.is_default() || wanted.0.len() > MAX_RANGES {
        let message = format!("one to {MAX_RANGES} ranges; write them like {STATUS_EXAMPLE}");
        return Err(status.place.problem(message));
    }
    let ready = ready
        .with_status(wanted)
        .map_err(|message| status.place.problem(message))?;
    Ok(Some(ready))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_printed_as_they_were_written() {
        #[track_caller]
        fn check(text: &str, address: &str) {
            let ready: Ready = text.parse().unwrap();
            assert_eq!(ready.address, address.parse().unwrap(), "{text}");
            assert_eq!(ready.to_string(), text);
        }
        check("http://127.0.0.1:8080/health?x=1", "127.0.0.1:8080");
        check("http://127.0.0.1/", "127.0.0.1:80");
        check("https://[::1]/", "[::1]:443");
        check("https://[::1]:8443/a%20b", "[::1]:8443");
        check("tcp:127.0.0.1:5432", "127.0.0.1:5432");
        let bare: Ready = "http://127.0.0.1:80?x".parse().unwrap();
        assert_eq!(bare.to_string(), "http://127.0.0.1:80/?x");
    }

    #[test]
    fn bad_addresses_say_what_to_write() {
        #[track_caller]
        fn check(text: &str, expected: &str) {
            let message = text.parse::<Ready>().expect_err(text);
            assert!(message.contains(expected), "{text:?}: {message}");
        }
        check("", "none of \"http://");
        check("127.0.0.1:80", "none of \"http://");
        check("ftp://127.0.0.1/", "none of \"http://");
        check("http://", "empty");
        check("http://localhost:80/", "write \"127.0.0.1:80\"");
        check("http://wiki.example.org/", "not an address");
        check("http://0.0.0.0:80/", "all addresses");
        check("https://[::]/", "all addresses");
        check("http://root:x@127.0.0.1/", "has a user");
        check("http://127.0.0.1/#top", "'#'");
        check("http://127.0.0.1/a b", "%XX");
        check("http://127.0.0.1/ä", "%XX");
        check("http://127.0.0.1:0/", "port 0");
        check("http://127.0.0.1:99999/", "not a port");
        check("tcp:127.0.0.1", "has no port");
        check("tcp:5432", "port without an address");
        check("tcp:/run/wiki.sock", "not an address");
        check(&format!("http://127.0.0.1/{}", "x".repeat(1024)), "1024");
    }

    #[test]
    fn codes() {
        #[track_caller]
        fn check(text: &str, good: &[u16], bad: &[u16]) {
            let statuses: Statuses = text.parse().unwrap();
            assert!(good.iter().all(|code| statuses.contains(*code)), "{text}");
            assert!(!bad.iter().any(|code| statuses.contains(*code)), "{text}");
            assert_eq!(statuses.to_string(), text.replace(' ', ""));
        }
        check("200", &[200], &[199, 201, 503]);
        check("200-399", &[200, 399], &[199, 400]);
        check("200 - 299, 401", &[200, 299, 401], &[300, 400, 402]);
        let usual = Statuses::default();
        assert!(usual.contains(200) && usual.contains(404) && usual.contains(499));
        assert!(!usual.contains(500) && !usual.contains(503));
        for bad in [
            "", "2xx", "20", "0200", "399-200", "200-", "600", "99", "200,,201", "+20",
        ] {
            assert!(bad.parse::<Statuses>().is_err(), "{bad}");
        }
    }
}
