//! When the clients began to wait, over restarts of the proxy.
//!
//! A backend that crashes and is restarted by systemd takes its proxy along (`PartOf=`). The
//! clients keep waiting at the front socket, and `start_timeout` counts from the start of their
//! wait: so it is kept in the unit's runtime directory.
//!
//! The directory of a TCP backend's proxy outlives a restart and nothing else
//! (`RuntimeDirectoryPreserve=restart`). The next proxy of a Unix backend may be started by the client that
//! waits, so its directory stays, and the file has when its process left it for the next one.

use std::{
    cell::Cell,
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use ondemand_core::measure::Ktime;

use crate::host::clock;

/// How long after the end of its process a wait may be continued.
const LEFT_VALID: Duration = Duration::from_secs(10);

/// The start of the wait.
pub struct FirstTry {
    since: Ktime,
    file: Option<PathBuf>,
    /// Exists when a proxy of this wait has ended to be started again.
    again: Option<PathBuf>,
    /// Whether the wait is over.
    ended: Cell<bool>,
}

impl FirstTry {
    /// Reads it, or starts the wait now. Without a runtime directory it belongs to this process only.
    /// `stays`: the directory outlives more than a restart.
    pub fn begin(stays: bool) -> Self {
        let directory = env::var_os("RUNTIME_DIRECTORY");
        Self::begin_in(directory.as_deref(), stays, clock::now())
    }

    fn begin_in(directory: Option<&OsStr>, stays: bool, now: Ktime) -> Self {
        let in_directory = |name| directory.map(|directory| Path::new(directory).join(name));
        let file = in_directory("waits-since");
        let again = in_directory("looked-again").filter(|_| directory.is_some_and(is_own));
        let kept = file.as_ref().and_then(|file| fs::read_to_string(file).ok());
        let kept = kept.and_then(|text| parse(&text, stays, now));
        if kept.is_none()
            && let Some(again) = &again
        {
            // That of an earlier wait; there is none mostly.
            let _ = fs::remove_file(again);
        }
        let this = Self {
            since: kept.unwrap_or(now),
            file,
            again,
            ended: Cell::new(false),
        };
        this.write(None);
        this
    }

    /// `left`: when this process leaves the wait to the next one.
    fn write(&self, left: Option<Ktime>) {
        let numbers = [Some(self.since), left].into_iter().flatten();
        let numbers: Vec<_> = numbers.map(|at| at.as_nanos().to_string()).collect();
        if let Some(file) = &self.file
            && let Err(error) = fs::write(file, numbers.join(" "))
        {
            log::debug!("write {}: {error}", file.display());
        }
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
        self.ended.set(true);
        for file in [&self.again, &self.file].into_iter().flatten() {
            // The first exists only in a second try, the other may never have been written.
            let _ = fs::remove_file(file);
        }
    }
}

impl Drop for FirstTry {
    fn drop(&mut self) {
        if !self.ended.get() {
            self.write(Some(clock::now()));
        }
    }
}

/// Whether a proxy has this runtime directory: `/run/ondemand.proxies/NAME`. `ondemand wait-listening`
/// may be called in a unit of anybody's.
fn is_own(directory: &OsStr) -> bool {
    let above = Path::new(directory).parent().and_then(Path::file_name);
    above == Some(OsStr::new("ondemand.proxies"))
}

/// The start of a wait that goes on. In a directory that `stays`, only one that was left just now does.
fn parse(text: &str, stays: bool, now: Ktime) -> Option<Ktime> {
    let mut numbers = text.split_whitespace();
    let mut number = || Some(Ktime::from_nanos(numbers.next()?.parse().ok()?));
    let (since, left) = (number()?, number());
    let just_left = left.and_then(|left| now.since(left));
    let goes_on = !stays || just_left.is_some_and(|ago| ago < LEFT_VALID);
    (goes_on && since <= now).then_some(since)
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
        assert_eq!(parse("900\n", false, now), Some(Ktime::from_nanos(900)));
        for text in ["1001", "", "x", "-3"] {
            assert_eq!(parse(text, false, now), None, "{text}");
        }
    }

    #[test]
    fn where_the_directory_stays_only_what_was_left_just_now_goes_on() {
        #[track_caller]
        fn check(text: &str, goes_on: bool) {
            let now = Ktime::from_nanos(60_000_000_000);
            let since = Some(Ktime::from_nanos(10)).filter(|_| goes_on);
            assert_eq!(parse(text, true, now), since, "{text}");
        }
        check("10 59000000000", true);
        check("10 51000000000", true);
        check("10 50000000000", false);
        check("10 61000000000", false);
        check("10", false);
        check("10 x", false);
    }

    #[test]
    fn a_wait_goes_on_until_its_end() {
        let top = tempfile::tempdir().unwrap();
        let directory = top.path().join("ondemand.proxies/wiki");
        fs::create_dir_all(&directory).unwrap();
        let begin = || FirstTry::begin_in(Some(directory.as_os_str()), true, clock::now());
        let first = begin();
        let since = first.since;
        assert!(first.may_look_again());
        first.look_again();
        drop(first);
        let second = begin();
        assert_eq!(second.since, since);
        assert!(!second.may_look_again());
        second.end();
        drop(second);
        let third = begin();
        assert!(third.since > since && third.may_look_again());
        // It is killed: what it leaves is of no wait that goes on.
        third.look_again();
        let file = directory.join("waits-since");
        let left = fs::read_to_string(&file).unwrap();
        drop(third);
        fs::write(&file, left).unwrap();
        assert!(begin().may_look_again());
    }
}
