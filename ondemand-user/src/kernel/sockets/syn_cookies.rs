//! Whether the kernel sent SYN cookies recently: they leave no request socket, so that no snapshot
//! shows an unfinished handshake.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use ondemand_core::{measure::Ktime, policy::COOKIE_GRACE};

/// Where the network namespace's counters are (proc(5)).
const NETSTAT: &str = "/proc/self/net/netstat";

/// Watches `TcpExt: SyncookiesSent`.
#[derive(Debug, Default)]
pub struct SynCookies {
    sent: Option<u64>,
    /// When the counter was last found changed.
    changed: Option<Ktime>,
}

impl SynCookies {
    /// Reads the counter and returns whether cookies were sent recently. If it cannot be read, there
    /// may be one: the answer is yes.
    pub fn sent_lately(&mut self, now: Ktime) -> bool {
        let sent = fs::read_to_string(NETSTAT)
            .with_context(|| format!("read {NETSTAT}"))
            .and_then(|text| parse(&text));
        match sent {
            Ok(sent) => self.note(sent, now),
            Err(error) => {
                log::debug!("{error:#}");
                true
            }
        }
    }

    fn note(&mut self, sent: u64, now: Ktime) -> bool {
        // The moment between two reads is unknown, so it may have been just now; the same holds
        // for cookies before the first read.
        let before = self.sent.replace(sent);
        if before != Some(sent) && sent > 0 {
            self.changed = Some(now);
        }
        let age = self.changed.and_then(|changed| now.since(changed));
        age.is_some_and(|age| age < COOKIE_GRACE + Duration::from_secs(1))
    }
}

fn parse(netstat: &str) -> Result<u64> {
    let mut lines = netstat.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = lines
        .next()
        .zip(lines.next())
        .context("no TcpExt counters in the kernel's list")?;
    names
        .split_whitespace()
        .zip(values.split_whitespace())
        .find(|(name, _)| *name == "SyncookiesSent")
        .and_then(|(_, value)| value.parse().ok())
        .context("no SyncookiesSent in the kernel's list")
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(s: u64) -> Ktime {
        Ktime::from_micros(s * 1_000_000)
    }

    #[test]
    fn the_counter_is_found_by_its_name() {
        let text =
            "TcpExt: SyncookiesSent SyncookiesRecv\nTcpExt: 17 4\nIpExt: InNoRoutes\nIpExt: 3\n";
        assert_eq!(parse(text).unwrap(), 17);
        for text in ["", "TcpExt: SyncookiesSent\n", "TcpExt: Other\nTcpExt: 1\n"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lately_is_three_seconds() {
        let mut cookies = SynCookies::default();
        assert!(!cookies.note(0, s(10)));
        assert!(cookies.note(5, s(20)));
        assert!(cookies.note(5, s(22)));
        assert!(!cookies.note(5, s(24)));
        assert!(cookies.note(6, s(25)));
        let mut begun_after_them = SynCookies::default();
        assert!(begun_after_them.note(9, s(10)));
    }
}
