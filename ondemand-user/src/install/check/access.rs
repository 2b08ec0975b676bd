//! Checks whether a front socket with a path is open to more users than the backend's own socket.

use std::{fs, os::unix::fs::PermissionsExt as _};

use nix::unistd::{Gid, Group, Uid, User};
use ondemand_core::config::{Endpoint, Service};

use super::finding::Finding;

const WHAT: &str = "mode";
/// connect(2) needs permission to write, and nothing else of the mode (unix(7)).
const CONNECT: u32 = 0o222;

/// Compares the modes. A backend without a file, as while it is down, is not compared.
pub fn look(service: &Service) -> Option<Finding> {
    let is_path = |endpoint: &&Endpoint| matches!(endpoint, Endpoint::Unix(_));
    let front = service.listen.iter().find(is_path)?;
    let Endpoint::Unix(backend) = &service.backend else {
        return None;
    };
    let own = fs::metadata(backend).ok()?.permissions().mode() & 0o777;
    let mode = service.access.mode;
    let name = backend.display();
    Some(if mode & CONNECT & !own == 0 {
        Finding::ok(
            WHAT,
            format!("{front} ({mode:04o}) is not open to more users than {name} ({own:04o})"),
        )
    } else {
        Finding::warning(
            WHAT,
            format!(
                "{front} ({mode:04o}) is open to more users than {name} ({own:04o}): the proxy connects \
                 them to it"
            ),
            format!(
                "set socket_mode = \"{own:04o}\", or socket_group to the group that may connect"
            ),
        )
    })
}

/// A backend's socket that is a link: its proxy sees the directory of the link alone.
pub fn link(service: &Service) -> Option<Finding> {
    let Endpoint::Unix(path) = &service.backend else {
        return None;
    };
    let target = fs::read_link(path).ok()?;
    Some(Finding::error(
        "backend",
        format!(
            "{} is a link to {}: the proxy sees the directory of the link alone",
            path.display(),
            target.display()
        ),
        "set backend to the path of the socket itself",
    ))
}

/// Checks that the owners exist: systemd starts no socket of others (216/GROUP, 217/USER), not even by
/// number.
pub fn owners(service: &Service) -> Vec<Finding> {
    let access = &service.access;
    let user = access.user.as_deref().filter(|name| {
        let found = match name.parse() {
            Ok(uid) => User::from_uid(Uid::from_raw(uid)),
            Err(_) => User::from_name(name),
        };
        matches!(found, Ok(None))
    });
    let group = access.group.as_deref().filter(|name| {
        let found = match name.parse() {
            Ok(gid) => Group::from_gid(Gid::from_raw(gid)),
            Err(_) => Group::from_name(name),
        };
        matches!(found, Ok(None))
    });
    let missing = [("user", user), ("group", group)];
    let missing = missing.into_iter().filter_map(|(what, name)| {
        Some(Finding::error(
            WHAT,
            format!(
                "the {what} {} does not exist: {} cannot start",
                name?,
                service.socket_unit()
            ),
            format!("create it (sysusers.d(5)), or correct socket_{what}"),
        ))
    });
    missing.collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ondemand_core::config::Config;

    use super::{super::finding::Level, *};

    #[test]
    fn a_socket_that_is_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.sock");
        let text = format!(
            "[service.a]\nlisten = \"/run/f.sock\"\nbackend = {path:?}\nunit = \"a.service\"\n"
        );
        let config = Config::parse(Path::new("/o.toml"), &text).unwrap();
        let look = || link(&config.services["a"]).map(|finding| finding.level);
        assert_eq!(look(), None);
        std::os::unix::fs::symlink("/run/elsewhere.sock", &path).unwrap();
        assert_eq!(look(), Some(Level::Error));
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        assert_eq!(look(), None);
    }

    #[test]
    fn owners_that_do_not_exist() {
        let check = |lines: &str| {
            let text = format!(
                "[service.a]\nlisten = \"/run/f.sock\"\nbackend = \"/run/b.sock\"\nunit = \"a.service\"\n{lines}"
            );
            let config = Config::parse(Path::new("/o.toml"), &text).unwrap();
            let found = owners(&config.services["a"]);
            found.into_iter().map(|it| it.message).collect::<Vec<_>>()
        };
        assert!(check("").is_empty());
        assert!(check("socket_user = \"root\"\nsocket_group = \"0\"").is_empty());
        let found = check("socket_user = \"no-such-user\"\nsocket_group = \"4000000001\"");
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].contains("the user no-such-user does not exist"),
            "{found:?}"
        );
        assert!(
            found[1].contains("the group 4000000001 does not exist"),
            "{found:?}"
        );
    }

    #[test]
    fn a_front_socket_that_is_open_to_more_users() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.sock");
        let check = |mode: &str, own: Option<u32>| {
            let text = format!(
                "[service.a]\nlisten = \"/run/f.sock\"\nbackend = {path:?}\nunit = \"a.service\"\n\
                 socket_mode = {mode:?}\n"
            );
            let _ = fs::remove_file(&path);
            if let Some(own) = own {
                fs::write(&path, "").unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(own)).unwrap();
            }
            let config = Config::parse(Path::new("/o.toml"), &text).unwrap();
            look(&config.services["a"]).map(|finding| finding.level)
        };
        for (mode, own, expected) in [
            ("0600", None, None),
            ("0600", Some(0o600), Some(Level::Ok)),
            ("0600", Some(0o666), Some(Level::Ok)),
            ("0644", Some(0o600), Some(Level::Ok)),
            ("0660", Some(0o600), Some(Level::Warning)),
            ("0666", Some(0o660), Some(Level::Warning)),
            ("0606", Some(0o660), Some(Level::Warning)),
        ] {
            assert_eq!(check(mode, own), expected, "{mode} {own:?}");
        }
    }
}
