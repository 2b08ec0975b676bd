//! Why a timeout is what it is, in one sentence.

use std::{fmt, time::Duration};

use super::scale::Class;
use crate::words::{Span, counted, span};

/// A timeout, and why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// The timeout.
    pub timeout: Duration,
    /// Why.
    pub reason: Reason,
}

/// `1 min: 20 of the last 22 gaps ended within 1 min`.
impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", Span(self.timeout))?;
        match self.reason {
            Reason::Lost => f.write_str(
                "other timeouts have cost more than this one would have, so it stays until they have earned it again",
            ),
            Reason::Few { gaps } => {
                let gaps = counted(gaps, "gap");
                write!(f, "{gaps} between clients so far, too few to say more")
            }
            Reason::Seen {
                after,
                gaps,
                ended,
                later,
                within,
            } => {
                write!(f, "{ended} of the last {}", counted(gaps, "gap"))?;
                match after.map(Class::bounds) {
                    None => {}
                    Some((_, Some(longest))) => write!(f, " after one of at most {}", Span(span(longest)))?,
                    Some((shortest, None)) => {
                        write!(f, " after one of more than {}", Span(span(shortest.unwrap_or_default())))?;
                    }
                }
                write!(f, " ended within {}", Span(self.timeout))?;
                match later {
                    0 => Ok(()),
                    later => write!(f, ", and {later} more within {}", Span(within)),
                }
            }
        }
    }
}

/// What a timeout rests on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reason {
    /// Too few gaps were seen.
    Few {
        /// How many.
        gaps: u64,
    },
    /// It lost more than the fixed timeout would have: this is that one, until enough is earned.
    Lost,
    /// Gaps that were seen.
    Seen {
        /// Those after a gap like the last one. `None`: all of the service.
        after: Option<Class>,
        /// Their number; those that are long ago count less.
        gaps: u64,
        /// How many of them ended within the timeout.
        ended: u64,
        /// How many ended after that, and within four times a cold start's cost.
        later: u64,
        /// That time.
        within: Duration,
    },
}

/// Reasons by what they rest on: a few words that scripts may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// [`Reason::Few`].
    FewGaps,
    /// [`Reason::Lost`].
    Lost,
    /// [`Reason::Seen`], of all gaps.
    AllGaps,
    /// [`Reason::Seen`], of those after a gap like the last one.
    LikeTheLast,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::FewGaps, Self::Lost, Self::AllGaps, Self::LikeTheLast];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FewGaps => "few-gaps",
            Self::Lost => "lost",
            Self::AllGaps => "all-gaps",
            Self::LikeTheLast => "like-the-last",
        }
    }
}

impl Reason {
    /// What it rests on.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Few { .. } => Kind::FewGaps,
            Self::Lost => Kind::Lost,
            Self::Seen { after: None, .. } => Kind::AllGaps,
            Self::Seen { after: Some(_), .. } => Kind::LikeTheLast,
        }
    }
}
