//! The programs that the tests and benches run, and the Debian packages that have them.

/// A program, what it is, its Debian package.
pub type Program = (&'static str, &'static str, &'static str);

/// What a private systemd with ondemand in it consists of.
pub const SANDBOX: [Program; 6] = [
    SYSTEMD,
    ("dbus-daemon", "D-Bus", "dbus"),
    ("/usr/lib/polkit-1/polkitd", "polkit", "polkitd"),
    ("nsenter", "nsenter and unshare", "util-linux"),
    // A part of util-linux up to Debian 13.
    ("pivot_root", "pivot_root", "util-linux-extra"),
    ("ip", "ip", "iproute2"),
];
pub const SYSTEMD: Program = ("/usr/lib/systemd/systemd", "systemd", "systemd");
pub const PYTHON: Program = ("python3", "Python, for the example application", "python3");
pub const STRACE: Program = ("strace", "strace, for which files root opens", "strace");
pub const CHROMIUM: Program = (
    "chromium",
    "Chromium, in which the page of a report is looked at",
    "chromium",
);
/// What reads the manual pages and the completions.
pub const READERS: [Program; 3] = [
    ("mandoc", "mandoc, for the manual pages", "mandoc"),
    ("zsh", "zsh, for its completions", "zsh"),
    ("fish", "fish, for its completions", "fish"),
];
/// What makes packages.
pub const PACKERS: [Program; 4] = [
    ("dpkg-deb", "dpkg-deb, which makes packages", "dpkg"),
    (
        "dpkg-shlibdeps",
        "dpkg-shlibdeps, which knows the packages of libraries",
        "dpkg-dev",
    ),
    ("rpmbuild", "rpmbuild, which makes packages", "rpm"),
    ("objcopy", "objcopy, for debug information", "binutils"),
];
pub const LINTIAN: Program = (
    "lintian",
    "lintian, which looks through packages",
    "lintian",
);
pub const CXX: Program = ("c++", "a C++ compiler, for libFuzzer", "g++");
pub const WRK: Program = ("wrk", "wrk, the load for the benches", "wrk");

/// A server: a program, what it is, its Debian packages, the units that they would start on this machine.
pub type Server = (
    &'static str,
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

pub const NGINX: Server = ("nginx", "nginx, a server", &["nginx"], &["nginx"]);
pub const HAPROXY: Server = (
    "haproxy",
    "HAProxy, a peer in the benches",
    &["haproxy"],
    &["haproxy"],
);
/// Applications of docs/recipes.md that start in a moment.
pub const APPLICATIONS: [Server; 4] = [
    NGINX,
    (
        "sshd",
        "sshd, for the recipes",
        &["openssh-server", "openssh-client"],
        &["ssh"],
    ),
    (
        "dnsmasq",
        "dnsmasq, for the recipes",
        &["dnsmasq-base"],
        &[],
    ),
    ("klaus", "klaus, for the recipes", &["klaus"], &[]),
];
/// The others, and what runs containers.
pub const LONG_APPLICATIONS: [Server; 10] = [
    (
        "redis-server",
        "Redis, for the recipes",
        &["redis-server"],
        &["redis-server"],
    ),
    (
        "/usr/lib/postgresql/15/bin/postgres",
        "PostgreSQL 15, for the recipes",
        &["postgresql-15"],
        &["postgresql"],
    ),
    (
        "/usr/libexec/tomcat10/tomcat-start.sh",
        "Tomcat, for the recipes",
        &["tomcat10", "default-jre-headless"],
        &["tomcat10"],
    ),
    (
        "/usr/lib/minetest/minetestserver",
        "Minetest, for the recipes",
        &["minetest-server"],
        &["minetest-server"],
    ),
    ("node", "Node, for the recipes", &["nodejs"], &[]),
    (
        "podman",
        "podman, for the containers",
        &["podman", "crun", "runc", "conmon", "iptables"],
        &["podman", "podman.socket", "podman-restart"],
    ),
    (
        "systemd-nspawn",
        "systemd-nspawn, for the containers",
        &["systemd-container"],
        &[],
    ),
    (
        "dockerd",
        "Docker, for the containers",
        &["docker.io", "iptables"],
        &["docker.socket", "docker", "containerd"],
    ),
    (
        "/usr/lib/libvirt/libvirt_lxc",
        "libvirt, for the machines",
        &[
            "libvirt-daemon-system",
            "libvirt-daemon-driver-lxc",
            "libvirt-daemon-config-network",
            "libvirt-clients",
            "dnsmasq-base",
        ],
        &[
            "libvirtd.socket",
            "libvirtd-ro.socket",
            "libvirtd-admin.socket",
            "libvirtd",
            "virtlogd.socket",
            "virtlockd.socket",
            "libvirt-guests",
        ],
    ),
    (
        "docker-compose",
        "compose, for the containers",
        &["docker-compose"],
        &[],
    ),
];
