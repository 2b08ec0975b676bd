//! How a service ended last, in words.

use anyhow::Result;
use nix::sys::signal::Signal;
use tokio::try_join;
use zbus::OwnedObjectPath;

use super::{SERVICE, Systemd, unit_path};

impl Systemd {
    /// How a service ended last; `None`: it has not, or it is running again.
    ///
    /// # Errors
    ///
    /// PID 1 does not answer.
    pub async fn last_end(&self, unit: &str) -> Result<Option<String>> {
        self.last_failure(unit, &[]).await
    }

    /// The same, `None` for an end with one of these statuses.
    ///
    /// # Errors
    ///
    /// PID 1 does not answer.
    pub async fn last_failure(&self, unit: &str, intended: &[i32]) -> Result<Option<String>> {
        let path = OwnedObjectPath::try_from(unit_path::of(unit))?;
        let (result, code, status) = try_join!(
            self.property_of::<String>(&path, SERVICE, "Result"),
            self.property_of::<i32>(&path, SERVICE, "ExecMainCode"),
            self.property_of::<i32>(&path, SERVICE, "ExecMainStatus"),
        )?;
        if code == EXITED && intended.contains(&status) {
            return Ok(None);
        }
        Ok(words(&result, code, status))
    }
}

/// `si_code` of a process that has exited (`CLD_EXITED`).
const EXITED: i32 = 1;

/// `code`: `si_code` of waitid(2), 0 without an end. `result`: as in systemd.service(5), `$SERVICE_RESULT`.
fn words(result: &str, code: i32, status: i32) -> Option<String> {
    match (result, code) {
        ("success", 0) => None,
        ("timeout", _) => Some("it did not start in time".into()),
        ("watchdog", _) => Some("its watchdog has expired".into()),
        ("oom-kill", _) => Some("the kernel ended it for lack of memory".into()),
        ("protocol", _) => Some("it ended before it was ready".into()),
        ("resources", _) => Some("systemd could not start it".into()),
        (_, EXITED) => Some(match why(status) {
            Some(why) => format!("exit status {status}, {why}"),
            None => format!("exit status {status}"),
        }),
        // A command before or after the main one.
        (result, 0) => Some(format!("a command of its start failed ({result})")),
        _ => Some(match Signal::try_from(status) {
            Ok(signal) => format!("killed by {}", signal.as_str()),
            Err(_) => format!("killed by signal {status}"),
        }),
    }
}

/// systemd's own statuses (systemd.exec(5), "Process Exit Codes").
fn why(status: i32) -> Option<&'static str> {
    Some(match status {
        200 => "its directory cannot be entered",
        203 => "its program cannot be executed",
        216 => "its group does not exist",
        217 => "its user does not exist",
        218 => "its capabilities cannot be set",
        226 => "its view of the file system cannot be made",
        228 => "its system call filter cannot be set",
        233 => "its runtime directory cannot be made",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings() {
        #[track_caller]
        fn check(result: &str, code: i32, status: i32, expected: &str) {
            let found = words(result, code, status);
            assert_eq!(
                found.as_deref().unwrap_or(""),
                expected,
                "{result} {code} {status}"
            );
        }
        check("success", 0, 0, "");
        check("success", 1, 0, "exit status 0");
        check("exit-code", 1, 3, "exit status 3");
        check(
            "exit-code",
            1,
            217,
            "exit status 217, its user does not exist",
        );
        check(
            "exit-code",
            0,
            0,
            "a command of its start failed (exit-code)",
        );
        check("signal", 2, 9, "killed by SIGKILL");
        check("core-dump", 3, 31, "killed by SIGSYS");
        check("signal", 2, 64, "killed by signal 64");
        check("timeout", 2, 15, "it did not start in time");
        check("watchdog", 3, 6, "its watchdog has expired");
    }
}
