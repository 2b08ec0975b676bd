//! What is measured, as values: moments, counters and sockets of a service, states of its units.

pub mod ktime;
pub mod sample;
pub mod unit;

pub use ktime::Ktime;
