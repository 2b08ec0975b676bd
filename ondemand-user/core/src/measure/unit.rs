//! The state of a unit in systemd, as far as the stop protocol needs it.

use crate::measure::Ktime;

/// A unit's `ActiveState` (org.freedesktop.systemd1(5)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ActiveState {
    /// It is started.
    Active,
    /// It is started and is reloading its configuration.
    Reloading,
    /// It is stopped.
    Inactive,
    /// It is stopped after a failure.
    Failed,
    /// It is starting.
    Activating,
    /// It is stopping.
    Deactivating,
    /// Any other state: `maintenance`, or one that systemd adds later.
    #[default]
    Unknown,
}

impl ActiveState {
    /// Parses the property's text.
    pub fn parse(text: &str) -> Self {
        match text {
            "active" => Self::Active,
            // `refreshing` is for units whose extension images are being replaced (systemd 257).
            "reloading" | "refreshing" => Self::Reloading,
            "inactive" => Self::Inactive,
            "failed" => Self::Failed,
            "activating" => Self::Activating,
            "deactivating" => Self::Deactivating,
            _ => Self::Unknown,
        }
    }

    /// The property's text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active | Self::Reloading => "active",
            Self::Inactive => "inactive",
            Self::Failed => "failed",
            Self::Activating => "activating",
            Self::Deactivating => "deactivating",
            Self::Unknown => "unknown",
        }
    }

    /// Whether it is started and not stopping.
    pub fn is_up(self) -> bool {
        matches!(self, Self::Active | Self::Reloading)
    }

    /// Whether it is stopped, for any reason.
    pub fn is_down(self) -> bool {
        matches!(self, Self::Inactive | Self::Failed)
    }
}

/// One unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Unit {
    /// The state.
    pub state: ActiveState,
    /// Whether a job is queued or running for it.
    pub job: bool,
    /// Whether it has ended and systemd is about to restart it (`SubState` `auto-restart`).
    pub restarting: bool,
    /// Whether its starts are limited (`StartLimitIntervalUSec`).
    pub start_limited: bool,
    /// When it last became active (`ActiveEnterTimestampMonotonic`).
    pub active_enter: Option<Ktime>,
    /// When it last began to start (`InactiveExitTimestampMonotonic`).
    pub inactive_exit: Option<Ktime>,
    /// When it last became inactive (`InactiveEnterTimestampMonotonic`).
    pub inactive_enter: Option<Ktime>,
}

impl Unit {
    /// Whether it is up and has no job.
    pub fn is_settled_up(&self) -> bool {
        self.state.is_up() && !self.job
    }

    /// Whether it is down and has no job.
    pub fn is_settled_down(&self) -> bool {
        self.state.is_down() && !self.job
    }
}

/// Whose processes a unit runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// Its cgroup, below the hierarchy's root; empty if it has none now.
    pub control_group: String,
    /// The user of `User=` or `DynamicUser=`, while it is up.
    pub user: Option<u32>,
}

/// The units of one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Units {
    /// The application's own unit.
    pub backend: Unit,
    /// `ondemand-NAME.service`.
    pub proxy: Unit,
    /// `ondemand-NAME.target`.
    pub lease: Unit,
}

impl Units {
    /// Whether the backend is up, the lease holds it, and neither has a job.
    pub fn held(&self) -> bool {
        self.backend.is_settled_up() && self.lease.is_settled_up()
    }
}
