//! When the clients began to wait, over restarts of the proxy.
//!
//! A backend that crashes and is restarted by systemd takes its proxy along (`PartOf=`). The
//! clients keep waiting at the front socket, and `start_timeout` counts from the start of their
//! wait: so it is kept in the unit's runtime directory, which outlives a restart and nothing else
//! (`RuntimeDirectoryPreserve=restart`).

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use ondemand_core::measure::Ktime;

use crate::host::clock;

/// The start of the wait.
pub struct FirstTry {
    since: Ktime,
    file: Option<PathBuf>,
    /// Exists when a proxy of this wait has ended to be started again.
    again: Option<PathBuf>,
}

impl FirstTry {
    /// Reads it, or starts the wait now. Without a runtime directory it belongs to this process only.
    pub fn begin() -> Self {
        let now = clock::now();
        let file =
            env::var_os("RUNTIME_DIRECTORY").map(|dir| PathBuf::from(dir).join("waits-since"));
        let kept = file.as_ref().and_then(|file| fs::read_to_string(file).ok());
        let since = kept.and_then(|text| parse(&text, now)).unwrap_or(now);
        if let Some(file) = &file
            && let Err(error) = fs::write(file, since.as_nanos().to_string())
        {
            log::debug!("write {}: {error}", file.display());
        }
        let again = env::var_os("RUNTIME_DIRECTORY")
            .filter(|dir| is_own(dir))
            .map(|dir| PathBuf::from(dir).join("looked-again"));
        Self { since, file, again }
    }

    /// The time since the start of the wait.
    pub fn elapsed(&self) -> Duration {
        clock::now().since(self.since).unwrap_or_default()
    }

    /// Whether this process may end to be started again: once in a wait, and only as a unit of
    /// ondemand's, which is started again.
    pub fn may_look_again(&self) -> bool {
        self.again.as_ref().is_some_and(|file| !file.exists())
    }

    /// The next process of this wait may not do it.
    pub fn look_again(&self) {
        if let Some(file) = &self.again
            && let Err(error) = fs::write(file, "")
        {
            log::warn!("write {}: {error}", file.display());
        }
    }

    /// Ends the wait, whatever its result.
    pub fn end(&self) {
        if let Some(file) = &self.again {
            // It exists only in a second try.
            let _ = fs::remove_file(file);
        }
        if let Some(file) = &self.file {
            // The file may never have been written.
            let _ = fs::remove_file(file);
        }
    }
}

/// Whether a proxy has this runtime directory: `/run/ondemand.proxies/NAME`. `ondemand wait-listening`
/// may be called in a unit of anybody's.
fn is_own(directory: &OsStr) -> bool {
    let above = Path::new(directory).parent().and_then(Path::file_name);
    above == Some(OsStr::new("ondemand.proxies"))
}

fn parse(text: &str, now: Ktime) -> Option<Ktime> {
    let since = Ktime::from_nanos(text.trim().parse().ok()?);
    (since <= now).then_some(since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_proxy_is_started_again() {
        assert!(is_own(OsStr::new("/run/ondemand.proxies/wiki")));
        for other in [
            "/run/wiki",
            "/run/ondemand-wiki",
            "/run/ondemand.proxies",
            "",
        ] {
            assert!(!is_own(OsStr::new(other)), "{other}");
        }
    }

    #[test]
    fn only_a_moment_of_the_past_is_taken() {
        let now = Ktime::from_nanos(1_000);
        assert_eq!(parse("900\n", now), Some(Ktime::from_nanos(900)));
        for text in ["1001", "", "x", "-3"] {
            assert_eq!(parse(text, now), None, "{text}");
        }
    }
}
