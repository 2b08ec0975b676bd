//! The pauses between attempts to stop a service.

use std::time::Duration;

use super::{
    messages::View,
    note::{Cause, Note, VetoReason},
};
use crate::{measure::Ktime, policy::Verdict};

/// The first pause after a veto. It doubles with each further veto up to [`LONGEST`], and is
/// reset when a client has connected.
pub const FIRST: Duration = Duration::from_millis(250);
/// The longest pause after a veto: a SYN scan causes at most one attempt in this time.
pub const LONGEST: Duration = Duration::from_secs(30);

/// Until when no stop is attempted, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Pause {
    pub(super) until: Ktime,
    pub(super) reason: Option<VetoReason>,
    length: Duration,
    /// Connections accepted when the pause began.
    accepted: Option<u64>,
}

impl Pause {
    /// Lengthens the pause after a veto. Returns the log message.
    pub(super) fn veto(&mut self, view: &View, cause: Cause) -> Note {
        let reason = cause.reason();
        let length = (self.length * 2).clamp(FIRST, LONGEST);
        let repeated = self.reason == Some(reason);
        self.hold(view, length);
        self.reason = Some(reason);
        self.length = length;
        Note::Kept {
            cause,
            again: length,
            repeated,
        }
    }

    /// Pauses for `length`.
    pub(super) fn hold(&mut self, view: &View, length: Duration) {
        self.until = view.now + length;
        self.accepted = view.sample.map(|sample| sample.accepted());
    }

    /// Whether there was another veto before, without a connection in between.
    pub(super) fn is_repeated(&self) -> bool {
        self.length > FIRST
    }

    /// Ends the pause if a client has connected: from then on the idle clock counts.
    pub(super) fn end_with_clients(&mut self, view: &View) {
        let came = |before| {
            view.sample
                .is_some_and(|sample| sample.accepted() != before)
        };
        if self.accepted.is_some_and(came) || matches!(view.verdict, Verdict::Busy { .. }) {
            *self = Self::default();
        }
    }
}
