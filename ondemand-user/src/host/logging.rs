//! Log lines, with the priorities that journald reads.

use std::{env, fmt::Write as _, io::Write as _};

use env_logger::{Builder, Target, WriteStyle};
use log::Level;
use nix::sys::stat::fstat;
use ondemand_core::words::printable;

/// The environment variable with the level (`debug`) or a filter (`info,ondemand::agent=trace`).
pub const VARIABLE: &str = "ONDEMAND_LOG";

/// Sends log lines to standard error. Without [`VARIABLE`]: ondemand's at `info`, those of
/// libraries at `warn`. Calls after the first do nothing.
pub fn init() {
    let journal = stderr_is_journal();
    let filters = filters(env::var(VARIABLE).ok().as_deref());
    let mut builder = Builder::new();
    builder
        .parse_filters(&filters)
        .target(Target::Stderr)
        .write_style(WriteStyle::Never)
        .format(move |out, record| {
            let message = printable(&record.args().to_string());
            let lines = if journal {
                for_journal(record.level(), &message)
            } else {
                let now = jiff::Zoned::now().strftime("%H:%M:%S%.3f");
                format!("{now} {:<5} {message}\n", record.level())
            };
            out.write_all(lines.as_bytes())
        });
    // It fails only if a logger exists already, as in tests; that one is used.
    let _ = builder.try_init();
}

/// Returns the filter for the value of [`VARIABLE`]. A bare level applies to ondemand's messages
/// only: at `debug` those of the D-Bus library are noise.
fn filters(variable: Option<&str>) -> String {
    match variable.map(str::trim).filter(|value| !value.is_empty()) {
        None => "warn,ondemand=info".into(),
        Some(value) if value.parse::<log::LevelFilter>().is_ok() => {
            let libraries = match value.to_ascii_lowercase().as_str() {
                quiet @ ("off" | "error") => quiet.to_owned(),
                _ => "warn".into(),
            };
            format!("{libraries},ondemand={value}")
        }
        Some(value) => value.to_owned(),
    }
}

/// Prefixes each line with its priority (sd-daemon(3)). journald has its own clock.
fn for_journal(level: Level, message: &str) -> String {
    let priority = match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    let mut lines = String::with_capacity(message.len() + 4);
    for line in message.lines() {
        // Writing to a string cannot fail.
        let _ = writeln!(lines, "<{priority}>{line}");
    }
    lines
}

/// Whether standard error is the journal itself. `JOURNAL_STREAM` alone is no proof: children
/// inherit it with their output elsewhere (systemd.exec(5)).
fn stderr_is_journal() -> bool {
    let Ok(stream) = env::var("JOURNAL_STREAM") else {
        return false;
    };
    fstat(std::io::stderr()).is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_level_is_for_our_own_messages() {
        #[track_caller]
        fn check(variable: Option<&str>, expected: &str) {
            assert_eq!(filters(variable), expected);
        }
        check(None, "warn,ondemand=info");
        check(Some(" "), "warn,ondemand=info");
        check(Some("debug"), "warn,ondemand=debug");
        check(Some("TRACE"), "warn,ondemand=TRACE");
        check(Some("error"), "error,ondemand=error");
        check(Some("off"), "off,ondemand=off");
        check(Some("info,zbus=trace"), "info,zbus=trace");
    }

    #[test]
    fn the_journal_gets_a_priority_on_each_line() {
        #[track_caller]
        fn check(level: Level, message: &str, expected: &str) {
            assert_eq!(for_journal(level, message), expected);
        }
        check(Level::Error, "no", "<3>no\n");
        check(Level::Warn, "hm", "<4>hm\n");
        check(Level::Info, "a\nb", "<6>a\n<6>b\n");
        check(Level::Debug, "d", "<7>d\n");
        check(Level::Trace, "t", "<7>t\n");
    }
}
