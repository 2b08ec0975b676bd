//! What is of the agent and its host, not of a service.

use nix::sys::sysinfo::sysinfo;

use super::super::{
    exposition::{Exposition, Kind},
    observation::Configuration,
    waits::{Waits, Way},
};

pub(super) fn write(text: &mut Exposition, configuration: &Configuration, waits: &Waits) {
    let mut family = text.family(
        Kind::Histogram,
        "ondemand_client_wait_seconds",
        "seconds",
        "How long clients waited because a service did not run, of all services, by way: held (until it was sent to the application), proxied (the first client of a start, until the first byte of its answer), native (each start, until the application was active), thawed (until the application was).",
    );
    for way in Way::ALL {
        let (sum, count, buckets) = waits.histogram(way);
        family.histogram(&[("way", way.as_str())], sum, count, &buckets);
    }
    if let Some(memory) = memory() {
        text.gauge("ondemand_host_memory_bytes", "bytes", "Memory of the host.")
            .sample(&[], memory);
    }
    text.gauge(
        "ondemand_config_last_reload_successful",
        "",
        "1 if the configuration's file is in force, 0 if it is wrong and an older one is.",
    )
    .sample(&[], u64::from(configuration.last_reload_successful));
    if let Some(at) = configuration.last_reload_success {
        text.gauge(
            "ondemand_config_last_reload_success_timestamp_seconds",
            "seconds",
            "When the configuration in force was read, since 1970.",
        )
        .sample(&[], at);
    }
    text.family(Kind::Info, "ondemand_build", "", "The running agent.")
        .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1_u64);
}

/// In bytes. Not from /proc, of which the agent sees nothing but processes.
fn memory() -> Option<u64> {
    sysinfo().ok().map(|info| info.ram_total())
}
