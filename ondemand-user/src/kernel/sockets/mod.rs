//! The kernel's own socket tables: who listens, who is connected.

pub mod listening;
pub mod sock_diag;
pub mod syn_cookies;
pub mod unix;
