//! What decides in ondemand: the configuration, the measurements as values, the policy and the stop
//! protocol.
//!
//! Nothing in this crate does input or output or reads a clock: time and measurements are arguments.
//! So it cannot fail, and a test needs neither root nor patience.

pub mod config;
pub mod holds;
pub mod lifecycle;
pub mod measure;
pub mod policy;
pub mod proxy_stay;
pub mod readiness;
pub mod replay;
pub mod runs;
pub mod words;
