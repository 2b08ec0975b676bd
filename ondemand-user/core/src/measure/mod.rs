//! Measurements as values: moments, a service's counters and sockets, states of its units.

pub mod ktime;
pub mod sample;
pub mod unit;

pub use ktime::Ktime;
