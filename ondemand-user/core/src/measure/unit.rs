//! What systemd says about a unit, as far as the stop protocol needs it.

use crate::measure::Ktime;

/// A unit's `ActiveState` (org.freedesktop.systemd1(5)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ActiveState {
    /// Started.
    Active,
    /// Started, and reloading its configuration.
    Reloading,
    /// Stopped.
    Inactive,
    /// Stopped, and not as it should.
    Failed,
    /// Starting.
    Activating,
    /// Stopping.
    Deactivating,
    /// Anything that systemd may add, and `maintenance`.
    #[default]
    Unknown,
}

impl ActiveState {
    /// From the property's text.
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

    /// Started and not stopping.
    pub fn is_up(self) -> bool {
        matches!(self, Self::Active | Self::Reloading)
    }

    /// Stopped, whatever the reason.
    pub fn is_down(self) -> bool {
        matches!(self, Self::Inactive | Self::Failed)
    }
}

/// One unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Unit {
    /// Its state.
    pub state: ActiveState,
    /// Whether a job is queued or runs for it.
    pub job: bool,
    /// When it became active last (`ActiveEnterTimestampMonotonic`).
    pub active_enter: Option<Ktime>,
    /// When it began to start last (`InactiveExitTimestampMonotonic`).
    pub inactive_exit: Option<Ktime>,
    /// When it became inactive last (`InactiveEnterTimestampMonotonic`).
    pub inactive_enter: Option<Ktime>,
}

impl Unit {
    /// Up, and nobody is about to change that.
    pub fn is_settled_up(&self) -> bool {
        self.state.is_up() && !self.job
    }

    /// Down, and nobody is about to change that.
    pub fn is_settled_down(&self) -> bool {
        self.state.is_down() && !self.job
    }
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
    /// The backend is up, the lease holds it, and no job is about to change either.
    pub fn held(&self) -> bool {
        self.backend.is_settled_up() && self.lease.is_settled_up()
    }
}
