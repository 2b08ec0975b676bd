//! What root sets up: units, permissions, and whether all of it fits.

pub mod check;
pub mod permission;
pub mod reclaim;
pub mod settle;
pub mod sieve;
pub mod thaw;
pub mod turn;
pub mod units;
