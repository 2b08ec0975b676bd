//! The commands and their arguments.

pub mod actions;
pub mod args;
pub mod client;
mod help;
pub mod report;
pub mod status;
pub mod top;
pub mod values;
