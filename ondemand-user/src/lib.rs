//! `ondemand`: stops unused systemd services, and loses no request.
//!
//! Data flows one way: [`kernel`] -> maps -> `ondemand_core` (measure, policy, lifecycle) ->
//! [`systemd`]. ARCHITECTURE.md has the map of the code and the invariants that hold it together.

pub mod agent;
pub mod bus;
pub mod commands;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod host;
pub mod install;
pub mod kernel;
pub mod observe;
pub mod proxy;
pub mod systemd;
