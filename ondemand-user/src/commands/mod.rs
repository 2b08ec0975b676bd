//! The commands and their arguments.

pub mod abandon;
pub mod actions;
pub mod adopt;
pub mod apply;
pub mod args;
pub mod client;
pub mod completions;
mod consent;
#[cfg(test)]
mod documents;
pub mod edit;
pub mod events;
pub mod fix;
mod help;
pub mod hold_while;
#[cfg(test)]
mod messages;
pub mod pages;
pub mod report;
pub mod status;
pub mod top;
pub mod values;

pub use consent::Refusal;
