//! The command line: clap types only.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use clap_complete::ArgValueCompleter;
use ondemand_core::config::{DEFAULT_PATH, Endpoint, Ready, Statuses, time_span};

use super::{
    completions::{Shell, services, topics},
    help,
    values::{currency, moment, price, size, span, watts},
};
use crate::{
    install::permission::USER,
    kernel::sockets::listening::Application,
    proxy::{self, wait::Awaited},
};

/// Stops unused systemd services, and loses no request.
///
/// systemd starts a service when a client connects to its front socket. ondemand counts its
/// connections and bytes in the kernel, and has systemd stop it when it was unused for its idle
/// timeout. The next client starts it again.
#[derive(Debug, Parser)]
#[command(name = "ondemand", version, after_help = help::MAIN, disable_help_subcommand = true)]
pub struct Cli {
    /// Path of the configuration
    #[arg(long, global = true, value_name = "FILE", default_value = DEFAULT_PATH)]
    pub config: PathBuf,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch the services and stop unused ones (run by ondemand.service)
    #[command(after_help = help::AGENT)]
    Agent {
        /// Stop nothing; log what would be stopped, and why
        #[arg(long)]
        dry_run: bool,
        /// Only take back what an agent that was killed has left open (run by systemd after each agent)
        #[arg(long, conflicts_with = "dry_run")]
        clean_up: bool,
    },
    /// Check the configuration, the units and this host
    #[command(after_help = help::CHECK)]
    Check {
        /// Print JSON, for scripts
        #[arg(long)]
        json: bool,
        /// Run the commands that it names where they can do no harm, after a question
        #[arg(long, conflicts_with = "json")]
        fix: bool,
        /// Answer yes
        #[arg(long, requires = "fix")]
        yes: bool,
    },
    /// Print or write the unit files made from the configuration
    #[command(after_help = help::UNITS)]
    Units {
        /// Write the files into this directory instead
        #[arg(long, value_name = "DIR")]
        output: Option<PathBuf>,
    },
    /// Load the eBPF programs, so that the agent needs no capability (run by systemd, as root)
    #[command(after_help = help::LOAD)]
    Load {
        /// The user that the agent runs as, whose group may use them
        #[arg(long, value_name = "NAME", default_value = USER)]
        user: String,
        /// Fail, too, if applications that keep their addresses cannot be started by their clients
        #[arg(long)]
        serve: bool,
    },
    /// Grant the agent's user its permission: a polkit rule
    #[command(after_help = help::PERMIT)]
    Permit {
        /// The user that the agent runs as [default: that of the present rule, or ondemand-agent]
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        /// Print the polkit rule only
        #[arg(long)]
        print: bool,
    },
    /// Keep connections without a byte away from front sockets (run by systemd, as root)
    #[command(after_help = help::SIEVE)]
    Sieve {
        /// Where they listen
        #[arg(required = true, value_name = "ADDRESS")]
        addresses: Vec<SocketAddr>,
    },
    /// Have datagrams wait at the front sockets while no agent holds them (run by systemd, as root)
    #[command(after_help = help::FRONTS)]
    Fronts,
    /// Bring a changed configuration into force; stops and cuts nothing that runs
    #[command(after_help = help::APPLY)]
    Apply {
        /// Only print what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Edit the configuration, or the file of one service, and bring it into force
    #[command(after_help = help::EDIT)]
    Edit {
        /// The service whose file to edit [default: the main file]
        #[arg(add = ArgValueCompleter::new(services))]
        name: Option<String>,
    },
    /// Make a service on demand of a unit, while it runs; without a unit, list those that are worth it
    #[command(after_help = help::ADOPT)]
    Adopt(Adopt),
    /// Make an ordinary unit of a service again, while it runs
    #[command(after_help = help::ABANDON)]
    Abandon(Abandon),
    /// Wait until a service's application listens, then execute another program
    #[command(after_help = help::WAIT_LISTENING)]
    WaitListening(WaitListening),
    /// Wait until there is room for a service in its group (run by systemd, before its application)
    #[command(after_help = help::WAIT_ROOM)]
    WaitRoom {
        /// The service: NAME of [service.NAME]
        name: String,
        /// How long to wait
        #[arg(long, value_name = "TIME", value_parser = time_span)]
        start_timeout: Duration,
    },
    /// Have the kernel take back the memory of an application that is frozen (run by systemd, as root)
    #[command(after_help = help::RECLAIM)]
    Reclaim {
        /// The application's unit
        unit: String,
    },
    /// Report the measurements, and the effect of other idle timeouts
    #[command(after_help = help::REPORT)]
    Report(Report),
    /// Carry the connections of a front socket to a service's application (run by systemd)
    #[command(after_help = help::PROXY)]
    Proxy(Proxy),
    /// Show the services: their state, their clients, when they will be stopped
    #[command(after_help = help::STATUS)]
    Status(Status),
    /// Print starts, stops, vetoes and holds as they happen
    #[command(after_help = help::EVENTS)]
    Events {
        /// Only of this service
        #[arg(add = ArgValueCompleter::new(services))]
        name: Option<String>,
        /// Print JSON, an object a line, for scripts
        #[arg(long)]
        json: bool,
    },
    /// Show the services live, and hold or release them with a key
    #[command(after_help = help::TOP)]
    Top,
    /// Keep a service up, however idle it is
    #[command(after_help = help::HOLD)]
    Hold {
        /// The service: NAME of [service.NAME]
        #[arg(add = ArgValueCompleter::new(services))]
        name: String,
        /// How long; without it, until it is released
        #[arg(long = "for", value_name = "TIME", value_parser = hold_span)]
        span: Option<Duration>,
        /// Also start it now: a hold alone starts nothing
        #[arg(long)]
        start: bool,
        /// Only as long as this command runs
        #[arg(long = "while", value_name = "COMMAND", num_args = 1.., allow_hyphen_values = true, conflicts_with_all = ["span", "start"])]
        command: Vec<OsString>,
    },
    /// End a hold: the service is stopped again when it is idle
    #[command(after_help = help::RELEASE)]
    Release {
        /// The service: NAME of [service.NAME]
        #[arg(add = ArgValueCompleter::new(services))]
        name: String,
    },
    /// Start a service now, before its first client
    #[command(after_help = help::START)]
    Start {
        /// The service: NAME of [service.NAME]
        #[arg(add = ArgValueCompleter::new(services))]
        name: String,
    },
    /// Stop a service now if it is unused; never by force
    #[command(after_help = help::STOP)]
    Stop {
        /// The service: NAME of [service.NAME]
        #[arg(add = ArgValueCompleter::new(services))]
        name: String,
    },
    /// Make the agent read its configuration again
    #[command(after_help = help::RELOAD)]
    Reload {
        /// First grant the agent, which runs as this user, its permissions (as `permit` does)
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
    },
    /// Print a part of the manual, or the help of a command
    #[command(after_help = help::HELP)]
    Help {
        /// The topic or command; without it, which topics there are
        #[arg(add = ArgValueCompleter::new(topics))]
        topic: Option<String>,
    },
    /// Print what completes these commands in a shell
    #[command(after_help = help::COMPLETIONS)]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the manual pages into a directory, for packages
    #[command(after_help = help::MAN)]
    Man {
        /// The directory
        directory: PathBuf,
    },
}

/// Parses the time of a hold.
fn hold_span(text: &str) -> Result<Duration, String> {
    match span(text) {
        Ok(Duration::ZERO) => Err("the time is zero; write it like \"2h\"".into()),
        Err(_) if text.trim() == "infinity" => {
            Err("remove --for: without it, the service is held until it is released".into())
        }
        other => other,
    }
}

/// `ondemand status`.
#[derive(Args, Debug)]
pub struct Status {
    /// Only this service, who keeps it up, and its past: NAME of [service.NAME], or its unit
    #[arg(add = ArgValueCompleter::new(services))]
    pub name: Option<String>,
    /// Only services that are up
    #[arg(long)]
    pub active: bool,
    /// Show it anew each second
    #[arg(long, conflicts_with = "json")]
    pub watch: bool,
    /// Print JSON, for scripts
    #[arg(long)]
    pub json: bool,
}

/// `ondemand adopt`.
#[derive(Args, Debug)]
pub struct Adopt {
    /// The application's unit, such as wiki.service
    pub unit: Option<String>,
    /// The service's name [default: that of the unit]
    #[arg(long, value_name = "NAME", requires = "unit")]
    pub name: Option<String>,
    /// Where clients connect, if the application listens elsewhere; again for each further address
    #[arg(long, value_name = "ADDRESS", requires_all = ["unit", "backend"])]
    pub listen: Vec<Endpoint>,
    /// Where the application listens then, such as the published port of its container
    #[arg(long, value_name = "ADDRESS", requires = "listen")]
    pub backend: Option<Endpoint>,
    /// Ask nothing
    #[arg(long, requires = "unit")]
    pub yes: bool,
    /// Only print what would be done
    #[arg(long, requires = "unit", conflicts_with = "yes")]
    pub dry_run: bool,
    /// Print JSON, for scripts
    #[arg(long)]
    pub json: bool,
}

/// `ondemand abandon`.
#[derive(Args, Debug)]
pub struct Abandon {
    /// The service: NAME of [service.NAME], or its unit
    #[arg(add = ArgValueCompleter::new(services))]
    pub name: String,
    /// Ask nothing
    #[arg(long)]
    pub yes: bool,
    /// Only print what would be done
    #[arg(long, conflicts_with = "yes")]
    pub dry_run: bool,
}

/// `ondemand wait-listening`.
#[derive(Args, Debug)]
pub struct WaitListening {
    /// The service: NAME of [service.NAME]
    #[arg(add = ArgValueCompleter::new(services))]
    pub name: String,
    /// Its unit; with the next two, the configuration is not read
    #[arg(long, requires_all = ["backend", "start_timeout"])]
    pub unit: Option<String>,
    /// Where its application listens
    #[arg(long, value_name = "ADDRESS", requires_all = ["unit", "start_timeout"])]
    pub backend: Option<Endpoint>,
    /// Whom to ask whether it is ready
    #[arg(long, value_name = "URL", requires = "unit")]
    pub ready: Option<Ready>,
    /// The status codes that mean that it is
    #[arg(long, value_name = "CODES", requires = "ready")]
    pub ready_status: Option<Statuses>,
    /// How long to wait
    #[arg(long, value_name = "TIME", value_parser = time_span, requires_all = ["unit", "backend"])]
    pub start_timeout: Option<Duration>,
    /// The program to execute
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// `ondemand proxy`. All of its input is in options: the proxy's user may not be allowed to read
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
    /// Whom to ask whether it is ready
    #[arg(long, value_name = "URL")]
    pub ready: Option<Ready>,
    /// The status codes that mean that it is
    #[arg(long, value_name = "CODES", requires = "ready")]
    pub ready_status: Option<Statuses>,
    /// A browser that waits for more than a second sees a page
    #[arg(long)]
    pub waiting_page: bool,
    /// That page is made from this file
    #[arg(long, value_name = "FILE", requires = "waiting_page")]
    pub page_template: Option<PathBuf>,
    /// It needs other services, of whose readiness the agent knows
    #[arg(long)]
    pub chained: bool,
    /// The addresses where clients arrive, if the application itself listens there
    #[arg(long, value_name = "ADDRESS")]
    pub own_address: Vec<SocketAddr>,
    /// The addresses at which the application receives datagrams
    #[arg(long, value_name = "ADDRESS")]
    pub datagrams: Vec<SocketAddr>,
    /// How long the first client is held until the application listens
    #[arg(long, value_name = "TIME", value_parser = time_span)]
    pub start_timeout: Duration,
    /// How long to stay without a connection
    #[arg(long, value_name = "TIME", value_parser = time_span)]
    pub exit_idle_time: Duration,
    /// After how long a connection without a byte is no use
    #[arg(long, value_name = "TIME", value_parser = time_span)]
    pub silent_after: Option<Duration>,
}

impl From<Proxy> for proxy::Options {
    fn from(options: Proxy) -> Self {
        let Proxy {
            name,
            unit,
            backend,
            ready,
            ready_status,
            chained,
            waiting_page,
            page_template,
            own_address: own,
            datagrams,
            start_timeout,
            exit_idle_time,
            silent_after,
        } = options;
        Self {
            awaited: Awaited {
                name,
                unit,
                application: Application { backend, own },
                ready: asked(ready, ready_status),
                chained,
                start_timeout,
            },
            exit_idle_time,
            silent_after,
            datagrams,
            page: waiting_page.then_some(page_template),
        }
    }
}

/// The two options together. A status for `tcp:`, which has none, changes nothing.
pub fn asked(ready: Option<Ready>, status: Option<Statuses>) -> Option<Ready> {
    let ready = ready?;
    let Some(status) = status else {
        return Some(ready);
    };
    Some(ready.clone().with_status(status).unwrap_or(ready))
}

/// The most hosts of a plan.
const MOST_HOSTS: i64 = 10_000;

/// `ondemand report`.
#[derive(Args, Debug)]
pub struct Report {
    /// Only these services
    #[arg(value_name = "SERVICE", add = ArgValueCompleter::new(services))]
    pub services: Vec<String>,
    /// Read this history, instead of the configuration's
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
    /// Replay a recorded trace of arrivals: CSV, or CSV in .gz; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["history", "since", "until", "last"])]
    pub trace: Option<PathBuf>,
    /// Also plan: would this number of hosts carry the trace, and how many fewer?
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MOST_HOSTS), group = "fleet", requires = "memory_per_host", requires = "trace")]
    pub hosts: Option<u32>,
    /// Report a fleet from the metrics in this Prometheus, or Thanos, Mimir, VictoriaMetrics: http://USER:PASSWORD@HOST:9090
    #[arg(long, value_name = "URL", group = "fleet", conflicts_with_all = ["history", "trace"])]
    pub prometheus: Option<String>,
    /// Of these hosts alone, as in a query between { and }: 'instance=~"web.*"'
    #[arg(long = "match", value_name = "SELECTOR", requires = "prometheus")]
    pub matching: Option<String>,
    /// Send the headers in this file, a line for each, such as `Authorization: Bearer TOKEN`
    #[arg(long, value_name = "FILE", requires = "prometheus")]
    pub header_file: Option<PathBuf>,
    /// How long to wait for each answer of Prometheus
    #[arg(long, value_name = "SPAN", value_parser = span, requires = "prometheus", default_value = "2min")]
    pub patience: Duration,
    /// The memory of each of these hosts that services may have: 16GiB
    #[arg(long, value_name = "SIZE", value_parser = size, requires = "fleet")]
    pub memory_per_host: Option<u64>,
    /// What each service takes while it is up, if the trace has no `memory_bytes` of it
    #[arg(long, value_name = "SIZE", value_parser = size, requires = "hosts")]
    pub memory: Option<u64>,
    /// How long a start takes, if the trace has no `start_seconds` of the service
    #[arg(long, value_name = "SPAN", value_parser = span, requires = "hosts", default_value = "2s")]
    pub start_duration: Duration,
    /// Start of the period [default: the start of the history]
    #[arg(long, value_name = "TIME", value_parser = moment, conflicts_with = "last", allow_hyphen_values = true)]
    pub since: Option<i64>,
    /// End of the period [default: now]
    #[arg(long, value_name = "TIME", value_parser = moment, allow_hyphen_values = true)]
    pub until: Option<i64>,
    /// The last hours or days: 7d
    #[arg(long, value_name = "SPAN", value_parser = span)]
    pub last: Option<Duration>,
    /// Compare this memory_budget with larger and smaller ones [default: the configuration's]
    #[arg(long, value_name = "SIZE", value_parser = size, conflicts_with_all = ["trace", "prometheus"])]
    pub memory_budget: Option<u64>,
    /// Idle timeouts to compare: 1min,5min,1h
    #[arg(long, value_name = "SPANS", value_parser = span, value_delimiter = ',')]
    pub timeouts: Vec<Duration>,
    /// The time up and idle that is as bad as one cold start
    #[arg(long, value_name = "SPAN", value_parser = span, default_value = "10min")]
    pub cold_start_cost: Duration,
    /// The shortest that a learned timeout may be [default: 5s; 1s with a trace]
    #[arg(long, value_name = "SPAN", value_parser = span)]
    pub idle_timeout_min: Option<Duration>,
    /// The longest
    #[arg(long, value_name = "SPAN", value_parser = span)]
    pub idle_timeout_max: Option<Duration>,
    /// Price of a GiB of memory for an hour, in any currency
    #[arg(long, value_name = "PRICE", value_parser = price, allow_hyphen_values = true)]
    pub price_per_gib_hour: Option<f64>,
    /// The currency of the price: EUR
    #[arg(long, value_name = "NAME", value_parser = currency, requires = "price_per_gib_hour")]
    pub currency: Option<String>,
    /// What a CPU takes while it is used, in watts: for the energy of the services' CPU time
    #[arg(long, value_name = "WATTS", value_parser = watts, allow_hyphen_values = true)]
    pub watts_per_cpu: Option<f64>,
    /// Print JSON, for scripts
    #[arg(long, conflicts_with = "html")]
    pub json: bool,
    /// Write one self-contained page with plots
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Print what the agent's page draws
    #[arg(long, hide = true, conflicts_with_all = ["html", "json"])]
    pub page_data: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn paragraphs_of_help_are_folded_to_the_terminal() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string);
            let help = help.unwrap_or_default();
            let lines: Vec<&str> = help.lines().collect();
            for pair in lines.windows(2) {
                let is_text = |line: &str| !line.is_empty() && !line.starts_with([' ', '/']);
                let is_broken = pair.iter().all(|line| is_text(line)) && !pair[0].ends_with(':');
                assert!(!is_broken, "{}: {pair:?}", command.get_name());
            }
        }
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
        check("ondemand check --fix --yes", true);
        check("ondemand check --yes", false);
        check("ondemand check --fix --json", false);
        check("ondemand units --output /x", true);
        check("ondemand status --json", true);
        check("ondemand status wiki", true);
        check("ondemand status wiki llm", false);
        check("ondemand status --active --watch", true);
        check("ondemand status --watch --json", false);
        check("ondemand events", true);
        check("ondemand events wiki --json", true);
        check("ondemand top", true);
        check("ondemand hold wiki", true);
        check("ondemand hold wiki --for 2h", true);
        check("ondemand hold --for=90s wiki", true);
        check("ondemand hold wiki --for 2", false);
        check("ondemand hold wiki --for 1h30", false);
        check("ondemand hold wiki --for 2.", false);
        check("ondemand hold wiki --for 0", false);
        check("ondemand hold wiki --for infinity", false);
        check("ondemand hold wiki --for tomorrow", false);
        check("ondemand hold wiki --for -5s", false);
        check("ondemand hold wiki --while make -j 4 all", true);
        check("ondemand hold wiki --while", false);
        check("ondemand hold wiki --for 2h --while make", false);
        check("ondemand hold", false);
        check("ondemand release wiki", true);
        check("ondemand release wiki llm", false);
        check("ondemand start wiki", true);
        check("ondemand stop wiki", true);
        check("ondemand stop --force wiki", false);
        check("ondemand stop", false);
        check("ondemand apply", true);
        check("ondemand apply --dry-run", true);
        check("ondemand apply wiki", false);
        check("ondemand edit", true);
        check("ondemand edit wiki", true);
        check("ondemand adopt", true);
        check("ondemand adopt --json", true);
        check("ondemand adopt wiki.service --name w --yes", true);
        check("ondemand adopt wiki.service --dry-run --json", true);
        check("ondemand adopt wiki.service --dry-run --yes", false);
        check(
            "ondemand adopt w --listen 0.0.0.0:80 --listen [::]:80 --backend 127.0.0.1:81",
            true,
        );
        check("ondemand adopt w --listen 0.0.0.0:80", false);
        check("ondemand adopt w --backend 127.0.0.1:81", false);
        check("ondemand adopt w --listen 80 --backend 127.0.0.1:81", false);
        check("ondemand adopt --yes", false);
        check("ondemand abandon wiki --yes", true);
        check("ondemand abandon", false);
        check("ondemand reload", true);
        check("ondemand reload wiki", false);
        check("ondemand help", true);
        check("ondemand help keys", true);
        check("ondemand help keys files", false);
        check("ondemand completions zsh", true);
        check("ondemand completions csh", false);
        check("ondemand completions", false);
        check("ondemand man /x", true);
        check("ondemand man", false);
        check("ondemand wait-listening wiki", true);
        check("ondemand report wiki --last 7d --json", true);
        check("ondemand report --trace - --timeouts 1min,5min", true);
        check("ondemand report --trace x --last 7d", false);
        let plan = "ondemand report --trace x --hosts 3 --memory-per-host 1GiB";
        check(plan, true);
        check(&format!("{plan} --memory 64MiB --start-duration 1s"), true);
        check(&format!("{plan} --memory 64"), false);
        check(&plan.replace("--hosts 3", "--hosts 0"), false);
        check(&plan.replace("--hosts 3", "--hosts 10001"), false);
        check(&plan.replace("--hosts 3", ""), false);
        check(&plan.replace("--trace x", ""), false);
        check(&plan.replace("--memory-per-host 1GiB", ""), false);
        let fleet = "ondemand report --prometheus http://x:9090";
        check(fleet, true);
        check(
            &format!("{fleet} --match instance=\"x\" --memory-per-host 1G --last 7d"),
            true,
        );
        check(
            &format!("{fleet} --header-file /x --patience 5s wiki --json"),
            true,
        );
        check(&format!("{fleet} --trace x"), false);
        check(&format!("{fleet} --history x"), false);
        check(&format!("{fleet} --hosts 3 --memory-per-host 1G"), false);
        check("ondemand report --match x=\"y\"", false);
        check("ondemand report --memory-per-host 1G", false);
        check("ondemand report --since 2026-11-01 --last 7d", false);
        check("ondemand report --json --html x", false);
        check("ondemand report --timeouts 5parsecs", false);
        check("ondemand report --timeouts 1min,5", false);
        check("ondemand report --last 7", false);
        check("ondemand report --cold-start-cost 10", false);
        check("ondemand report --price-per-gib-hour -1", false);
        check(
            "ondemand report --price-per-gib-hour 1 --currency EUR",
            true,
        );
        check("ondemand report --currency EUR", false);
        check("ondemand report --watts-per-cpu 12.5", true);
        check("ondemand report --watts-per-cpu -1", false);
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
