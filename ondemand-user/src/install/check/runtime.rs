//! Applications in containers and machines, and in network namespaces of their own: whether clients can meet them
//! natively, and what to write. What starts them is recognized by the unit's files.

mod command;

use ondemand_core::config::{Endpoint, Service};

use super::{common::Common, finding::Finding};
use crate::host::{small_file, unit_files::UnitFiles};
pub use command::{Network, Published, Runtime, Started, Unit};

const WHAT: &str = "runtime";
/// A longer file is none of a person's. Bytes.
const LONGEST: u64 = 1 << 20;

/// Looks at what the unit of a service starts.
pub(super) fn look(service: &Service, common: &Common<'_>) -> Vec<Finding> {
    judge(service, &of_unit(&service.unit, common.unit_files))
}

/// What a unit starts, by its files.
pub fn of_unit(unit: &str, files: &UnitFiles) -> Unit {
    Unit::parse(&text(unit, files))
}

/// The files of a unit, one after the other.
fn text(unit: &str, files: &UnitFiles) -> String {
    let own = files.canonical(unit);
    let template = own.split_once('@').map(|(it, _)| format!("{it}@.service"));
    let names = [Some(own.clone()), template];
    let first = names
        .iter()
        .flatten()
        .find_map(|name| files.all(name).next());
    let mut paths: Vec<_> = first.into_iter().collect();
    for directory in files.drop_ins(&own) {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        paths.extend(entries.map(|entry| entry.path()));
    }
    let mut text = String::new();
    for path in paths {
        // What cannot be read says nothing.
        let bytes = small_file::read(&path, LONGEST).unwrap_or_default();
        text += &String::from_utf8_lossy(&bytes);
        text.push('\n');
    }
    text
}

/// What does not fit a service.
pub fn judge(service: &Service, unit: &Unit) -> Vec<Finding> {
    let mut found = Vec::new();
    let name = &service.unit;
    let Some(started) = &unit.started else {
        found.extend(
            unit.other_network
                .as_deref()
                .map(|key| elsewhere(service, key)),
        );
        return found;
    };
    let runtime = started.runtime;
    if started.detached {
        found.push(Finding::error(
            WHAT,
            format!("{name} starts {runtime} and ends: systemd takes the container for stopped"),
            match runtime {
                Runtime::Podman => "let it stay in the foreground: no -d or --detach; or add --sdnotify=conmon, Type=notify and NotifyAccess=all".to_owned(),
                _ => format!("let {runtime} stay in the foreground: no -d or --detach; `start -a`"),
            },
        ));
    }
    if runtime.fails_at_a_stop() && !unit.success.iter().any(|status| status == "143") {
        found.push(Finding::warning(
            WHAT,
            format!("a stop ends {runtime} with the status 143, and {name} counts as failed then"),
            format!("add SuccessExitStatus=143 to the section [Service] (systemctl edit {name})"),
        ));
    }
    found.push(network(service, started));
    found
}

/// A unit whose processes are in another network namespace.
fn elsewhere(service: &Service, key: &str) -> Finding {
    let unit = &service.unit;
    if !service.own_address {
        return Finding::ok(
            WHAT,
            format!(
                "{unit} is in a network namespace of its own ({key}): the proxy carries its clients to {}",
                service.backend
            ),
        );
    }
    Finding::error(
        WHAT,
        format!(
            "{unit} is in a network namespace of its own ({key}), and cannot have the host's addresses"
        ),
        "set `backend` to the address in that namespace that the host reaches it at, or remove that line",
    )
}

fn network(service: &Service, started: &Started) -> Finding {
    let (unit, runtime) = (&service.unit, started.runtime);
    let published = match &started.network {
        Network::Host => {
            return Finding::ok(
                WHAT,
                format!("{unit} is {runtime} in the host's network: clients meet it natively"),
            );
        }
        Network::Own(published) => published,
    };
    let list: Vec<String> = published.iter().map(ToString::to_string).collect();
    let list = match list.is_empty() {
        true => "no port is published".to_owned(),
        false => format!("published: {}", list.join(", ")),
    };
    let what = format!("{unit} is {runtime} with a network of its own ({list})");
    let overlaps = |front: &Endpoint| published.iter().any(|port| port.is_at(front));
    if let Some(front) = service.listen.iter().find(|front| overlaps(front)) {
        return Finding::error(
            WHAT,
            format!(
                "{what}: at {front} clients would reach it past the host's own sockets, unseen"
            ),
            format!(
                "publish it elsewhere ({}), and write backend = \"127.0.0.1:18080\"; or use {}",
                runtime.publish(),
                runtime.host_network()
            ),
        );
    }
    if service.own_address {
        return Finding::error(
            WHAT,
            format!("{what}, and cannot have the host's addresses"),
            format!(
                "{}, and write backend = \"127.0.0.1:18080\"; or use {}",
                runtime.publish(),
                runtime.host_network()
            ),
        );
    }
    let is_there =
        published.is_empty() || published.iter().any(|port| port.is_at(&service.backend));
    match is_there {
        true => Finding::ok(
            WHAT,
            format!(
                "{what}: the proxy carries its clients to {}",
                service.backend
            ),
        ),
        false => Finding::warning(
            WHAT,
            format!("{what}, and `backend` is {}", service.backend),
            "make one of its published addresses `backend`, or the container's own address",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ondemand_core::config::Config;

    use super::{super::finding::Level, *};

    /// `lines`: of the service, `unit`: of its `[Service]`.
    #[track_caller]
    fn check(lines: &str, unit: &str, expected: &[(Level, &str)]) {
        let text = format!("[service.wiki]\nunit = \"wiki.service\"\n{lines}\n");
        let config = Config::parse(Path::new("/o.toml"), &text).unwrap();
        let found = judge(
            &config.services["wiki"],
            &Unit::parse(&format!("[Service]\n{unit}\n")),
        );
        let seen: Vec<_> = found.iter().map(|it| (it.level, &it.message)).collect();
        assert_eq!(found.len(), expected.len(), "{unit}: {seen:?}");
        for (finding, (level, words)) in found.iter().zip(expected) {
            let text = format!(
                "{} {}",
                finding.message,
                finding.next.as_deref().unwrap_or("")
            );
            assert!(
                finding.level == *level && text.contains(words),
                "{unit}: {seen:?} {text}"
            );
        }
    }

    const OWN: &str = "listen = \"0.0.0.0:80\"";
    const MOVED: &str = "listen = \"0.0.0.0:80\"\nbackend = \"127.0.0.1:18080\"\nsteer = false";
    const OK: &str = "SuccessExitStatus=143";

    #[test]
    fn in_the_hosts_network_it_is_native() {
        for start in [
            "podman run --rm --network=host wiki",
            "/usr/bin/docker run --net host --name x wiki",
            "systemd-nspawn --directory=/srv/wiki --as-pid2 /usr/bin/wiki",
        ] {
            let unit = format!("ExecStart={start}\n{OK}");
            check(OWN, &unit, &[(Level::Ok, "natively")]);
        }
    }

    #[test]
    fn a_network_of_its_own_is_proxied() {
        for start in [
            "podman run -p 127.0.0.1:18080:80 wiki",
            "-docker run --rm --publish=18080:80/tcp wiki",
            "docker run \\\n  -p127.0.0.1:18080:80 \\\n  wiki",
            "docker start -a wiki",
            "docker --context x compose up",
            "systemd-nspawn --boot -n --machine=wiki",
        ] {
            let unit = format!("ExecStart={start}\n{OK}");
            check(MOVED, &unit, &[(Level::Ok, "carries its clients")]);
            check(
                OWN,
                &unit,
                &[(Level::Error, "backend = \"127.0.0.1:18080\"")],
            );
        }
        let other = format!("ExecStart=docker run -p 127.0.0.1:9000:80 wiki\n{OK}");
        check(
            MOVED,
            &other,
            &[(Level::Warning, "published: 127.0.0.1:9000")],
        );
        let front = format!("ExecStart=docker run -p 80:80 wiki\n{OK}");
        check(
            MOVED,
            &front,
            &[(Level::Error, "past the host's own sockets")],
        );
    }

    #[test]
    fn what_else_a_runtime_does() {
        let detached = "ExecStart=docker run -d --network host wiki";
        let failed = (Level::Warning, "SuccessExitStatus=143");
        check(
            OWN,
            detached,
            &[
                (Level::Error, "foreground"),
                failed,
                (Level::Ok, "natively"),
            ],
        );
        let start = "ExecStart=docker start wiki\nSuccessExitStatus=0 143 SIGKILL";
        check(
            MOVED,
            start,
            &[(Level::Error, "start -a"), (Level::Ok, "proxy")],
        );
        // podman's own monitor stays, and is the unit's main process.
        let quadlet = "SourcePath=/etc/containers/systemd/wiki.container\n\
                       ExecStart=podman run --sdnotify=conmon -d -v a:b wiki\nType=notify";
        check(MOVED, quadlet, &[failed, (Level::Ok, "a Quadlet")]);
        let run = "ExecStart=podman run -d -p 127.0.0.1:18080:80";
        for known in ["--sdnotify=conmon wiki\nType=notify", "wiki\nType=forking"] {
            let unit = format!("{run} {known}\n{OK}");
            check(MOVED, &unit, &[(Level::Ok, "podman")]);
        }
        let unknown = format!("{run} wiki\n{OK}");
        check(
            MOVED,
            &unknown,
            &[(Level::Error, "--sdnotify=conmon"), (Level::Ok, "podman")],
        );
        let machine = "Type=oneshot\nRemainAfterExit=yes\nExecStart=virsh start wiki";
        check(MOVED, machine, &[(Level::Ok, "a virtual machine")]);
        check(OWN, machine, &[(Level::Error, "cannot have")]);
    }

    #[test]
    fn other_namespaces_and_plain_programs() {
        for line in ["PrivateNetwork=yes", "NetworkNamespacePath=/run/netns/x"] {
            let unit = format!("ExecStart=/usr/bin/wiki\n{line}");
            check(OWN, &unit, &[(Level::Error, line)]);
            check(MOVED, &unit, &[(Level::Ok, "the proxy carries")]);
        }
        for unit in [
            "ExecStart=/usr/bin/wiki run -p 80:80",
            "ExecStart=/usr/bin/wiki\nPrivateNetwork=no",
            "ExecStartPre=docker run x\nExecStart=/usr/bin/wiki",
            "#ExecStart=docker run x",
            "ExecStart=docker run x\nExecStart=\nExecStart=/usr/bin/wiki",
            "ExecStart=",
            "",
        ] {
            check(OWN, unit, &[]);
        }
    }
}
