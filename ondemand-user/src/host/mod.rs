//! The host: clocks, files, directories, capabilities, programs, the log.

pub mod ablation;
pub mod atomic_file;
pub mod capabilities;
pub mod clock;
pub mod complaints;
pub mod config_file;
pub mod directories;
pub mod empty_clients;
pub mod identity;
pub mod logging;
pub mod page_template;
pub mod probe;
pub mod program;
pub mod small_file;
pub mod unit_files;
pub mod veto;
