//! The agent's metrics, as a scrape sees them.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Context as _, Result, ensure};

use crate::{
    http,
    sandbox::Sandbox,
    service::{self, SOON},
    wait_for,
};

/// The agent's default address of the metrics.
pub fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9464))
}

/// Samples by their name and labels, as they are written.
pub type Samples = BTreeMap<String, f64>;

/// Writes a configuration that serves metrics there; `services` holds `[service.…]` tables.
///
/// # Errors
///
/// It cannot be written.
pub fn write_config(sandbox: &Sandbox, address: &str, services: &str) -> Result<()> {
    let agent = format!("[agent]\nmetrics = {address:?}\nhistory = \"\"\n\n");
    sandbox.write("/etc/ondemand/ondemand.toml", format!("{agent}{services}"))
}

/// As [`service::on_demand`], in a sandbox that may account memory, with metrics.
///
/// # Errors
///
/// Any step fails.
pub fn on_demand(sandbox: Sandbox, config: &str, backend: &str) -> Result<Sandbox> {
    service::prepare(&sandbox)?;
    service::write_backend(&sandbox, "app.service", backend)?;
    let services = format!("[service.test]\n{config}");
    write_config(&sandbox, &address().to_string(), &services)?;
    service::reload(&sandbox, &["test"])?;
    service::start_agent(&sandbox)?;
    Ok(sandbox)
}

/// One scrape.
///
/// # Errors
///
/// The agent does not answer with metrics.
pub fn scrape(sandbox: &Sandbox) -> Result<Samples> {
    let reply = http::get(sandbox, address(), "/metrics", "")?;
    ensure!(reply.status == 200, "{reply:?}");
    ensure!(reply.body.ends_with("\n# EOF\n"), "{}", reply.body);
    let samples = reply.body.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| -> Result<(String, f64)> {
        let (name, value) = line.rsplit_once(' ').with_context(|| line.to_owned())?;
        Ok((name.to_owned(), value.parse().context(line.to_owned())?))
    };
    samples.map(sample).collect()
}

/// A sample of the service `test`; `labels` are those beside it, as `,state="active"`. `None`:
/// there is none.
pub fn of_test(samples: &Samples, name: &str, labels: &str) -> Option<f64> {
    let key = format!("ondemand_{name}{{service=\"test\"{labels}}}");
    samples.get(&key).copied()
}

/// Scrapes until a sample of the service `test` has a value.
///
/// # Errors
///
/// It does not, in time; the last scrape is in the message.
pub fn wait_value(sandbox: &Sandbox, name: &str, labels: &str, value: f64) -> Result<Samples> {
    let mut last = Ok(Samples::new());
    let found = wait_for(&format!("{name}{labels} becomes {value}"), SOON, || {
        last = scrape(sandbox);
        let samples = last.as_ref().ok()?;
        (of_test(samples, name, labels) == Some(value)).then(|| samples.clone())
    });
    found.with_context(|| format!("{last:#?}\n{}", sandbox.journal("ondemand.service")))
}

/// Names of counters: what must never get smaller.
pub fn is_counter(sample: &str) -> bool {
    let name = sample.split('{').next().unwrap_or_default();
    ["_total", "_bucket", "_count", "_sum"]
        .iter()
        .any(|suffix| name.ends_with(suffix))
}
