//! What `--help` says behind the options: examples, and what the exit codes mean.

pub const MAIN: &str = r#"Configuration (/etc/ondemand/ondemand.toml):
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

pub const AGENT: &str = "\
ondemand.service runs it as the user ondemand-agent with three capabilities: CAP_BPF, CAP_PERFMON
and CAP_NET_ADMIN. By hand it needs root. It logs one line for each decision, with the figures.
SIGHUP reads the configuration again (systemctl reload ondemand); no count is lost.
SIGTERM ends it; the kernel goes on counting, and no service is stopped.

Examples:
  systemctl enable --now ondemand                       as a service, as it is meant
  ondemand agent --dry-run --config ./ondemand.toml     see what it would stop, and why

Exit codes: 0 ended by SIGTERM or SIGINT, 1 failed, 2 wrong configuration";

pub const CHECK: &str = "\
Prints a line for each thing that was looked at: ok, warning or error.

Examples:
  ondemand check
  ondemand check --config ./ondemand.toml

Exit codes: 0 no error (there may be warnings), 1 errors, 2 wrong configuration";

pub const UNITS: &str = "\
Needed only to look at them, or where generators are not wanted: linked as
/usr/lib/systemd/system-generators/ondemand-generator, this program makes them at each
`systemctl daemon-reload`.

Examples:
  ondemand units                                   print them all
  ondemand units --output /etc/systemd/system      write them; then: systemctl daemon-reload

Exit codes: 0 done, 1 cannot be written, 2 wrong configuration";

pub const PERMIT: &str = "\
Run as root by ondemand.service before the agent and at each reload. The rule lets the agent's user
start and stop the units of the configuration, and no others:
/etc/polkit-1/rules.d/50-ondemand.rules. The place is /sys/fs/bpf/ondemand.

Examples:
  ondemand permit --print      what the rule is
  ondemand permit              after a change of the configuration, without a reload

Exit codes: 0 done, 1 something could not be given, 2 wrong configuration";

pub const WAIT_LISTENING: &str = "\
Waits until the service's unit is active and its application listens, at most its
start_timeout, and then becomes COMMAND, with the same process id and open sockets. If the
application does not come up it says why, closes the connections that wait, and fails.

Examples:
  ondemand wait-listening wiki && curl http://127.0.0.1:8080/
  ondemand wait-listening wiki -- /usr/lib/systemd/systemd-socket-proxyd 127.0.0.1:8080

Exit codes: 0 it listens, 1 it does not, 2 wrong configuration; or those of COMMAND";

pub const PROXY: &str = "\
ondemand-NAME.service runs it, with the sockets of ondemand-NAME.socket. It waits for the
application as `ondemand wait-listening` does, carries connections to it, and ends a while after
the last one. SIGTERM: it takes no more connections and lets those finish that it has.
SIGWINCH: it ends at once if it has none.

Example, as in the generated unit (ondemand units):
  ondemand proxy --unit=wiki.service --backend=127.0.0.1:8080 --start-timeout=90s \\
      --exit-idle-time=1s wiki

Exit codes: 0 done, 1 the application does not listen, 2 wrong usage";

pub const REPORT: &str = "\
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

pub const STATUS: &str = "\
Asks the running agent, over D-Bus.

Examples:
  ondemand status
  ondemand status --json | jq -r '.services[] | select(.state == \"active\") | .name'

Exit codes: 0 done, 1 the agent does not answer";

pub const TOP: &str = "\
Asks the running agent once a second, over D-Bus. Keys:
  up, down, k, j   select a service          s, S   sort by the next or the previous column
  h                hold it until released    r      release it
  ?                this help                 q      quit

Where the output is no terminal, use `ondemand status`.

Exit codes: 0 ended by q, Ctrl-C or SIGTERM; 1 no terminal, or no agent at the start";

pub const HOLD: &str = "\
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

pub const RELEASE: &str = "\
It is stopped when it has been idle for its idle_timeout, as always: at once, if that is over.
To release a service that is not held is no error.

Example:
  ondemand release wiki

It needs root, or polkit's permission for org.ondemand1.manage.

Exit codes: 0 done, 1 failed, 2 no such service or wrong usage";

pub const START: &str = "\
Starts the application's unit and waits until systemd calls it active. It is stopped again when
nobody uses it for its idle_timeout, counted from now even if it was up; `ondemand hold` keeps it
up for longer.

Example:
  ondemand start llm        before a demonstration: its first client need not wait

It needs root, or polkit's permission for org.ondemand1.manage.

Exit codes: 0 it is up, 1 it did not start, 2 no such service or wrong usage";

pub const STOP: &str = "\
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

pub const RELOAD: &str = "\
As `systemctl reload ondemand`, but says here what is wrong with the configuration: file, line
and key. The agent keeps the one that it has then. No count is lost.

Example:
  systemctl daemon-reload && ondemand reload     units first, then the agent

It needs root, or polkit's permission for org.ondemand1.reload.

Exit codes: 0 done, 1 failed, 2 wrong configuration";
