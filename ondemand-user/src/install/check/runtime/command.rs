//! What a unit starts, by its files: which runtime, and with which network.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use ondemand_core::config::Endpoint;

/// What runs containers or machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// `podman run`.
    Podman,
    /// A unit that podman's generator has made.
    Quadlet,
    /// `docker run`, `docker start`, or nerdctl's.
    Docker,
    /// `docker compose up`.
    Compose,
    /// systemd-nspawn.
    Nspawn,
    /// A virtual machine.
    Libvirt,
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Podman => "a container of podman",
            Self::Quadlet => "a Quadlet of podman",
            Self::Docker => "a container of Docker",
            Self::Compose => "a compose project",
            Self::Nspawn => "a container of systemd-nspawn",
            Self::Libvirt => "a virtual machine",
        })
    }
}

impl Runtime {
    /// Whether its end by SIGTERM is the application's, 128 + 15.
    pub fn fails_at_a_stop(self) -> bool {
        matches!(self, Self::Podman | Self::Quadlet | Self::Docker)
    }

    /// How a port is published where nobody but the host reaches it.
    pub fn publish(self) -> &'static str {
        match self {
            Self::Quadlet => "PublishPort=127.0.0.1:18080:80",
            Self::Podman | Self::Docker => "-p 127.0.0.1:18080:80",
            Self::Compose => "ports: [\"127.0.0.1:18080:80\"]",
            Self::Nspawn | Self::Libvirt => {
                "`backend` is then its own address, such as \"10.0.0.2:80\""
            }
        }
    }

    /// How it has none of its own.
    pub fn host_network(self) -> &'static str {
        match self {
            Self::Quadlet => "Network=host",
            Self::Podman | Self::Docker => "--network=host",
            Self::Compose => "network_mode: host",
            Self::Nspawn => "no --network option (VirtualEthernet=no)",
            Self::Libvirt => "an address of the machine",
        }
    }
}

/// A port of the host's that leads to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    address: Option<IpAddr>,
    port: u16,
    /// The container's port.
    inside: String,
    /// As it is written in the unit.
    pub written: String,
}

impl fmt::Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address())
    }
}

impl Published {
    /// `[ADDRESS:]PORT:CONTAINER[/tcp]`. One without a port of the host's has any.
    fn parse(text: &str) -> Option<Self> {
        let written = text.trim_matches(['"', '\'']);
        let (text, protocol) = written.split_once('/').unwrap_or((written, "tcp"));
        let (host, inside) = text.rsplit_once(':').filter(|_| protocol == "tcp")?;
        let (address, port) = match host.rsplit_once(':') {
            Some((address, port)) => (Some(address.trim_matches(['[', ']'])), port),
            None => (None, host),
        };
        Some(Self {
            address: address.map(str::parse).transpose().ok()?,
            port: port.parse().ok()?,
            inside: inside.to_owned(),
            written: written.to_owned(),
        })
    }

    /// Where the host has it.
    pub fn address(&self) -> SocketAddr {
        let address = self.address.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        SocketAddr::new(address, self.port)
    }

    /// The container's port, if it is one.
    pub fn inside(&self) -> Option<u16> {
        self.inside.parse().ok()
    }

    /// How it is written for another address of the host's.
    pub fn moved_to(&self, address: SocketAddr) -> String {
        format!("{address}:{}", self.inside)
    }

    /// Whether connections to that address are led to the container.
    pub fn is_at(&self, endpoint: &Endpoint) -> bool {
        let Endpoint::Tcp(address) = endpoint else {
            return false;
        };
        let is_any = |ip: IpAddr| ip.is_unspecified();
        address.port() == self.port
            && self
                .address
                .is_none_or(|own| own == address.ip() || is_any(own) || is_any(address.ip()))
    }
}

/// Where its clients find it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// Where the host's own are.
    Host,
    /// Elsewhere, and at these ports of the host, as far as the unit says so.
    Own(Vec<Published>),
}

/// What a unit starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// By what it is started.
    pub runtime: Runtime,
    /// Where its clients find it.
    pub network: Network,
    /// Whether it goes on without the unit.
    pub detached: bool,
}

/// What matters of a unit's files.
#[derive(Clone, Debug, Default)]
pub struct Unit {
    /// `None`: a plain program.
    pub started: Option<Started>,
    /// The line by which its processes are in another network namespace.
    pub other_network: Option<String>,
    /// The words of `SuccessExitStatus=`.
    pub success: Vec<String>,
}

impl Unit {
    /// Of the text of its files, one after the other.
    pub fn parse(text: &str) -> Self {
        let mut unit = Self::default();
        let (mut is_quadlet, mut is_forking, mut command) = (false, false, String::new());
        // A backslash goes on with the next line (systemd.syntax(7)).
        let text = text.replace("\\\n", " ");
        for line in text.lines().map(str::trim) {
            let Some((key, value)) = line.split_once('=') else {
                continue;
            };
            let (key, value) = (key.trim(), value.trim());
            match key {
                // An empty one takes those before back.
                "ExecStart" if command.is_empty() || value.is_empty() => {
                    value.clone_into(&mut command)
                }
                "SourcePath" => {
                    let kinds = [".container", ".pod", ".kube"];
                    is_quadlet |= kinds.iter().any(|kind| value.ends_with(kind));
                }
                "Type" => is_forking = value == "forking",
                "SuccessExitStatus" => unit
                    .success
                    .extend(value.split_whitespace().map(str::to_owned)),
                "PrivateNetwork" if ["yes", "true", "1", "on"].contains(&value) => {
                    unit.other_network = Some(line.to_owned());
                }
                "NetworkNamespacePath" if !value.is_empty() => {
                    unit.other_network = Some(line.to_owned());
                }
                _ => {}
            }
        }
        unit.started = started(&command, is_quadlet, is_forking);
        unit
    }
}

fn started(command: &str, is_quadlet: bool, is_forking: bool) -> Option<Started> {
    let mut words = command.split_whitespace();
    let program = words
        .next()?
        .trim_start_matches(['-', '@', ':', '+', '!', '|']);
    let program = program.rsplit('/').next()?;
    let words: Vec<&str> = words.collect();
    let has = |word: &str| words.contains(&word);
    let of = |runtime, network, detached| {
        Some(Started {
            runtime,
            network,
            detached,
        })
    };
    match program {
        "podman" if is_quadlet => of(Runtime::Quadlet, of_container(&words), false),
        "podman" => {
            // Its monitor stays, and systemd knows that as the main process: by Type=notify, or by a file.
            let is_known = is_forking || words.iter().any(|word| word.ends_with("conmon"));
            let is_detached = is_detached(&words) && !is_known;
            of(Runtime::Podman, of_container(&words), is_detached)
        }
        "docker-compose" => of(
            Runtime::Compose,
            Network::Own(Vec::new()),
            is_detached(&words),
        ),
        "docker" | "nerdctl" if has("compose") => of(
            Runtime::Compose,
            Network::Own(Vec::new()),
            is_detached(&words),
        ),
        "docker" | "nerdctl" if has("run") => {
            of(Runtime::Docker, of_container(&words), is_detached(&words))
        }
        "docker" | "nerdctl" if has("start") => {
            let attached = ["-a", "--attach", "-ai", "-ia"];
            let is_attached = attached.iter().any(|word| has(word));
            of(Runtime::Docker, Network::Own(Vec::new()), !is_attached)
        }
        "systemd-nspawn" => {
            let is_own = |word: &&str| {
                *word == "-n" || word.starts_with("--network-") || *word == "--private-network"
            };
            let network = match words.iter().any(is_own) {
                // --port= is for others than the host itself.
                true => Network::Own(Vec::new()),
                false => Network::Host,
            };
            of(Runtime::Nspawn, network, false)
        }
        "virsh" if has("start") => of(Runtime::Libvirt, Network::Own(Vec::new()), false),
        name if name.starts_with("qemu-system-") => {
            of(Runtime::Libvirt, Network::Own(Vec::new()), false)
        }
        _ => None,
    }
}

fn is_detached(words: &[&str]) -> bool {
    let is_it = |word: &&str| {
        let letters = word.strip_prefix('-').filter(|it| !it.starts_with('-'));
        // As -d, -itd.
        let has_letter = letters.is_some_and(|letters| {
            letters.ends_with('d') && letters.chars().all(|c| "itd".contains(c))
        });
        has_letter || *word == "--detach" || *word == "--detach=true"
    };
    words.iter().any(is_it)
}

/// The network of `podman run` or `docker run`.
fn of_container(words: &[&str]) -> Network {
    let values = |names: [&'static str; 2]| {
        let followed = words.windows(2).filter(move |two| names.contains(&two[0]));
        let joined = words.iter().filter_map(move |word| {
            names.iter().find_map(|name| {
                let rest = word.strip_prefix(name)?;
                match name.starts_with("--") {
                    true => rest.strip_prefix('='),
                    false => Some(rest).filter(|rest| !rest.is_empty()),
                }
            })
        });
        followed.map(|two| two[1]).chain(joined)
    };
    if values(["--network", "--net"]).any(|network| network == "host") {
        return Network::Host;
    }
    Network::Own(
        values(["-p", "--publish"])
            .filter_map(Published::parse)
            .collect(),
    )
}
