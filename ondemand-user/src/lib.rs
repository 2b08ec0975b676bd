//! `ondemand`: stops systemd services that nobody uses, and loses no request.
//!
//! Data flows one way: kernel -> maps -> [`sampler`] -> [`policy`] -> [`lifecycle`] -> [`systemd`].
//! ARCHITECTURE.md has the map of the code and the invariants that hold it together.

pub mod ablation;
pub mod actions;
pub mod agent;
pub mod bus;
pub mod check;
pub mod cli;
pub mod client;
pub mod config;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod history;
pub mod holds;
pub mod kernel;
pub mod ktime;
pub mod lifecycle;
pub mod listening;
pub mod logging;
pub mod metrics;
pub mod permission;
pub mod policy;
pub mod proxy;
pub mod replay;
pub mod report;
mod runtime;
pub mod sampler;
mod sock_diag;
pub mod status;
pub mod syn_cookies;
pub mod systemd;
pub mod top;
pub mod trace;
pub mod units;
pub mod unix_sockets;
pub mod veto;
pub mod wait_listening;
pub mod words;
