//! The text of the page. It is sent in two parts on one connection: the second has the browser ask again, or says that the
//! start has failed, so no script is needed and nothing is asked twice.

use core::{fmt::Write as _, time::Duration};

/// The longest template. Bytes.
pub const LONGEST_TEMPLATE: usize = 64 * 1024;

const BUILTIN: &str = include_str!("page.html");

/// What may stand between `{{` and `}}`.
const PLACEHOLDERS: [&str; 7] = [
    "name", "waited", "usual", "percent", "left", "kind", "nonce",
];

/// The most that the bar shows: it is full when the page is gone.
const FULL: f64 = 95.0;
/// For a browser that does not know how long it takes.
const USUAL_RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_secs(120);

/// The operator's own page, or the one of this program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(String);

impl Default for Template {
    fn default() -> Self {
        Self(BUILTIN.to_owned())
    }
}

/// What there is to say in one moment.
#[derive(Clone, Debug)]
pub struct Moment<'n> {
    /// The service's name.
    pub name: &'n str,
    /// How long this browser has waited.
    pub waited: Duration,
    /// Since when the application has been starting.
    pub started: Duration,
    /// How long its start usually takes.
    pub usual: Option<Duration>,
    /// A word that nobody can guess, for the page's own style sheet.
    pub nonce: &'n str,
}

impl Template {
    /// The text of a file.
    ///
    /// # Errors
    ///
    /// It is too long, not UTF-8, or asks for something that there is not.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        if text.len() > LONGEST_TEMPLATE {
            let most = LONGEST_TEMPLATE / 1024;
            return Err(format!("it is longer than {most} KiB; leave pictures out"));
        }
        let text = core::str::from_utf8(text).map_err(|_| "it is not UTF-8".to_owned())?;
        for (line, rest) in text.lines().flat_map(|line| {
            let parts = line.split("{{").skip(1);
            parts.map(move |rest| (line, rest))
        }) {
            let name = rest.split_once("}}").map(|(name, _)| name);
            if name.is_none_or(|name| !PLACEHOLDERS.contains(&name)) {
                return Err(format!(
                    "{:?} has none of {{{{{}}}}}",
                    line.trim(),
                    PLACEHOLDERS.join("}}, {{")
                ));
            }
        }
        if text.trim().is_empty() {
            return Err("it is empty".to_owned());
        }
        Ok(Self(text.to_owned()))
    }

    /// The answer up to the point from which the browser waits for its end.
    pub fn begin(&self, moment: &Moment<'_>) -> String {
        let mut text = head(moment);
        let mut rest = self.0.as_str();
        while let Some((before, after)) = rest.split_once("{{") {
            text += before;
            let (name, after) = after.split_once("}}").unwrap_or((after, ""));
            text += &escape(&moment.value(name));
            rest = after;
        }
        text + rest
    }
}

/// Its end when the application is ready: the browser asks again. `after`: seconds.
pub fn again(after: u32) -> String {
    format!("\n<meta http-equiv=\"refresh\" content=\"{after}\">\n")
}

impl Moment<'_> {
    fn value(&self, name: &str) -> String {
        let seconds = |span: Duration| span.as_secs().to_string();
        let left = self.usual.map(|usual| usual.saturating_sub(self.started));
        match name {
            "name" => self.name.to_owned(),
            "waited" => seconds(self.waited),
            "usual" => self.usual.map_or_else(String::new, |usual| {
                usual.as_secs_f64().round().max(1.0).to_string()
            }),
            "percent" => self.percent().to_string(),
            "left" => left.map_or(1, |left| left.as_secs().max(1)).to_string(),
            "kind" => if self.usual.is_some() {
                "known"
            } else {
                "unknown"
            }
            .to_owned(),
            "nonce" => self.nonce.to_owned(),
            _ => String::new(),
        }
    }

    fn percent(&self) -> u32 {
        let usual = self.usual.map_or(0.0, |usual| usual.as_secs_f64());
        let part = match usual > 0.0 {
            true => 100.0 * self.started.as_secs_f64() / usual,
            false => 0.0,
        };
        part.min(FULL) as u32
    }

    /// Its end when the start has failed.
    pub fn failed(&self) -> String {
        self.ended(
            "could not be started",
            "It did not become ready. Its operator finds the reason in the journal.",
        )
    }

    /// Its end when other services have kept its place in their group.
    pub fn has_no_room(&self) -> String {
        self.ended(
            "has to wait",
            "It takes turns with others, and those are in use. It starts when one of them is not.",
        )
    }

    /// What has become of the service, and why.
    fn ended(&self, what: &str, why: &str) -> String {
        let Self { name, nonce, .. } = self;
        let (name, nonce) = (escape(name), escape(nonce));
        format!(
            "\n<style nonce=\"{nonce}\">.waiting{{display:none}}</style>\n\
             <main class=\"failed\" role=\"alert\"><h1>{name} {what}</h1>\n\
             <p>{why}</p>\n\
             <p><a href=\"\">Try again</a></p></main>\n"
        )
    }
}

/// The head of the answer. Nothing is loaded, run, framed, sent or kept. (`sandbox` of the policy would end the refresh, too:
/// "sandboxed automatic features", HTML, 7.1.5.)
fn head(moment: &Moment<'_>) -> String {
    let left = moment
        .usual
        .map_or(USUAL_RETRY, |usual| usual.saturating_sub(moment.started));
    let retry = left.min(LONGEST_RETRY).as_secs().max(1);
    let nonce = escape(moment.nonce);
    let mut head = String::from("HTTP/1.1 503 Service Unavailable\r\n");
    for (name, value) in [
        ("Content-Type", "text/html; charset=utf-8"),
        ("Retry-After", &retry.to_string()),
        ("Cache-Control", "no-store"),
        (
            "Content-Security-Policy",
            &format!(
                "default-src 'none'; style-src 'nonce-{nonce}'; img-src data:; font-src data:; base-uri 'none'; \
                 form-action 'none'; frame-ancestors 'none'"
            ),
        ),
        ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "DENY"),
        ("Referrer-Policy", "same-origin"),
        // nginx would keep it until its end.
        ("X-Accel-Buffering", "no"),
        ("Vary", "Accept, Sec-Fetch-Mode, Sec-Fetch-Dest"),
        ("Connection", "close"),
    ] {
        // Writing to a string cannot fail.
        let _ = write!(head, "{name}: {value}\r\n");
    }
    head + "\r\n"
}

/// For text and for values in quotes, in HTML and in the style sheet alike.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(usual: Option<u64>) -> Moment<'static> {
        Moment {
            name: "wi<k>\"i",
            waited: Duration::from_millis(1_400),
            started: Duration::from_secs(3),
            usual: usual.map(Duration::from_secs),
            nonce: "abc",
        }
    }

    #[test]
    fn the_page_has_its_head_and_its_values() {
        let page = Template::default().begin(&moment(Some(10)));
        let (head, body) = page.split_once("\r\n\r\n").unwrap();
        for line in [
            "HTTP/1.1 503 Service Unavailable",
            "Retry-After: 7",
            "Cache-Control: no-store",
            "Connection: close",
        ] {
            assert!(head.lines().any(|it| it == line), "{line} in {head}");
        }
        assert!(head.contains("style-src 'nonce-abc'"), "{head}");
        assert!(body.contains("wi&lt;k&gt;&quot;i is starting"), "{body}");
        assert!(
            body.contains("nonce=\"abc\"") && body.contains("30%"),
            "{body}"
        );
        assert!(!body.contains("{{") && !body.contains("wi<k>"), "{body}");
        // The browser is held until there is more to say.
        assert!(!head.contains("Content-Length") && !body.contains("http-equiv=\"refresh\""));
        assert!(again(0).contains("content=\"0\""));
        let has_no_room = moment(None).has_no_room();
        assert!(
            has_no_room.contains("wi&lt;k&gt;") && has_no_room.contains("has to wait"),
            "{has_no_room}"
        );
        let failed = moment(None).failed();
        assert!(has_no_room.len() < failed.len() + 64);
        // The agent knows that there are no more bytes without an application (`agent/accepting.rs`).
        assert!(page.len() + failed.len() + 64 * 10 < 8 * 1024);
        assert!(
            failed.contains("wi&lt;k&gt;") && failed.contains("nonce=\"abc\""),
            "{failed}"
        );
    }

    #[test]
    fn what_is_not_known_is_not_said() {
        let own = Template::parse(b"{{kind}} {{usual}}|{{percent}}|{{left}}|{{waited}}").unwrap();
        let body = |usual| {
            let page = own.begin(&moment(usual));
            page.split_once("\r\n\r\n").unwrap().1.to_owned()
        };
        assert_eq!(body(None), "unknown |0|1|1");
        assert_eq!(body(Some(10)), "known 10|30|7|1");
        assert_eq!(body(Some(2)), "known 2|95|1|1");
        assert_eq!(body(Some(0)), "known 1|0|1|1");
    }

    #[test]
    fn templates_of_the_operators() {
        #[track_caller]
        fn check(text: &[u8], words: &str) {
            let error = Template::parse(text).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        check(b"<p>{{nmae}}</p>", "{{name}}, {{waited}}");
        check(b"<p>{{name</p>", "{{name}}");
        check(b"<p>{{ name }}</p>", "{{name}}");
        check(b" \n", "empty");
        check(b"\xff", "UTF-8");
        check(&vec![b'a'; LONGEST_TEMPLATE + 1], "64 KiB");
        assert!(Template::parse(b"a { color: red }").is_ok());
        // Its own page is one, too.
        assert_eq!(Template::parse(BUILTIN.as_bytes()), Ok(Template::default()));
    }
}
