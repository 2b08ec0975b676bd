//! Whole-system tests: the installed program in a real systemd on the real kernel.
//!
//! Each test boots a sandbox of its own. Where the machine cannot (no root, no systemd), a test
//! prints why it is skipped and passes, or fails if `ONDEMAND_REQUIRE_ALL` is set; `cargo xtask
//! test` prints it once and leaves them out.

mod actions;
mod aliases;
mod asked_race;
mod attacks;
mod before_the_agent;
mod bus;
mod checks;
mod client_lists;
mod configuration;
mod containers;
mod cookies;
mod counts;
mod elsewhere;
mod event_costs;
mod faults;
mod faults_backend;
mod faults_clock;
mod faults_kill;
mod faults_long;
mod faults_pins;
mod faults_resources;
mod faults_systemd;
mod first_start;
mod forged_signals;
mod hanging_bus;
mod held;
mod history;
mod history_clock;
mod history_writes;
mod hostile;
mod idle_stop;
mod inhibitors;
mod late_configuration;
mod learned;
mod looked_at_again;
mod loops;
mod many_at_once;
mod many_connections;
mod metrics;
mod metrics_clients;
mod metrics_cost;
mod neighbours;
mod no_sock_diag;
mod no_steering;
mod other_ports;
mod own_address;
mod own_address_changes;
mod port_theft;
mod privilege;
mod prometheus;
mod race;
mod readiness;
mod ready;
mod real_clock;
mod removal;
mod runs;
mod scale;
mod scans;
mod setup;
mod silence;
mod sockets;
mod steering;
mod steering_faults;
mod steering_race;
mod stranger;
mod times_of_use;
mod top;
mod transitions;
mod upgrade;
mod vanished;
mod working;

pub(crate) use tests::require_sandbox;
