//! The end of the `--help` texts: examples and exit codes.

pub const MAIN: &str = r#"Configuration (/etc/ondemand/ondemand.toml):
  [service.wiki]
  listen = ["0.0.0.0:80", "[::]:80"]  # where the application listens, and clients connect
  unit = "wiki.service"               # the application's unit
  idle_timeout = "10min"              # stopped after this time without a client

Setup:
  ondemand adopt                            lists running units that are worth it
  ondemand adopt wiki.service               makes a service of one, while it runs
  ondemand apply                            brings a changed configuration into force
  ondemand check                            checks the configuration and this host
  ondemand status                           shows states and clients
  ondemand top                              shows them live
  ondemand hold wiki --for 2h               keeps it up for two hours

Exit codes:
  0  done
  1  failed
  2  wrong usage or configuration; the message names file, line and key

Environment:
  ONDEMAND_LOG=debug                        log level: error, warn, info, debug, trace"#;

pub const AGENT: &str = "\
ondemand.service runs it as the user ondemand-agent without any capability, after `ondemand load`. By \
hand it needs root: it loads the programs itself if nobody has, and then drops every capability. It \
logs one line for each decision, with the figures. \
SIGHUP reads the configuration again (systemctl reload ondemand); no count is lost. \
SIGTERM ends it; the kernel goes on counting, and no service is stopped. Until the next agent runs, \
clients that wake_from does not list are refused, also by a service that is up.

Examples:
  systemctl enable --now ondemand                       run it as a service
  ondemand agent --dry-run --config ./ondemand.toml     log what it would stop, and why

Exit codes: 0 exited by SIGTERM or SIGINT, 1 failed, 2 wrong configuration";

pub const CHECK: &str = "\
Prints a line for each check, ok, warning or error, and what to do about it. Without a valid \
configuration it checks the host alone. With --fix it runs, after a question, those of the commands that stop no \
application, cut no connection and loosen no permission; the others it only prints.

Examples:
  ondemand check
  ondemand check --fix
  ondemand check --config ./ondemand.toml

Exit codes: 0 no error (there may be warnings), 1 errors, 2 wrong configuration";

pub const UNITS: &str = "\
Needed only to read the units, or on hosts without generators: linked as \
/usr/lib/systemd/system-generators/ondemand-generator, this program generates them at each \
`systemctl daemon-reload`.

Examples:
  ondemand units                                   print all units
  ondemand units --output /etc/systemd/system      write them; then: systemctl daemon-reload

Exit codes: 0 done, 1 cannot be written, 2 wrong configuration";

pub const LOAD: &str = "\
Run as root by ondemand-load.service early at boot, and by ondemand.service before each agent. The \
programs count connections and steer them; their maps are pinned in /sys/fs/bpf/ondemand, which is \
root's, and whose files the agent's group may open. If all of it is there and counts, nothing is \
changed. Otherwise it is loaded anew: counters restart at zero, no service is stopped, and \
connections that are open are found and counted.

Examples:
  ondemand load                           load the programs, or say that they are loaded
  systemctl status ondemand-load          what it said at boot
  systemctl restart ondemand              load what is missing, and start the agent again

Exit codes: 0 loaded, 1 failed: a requirement is missing, or the kernel refuses a program";

pub const PERMIT: &str = "\
Run as root by ondemand.service before the agent and at each reload, and by ondemand-permit.service \
when the configuration has changed. The rule lets the agent's user start and stop the units of the \
configuration, and no others:
/etc/polkit-1/rules.d/50-ondemand.rules. It also keeps a copy of the configuration for the next boot. \
Then it takes the leases of applications that ran when they came into the configuration, and restarts \
front sockets that do not listen at their present addresses, where that harms nobody.

Examples:
  ondemand permit --print      print the rule
  ondemand permit              write the rule now

Exit codes: 0 done, 1 a permission could not be granted, 2 wrong configuration";

pub const SIEVE: &str = "\
Run by the front socket of a service with ignore_empty, when systemd has opened it: a client that connects \
to one of these addresses and sends no byte is unknown to systemd, and so starts nothing. `ondemand permit` \
and `ondemand reload` do the same for front sockets that are open.

Exit codes: 0 done, 1 systemd's sockets cannot be reached: such a client starts the service";

pub const FRONTS: &str = "\
Run by the front socket of a service that receives datagrams, when systemd has opened it: what no agent holds \
waits there from now on, and has systemd start the service.

Exit codes: 0 done, 1 the programs are not loaded: such a datagram is lost";

pub const APPLY: &str = "\
Checks /etc/ondemand/ondemand.toml; has systemd load the units made from it; takes the leases of \
applications that run, so that taking them in does not stop them; opens the front sockets of new \
services and closes those of removed ones; writes the agent's polkit rule; and makes a running agent \
read the configuration. Prints what it did, and what is still in use and so waits. A wrong \
configuration changes nothing. Needs root; may be repeated at any time. First it prints what differs from \
what is in force: + new, - gone, ~ changed.

Examples:
  ondemand apply               after each change of the configuration
  ondemand apply --dry-run     what it would do

Exit codes: 0 done, 1 a step failed, 2 wrong configuration";

pub const EDIT: &str = "\
Opens a copy of /etc/ondemand/ondemand.toml, or of the file that a service is in, in $VISUAL or $EDITOR. A \
correct text replaces the file at once, and is brought into force as by `ondemand apply`. A wrong one can be \
edited again; otherwise the file stays as it was, and the text is kept and its place printed.

Examples:
  ondemand edit
  ondemand edit wiki

Exit codes: 0 done, or unchanged; 1 failed; 2 no such service, or a wrong text";

pub const ADOPT: &str = "\
Looks at a running unit: where it listens (TCP and UDP), how long its start took, its memory. Proposes a service \
that keeps its address, shows the file that it would write and each step, and asks. The unit goes on \
running all the time, no connection is cut, and nothing is moved: it writes conf.d/NAME.toml beside the \
configuration, has systemd load the units, takes the lease, opens the front socket, enables the agent, \
removes the links by which the unit is started at boot, and checks. A unit that is down is started once, \
after a question, to see where it listens.

A container with a published port, or another application that is not in the host's network, cannot keep its \
address: the message says, word by word, what to move. --listen and --backend then name where clients connect \
and where the application listens.

If it is interrupted, the next `ondemand adopt` of the unit finishes it, and `ondemand abandon` takes it \
back. Without a unit it lists running services that listen: their memory, their clients, the most \
worthwhile first.

Examples:
  ondemand adopt                          which units are worth it
  ondemand adopt wiki.service             look, show, ask, do
  ondemand adopt wiki.service --dry-run   look and show
  ondemand adopt wiki.service --listen 0.0.0.0:8000 --backend 127.0.0.1:18000
                                          its container's port is published at the second

Exit codes: 0 done, 1 a step failed, 2 the unit cannot be adopted, or wrong configuration";

pub const ABANDON: &str = "\
The way back from `ondemand adopt`: starts the unit unless it is up, makes the links again by which it was \
started at boot, removes the service's file, has systemd load its units again, and closes the front \
socket. The unit goes on running, and no connection is cut. The agent stays enabled. May be repeated \
after an interruption.

Example:
  ondemand abandon wiki

Exit codes: 0 done, 1 a step failed, 2 no such service, or it is not in a file of its own";

pub const WAIT_LISTENING: &str = "\
Waits until the service's unit is active and its application listens, and is ready if the \
configuration asks for that (ready), but not longer than start_timeout. Then executes COMMAND, with the same process id and open sockets. If the \
application does not start, prints the reason, closes the waiting connections, and fails.

Examples:
  ondemand wait-listening wiki && curl http://127.0.0.1:8080/
  ondemand wait-listening wiki -- /usr/lib/systemd/systemd-socket-proxyd 127.0.0.1:8080

Exit codes: 0 it listens, 1 it does not listen, 2 wrong configuration; or that of COMMAND";

pub const WAIT_ROOM: &str = "\
ondemand-room@NAME.service runs it before the application of a service with a `group`. It asks the \
agent, which has an idle service of the group stopped if there is no room, and waits, but not longer \
than start_timeout. Where no agent runs, there is room.

Example, as in the generated unit (ondemand units):
  ondemand wait-room --start-timeout=90s wiki

Exit codes: 0 there is room, or nobody knows; 2 wrong usage; 75 there was none in time";

pub const RECLAIM: &str = "\
ondemand-reclaim@NAME.service runs it when the application of a service with freeze_reclaim is frozen. It writes to \
memory.reclaim of the unit's cgroup, in steps, as long as the application is frozen and swap is free.

Example, as in the generated unit (ondemand units):
  ondemand reclaim wiki.service

Exit codes: 0 done, or there is nothing to be had; 1 the kernel refuses, or systemd does not answer";

pub const PROXY: &str = "\
ondemand-NAME.service runs it, with the sockets of ondemand-NAME.socket. It waits for the \
application like `ondemand wait-listening`, carries connections to it, and exits some time after \
the last one. SIGTERM: it accepts no more connections, and exits when the open ones are closed. \
SIGWINCH: it exits at once if no connection is open.

Example, as in the generated unit (ondemand units):
  ondemand proxy --unit=wiki.service --backend=127.0.0.1:8080 --start-timeout=90s \\
      --exit-idle-time=1s wiki

Exit codes: 0 done, 1 the application does not listen, 2 wrong usage";

pub const REPORT: &str = "\
The history has what the agent recorded: starts, stops, quiet gaps, memory, CPU. The gaps show \
exactly what any other idle timeout would have meant: how many clients would have waited for a \
start, and how long the service would have been up and unused. The recommended timeout has the \
lowest sum of both.

A trace is a CSV file sorted by time; its first line is `timestamp_seconds,service`. It needs no \
agent: it shows what ondemand would have done. With --hosts it also shows for each timeout how many hosts \
would have carried what was up at the same time, and how long clients would have waited. What a service \
takes is in the trace's column `memory_bytes`, or is --memory for all; how long its start takes in \
`start_seconds`, or --start-duration.

With --prometheus the report is of all hosts whose metrics are there, by host and by service, and needs nothing \
else. With --memory-per-host it says how many hosts fewer would carry what is up at the same time.

Examples:
  ondemand report --last 7d
  ondemand report --since 2026-11-01 --until 2026-12-01 --html november.html
  ondemand report wiki --cold-start-cost 30min --price-per-gib-hour 0.004 --currency EUR
  ondemand report --trace arrivals.csv --timeouts 1min,10min,1h --json
  ondemand report --trace arrivals.csv --hosts 20 --memory-per-host 64GiB --memory 512MiB
  ondemand report --prometheus http://prometheus:9090 --last 30d --match 'instance=~\"web.*\"'

Exit codes: 0 done, 1 cannot be read (the message names file and line), 2 wrong usage";

pub const STATUS: &str = "\
Calls the running agent over D-Bus. Services with a problem come first; on a terminal the table has its \
width and colours (none with NO_COLOR). MEMORY is what a service takes, or with a minus what its stop gave \
back. With NAME, which may be its unit, also who is connected, the last starts and stops, and the last \
lines of the journal, as far as you may read it.

Examples:
  ondemand status
  ondemand status --active --watch
  ondemand status wiki.service
  ondemand status --json | jq -r '.services[] | select(.state == \"active\") | .name'

Exit codes: 0 done, 1 the agent does not answer";

pub const EVENTS: &str = "\
Prints a line for each event: a service has started or stopped (idle, requested, external, failed), a stop \
was begun and not carried through (vetoed), a hold has begun or ended, the agent has ended or started. \
Ends with Ctrl-C, or when its reader does.

Examples:
  ondemand events
  ondemand events wiki --json | while read -r event; do notify-send \"$event\"; done

Exit codes: 0 its reader has ended, 1 there is no bus, 2 no such service";

pub const TOP: &str = "\
Polls the running agent once per second over D-Bus. Keys:
  up, down, k, j   select a service          s, S   sort by the next or the previous column
  /                those with this in name   a      those that are up, or all
  enter            its page; esc: back       u, d   start, stop it, after a question
  h                hold it until released    r      release it
  ?                this help                 q      quit

If the output is not a terminal, use `ondemand status`.

Exit codes: 0 exited by q, Ctrl-C or SIGTERM; 1 no terminal, or no agent at the start";

pub const HOLD: &str = "\
The agent does not stop a held service, however idle it is. A hold only prevents stops: it does \
not start the service (--start does), and clients start it as usual, also after a boot. It survives \
restarts of the agent and of the host; another hold replaces it. `ondemand status` shows it.

TIME is a time span as in the configuration: 90s, 2h, 1d 12h.

Examples:
  ondemand hold wiki --for 2h        for the next two hours
  ondemand hold wiki                 until `ondemand release wiki`
  ondemand hold ci --start           and starts it now

Requires root, or polkit's permission for org.ondemand1.manage.

Exit codes: 0 held, 1 failed, 2 no such service or wrong usage";

pub const RELEASE: &str = "\
The service is stopped after its idle_timeout, as usual: at once, if it was idle for that time. \
Releasing a service that is not held is not an error.

Example:
  ondemand release wiki

Requires root, or polkit's permission for org.ondemand1.manage.

Exit codes: 0 done, 1 failed, 2 no such service or wrong usage";

pub const START: &str = "\
Starts the application's unit and waits until it is active. The service is stopped again when it \
is unused for its idle_timeout, counted from now even if it was up; `ondemand hold` keeps it up \
longer.

Example:
  ondemand start llm        before a demonstration: the first client does not wait

Requires root, or polkit's permission for org.ondemand1.manage.

Exit codes: 0 it is up, 1 it did not start, 2 no such service or wrong usage";

pub const STOP: &str = "\
Stops the service like an idle one, with all checks, but without waiting for idle_timeout and \
min_uptime. It stays up, and the reason is printed, if a connection or a half-open handshake \
exists, if its proxy starts or does not exit, if its veto program refuses, if it is held, or if \
anything is unknown. Waits for the stop, and after two seconds prints what it waits for.

It cannot be forced: `systemctl stop` of the unit stops it in any case, and clients lose their \
connections.

Example:
  ondemand stop llm && nvidia-smi

Requires root, or polkit's permission for org.ondemand1.manage.

Exit codes: 0 it is down, 1 it stays up, 2 no such service or wrong usage";

pub const RELOAD: &str = "\
Like `systemctl reload ondemand`, which runs it with --user, but prints the errors of the \
configuration: file, line and key. If there are any, the agent keeps its present configuration, and \
`ondemand status` shows them until they are corrected. No count is lost. As root it first renews the \
agent's permissions; a failure of that is an error, too, after the agent has read the file.

Not needed after `systemctl daemon-reload`: the agent hears of that.

Requires root, or polkit's permission for org.ondemand1.reload.

Exit codes: 0 done, 1 failed, 2 wrong configuration";

pub const HELP: &str = "\
Examples:
  ondemand help                    which topics there are
  ondemand help keys | less        all keys of the configuration
  man ondemand.toml                the same as a manual page, where those are installed

Exit codes: 0 printed, 1 failed, 2 no such topic";

pub const COMPLETIONS: &str = "\
What it prints calls `ondemand` for each completion, so names of services are those of the \
configuration. Packages have it in the right place already.

Examples:
  source <(ondemand completions bash)
  ondemand completions bash >/usr/share/bash-completion/completions/ondemand
  ondemand completions zsh >/usr/share/zsh/site-functions/_ondemand
  ondemand completions fish >/usr/share/fish/vendor_completions.d/ondemand.fish

Exit codes: 0 printed, 1 failed, 2 wrong usage";

pub const MAN: &str = "\
Those of the commands are made from the words of the command line, the others from the manual. Their \
date is that of SOURCE_DATE_EPOCH, or today.

Example:
  ondemand man ./pages && man ./pages/ondemand.toml.5

Exit codes: 0 written, 1 failed, 2 wrong usage";
