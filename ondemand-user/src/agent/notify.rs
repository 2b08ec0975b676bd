//! Notifications to systemd (sd_notify(3)).

use std::time::Duration;

use ondemand_core::measure::Ktime;
use sd_notify::NotifyState;

use crate::host::clock;

/// Maximum duration of one step of the start.
const STEP: Duration = Duration::from_secs(90);

/// The watchdog and the status line.
#[derive(Debug)]
pub struct Notifier {
    /// Half of the watchdog's time.
    interval: Option<Duration>,
    next: Ktime,
    status: String,
}

impl Notifier {
    /// Reads systemd's settings from the environment.
    pub fn new() -> Self {
        let interval = sd_notify::watchdog_enabled().map(|limit| limit / 2);
        Self {
            interval,
            next: clock::now(),
            status: String::new(),
        }
    }

    /// Whether systemd started this process, and waits for its notifications.
    pub fn is_heard(&self) -> bool {
        std::env::var_os("NOTIFY_SOCKET").is_some()
    }

    /// Extends the start timeout: a thousand services on a busy machine take longer than systemd's
    /// default.
    pub fn starting(&self) {
        let longer = u32::try_from(STEP.as_micros()).unwrap_or(u32::MAX);
        send(&[NotifyState::ExtendTimeoutUsec(longer)]);
    }

    /// Reports that the agent is ready.
    pub fn ready(&self) {
        send(&[NotifyState::Ready]);
    }

    /// Reports the start of a reload; [`Notifier::ready`] ends it.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => send(&[NotifyState::Reloading, now]),
            Err(error) => log::debug!("no monotonic clock: {error}"),
        }
    }

    /// Reports that the agent exits.
    pub fn stopping(&self) {
        send(&[NotifyState::Stopping]);
    }

    /// Shows `status` in `systemctl status`, if it is new.
    pub fn status(&mut self, status: String) {
        // A line ends the notification's entry.
        let status = status.replace('\n', "; ");
        if status != self.status {
            send(&[NotifyState::Status(&status)]);
            self.status = status;
        }
    }

    /// When [`Notifier::alive`] must be called next.
    pub fn due(&self) -> Option<Ktime> {
        self.interval.map(|_| self.next)
    }

    /// Feeds the watchdog when it is due. Returns true if it was due.
    pub fn alive(&mut self, now: Ktime) -> bool {
        if let Some(interval) = self.interval
            && now >= self.next
        {
            send(&[NotifyState::Watchdog]);
            self.next = now + interval;
            return true;
        }
        false
    }
}

/// Nothing depends on it: the agent may run without systemd.
fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::debug!("could not notify systemd: {error}");
    }
}
