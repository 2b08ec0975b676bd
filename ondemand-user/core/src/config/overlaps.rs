//! Checks across services: addresses and units that two of them claim.

use std::collections::BTreeMap;

use super::{Endpoint, endpoint, error::Problem, parsed::Parsed, table::Place};

/// An address that a service or the agent binds.
pub(super) struct Claim<'a> {
    /// The service's name; `None` is the agent itself.
    owner: Option<&'a str>,
    /// Whether clients arrive there.
    front: bool,
    endpoint: &'a Endpoint,
    place: &'a Place<'a>,
}

/// All conflicts between addresses and between units.
pub(super) fn check(
    services: &[Parsed<'_>],
    metrics: Option<&(Endpoint, Place<'_>)>,
) -> Vec<Problem> {
    let mut claims = Vec::new();
    if let Some((endpoint, place)) = metrics {
        claims.push(Claim {
            owner: None,
            front: false,
            endpoint,
            place,
        });
    }
    for parsed in services {
        let owner = Some(parsed.service.name.as_str());
        let listen = parsed.service.listen.iter().zip(&parsed.listen);
        claims.extend(listen.map(|(endpoint, place)| Claim {
            owner,
            front: true,
            endpoint,
            place,
        }));
        if !parsed.service.own_address {
            claims.push(Claim {
                owner,
                front: false,
                endpoint: &parsed.service.backend,
                place: &parsed.backend,
            });
        }
    }
    let mut problems = addresses(claims);
    problems.extend(units(services));
    problems
}

/// Only claims on the same port or path can conflict: this keeps 1024 services with 16 addresses each fast.
fn addresses(mut claims: Vec<Claim<'_>>) -> Vec<Problem> {
    claims.sort_by_key(|claim| claim.place.order());
    let mut seen: BTreeMap<Result<u16, &std::path::Path>, Vec<Claim<'_>>> = BTreeMap::new();
    let mut problems = Vec::new();
    for claim in claims {
        let key = match claim.endpoint {
            Endpoint::Tcp(address) | Endpoint::Udp(address) => Ok(address.port()),
            Endpoint::Unix(path) => Err(path.as_path()),
        };
        let earlier = seen.entry(key).or_default();
        if let Some(other) = earlier.iter().find(|other| meets(&claim, other)) {
            problems.push(claim.place.problem(explain(&claim, other)));
        } else {
            earlier.push(claim);
        }
    }
    problems
}

fn meets(a: &Claim<'_>, b: &Claim<'_>) -> bool {
    endpoint::overlap(a.endpoint, b.endpoint, a.owner == b.owner)
}

fn explain(claim: &Claim<'_>, other: &Claim<'_>) -> String {
    let Claim { endpoint, .. } = claim;
    let (at, key) = (other.place.seen_from(claim.place), other.place.key());
    let used = if endpoint == &other.endpoint {
        format!("{endpoint} is already used by {key} ({at})")
    } else {
        format!("{endpoint} overlaps {} of {key} ({at})", other.endpoint)
    };
    let hint = match (claim.owner == other.owner, claim.front && other.front) {
        (true, true) => "one is enough, remove the other",
        (true, false) => {
            "the front socket and the application need addresses of their own, such as 0.0.0.0:80 and 127.0.0.1:8080"
        }
        (false, _) => "give each its own address or port",
    };
    format!("{used}; {hint}")
}

fn units(services: &[Parsed<'_>]) -> Vec<Problem> {
    let mut ordered: Vec<_> = services.iter().collect();
    ordered.sort_by_key(|parsed| parsed.unit.order());
    let mut seen: BTreeMap<&str, &Place<'_>> = BTreeMap::new();
    let mut problems = Vec::new();
    for Parsed { service, unit, .. } in ordered {
        if let Some(other) = seen.get(service.unit.as_str()) {
            let (at, key) = (other.seen_from(unit), other.key());
            problems.push(unit.problem(format!(
                "{} is already used by {key} ({at}); a unit belongs to one service, which may have several addresses",
                service.unit
            )));
        } else {
            seen.insert(&service.unit, unit);
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, check_instead, parse, wiki};

    /// Two services, `a` on lines 1 to 4 and `b` on lines 5 to 8.
    fn two(listen_a: &str, backend_a: &str, listen_b: &str, backend_b: &str) -> String {
        format!(
            "[service.a]\nlisten = {listen_a:?}\nbackend = {backend_a:?}\nunit = \"a.service\"\n\
             [service.b]\nlisten = {listen_b:?}\nbackend = {backend_b:?}\nunit = \"b.service\"\n"
        )
    }

    #[test]
    fn addresses_that_meet_are_refused() {
        #[track_caller]
        fn check_two(addresses: [&str; 4], expected: &str) {
            let [a, b, c, d] = addresses;
            check(&two(a, b, c, d), expected);
        }
        let (x, y) = ("127.0.0.1:8081", "127.0.0.1:8082");
        check_two(
            ["0.0.0.0:80", x, "0.0.0.0:80", y],
            "/etc/o.toml:6: service.b.listen: 0.0.0.0:80 is already used by service.a.listen (line 2); give each its own",
        );
        check_two(
            ["0.0.0.0:80", x, "127.0.0.1:80", y],
            "/etc/o.toml:6: service.b.listen: 127.0.0.1:80 overlaps 0.0.0.0:80 of service.a.listen (line 2)",
        );
        check_two(
            ["0.0.0.0:80", x, "[::]:80", y],
            "/etc/o.toml:6: service.b.listen: [::]:80 overlaps 0.0.0.0:80 of service.a.listen",
        );
        check_two(
            ["0.0.0.0:80", x, "0.0.0.0:81", x],
            "/etc/o.toml:7: service.b.backend: 127.0.0.1:8081 is already used by service.a.backend (line 3)",
        );
        check_two(
            ["0.0.0.0:80", x, x, y],
            "/etc/o.toml:6: service.b.listen: 127.0.0.1:8081 is already used by service.a.backend (line 3)",
        );
        check_two(
            ["0.0.0.0:80", x, "0.0.0.0:8081", y],
            "/etc/o.toml:6: service.b.listen: 0.0.0.0:8081 overlaps 127.0.0.1:8081 of service.a.backend",
        );
        check_two(
            ["/run/a", x, "/run/a", y],
            "/etc/o.toml:6: service.b.listen: /run/a is already used by service.a.listen (line 2)",
        );
        check_two(
            [x, x, "/run/a", y],
            "/etc/o.toml:3: service.a.backend: 127.0.0.1:8081 is already used by service.a.listen (line 2); the front socket and the application need",
        );
        check_two(
            ["0.0.0.0:8081", x, "/run/a", y],
            "/etc/o.toml:3: service.a.backend: 127.0.0.1:8081 overlaps 0.0.0.0:8081 of service.a.listen (line 2); the front",
        );
        check_two(
            ["/run/a", "/run/a", "/run/b", y],
            "/etc/o.toml:3: service.a.backend: /run/a is already used by service.a.listen",
        );
        check_instead(
            "listen",
            "listen = [\"0.0.0.0:80\", \"0.0.0.0:80\"]",
            "/etc/o.toml:2: service.wiki.listen: 0.0.0.0:80 is already used by service.wiki.listen (line 2); one is enough",
        );
        check_instead(
            "listen",
            "listen = [\"0.0.0.0:80\",\n\"127.0.0.1:80\"]",
            "/etc/o.toml:3: service.wiki.listen: 127.0.0.1:80 overlaps 0.0.0.0:80",
        );
        check(
            &format!("[agent]\nmetrics = \"127.0.0.1:80\"\n{}", wiki("")),
            "/etc/o.toml:4: service.wiki.listen: 0.0.0.0:80 overlaps 127.0.0.1:80 of agent.metrics (line 2)",
        );
        check(
            &wiki(
                "[service.b]\nlisten = \"/run/b\"\nbackend = \"/run/c\"\nunit = \"wiki.service\"",
            ),
            "/etc/o.toml:8: service.b.unit: wiki.service is already used by service.wiki.unit (line 4)",
        );
    }

    #[test]
    fn addresses_that_do_not_meet_are_taken() {
        for [a, b, c, d] in [
            [
                "127.0.0.1:80",
                "127.0.0.1:8081",
                "127.0.0.2:80",
                "127.0.0.1:8082",
            ],
            [
                "127.0.0.1:80",
                "127.0.0.1:8081",
                "[::1]:80",
                "127.0.0.1:8082",
            ],
            [
                "192.0.2.1:80",
                "127.0.0.1:80",
                "192.0.2.2:80",
                "127.0.0.2:80",
            ],
            ["[::]:8081", "127.0.0.1:8081", "/run/b", "/run/c"],
        ] {
            parse(&two(a, b, c, d)).unwrap();
        }
    }
}
