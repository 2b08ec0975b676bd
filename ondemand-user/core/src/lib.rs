//! The decisions of ondemand: the configuration, the measurements as values, the policy and the stop
//! protocol.
//!
//! Nothing in this crate does input or output or reads a clock: time and measurements are arguments.
//! So it cannot fail, and its tests need neither root nor waiting.

pub mod caught;
pub mod config;
pub mod freezing;
pub mod holds;
pub mod hosts;
pub mod learned;
pub mod lifecycle;
pub mod measure;
pub mod policy;
pub mod probing;
pub mod proxy_stay;
pub mod readiness;
pub mod replay;
pub mod rhythm;
pub mod room;
pub mod runs;
pub mod waiting;
pub mod whatif;
pub mod words;
pub mod work;
