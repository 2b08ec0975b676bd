//! Which names of this server a request may carry.
//!
//! A page in a browser of this host can make its own name resolve to 127.0.0.1 and then read what is
//! served there (DNS rebinding). The browser sends the page's name as `Host`.

use std::net::IpAddr;

use hyper::{Request, header, http::uri::Authority};

/// Whether every name in the request is a loopback one, one of `names`, or the address at which its connection
/// arrived: `None`, if that is unknown. A request without a name is not from a browser.
pub(super) fn is_ours<B>(request: &Request<B>, arrived: Option<IpAddr>, names: &[String]) -> bool {
    let ours = |authority: &Authority| names_us(authority.host(), arrived, names);
    // `GET http://name/metrics`: it takes the place of the header.
    if let Some(authority) = request.uri().authority()
        && !ours(authority)
    {
        return false;
    }
    let mut hosts = request.headers().get_all(header::HOST).iter();
    hosts.all(|host| {
        // An empty one is a request without a name (RFC 9112, section 3.2).
        host.is_empty() || Authority::try_from(host.as_bytes()).is_ok_and(|host| ours(&host))
    })
}

fn names_us(host: &str, arrived: Option<IpAddr>, names: &[String]) -> bool {
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    match host.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(address) => {
            address.is_loopback() || arrived.is_some_and(|here| here.to_canonical() == address)
        }
        Err(_) => {
            let mut ours = names.iter().map(String::as_str).chain(["localhost"]);
            ours.any(|name| host.eq_ignore_ascii_case(name))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_server() {
        #[track_caller]
        fn check(uri: &str, hosts: &[&str], arrived: &str, expected: bool) {
            let mut request = Request::builder().uri(uri);
            for host in hosts {
                request = request.header(header::HOST, *host);
            }
            let request = request.body(()).unwrap();
            let names = ["home.lan".to_owned()];
            assert_eq!(is_ours(&request, arrived.parse().ok(), &names), expected);
        }
        let local = |host: &str, expected| check("/metrics", &[host], "127.0.0.1", expected);
        local("localhost", true);
        local("LocalHost:9464", true);
        local("127.0.0.1:9464", true);
        local("127.3.2.1", true);
        local("[::1]:1", true);
        local("[::ffff:127.0.0.1]", true);
        local("Home.LAN:9464", true);
        local("home.lan.evil.example", false);
        local("", true);
        local("evil.example:9464", false);
        local("localhost.evil.example", false);
        local("127.0.0.1.evil.example", false);
        local("evil.example#localhost", false);
        local("evil@localhost", true);
        local("localhost@evil.example", false);
        local("192.0.2.1:9464", false);
        local("::1", false);
        local(":9464", false);
        check("/metrics", &[], "127.0.0.1", true);
        check(
            "/metrics",
            &["localhost", "evil.example"],
            "127.0.0.1",
            false,
        );
        check(
            "http://evil.example/metrics",
            &["localhost"],
            "127.0.0.1",
            false,
        );
        check(
            "http://localhost/metrics",
            &["localhost"],
            "127.0.0.1",
            true,
        );
        // At another address, or at all of them.
        check("/metrics", &["192.0.2.1:9464"], "192.0.2.1", true);
        check("/metrics", &["192.0.2.1:9464"], "::ffff:192.0.2.1", true);
        check("/metrics", &["[2001:db8::1]"], "2001:db8::1", true);
        check("/metrics", &["192.0.2.2"], "192.0.2.1", false);
        check("/metrics", &["evil.example"], "192.0.2.1", false);
        // Its address is unknown.
        check("/metrics", &["127.0.0.1"], "", true);
        check("/metrics", &["192.0.2.1"], "", false);
    }
}
