//! Whether what a client has sent is the navigation of a browser, in which a person looks at what comes back. Everybody else
//! expects the application's answer and nothing else, so in doubt it is none.

/// The longest head that is looked at. Bytes.
pub const LONGEST_HEAD: usize = 16 * 1024;

/// What the first bytes of a client are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// The request for a page of a browser's window.
    Navigation,
    /// It may become one.
    Incomplete,
    /// Anything else, whatever follows.
    Other,
}

/// Headers whose presence means that a script, a tool or a protocol asks, or that there is a body.
const NOT_PLAIN: [&str; 13] = [
    "x-requested-with",
    "hx-request",
    "turbo-frame",
    "x-pjax",
    "x-inertia",
    "upgrade",
    "range",
    "expect",
    "content-length",
    "transfer-encoding",
    "purpose",
    "sec-purpose",
    "x-moz",
];

/// Judges all that a client has sent so far.
pub fn judge(bytes: &[u8]) -> Judged {
    const METHOD: &[u8] = b"GET /";
    let begins = bytes.len().min(METHOD.len());
    if bytes[..begins] != METHOD[..begins] {
        return Judged::Other;
    }
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    match end {
        // With more behind it, it is not a browser's first request.
        Some(end) if end + 4 == bytes.len() && end + 4 <= LONGEST_HEAD => of_head(&bytes[..end]),
        None if bytes.len() < LONGEST_HEAD => Judged::Incomplete,
        _ => Judged::Other,
    }
}

fn of_head(head: &[u8]) -> Judged {
    match is_navigation(head) {
        Some(true) => Judged::Navigation,
        _ => Judged::Other,
    }
}

/// `None`: it is not what a browser sends.
fn is_navigation(head: &[u8]) -> Option<bool> {
    // A browser escapes what is not ASCII, but in cookies.
    let head = String::from_utf8_lossy(head);
    let mut lines = head.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (_, _, version) = (words.next()?, words.next()?, words.next()?);
    if words.next().is_some() || !matches!(version, "HTTP/1.1" | "HTTP/1.0") {
        return None;
    }
    let mut accepts_page = false;
    for line in lines {
        let (name, value) = line.split_once(':')?;
        let is_token = |c: char| c.is_ascii_graphic() && c != ',' && c != ';';
        if name.is_empty() || !name.chars().all(is_token) {
            return None;
        }
        let name = name.to_ascii_lowercase();
        let value = value.trim().to_ascii_lowercase();
        match name.as_str() {
            "accept" => accepts_page |= accepts(&value),
            "sec-fetch-mode" if value != "navigate" => return Some(false),
            // A page in a frame is not the window's.
            "sec-fetch-dest" if value != "document" => return Some(false),
            "content-length" if value == "0" => {}
            name if NOT_PLAIN.contains(&name) => return Some(false),
            _ => {}
        }
    }
    Some(accepts_page)
}

/// Whether `text/html` itself is among the media types, not by `*/*` alone.
fn accepts(value: &str) -> bool {
    value.split(',').any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let is_page = parts.next() == Some("text/html");
        let is_refused = parts.any(|part| {
            let quality = part.strip_prefix("q=");
            quality.is_some_and(|quality| quality.trim().parse() == Ok(0.0))
        });
        is_page && !is_refused
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8\r\n";

    #[track_caller]
    fn check(headers: &str, expected: Judged) {
        let head = format!("GET /a?b HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
        assert_eq!(judge(head.as_bytes()), expected, "{headers}");
    }

    #[test]
    fn browsers() {
        for more in [
            "",
            "Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n",
            "Cookie: a=\u{fc}; b\r\nUpgrade-Insecure-Requests: 1\r\n",
            "Content-Length: 0\r\n",
        ] {
            check(&format!("{PAGE}{more}"), Judged::Navigation);
            check(&format!("{more}aCCEPT:TEXT/html\r\n"), Judged::Navigation);
        }
        let old = format!("GET / HTTP/1.0\r\n{PAGE}\r\n");
        assert_eq!(judge(old.as_bytes()), Judged::Navigation);
    }

    #[test]
    fn everybody_else() {
        for accept in [
            "",
            "Accept: */*\r\n",
            "Accept: application/json\r\n",
            "Accept: text/html;q=0\r\n",
            "Accept: text/html;level=1;q=0.000\r\n",
            "Accept: text/htmlx\r\n",
            "Accept: text/*\r\n",
        ] {
            check(accept, Judged::Other);
        }
        for more in [
            "X-Requested-With: XMLHttpRequest\r\n",
            "HX-Request: true\r\n",
            "Sec-Fetch-Mode: cors\r\n",
            "Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: iframe\r\n",
            "Sec-Purpose: prefetch\r\n",
            "Upgrade: websocket\r\nConnection: Upgrade\r\n",
            "Range: bytes=0-\r\n",
            "Content-Length: 3\r\n",
            "Transfer-Encoding: chunked\r\n",
            " folded: line\r\n",
            "no colon\r\n",
            ": empty\r\n",
        ] {
            check(&format!("{PAGE}{more}"), Judged::Other);
        }
    }

    #[test]
    fn other_beginnings() {
        let head = |line: &str| format!("{line}\r\n{PAGE}\r\n");
        for line in [
            "POST / HTTP/1.1",
            "HEAD / HTTP/1.1",
            "GET http://x/ HTTP/1.1",
            "GET / HTTP/2.0",
            "GET /",
            "GET / a HTTP/1.1",
            "PRI * HTTP/2.0",
            "SSH-2.0-OpenSSH",
            "\u{16}\u{3}\u{1}",
            "get / HTTP/1.1",
        ] {
            assert_eq!(judge(head(line).as_bytes()), Judged::Other, "{line}");
        }
        // Something comes behind it.
        let more = head("GET / HTTP/1.1") + "x";
        assert_eq!(judge(more.as_bytes()), Judged::Other);
    }

    #[test]
    fn what_is_not_all_there() {
        let whole = format!("GET / HTTP/1.1\r\n{PAGE}\r\n");
        for length in 0..whole.len() {
            let judged = judge(&whole.as_bytes()[..length]);
            assert_eq!(judged, Judged::Incomplete, "{length}");
        }
        let long = format!("GET /{}", "a".repeat(LONGEST_HEAD));
        assert_eq!(judge(long.as_bytes()), Judged::Other);
        assert_eq!(
            judge(&long.as_bytes()[..LONGEST_HEAD - 1]),
            Judged::Incomplete
        );
    }
}
