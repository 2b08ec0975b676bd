//! Notifications to systemd (sd_notify(3)).

use std::time::Duration;

use ondemand_core::measure::Ktime;
use sd_notify::NotifyState;

use crate::host::clock;

/// Maximum duration of one step of the start.
const STEP: Duration = Duration::from_secs(90);
/// The time between two status lines: PID 1 has to read each, and to send two signals about it.
const STATUS_PAUSE: Duration = Duration::from_secs(1);

/// The watchdog and the status line.
#[derive(Debug)]
pub struct Notifier {
    /// Half of the watchdog's time.
    interval: Option<Duration>,
    next: Ktime,
    status: String,
    /// When the next status line may be sent.
    next_status: Ktime,
    /// Whether one waits for that.
    is_outdated: bool,
}

impl Notifier {
    /// Reads systemd's settings from the environment.
    pub fn new() -> Self {
        let interval = sd_notify::watchdog_enabled().map(|limit| limit / 2);
        Self {
            interval,
            next: clock::now(),
            status: String::new(),
            next_status: clock::now(),
            is_outdated: false,
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

    /// Shows `status` in `systemctl status`, if it is new: at once, or when the last one is a second old.
    pub fn status(&mut self, status: String, now: Ktime) {
        // A line ends the notification's entry.
        let status = status.replace('\n', "; ");
        self.is_outdated = status != self.status;
        if self.is_outdated && now >= self.next_status {
            send(&[NotifyState::Status(&status)]);
            self.status = status;
            self.is_outdated = false;
            self.next_status = now + STATUS_PAUSE;
        }
    }

    /// The same without a pause, for a caller that waits.
    pub fn status_at_once(&mut self, status: String, now: Ktime) {
        self.next_status = now;
        self.status(status, now);
    }

    /// When [`Notifier::alive`] or [`Notifier::status`] must be called next.
    pub fn due(&self) -> Option<Ktime> {
        let alive = self.interval.map(|_| self.next);
        let status = self.is_outdated.then_some(self.next_status);
        alive.into_iter().chain(status).min()
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
