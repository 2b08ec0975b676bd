//! Why a service is up.

/// What keeps a running service up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Open connections, and what else is use.
    Clients,
    /// It is unused, and its idle timeout is not over.
    Timeout,
    /// It is unused, and has no idle timeout.
    Never,
    /// `ondemand hold`, `keep_up`, an inhibitor.
    Held,
    /// Another service needs it.
    Needed,
    /// It is idle: it is about to be stopped, or its stops are vetoed.
    Idle,
    /// It is not managed.
    Unmanaged,
    /// Whether it is used is unknown.
    Unknown,
}

impl Kept {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Clients,
        Self::Timeout,
        Self::Never,
        Self::Held,
        Self::Needed,
        Self::Idle,
        Self::Unmanaged,
        Self::Unknown,
    ];

    /// Its word in the metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Clients => "clients",
            Self::Timeout => "timeout",
            Self::Never => "never",
            Self::Held => "held",
            Self::Needed => "needed",
            Self::Idle => "idle",
            Self::Unmanaged => "unmanaged",
            Self::Unknown => "unknown",
        }
    }
}
