//! The page that a browser sees while an application starts: who gets it, and what is in it.

mod request;
mod template;

pub use request::{Judged, LONGEST_HEAD, judge};
pub use template::{LONGEST_TEMPLATE, Moment, Template, again};

/// How long a browser waits without a page.
pub const PATIENCE: core::time::Duration = core::time::Duration::from_secs(1);
