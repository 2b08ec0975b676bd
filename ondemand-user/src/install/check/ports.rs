//! Whether any user can bind the applications' addresses while they are down.

use std::fs;

use ondemand_core::config::{Config, Endpoint};

use super::finding::Finding;

/// Below it a process needs `CAP_NET_BIND_SERVICE` to bind a port (ip(7)).
const FIRST: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
/// Its default.
const USUAL: u16 = 1024;
/// Maximum number of services that the message names.
const MOST_NAMED: usize = 8;

/// One finding for all services.
pub fn look(config: &Config) -> Option<Finding> {
    let first = fs::read_to_string(FIRST).ok();
    let first = first.and_then(|text| text.trim().parse().ok());
    judge(config, first.unwrap_or(USUAL))
}

fn judge(config: &Config, first: u16) -> Option<Finding> {
    let open: Vec<String> = config
        .services
        .values()
        .filter_map(|service| match service.backend {
            // Nobody else can bind an address that an application keeps.
            Endpoint::Tcp(address) if address.port() >= first && !service.own_address => {
                Some(format!("{} ({})", service.name, address.port()))
            }
            _ => None,
        })
        .collect();
    let named = &open[..open.len().min(MOST_NAMED)];
    let more = match open.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!open.is_empty()).then(|| {
        Finding::warning(
            "ports",
            format!(
                "any user of this host can take the applications' ports from {first} on while they are down: {}{more}. \
                 No client is taken to such a process, but the application cannot start then",
                named.join(", ")
            ),
            "if you do not trust the users of this host, use a Unix socket, or a port below, for the backend",
        )
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn ports_that_any_user_can_bind() {
        #[track_caller]
        fn check(backends: &[&str], expected: Option<&str>) {
            let services = backends.iter().enumerate().map(|(number, backend)| {
                format!(
                    "[service.s{number}]\nlisten = \"127.0.0.1:{}\"\nunit = \"s{number}.service\"\nbackend = \"{backend}\"\n",
                    100 + number
                )
            });
            let config = Config::parse(Path::new("/o.toml"), &services.collect::<String>());
            let found = judge(&config.unwrap(), USUAL).map(|finding| finding.message);
            match expected {
                Some(words) => assert!(
                    found.as_ref().is_some_and(|it| it.contains(words)),
                    "{found:?}"
                ),
                None => assert_eq!(found, None),
            }
        }
        check(&["127.0.0.1:1023", "/run/x"], None);
        check(&["127.0.0.1:1024", "/run/x"], Some(": s0 (1024). "));
        let many: Vec<String> = (0..10).map(|n| format!("127.0.0.1:{}", 2000 + n)).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        check(&many, Some("s7 (2007) and 2 more"));
    }
}
