//! The command line: clap types only.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::{
    config::{DEFAULT_PATH, Endpoint, time_span},
    permission::USER,
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
    /// Give the agent's user what it needs: a polkit rule and a place for the kernel's counters
    #[command(after_help = PERMIT_HELP)]
    Permit {
        /// The user that the agent runs as
        #[arg(long, value_name = "NAME", default_value = USER)]
        user: String,
        /// Print the polkit rule, and give nothing
        #[arg(long)]
        print: bool,
    },
    /// Wait until a service's application listens, then become another program (run by the proxy)
    #[command(after_help = WAIT_LISTENING_HELP)]
    WaitListening(WaitListening),
    /// Report what was measured, and what other idle timeouts would have meant
    #[command(after_help = REPORT_HELP)]
    Report(Report),
    /// Carry the connections of a front socket to a service's application (run by systemd)
    #[command(after_help = PROXY_HELP)]
    Proxy(Proxy),
    /// Show the services: their state, their clients, when they will be stopped
    #[command(after_help = STATUS_HELP)]
    Status {
        /// Print JSON, for scripts
        #[arg(long)]
        json: bool,
    },
    /// Show the services as they change, and hold or release them with a key
    #[command(after_help = TOP_HELP)]
    Top,
    /// Keep a service up, however idle it is
    #[command(after_help = HOLD_HELP)]
    Hold {
        /// The service: NAME of [service.NAME]
        name: String,
        /// For so long; without it, until it is released
        #[arg(long = "for", value_name = "TIME", value_parser = hold_span)]
        span: Option<Duration>,
    },
    /// End a hold: the service is stopped again when it is idle
    #[command(after_help = RELEASE_HELP)]
    Release {
        /// The service: NAME of [service.NAME]
        name: String,
    },
    /// Start a service now, before its first client
    #[command(after_help = START_HELP)]
    Start {
        /// The service: NAME of [service.NAME]
        name: String,
    },
    /// Stop a service now if nobody uses it; never by force
    #[command(after_help = STOP_HELP)]
    Stop {
        /// The service: NAME of [service.NAME]
        name: String,
    },
    /// Have the agent read its configuration again
    #[command(after_help = RELOAD_HELP)]
    Reload,
}

/// How long to hold a service.
fn hold_span(text: &str) -> Result<Duration, String> {
    match time_span(text) {
        Ok(Duration::ZERO) => Err("that is no time at all; write it like \"2h\"".into()),
        Err(_) if text.trim() == "infinity" => {
            Err("leave --for out: it is held until it is released".into())
        }
        other => other,
    }
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

/// `ondemand proxy`. Everything is said by options: the proxy's user may not be allowed to read
/// the configuration.
#[derive(Args, Debug)]
pub struct Proxy {
    /// The service: NAME of [service.NAME]
    pub name: String,
    /// Its unit
    #[arg(long)]
    pub unit: String,
    /// Where its application listens
    #[arg(long, value_name = "ADDRESS")]
    pub backend: Endpoint,
    /// How long the first client is held until the application listens
    #[arg(long, value_name = "TIME", value_parser = time_span)]
    pub start_timeout: Duration,
    /// How long to stay without a connection
    #[arg(long, value_name = "TIME", value_parser = time_span)]
    pub exit_idle_time: Duration,
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
  ondemand top                              the same, live
  ondemand hold wiki --for 2h               keep it up for a while

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

const PERMIT_HELP: &str = "\
Run as root by ondemand.service before the agent and at each reload. The rule lets the agent's user
start and stop the units of the configuration, and no others:
/etc/polkit-1/rules.d/50-ondemand.rules. The place is /sys/fs/bpf/ondemand.

Examples:
  ondemand permit --print      what the rule is
  ondemand permit              after a change of the configuration, without a reload

Exit codes: 0 done, 1 something could not be given, 2 wrong configuration";

const WAIT_LISTENING_HELP: &str = "\
Waits until the service's unit is active and its application listens, at most its
start_timeout, and then becomes COMMAND, with the same process id and open sockets. If the
application does not come up it says why, closes the connections that wait, and fails.

Examples:
  ondemand wait-listening wiki && curl http://127.0.0.1:8080/
  ondemand wait-listening wiki -- /usr/lib/systemd/systemd-socket-proxyd 127.0.0.1:8080

Exit codes: 0 it listens, 1 it does not, 2 wrong configuration; or those of COMMAND";

const PROXY_HELP: &str = "\
ondemand-NAME.service runs it, with the sockets of ondemand-NAME.socket. It waits for the
application as `ondemand wait-listening` does, carries connections to it, and ends a while after
the last one. SIGTERM: it takes no more connections and lets those finish that it has.
SIGWINCH: it ends at once if it has none.

Example, as in the generated unit (ondemand units):
  ondemand proxy --unit=wiki.service --backend=127.0.0.1:8080 --start-timeout=90s \\
      --exit-idle-time=1s wiki

Exit codes: 0 done, 1 the application does not listen, 2 wrong usage";

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

const TOP_HELP: &str = "\
Asks the running agent once a second, over D-Bus. Keys:
  up, down, k, j   select a service          s, S   sort by the next or the previous column
  h                hold it until released    r      release it
  ?                this help                 q      quit

Where the output is no terminal, use `ondemand status`.

Exit codes: 0 ended by q, Ctrl-C or SIGTERM; 1 no terminal, or no agent at the start";

const HOLD_HELP: &str = "\
A held service is not stopped by the agent, however idle it is. A hold only prevents stops: it
does not start the service, and clients start it as always. It survives restarts of the agent
and of the host; another hold replaces it. `ondemand status` shows it.

TIME is a time span as in the configuration: 90s, 2h, 1d 12h.

Examples:
  ondemand hold wiki --for 2h        for the next two hours, by the clock on the wall
  ondemand hold wiki                 until `ondemand release wiki`
  ondemand hold ci && ondemand start ci

It needs root, or polkit's permission for org.ondemand1.manage.

Exit codes: 0 held, 1 failed, 2 no such service or wrong usage";

const RELEASE_HELP: &str = "\
It is stopped when it has been idle for its idle_timeout, as always: at once, if that is over.
To release a service that is not held is no error.

Example:
  ondemand release wiki

It needs root, or polkit's permission for org.ondemand1.manage.

Exit codes: 0 done, 1 failed, 2 no such service or wrong usage";

const START_HELP: &str = "\
Starts the application's unit and waits until systemd calls it active. It is stopped again when
nobody uses it for its idle_timeout, counted from now even if it was up; `ondemand hold` keeps it
up for longer.

Example:
  ondemand start llm        before a demonstration: its first client need not wait

It needs root, or polkit's permission for org.ondemand1.manage.

Exit codes: 0 it is up, 1 it did not start, 2 no such service or wrong usage";

const STOP_HELP: &str = "\
The same stop as for an idle service, with all its checks, only without waiting for idle_timeout
and min_uptime. It stays up, and this says why, while connections are open or handshakes half
done, while its proxy starts or does not leave, if its veto program says so, if it is held, or if
anything is not known. Waits for the end, and says what for when it takes longer than two seconds.

There is no way to force it: `systemctl stop` of its unit does that, and its clients lose their
connections.

Example:
  ondemand stop llm && nvidia-smi

It needs root, or polkit's permission for org.ondemand1.manage.

Exit codes: 0 it is down, 1 it stays up, 2 no such service or wrong usage";

const RELOAD_HELP: &str = "\
As `systemctl reload ondemand`, but says here what is wrong with the configuration: file, line
and key. The agent keeps the one that it has then. No count is lost.

Example:
  systemctl daemon-reload && ondemand reload     units first, then the agent

It needs root, or polkit's permission for org.ondemand1.reload.

Exit codes: 0 done, 1 failed, 2 wrong configuration";

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
        check("ondemand top", true);
        check("ondemand hold wiki", true);
        check("ondemand hold wiki --for 2h", true);
        check("ondemand hold --for=90 wiki", true);
        check("ondemand hold wiki --for 0", false);
        check("ondemand hold wiki --for infinity", false);
        check("ondemand hold wiki --for tomorrow", false);
        check("ondemand hold wiki --for -5s", false);
        check("ondemand hold", false);
        check("ondemand release wiki", true);
        check("ondemand release wiki llm", false);
        check("ondemand start wiki", true);
        check("ondemand stop wiki", true);
        check("ondemand stop --force wiki", false);
        check("ondemand stop", false);
        check("ondemand reload", true);
        check("ondemand reload wiki", false);
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
