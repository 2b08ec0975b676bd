//! What is written down of everything that happens. Observers return nothing.

pub mod history;
pub mod metrics;
