//! The kernel's own socket tables: listeners and connections.

pub mod by_unit;
pub mod listening;
pub mod owner;
pub mod sock_diag;
pub mod syn_cookies;
pub mod udp;
pub mod unix;
