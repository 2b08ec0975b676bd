//! Checks the address of the metrics.

use std::net::SocketAddr;

use ondemand_core::config::{Config, Endpoint};

use super::finding::Finding;

/// Checks whether the agent can bind it, and who can reach it.
pub fn look(config: &Config) -> Finding {
    let Some(address) = config.agent.metrics else {
        return Finding::ok("metrics", "not served");
    };
    let elsewhere = "set `metrics =` in [agent] to another address, or to \"\" for none";
    if let Some((service, endpoint)) = claimed(config, address) {
        // If it were explicit, the configuration would be refused: it is the default.
        let message = format!(
            "the default address of the metrics, {address}, is also {endpoint} of {service}: \
             one of them will not be served"
        );
        return Finding::warning("metrics", message, elsewhere);
    }
    if address.port() < 1024 {
        let message = format!(
            "cannot be served at {address}: ondemand.service may not bind ports below 1024"
        );
        return Finding::warning("metrics", message, elsewhere);
    }
    if !address.ip().is_loopback() {
        let message =
            format!("served at {address}, which other hosts may reach without authentication");
        let next = "restrict access to your Prometheus with a firewall, or use a loopback address";
        return Finding::warning("metrics", message, next);
    }
    let page = match config.agent.page {
        true => format!(", and a page for browsers at http://{address}/"),
        false => String::new(),
    };
    Finding::ok(
        "metrics",
        format!("served at http://{address}/metrics{page}"),
    )
}

/// Returns the service that has the address, and its own address.
fn claimed(config: &Config, address: SocketAddr) -> Option<(&str, &Endpoint)> {
    let metrics = Endpoint::Tcp(address);
    config.services.values().find_map(|service| {
        let mut own = service
            .listen
            .iter()
            .chain([&service.backend])
            .chain(&service.front);
        let endpoint = own.find(|endpoint| endpoint.overlaps(&metrics))?;
        Some((service.name.as_str(), endpoint))
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::install::check::Level;

    #[test]
    fn an_address_that_cannot_be_had_is_said() {
        #[track_caller]
        fn check(agent: &str, listen: &str, backend: &str, level: Level, expected: &str) {
            let text = format!(
                "{agent}\n[service.a]\nlisten = {listen:?}\nbackend = {backend:?}\n\
                 unit = \"a.service\"\n"
            );
            let config = Config::parse(Path::new("/o.toml"), &text).unwrap();
            let found = look(&config);
            assert_eq!(found.level, level, "{found:?}");
            assert!(found.message.contains(expected), "{found:?}");
        }
        let (front, back) = ("0.0.0.0:80", "127.0.0.1:8080");
        let ok = Level::Ok;
        check("", front, back, ok, "http://127.0.0.1:9464/metrics");
        check(
            "[agent]\nmetrics = \"\"",
            "0.0.0.0:9464",
            back,
            ok,
            "not served",
        );
        check(
            "[agent]\nmetrics = \"[::1]:9464\"",
            "0.0.0.0:9464",
            back,
            ok,
            "[::1]",
        );
        for (front, back) in [
            ("0.0.0.0:9464", back),
            ("[::]:9464", back),
            (front, "127.0.0.1:9464"),
        ] {
            check("", front, back, Level::Warning, "the default address");
        }
        let low = "[agent]\nmetrics = \"127.0.0.1:81\"";
        check(low, front, back, Level::Warning, "below 1024");
        let open = "[agent]\nmetrics = \"0.0.0.0:9464\"";
        check(open, front, back, Level::Warning, "other hosts");
    }
}
