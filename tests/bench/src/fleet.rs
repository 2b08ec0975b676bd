//! Many services at once, in one private systemd.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result};
use tests::{sandbox::Sandbox, service};

use crate::machine::cpu_microseconds;

/// Where the agent reads which of them it watches: [`watch`] writes it.
const WATCHED: &str = "/etc/ondemand/watched.toml";
/// Variables of the agent, of its next start.
pub const ENVIRONMENT: &str = "/etc/ondemand/environment";
/// The agent's cgroup.
const AGENT: &str = "system.slice/ondemand.service";
/// Units in one call of systemctl: the kernel's limit is far above.
const AT_ONCE: usize = 200;

/// One service.
pub struct Member {
    /// Its name.
    pub name: String,
    /// The front socket's port on 127.0.0.1.
    pub front: u16,
    /// The backend's.
    pub backend: u16,
    /// The idle timeout.
    pub idle_timeout: Duration,
    /// What becomes of its clients while it is down, as in the configuration.
    pub first_client: &'static str,
}

impl Member {
    /// The n-th of the quiet ones: never stopped while a bench runs.
    pub fn quiet(index: u16) -> Self {
        Self {
            name: format!("quiet{index}"),
            front: 10_000 + index,
            backend: 20_000 + index,
            idle_timeout: Duration::from_secs(3600),
            first_client: "auto",
        }
    }

    /// The application's unit.
    pub fn unit(&self) -> String {
        format!("app-{}.service", self.name)
    }

    fn table(&self) -> String {
        format!(
            "[service.{}]\nlisten = [\"127.0.0.1:{}\"]\nbackend = \"127.0.0.1:{}\"\nunit = \"{}\"\n\
             idle_timeout = \"{}ms\"\nmin_uptime = \"0s\"\nsteer = true\nfirst_client = \"{}\"\n\n",
            self.name,
            self.front,
            self.backend,
            self.unit(),
            self.idle_timeout.as_millis(),
            self.first_client
        )
    }
}

/// A sandbox in which these services are configured and their front sockets listen.
/// `program` with `--listen ADDRESS` is the application of all of them.
///
/// # Errors
///
/// Something was not built, or does not start.
pub fn boot(ondemand: &Path, program: &str, members: &[Member]) -> Result<Sandbox> {
    let sandbox = Sandbox::boot()?;
    sandbox.install_ondemand(ondemand)?;
    sandbox.install(&tests::built(program)?, &format!("/usr/bin/{program}"))?;
    for member in members {
        sandbox.write(
            &format!("/etc/systemd/system/{}", member.unit()),
            format!(
                "[Service]\nExecStart=/usr/bin/{program} --listen 127.0.0.1:{}\n\
                 LimitNOFILE=1000000\n",
                member.backend
            ),
        )?;
    }
    sandbox.write(
        "/etc/systemd/system/ondemand.service.d/watched.conf",
        format!(
            "[Service]\nExecStart=\nExecStart=/usr/bin/ondemand --config {WATCHED} agent\n\
             EnvironmentFile=-{ENVIRONMENT}\n"
        ),
    )?;
    let all: String = members.iter().map(Member::table).collect();
    service::write_config(&sandbox, &all)?;
    sandbox.run(&["systemctl", "daemon-reload"])?;
    let sockets = members.iter().map(|member| socket(&member.name));
    systemctl(&sandbox, "start", sockets)?;
    Ok(sandbox)
}

fn socket(name: &str) -> String {
    format!("ondemand-{name}.socket")
}

/// Starts or stops units.
///
/// # Errors
///
/// systemd refuses.
pub fn systemctl(
    sandbox: &Sandbox,
    verb: &str,
    units: impl IntoIterator<Item = String>,
) -> Result<()> {
    let units: Vec<String> = units.into_iter().collect();
    for some in units.chunks(AT_ONCE) {
        let words = ["systemctl", verb].into_iter();
        let words: Vec<&str> = words.chain(some.iter().map(String::as_str)).collect();
        sandbox.run(&words)?;
    }
    Ok(())
}

/// Restarts the agent, which then watches these services. It serves metrics.
///
/// # Errors
///
/// It does not start; its journal is in the message.
pub fn watch<'a>(sandbox: &Sandbox, members: impl IntoIterator<Item = &'a Member>) -> Result<()> {
    write(sandbox, members)?;
    sandbox
        .run(&["systemctl", "restart", "ondemand.service"])
        .with_context(|| sandbox.journal("ondemand.service"))?;
    Ok(())
}

/// Writes the configuration with these services, which the agent reads at its start and at a reload.
///
/// # Errors
///
/// It cannot be written.
pub fn write<'a>(sandbox: &Sandbox, members: impl IntoIterator<Item = &'a Member>) -> Result<()> {
    let tables: String = members.into_iter().map(Member::table).collect();
    let address = tests::metrics::address();
    let agent = format!("[agent]\nmetrics = \"{address}\"\nhistory = \"\"\n\n");
    sandbox.write(WATCHED, format!("{agent}{tables}"))
}

/// Restarts the agent, which then serves what-if metrics of each service, until the next [`watch`].
///
/// # Errors
///
/// As there.
pub fn what_if_of_each(sandbox: &Sandbox) -> Result<()> {
    let config =
        std::fs::read_to_string(sandbox.path(WATCHED)).context("read the configuration")?;
    let config = config.replacen("[agent]\n", "[agent]\nwhatif = \"service\"\n", 1);
    sandbox.write(WATCHED, config)?;
    sandbox
        .run(&["systemctl", "restart", "ondemand.service"])
        .with_context(|| sandbox.journal("ondemand.service"))?;
    Ok(())
}

/// CPU time that the agent has used since its start, in microseconds.
///
/// # Errors
///
/// It does not run.
pub fn agent_cpu(sandbox: &Sandbox) -> Result<f64> {
    cpu_microseconds(sandbox, AGENT)
}
