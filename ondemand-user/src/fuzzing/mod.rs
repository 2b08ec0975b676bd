//! Functions for fuzzers: for each kind of external input a function that takes any bytes and
//! panics if they do harm.
//!
//! `fuzz/` calls them from libFuzzer (`cargo xtask fuzz`). The tests here call each of them with its
//! seeds and some thousand mutations of these, on any compiler.

mod configuration;
mod generated;
mod history;
mod http;
mod kernel;
mod records;
#[cfg(test)]
mod tests;
mod trace;
mod unit_file;
mod units;

pub use configuration::configuration;
pub use history::history;
pub use http::http;
pub use kernel::{caught, events, sock_diag, sockets};
pub use records::{holds, learned, ledger};
pub use trace::trace;
pub use units::units;

/// A function for fuzzers, and its name in `fuzz/`.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 12] = [
    ("caught", caught),
    ("configuration", configuration),
    ("events", events),
    ("history", history),
    ("holds", holds),
    ("http", http),
    ("learned", learned),
    ("ledger", ledger),
    ("sock_diag", sock_diag),
    ("sockets", sockets),
    ("trace", trace),
    ("units", units),
];

/// Takes numbers from the start of a fuzzer's input; zero if it is used up.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let (taken, rest) = self.0.split_at(N.min(self.0.len()));
        bytes[..taken.len()].copy_from_slice(taken);
        self.0 = rest;
        bytes
    }

    fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.bytes())
    }

    fn i64(&mut self) -> i64 {
        i64::from_le_bytes(self.bytes())
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
