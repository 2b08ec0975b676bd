//! `metrics`, `metrics_names` and `page`: what the agent serves over HTTP, where, and under which names.

use core::net::SocketAddr;

use super::{
    error::Problem,
    table::{Place, Value},
};

/// The address without the key.
pub(super) const DEFAULT: &str = "127.0.0.1:9464";
/// Maximum number of names.
const MOST_NAMES: usize = 16;
/// Maximum length of a name (RFC 1035, section 2.3.4).
const LONGEST_NAME: usize = 253;

const EXAMPLE: &str = r#"["homeserver.lan", "homeserver"]"#;

/// The address; `None`: none.
pub(super) fn address(value: &Value<'_>) -> Result<Option<SocketAddr>, Problem> {
    match value.string(&format!("{DEFAULT:?}, or \"\" for none"))? {
        "" => Ok(None),
        text => super::endpoint::tcp(text)
            .map(Some)
            .map_err(|message| value.place.problem(message)),
    }
}

/// The names, in lower case.
pub(super) fn names(value: &Value<'_>) -> Result<Vec<String>, Problem> {
    let texts = value.strings(EXAMPLE)?;
    if texts.len() > MOST_NAMES {
        let message = format!("{} names; the maximum is {MOST_NAMES}", texts.len());
        return Err(value.place.problem(message));
    }
    texts
        .into_iter()
        .map(|(place, text)| name(&place, text))
        .collect()
}

fn name(place: &Place<'_>, text: &str) -> Result<String, Problem> {
    let is_letter = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if text.is_empty() || text.len() > LONGEST_NAME || !text.chars().all(is_letter) {
        let message =
            format!("{text:?} is not a host name; write it like {EXAMPLE}, without a port");
        return Err(place.problem(message));
    }
    Ok(text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{check, parse};

    #[test]
    fn names_of_this_server() {
        let agent = |text: &str| parse(&format!("[agent]\n{text}")).unwrap().agent;
        assert!(agent("").page && agent("").metrics_names.is_empty());
        let set = agent("page = false\nmetrics_names = [\"Home.lan\", \"h_1\"]");
        assert!(!set.page);
        assert_eq!(set.metrics_names, ["home.lan", "h_1"]);
        assert!(agent("metrics_names = []").metrics_names.is_empty());
    }

    #[test]
    fn what_is_no_name() {
        for wrong in ["home:9464", "http://home", "*", "", "a b", "h\u{f6}me"] {
            check(
                &format!("[agent]\nmetrics_names = [{wrong:?}]"),
                "/etc/o.toml:2: agent.metrics_names: ",
            );
        }
        let many = format!("[agent]\nmetrics_names = {:?}", ["a"; 17]);
        check(&many, "17 names; the maximum is 16");
        check("[agent]\npage = \"no\"", "/etc/o.toml:2: agent.page: ");
    }
}
