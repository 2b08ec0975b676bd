//! Parses `socket_mode`, `socket_user` and `socket_group`: who may connect to a path in `listen`.

use super::{
    Access, Endpoint,
    error::Problem,
    names,
    table::{Section, Value},
};

/// Takes the three keys from `section`; `None` if one of them is wrong.
pub(super) fn read(
    section: &mut Section<'_>,
    listen: Option<&[Endpoint]>,
    problems: &mut Vec<Problem>,
) -> Option<Access> {
    let before = problems.len();
    let mut access = Access::default();
    let has_path = listen.is_none_or(|all| {
        all.iter()
            .any(|endpoint| matches!(endpoint, Endpoint::Unix(_)))
    });
    for key in ["socket_mode", "socket_user", "socket_group"] {
        let Some(value) = section.take(key) else {
            continue;
        };
        if !has_path {
            problems.push(value.place.problem(
                "requires a path in `listen`, such as \"/run/wiki.sock\": a TCP address has no mode and no owner",
            ));
        }
        let problem = match key {
            "socket_mode" => mode(&value).map(|mode| access.mode = mode),
            "socket_user" => owner(&value).map(|user| access.user = Some(user)),
            _ => owner(&value).map(|group| access.group = Some(group)),
        };
        problems.extend(problem.err());
    }
    (problems.len() == before).then_some(access)
}

fn mode(value: &Value<'_>) -> Result<u32, Problem> {
    const EXAMPLE: &str = "\"0660\"";
    let text = value.string(EXAMPLE)?;
    let is_octal =
        (1..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| is_octal && *mode <= 0o777)
        .ok_or_else(|| {
            value.place.problem(format!(
                "{text:?} is not an octal mode of at most \"0777\"; write it like {EXAMPLE}, for owner and group"
            ))
        })
}

fn owner(value: &Value<'_>) -> Result<String, Problem> {
    let name = value.string("\"www-data\"")?;
    names::owner(name).map_err(|message| value.place.problem(message))?;
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, check_instead, parse, wiki};
    use super::*;

    fn unix(lines: &str) -> String {
        wiki(lines).replace("[\"0.0.0.0:80\", \"[::]:80\"]", "\"/run/w.sock\"")
    }

    #[test]
    fn a_path_has_a_mode_and_owners() {
        #[track_caller]
        fn check(lines: &str, mode: u32, user: Option<&str>, group: Option<&str>) {
            let expected = Access {
                mode,
                user: user.map(str::to_owned),
                group: group.map(str::to_owned),
            };
            let config = parse(&unix(lines)).unwrap();
            assert_eq!(config.services["wiki"].access, expected);
        }
        check("", 0o600, None, None);
        check("socket_mode = \"0660\"", 0o660, None, None);
        check("socket_mode = \"666\"", 0o666, None, None);
        check("socket_mode = \"0777\"", 0o777, None, None);
        check("socket_mode = \"0\"", 0, None, None);
        check(
            "socket_user = \"wiki\"\nsocket_group = \"www-data\"",
            0o600,
            Some("wiki"),
            Some("www-data"),
        );
        check("socket_user = \"1000\"", 0o600, Some("1000"), None);
    }

    #[test]
    fn wrong_modes_and_owners_say_what_to_write() {
        #[track_caller]
        fn refused(line: &str, expected: &str) {
            check(
                &unix(line),
                &format!("/etc/o.toml:5: service.wiki.{expected}"),
            );
        }
        for mode in [
            "01777", "1777", "0888", "0o660", "rw", "", "-1", "+660", "00660",
        ] {
            refused(
                &format!("socket_mode = {mode:?}"),
                &format!(
                    "socket_mode: {mode:?} is not an octal mode of at most \"0777\"; write it like \"0660\""
                ),
            );
        }
        refused(
            "socket_mode = 660",
            "socket_mode: expected a string, found an integer; write it like \"0660\"",
        );
        for name in ["", "a b", "-a", ".a", "a%b", "a\\nb", "a/b", "é", "a:b"] {
            refused(
                &format!("socket_user = \"{name}\""),
                "socket_user: not a usable name",
            );
            refused(
                &format!("socket_group = \"{name}\""),
                "socket_group: not a usable name",
            );
        }
    }

    #[test]
    fn a_tcp_address_has_neither() {
        for line in [
            "socket_mode = \"0660\"",
            "socket_user = \"a\"",
            "socket_group = \"a\"",
        ] {
            let key = line.split(' ').next().unwrap();
            check(
                &wiki(line),
                &format!("/etc/o.toml:5: service.wiki.{key}: requires a path in `listen`"),
            );
        }
        // One path among addresses is enough, and a wrong `listen` is reported alone.
        let both = wiki("socket_mode = \"0660\"").replace("\"[::]:80\"", "\"/run/w.sock\"");
        assert!(parse(&both).is_ok());
        check_instead(
            "listen",
            "listen = 3\nsocket_mode = \"0660\"",
            "listen: expected",
        );
    }
}
