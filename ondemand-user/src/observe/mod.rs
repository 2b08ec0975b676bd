//! Records of everything that happens. Observers return nothing.

pub mod history;
pub mod metrics;
pub mod page;
