//! The command line: clap types only.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::{
    config::{DEFAULT_PATH, Endpoint, time_span},
    report::{moment, price},
};

/// Stops systemd services that nobody uses, and loses no request.
///
/// systemd starts a service when somebody connects to its front socket. ondemand lets the
/// kernel count its connections and bytes, and when nobody has used it for a while, lets
/// systemd stop it. The next client starts it again.
#[derive(Debug, Parser)]
#[command(name = "ondemand", version, after_help = HELP, disable_help_subcommand = true)]
pub struct Cli {
    /// The configuration
    #[arg(long, global = true, value_name = "FILE", default_value = DEFAULT_PATH)]
    pub config: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch the services and stop those that nobody uses (run by ondemand.service)
    #[command(after_help = AGENT_HELP)]
    Agent {
        /// Stop nothing; say what would be stopped, and why
        #[arg(long)]
        dry_run: bool,
    },
    /// Check the configuration, the units and this host, and say what to do
    #[command(after_help = CHECK_HELP)]
    Check {
        /// Print JSON, for scripts
        #[arg(long)]
        json: bool,
    },
    /// Print or write the unit files made from the configuration
    #[command(after_help = UNITS_HELP)]
    Units {
        /// Write the files into this directory instead
        #[arg(long, value_name = "DIR")]
        output: Option<PathBuf>,
    },
    /// Wait until a service's application listens, then become another program (run by the proxy)
    #[command(after_help = WAIT_LISTENING_HELP)]
    WaitListening(WaitListening),
    /// Report what was measured, and what other idle timeouts would have meant
    #[command(after_help = REPORT_HELP)]
    Report(Report),
    /// Show the services: their state, their clients, when they will be stopped
    #[command(after_help = STATUS_HELP)]
    Status {
        /// Print JSON, for scripts
        #[arg(long)]
        json: bool,
    },
}

/// `ondemand wait-listening`.
#[derive(Args, Debug)]
pub struct WaitListening {
    /// The service: NAME of [service.NAME]
    pub name: String,
    /// Its unit; with the next two, the configuration is not read
    #[arg(long, requires_all = ["backend", "start_timeout"])]
    pub unit: Option<String>,
    /// Where its application listens
    #[arg(long, value_name = "ADDRESS", requires_all = ["unit", "start_timeout"])]
    pub backend: Option<Endpoint>,
    /// How long to wait
    #[arg(long, value_name = "TIME", value_parser = time_span, requires_all = ["unit", "backend"])]
    pub start_timeout: Option<Duration>,
    /// What to become
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// `ondemand report`.
#[derive(Args, Debug)]
pub struct Report {
    /// Only these services
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
    /// The history, instead of the configuration's
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
    /// Replay a recorded trace of arrivals instead: CSV, or .gz of it; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["history", "since", "until", "last"])]
    pub trace: Option<PathBuf>,
    /// From then on [default: as far back as there is history]
    #[arg(long, value_name = "TIME", value_parser = moment, conflicts_with = "last", allow_hyphen_values = true)]
    pub since: Option<i64>,
    /// Until then [default: now]
    #[arg(long, value_name = "TIME", value_parser = moment, allow_hyphen_values = true)]
    pub until: Option<i64>,
    /// The last hours or days: 7d
    #[arg(long, value_name = "SPAN", value_parser = time_span)]
    pub last: Option<Duration>,
    /// Idle timeouts to compare: 1min,5min,1h
    #[arg(long, value_name = "SPANS", value_parser = time_span, value_delimiter = ',')]
    pub timeouts: Vec<Duration>,
    /// One cold start is as bad as so much time spent up and idle
    #[arg(long, value_name = "SPAN", value_parser = time_span, default_value = "10min")]
    pub cold_start_cost: Duration,
    /// What a GiB of memory costs for an hour, in any currency
    #[arg(long, value_name = "PRICE", value_parser = price, allow_hyphen_values = true)]
    pub price_per_gib_hour: Option<f64>,
    /// Print JSON, for scripts
    #[arg(long, conflicts_with = "html")]
    pub json: bool,
    /// Write one self-contained page with plots
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

const HELP: &str = r#"Configuration (/etc/ondemand/ondemand.toml):
  [service.wiki]
  listen = ["0.0.0.0:80", "[::]:80"]  # where clients come; systemd listens there
  backend = "127.0.0.1:8080"          # where the application listens, or a path
  unit = "wiki.service"               # the application's own unit
  idle_timeout = "10min"              # stopped after so long without a client

Set it up:
  systemctl daemon-reload                   makes the units from the configuration
  ondemand check                            is everything as it should be?
  systemctl start ondemand-wiki.socket      opens the front socket (later: at boot)
  systemctl enable --now ondemand.service   starts the agent
  ondemand status                           who is up, who is used

Exit codes:
  0  done
  1  failed
  2  wrong usage or configuration; the message names file, line and key

Environment:
  ONDEMAND_LOG=debug                        more log lines: error, warn, info, debug, trace"#;

const AGENT_HELP: &str = "\
It needs root, and logs one line for each decision, with the figures behind it.
SIGHUP reads the configuration again (systemctl reload ondemand); no count is lost.
SIGTERM ends it; the kernel goes on counting, and no service is stopped.

Examples:
  systemctl enable --now ondemand                       as a service, as it is meant
  ondemand agent --dry-run --config ./ondemand.toml     see what it would stop, and why

Exit codes: 0 ended by SIGTERM or SIGINT, 1 failed, 2 wrong configuration";

const CHECK_HELP: &str = "\
Prints a line for each thing that was looked at: ok, warning or error.

Examples:
  ondemand check
  ondemand check --config ./ondemand.toml

Exit codes: 0 no error (there may be warnings), 1 errors, 2 wrong configuration";

const UNITS_HELP: &str = "\
Needed only to look at them, or where generators are not wanted: linked as
/usr/lib/systemd/system-generators/ondemand-generator, this program makes them at each
`systemctl daemon-reload`.

Examples:
  ondemand units                                   print them all
  ondemand units --output /etc/systemd/system      write them; then: systemctl daemon-reload

Exit codes: 0 done, 1 cannot be written, 2 wrong configuration";

const WAIT_LISTENING_HELP: &str = "\
Waits until the service's unit is active and its application listens, at most its
start_timeout, and then becomes COMMAND, with the same process id and open sockets. If the
application does not come up it says why, closes the connections that wait, and fails.

Examples:
  ondemand wait-listening wiki && curl http://127.0.0.1:8080/
  ondemand wait-listening wiki -- /usr/lib/systemd/systemd-socket-proxyd 127.0.0.1:8080

Exit codes: 0 it listens, 1 it does not, 2 wrong configuration; or those of COMMAND";

const REPORT_HELP: &str = "\
The history is what the agent recorded: starts, stops, quiet gaps, memory, CPU. From the gaps
follows exactly what any other idle timeout would have meant: how many clients would have waited
for a start, and how long the service would have been up with nobody using it. The recommended
timeout is the one for which both together cost least.

A trace is a CSV file in the order of time, its first line `timestamp_seconds,service`. Nothing
needs to be installed to ask what ondemand would have done.

Examples:
  ondemand report --last 7d
  ondemand report --since 2026-11-01 --until 2026-12-01 --html november.html
  ondemand report wiki --cold-start-cost 30min --price-per-gib-hour 0.004
  ondemand report --trace arrivals.csv --timeouts 1min,10min,1h --json

Exit codes: 0 done, 1 cannot be read (the message names file and line), 2 wrong usage";

const STATUS_HELP: &str = "\
Asks the running agent, over D-Bus.

Examples:
  ondemand status
  ondemand status --json | jq -r '.services[] | select(.state == \"active\") | .name'

Exit codes: 0 done, 1 the agent does not answer";

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[track_caller]
    fn check(line: &str, expected: bool) {
        let parsed = Cli::try_parse_from(line.split(' '));
        assert_eq!(parsed.is_ok(), expected, "{line}: {parsed:?}");
        if let Err(err) = parsed {
            assert_eq!(err.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn usage() {
        check("ondemand agent", true);
        check("ondemand agent --dry-run --config /x", true);
        check("ondemand --config /x check --json", true);
        check("ondemand units --output /x", true);
        check("ondemand status --json", true);
        check("ondemand wait-listening wiki", true);
        check("ondemand report wiki --last 7d --json", true);
        check("ondemand report --trace - --timeouts 1min,5min", true);
        check("ondemand report --trace x --last 7d", false);
        check("ondemand report --since 2026-11-01 --last 7d", false);
        check("ondemand report --json --html x", false);
        check("ondemand report --timeouts 5parsecs", false);
        check("ondemand report --price-per-gib-hour -1", false);
        check(
            "ondemand wait-listening wiki -- /bin/proxyd --x 127.0.0.1:80",
            true,
        );
        let good = "ondemand wait-listening --unit=a.service --backend=[::1]:80 --start-timeout=1500ms wiki -- c";
        check(good, true);
        check(&good.replace("[::1]:80", "80"), false);
        check(&good.replace("1500ms", "soon"), false);
        check("ondemand wait-listening --unit=a.service wiki", false);
        check("ondemand wait-listening wiki extra", false);
        check("ondemand wait-listening", false);
        check("ondemand", false);
        check("ondemand agnet", false);
        check("ondemand agent --dryrun", false);
        check("ondemand units --output", false);
    }

    #[test]
    fn words_after_the_dashes_are_not_ours() {
        let cli = Cli::parse_from(
            "ondemand wait-listening wiki --config /x.toml -- /bin/proxy --config y".split(' '),
        );
        assert_eq!(cli.config, PathBuf::from("/x.toml"));
        let Command::WaitListening(WaitListening { name, command, .. }) = cli.command else {
            panic!("{cli:?}");
        };
        assert_eq!(name, "wiki");
        assert_eq!(command, ["/bin/proxy", "--config", "y"]);
    }
}
