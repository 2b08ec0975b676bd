//! Parsing of addresses, and which two of them cannot be bound at the same time.

use core::net::{IpAddr, SocketAddr};

use super::{Endpoint, UDP, names};

/// Parses `127.0.0.1:80`, `[::]:80`, `udp:0.0.0.0:53` or `/run/x.sock`. The error says what to write instead.
pub(super) fn parse(text: &str) -> Result<Endpoint, String> {
    if text.starts_with(['/', '.']) {
        return names::socket_path(text).map(Endpoint::Unix);
    }
    if let Some(address) = text.strip_prefix(UDP) {
        // As in a URL.
        let address = address.strip_prefix("//").unwrap_or(address);
        let example = |problem| format!("{problem} (with {UDP} in front of it, for datagrams)");
        return tcp(address).map(Endpoint::Udp).map_err(example);
    }
    tcp(text).map(Endpoint::Tcp)
}

/// Parses `127.0.0.1:80` or `[::]:80`.
pub(super) fn tcp(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| explain(text))?;
    if address.port() == 0 {
        return Err(format!(
            "{text:?} has port 0, which means \"any\"; clients need a fixed one"
        ));
    }
    match address {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => {
            return Err(format!(
                "{text:?} names a zone, which is not supported; leave out %{}",
                v6.scope_id()
            ));
        }
        SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_some() => {
            let plain = v6.ip().to_canonical();
            return Err(format!(
                "{text:?} is an IPv4-mapped IPv6 address; write \"{plain}:{}\"",
                v6.port()
            ));
        }
        _ => {}
    }
    let broadcast = matches!(address.ip(), IpAddr::V4(ip) if ip.is_broadcast());
    if broadcast || address.ip().is_multicast() {
        return Err(format!(
            "{text:?} is a multicast or broadcast address; clients need the address of one host"
        ));
    }
    Ok(address)
}

/// Why `text` is not an address, and what was probably meant.
fn explain(text: &str) -> String {
    if text.is_empty() {
        return "empty; write an address such as \"127.0.0.1:8080\", or a path".into();
    }
    if text.starts_with('@') {
        return format!("{text:?} is an abstract socket; use a path that begins with '/'");
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return format!(
            "{text:?} is a port without an address; write \"0.0.0.0:{text}\" and \"[::]:{text}\" for all addresses of this host, or \"127.0.0.1:{text}\" for local clients only"
        );
    }
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return format!(
            "{text:?} has no port; write \"{}\"",
            SocketAddr::new(ip, 80)
        );
    }
    let bad = |text: &str| {
        format!(
            "{text:?} is not an address; write \"0.0.0.0:80\", \"[::]:80\" or a path that begins with '/'"
        )
    };
    let Some((host, port)) = text.rsplit_once(':') else {
        return bad(text);
    };
    if host.parse::<core::net::Ipv6Addr>().is_ok() {
        return format!("{text:?}: an IPv6 address stands in brackets; write \"[{host}]:{port}\"");
    }
    if port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_err() {
        return format!("{text:?}: {port:?} is not a port; ports are 1 to 65535");
    }
    if matches!(host, "" | "*") {
        return format!("{text:?} has no address; write \"0.0.0.0:{port}\" and \"[::]:{port}\"");
    }
    if host.contains('%') {
        return format!(
            "{text:?} names a zone, which is not supported; write the address without it"
        );
    }
    let looks_like_name =
        host.contains(|c: char| c.is_ascii_alphabetic()) && !host.contains(['[', ']', '/', ':']);
    if looks_like_name {
        let local = if host == "localhost" {
            "\"127.0.0.1"
        } else {
            "its address, \"192.0.2.1"
        };
        return format!(
            "{text:?} is a host name, whose address can change; write {local}:{port}\""
        );
    }
    bad(text)
}

/// Whether a socket at `a` and one at `b` take each other's connections, or cannot both be bound.
///
/// `same_owner`: both are front addresses of one service, bound by one systemd socket with
/// `BindIPv6Only=ipv6-only`, so `[::]` does not cover IPv4. A `[::]` of any other owner covers
/// IPv4 too (`net.ipv6.bindv6only=0`, the kernel's default).
pub(super) fn overlap(a: &Endpoint, b: &Endpoint, same_owner: bool) -> bool {
    let (a, b) = match (a, b) {
        (Endpoint::Tcp(a), Endpoint::Tcp(b)) | (Endpoint::Udp(a), Endpoint::Udp(b)) => (a, b),
        _ => return a == b,
    };
    let takes_both = |address: &SocketAddr| address.is_ipv6() && address.ip().is_unspecified();
    a.port() == b.port()
        && if a.is_ipv4() == b.is_ipv4() {
            a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified()
        } else {
            !same_owner && (takes_both(a) || takes_both(b))
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_overlap_when_one_bind_takes_from_the_other() {
        #[track_caller]
        fn check(a: &str, b: &str, same_owner: bool, others: bool) {
            let (a, b) = (parse(a).unwrap(), parse(b).unwrap());
            for (a, b) in [(&a, &b), (&b, &a)] {
                assert_eq!(overlap(a, b, true), same_owner, "{a} {b} same owner");
                assert_eq!(overlap(a, b, false), others, "{a} {b} others");
            }
        }
        check("127.0.0.1:80", "127.0.0.1:80", true, true);
        check("127.0.0.1:80", "127.0.0.1:81", false, false);
        check("127.0.0.1:80", "127.0.0.2:80", false, false);
        check("0.0.0.0:80", "127.0.0.1:80", true, true);
        check("[::]:80", "[::1]:80", true, true);
        check("[::]:80", "0.0.0.0:80", false, true);
        check("[::]:80", "127.0.0.1:80", false, true);
        check("[::1]:80", "127.0.0.1:80", false, false);
        check("[::1]:80", "0.0.0.0:80", false, false);
        check("/run/a", "/run/a", true, true);
        check("/run/a", "/run/b", false, false);
        check("/run/a", "127.0.0.1:80", false, false);
    }

    #[test]
    fn bad_addresses_say_what_to_write() {
        #[track_caller]
        fn check(text: &str, expected: &str) {
            let message = parse(text).expect_err(text);
            assert!(message.contains(expected), "{text:?}: {message}");
        }
        check("", "empty");
        check("80", "\"0.0.0.0:80\" and \"[::]:80\"");
        check("99999", "port without an address");
        check("127.0.0.1", "has no port");
        check("::1", "write \"[::1]:80\"");
        check("[::1]", "write \"[::1]:80\"");
        check("fe80::1:2:3:4:80", "has no port");
        check("fe80::1:2:3:4:5:6:80", "in brackets");
        check(
            "1:2:3:4:5:6:7:8:80",
            "in brackets; write \"[1:2:3:4:5:6:7:8]:80\"",
        );
        check("127.0.0.1:0", "port 0");
        check("127.0.0.1:65536", "ports are 1 to 65535");
        check("127.0.0.1:http", "not an address");
        check("300.0.0.1:80", "not an address");
        check("localhost:80", "write \"127.0.0.1:80\"");
        check("wiki.example.org:80", "host name");
        check("*:80", "write \"0.0.0.0:80\" and \"[::]:80\"");
        check(":80", "has no address");
        check("[fe80::1%eth0]:80", "zone");
        check("[fe80::1%2]:80", "zone");
        check("[::ffff:127.0.0.1]:80", "write \"127.0.0.1:80\"");
        check("224.0.0.1:80", "multicast or broadcast");
        check("255.255.255.255:80", "multicast or broadcast");
        check("[ff02::1]:80", "multicast or broadcast");
        check("@abstract", "abstract");
        check("./x.sock", "begin it with '/'");
        check("/run/x y.sock", "contains ' '");
        check("/run/x\ny.sock", "contains '\\n'");
        check("/run/x\\", "contains '\\\\'");
        check("/run/\"x\"", "contains '\"'");
        check("/run//x", "'//'");
        check("/run/../x", "'/../'");
        check("/run/x/", "end with '/'");
        check("/", "end with '/'");
        check(&format!("/{}", "x".repeat(107)), "108 bytes");
        check("http://127.0.0.1:80", "not an address");
        check("tcp", "not an address");
    }

    #[test]
    fn good_addresses_are_printed_as_they_were_written() {
        for text in [
            "0.0.0.0:80",
            "[::]:80",
            "127.0.0.1:65535",
            "[::1]:1",
            "/run/x.sock",
            "/run/50%/x",
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
    }
}
