//! The pauses between attempts to stop a service.

use std::time::Duration;

use super::{
    messages::View,
    note::{Cause, Note, VetoReason},
};
use crate::{measure::Ktime, policy::Verdict};

/// The first pause after a veto. It doubles with every further one up to [`LONGEST`], and
/// begins anew as soon as a client has come.
pub const FIRST: Duration = Duration::from_millis(250);
/// The longest pause after a veto: a SYN scan costs one attempt in this time, no more.
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
    /// A veto makes the pause longer. Returns what to say about it.
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

    /// Pauses for so long.
    pub(super) fn hold(&mut self, view: &View, length: Duration) {
        self.until = view.now + length;
        self.accepted = view.sample.map(|sample| sample.accepted());
    }

    /// A client that came makes an end of it: from there on the idle clock counts.
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
