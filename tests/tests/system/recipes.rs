//! The texts of docs/recipes.md, with the real programs.

use std::{fs, time::Duration};

use tests::{
    service::{SOON, stays, wait_state},
    source_tree, wait_for,
};

use crate::{
    recipes_run::{boot, section, texts, try_out},
    require_sandbox,
};

/// A recipe, and its clients.
pub struct Recipe {
    pub heading: &'static str,
    pub programs: &'static [&'static str],
    /// Of the packages' own, copied into the sandbox.
    pub files: &'static [&'static str],
    /// Run as root before it starts.
    pub prepare: &'static str,
    /// Each of them is the first one of a start.
    pub clients: &'static [Client],
    /// Whether it is run only with `--long`: it starts slowly, or its package is large.
    pub long: bool,
}

const RECIPE: Recipe = Recipe {
    heading: "",
    programs: &[],
    files: &[],
    prepare: "true",
    clients: &[],
    long: false,
};

/// Says something at an address, and hears an answer that begins so.
pub struct Client {
    pub over: Over,
    pub at: &'static str,
    pub says: &'static [u8],
    pub hears: &'static [u8],
    /// At least as many bytes of it.
    pub length: usize,
}

pub enum Over {
    Tcp,
    Udp,
    /// A command in the sandbox, which prints the answer; the rest is left out.
    Run(&'static str),
}

const CLIENT: Client = Client {
    over: Over::Tcp,
    at: "",
    says: b"GET / HTTP/1.0\r\n\r\n",
    hears: b"HTTP/1.0 200",
    length: 0,
};

macro_rules! recipes {
    ($($test:ident: $recipe:expr,)*) => {
        const RECIPES: &[Recipe] = &[$($recipe),*];
        $(#[test]
        fn $test() {
            try_out(&$recipe);
        })*
    };
}

recipes! {
    nginx: Recipe {
        heading: "nginx",
        programs: &["nginx"],
        files: &["/etc/nginx"],
        prepare: "mkdir -p /var/log/nginx /var/lib/nginx",
        clients: &[Client {
            at: "127.0.0.1:80",
            hears: b"HTTP/1.1 ",
            ..CLIENT
        }],
        ..RECIPE
    },
    redis: Recipe {
        heading: "Redis",
        programs: &["redis-server"],
        files: &["/etc/redis"],
        prepare: "mkdir -p /var/lib/redis /var/log/redis && chown redis:redis /var/lib/redis /var/log/redis && \
                  chown -R redis:redis /etc/redis",
        clients: &[Client {
            at: "127.0.0.1:6379",
            says: b"PING\r\n",
            hears: b"+PONG",
            ..CLIENT
        }],
        long: true,
    },
    postgresql: Recipe {
        heading: "PostgreSQL",
        programs: &["/usr/lib/postgresql/15/bin/postgres", "setpriv"],
        // In place of Debian's unit, whose scripts want all of /etc/postgresql.
        prepare: "mkdir -p /var/lib/postgresql && chown postgres:postgres /var/lib/postgresql && \
                  setpriv --reuid postgres --regid postgres --clear-groups \
                  /usr/lib/postgresql/15/bin/initdb -D /var/lib/postgresql/main >/dev/null && printf '[Service]\\nType=notify\\n\
                  User=postgres\\nRuntimeDirectory=postgresql\\nExecStart=/usr/lib/postgresql/15/bin/postgres -D /var/lib/postgresql/main \
                  -h 127.0.0.1 -k /run/postgresql\\n' >/etc/systemd/system/postgresql@15-main.service",
        clients: &[Client {
            at: "127.0.0.1:5432",
            // SSLRequest (PostgreSQL's protocol, 55.2.10): answered by one letter.
            says: &[0, 0, 0, 8, 4, 210, 22, 47],
            hears: b"N",
            ..CLIENT
        }],
        long: true,
        ..RECIPE
    },
    sshd: Recipe {
        heading: "sshd",
        programs: &["sshd", "ssh-keygen"],
        files: &["/etc/ssh/sshd_config"],
        prepare: "mkdir -p /run/sshd && rm -f /etc/ssh/ssh_host_* && ssh-keygen -A >/dev/null",
        clients: &[Client {
            at: "127.0.0.1:22",
            // It speaks first.
            says: b"",
            hears: b"SSH-2.0-",
            ..CLIENT
        }],
        long: true,
    },
    forge: FORGE,
    dnsmasq: Recipe {
        heading: "dnsmasq",
        programs: &["/usr/sbin/dnsmasq"],
        clients: &[
            Client {
                over: Over::Udp,
                at: "127.0.0.1:5300",
                says: b"on\x01\0\0\x01\0\0\0\0\0\0\x04wiki\x04home\0\0\x01\0\x01",
                // As authority, with one answer.
                hears: b"on\x85\x80\0\x01\0\x01",
                ..CLIENT
            },
            Client {
                at: "127.0.0.1:5300",
                // Its length first.
                says: b"\0\x1bon\x01\0\0\x01\0\0\0\0\0\0\x04wiki\x04home\0\0\x01\0\x01",
                hears: b"\0\x2bon\x85\x80\0\x01\0\x01",
                ..CLIENT
            },
        ],
        ..RECIPE
    },
    tomcat: Recipe {
        heading: "Tomcat",
        programs: &["/usr/libexec/tomcat10/tomcat-start.sh", "/etc/java-17-openjdk/security/java.security"],
        files: &["/etc/tomcat10", "/etc/default/tomcat10", "/etc/java-17-openjdk", "/var/lib/tomcat10"],
        prepare: "mkdir -p /var/log/tomcat10 /var/cache/tomcat10 && \
                  chown tomcat:tomcat /var/log/tomcat10 /var/cache/tomcat10 /var/lib/tomcat10/webapps && \
                  chown -R root:tomcat /etc/tomcat10",
        clients: &[Client {
            at: "127.0.0.1:8080",
            hears: b"HTTP/1.1 200",
            ..CLIENT
        }],
        long: true,
    },
    minetest: Recipe {
        heading: "A game server",
        programs: &["/usr/lib/minetest/minetestserver"],
        files: &["/etc/minetest"],
        prepare: "mkdir -p /var/log/minetest /var/games/minetest-server && \
                  chown Debian-minetest:games /var/log/minetest /var/games/minetest-server",
        clients: &[Client {
            over: Over::Udp,
            at: "127.0.0.1:30000",
            // A new peer, and the number that it is given.
            says: b"OEt\x03\0\0\0\x01",
            hears: b"OEt\x03\0\x01\0\x03",
            ..CLIENT
        }],
        long: true,
    },
    python: Recipe {
        heading: "Python",
        programs: &["/usr/bin/python3"],
        clients: &[Client {
            at: "127.0.0.1:8000",
            ..CLIENT
        }],
        long: true,
        ..RECIPE
    },
    node: Recipe {
        heading: "Node",
        programs: &["/usr/bin/node"],
        clients: &[Client {
            at: "127.0.0.1:8001",
            hears: b"HTTP/1.1 200",
            ..CLIENT
        }],
        long: true,
        ..RECIPE
    },
    language_model: Recipe {
        heading: "A server of a language model",
        // It answers 503 for two seconds.
        prepare: "printf '#!/bin/sh\\nexec /usr/bin/test-backend --listen 127.0.0.1:8080 --unready 503 --unready-ms 2000\\n' \
                  >/usr/bin/llama-server && chmod 755 /usr/bin/llama-server",
        clients: &[Client {
            at: "127.0.0.1:8080",
            // A word at a time, for longer than the idle timeout.
            says: b"GET /?bytes=4000&drip=400 HTTP/1.1\r\nConnection: close\r\n\r\n",
            hears: b"HTTP/1.1 200",
            length: 4000,
            ..CLIENT
        }],
        ..RECIPE
    },
    one_card: Recipe {
        heading: "One card for several models",
        prepare: "printf '#!/bin/sh\\nexec /usr/bin/test-backend --listen $2:$4 --unready 503 --unready-ms 1000\\n' \
                  >/usr/bin/llama-server && chmod 755 /usr/bin/llama-server",
        clients: &[Client {
            at: "127.0.0.1:8082",
            says: b"GET /?bytes=100000 HTTP/1.1\r\nConnection: close\r\n\r\n",
            hears: b"HTTP/1.1 200",
            length: 100_000,
            ..CLIENT
        }],
        long: true,
        ..RECIPE
    },
    home_server: Recipe {
        heading: "A small home server",
        programs: &["/usr/bin/python3"],
        clients: &[Client {
            at: "127.0.0.1:8003",
            ..CLIENT
        }],
        long: true,
        ..RECIPE
    },
}

/// Pages, and a repository over HTTP and SSH, with git's own programs as clients.
const FORGE: Recipe = Recipe {
    heading: "A forge with SSH",
    programs: &["/usr/sbin/sshd", "ssh", "ssh-keygen", "/usr/bin/klaus", "/usr/bin/git", "useradd"],
    files: &[],
    prepare: "useradd --system --create-home --home-dir /srv/git --shell /bin/sh git
              runuser -u git -- git init --quiet --bare --initial-branch=main /srv/git/wiki.git
              runuser -u git -- ssh-keygen -q -N '' -t ed25519 -f /srv/git/host_key
              ssh-keygen -q -N '' -t ed25519 -f /root/key
              install -o git -m 600 /root/key.pub /srv/git/authorized_keys
              git config --system safe.directory '*'
              git init --quiet --initial-branch=main /root/wiki
              git -C /root/wiki -c user.name=a -c user.email=a@b commit --quiet --allow-empty -m first
              git -C /root/wiki config core.sshCommand 'ssh -p 2222 -i /root/key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null'
              git -C /root/wiki push --quiet /srv/git/wiki.git main
              chown -R git /srv/git",
    clients: &[
        Client {
            at: "127.0.0.1:3000",
            hears: b"HTTP/1.1 200",
            ..CLIENT
        },
        Client {
            over: Over::Run("git -C /root/wiki ls-remote --heads git@127.0.0.1:wiki.git 2>/dev/null | cut -f 2"),
            hears: b"refs/heads/main",
            ..CLIENT
        },
        Client {
            over: Over::Run("git ls-remote --heads http://127.0.0.1:3000/wiki | cut -f 2"),
            hears: b"refs/heads/main",
            ..CLIENT
        },
    ],
    long: true,
};

#[test]
fn a_push_over_ssh_is_not_cut() {
    require_sandbox!();
    let Some((sandbox, unit)) = boot(&FORGE) else {
        return;
    };
    // The server takes as long for what was pushed as the test says.
    let hook = "#!/bin/sh\ntouch /srv/git/pushed\nuntil [ -e /srv/git/go ]; do sleep 0.1; done\n";
    sandbox
        .write("/srv/git/wiki.git/hooks/pre-receive", hook)
        .unwrap();
    sandbox
        .run(&["chmod", "755", "/srv/git/wiki.git/hooks/pre-receive"])
        .unwrap();
    let push = "cd /root/wiki && git -c user.name=a -c user.email=a@b commit --quiet --allow-empty -m second && \
                git push git@127.0.0.1:wiki.git main >/run/push 2>&1";
    let push = sandbox.command("sh").args(["-c", push]).spawn();
    let mut push = push.unwrap();
    wait_for("it is pushed", SOON, || {
        sandbox.path("/srv/git/pushed").exists().then_some(())
    })
    .unwrap();
    stays(&sandbox, &unit, "active", Duration::from_secs(3));
    let refused = sandbox.run(&["ondemand", "stop", "forge"]).unwrap_err();
    assert!(format!("{refused:#}").contains("connection"), "{refused:#}");
    sandbox.write("/srv/git/go", "").unwrap();
    let said = || fs::read_to_string(sandbox.path("/run/push")).unwrap();
    assert!(push.wait().unwrap().success(), "{}", said());
    let log = [
        "git",
        "-C",
        "/srv/git/wiki.git",
        "log",
        "--format=%s",
        "main",
    ];
    assert_eq!(sandbox.run(&log).unwrap(), "second\nfirst\n");
    wait_state(&sandbox, &unit, "inactive").unwrap();
}

#[test]
fn each_recipe_is_tried() {
    let text = fs::read_to_string(source_tree().join("docs/recipes.md")).unwrap();
    let headings: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .collect();
    let tried: Vec<&str> = RECIPES.iter().map(|recipe| recipe.heading).collect();
    assert_eq!(headings, tried);
    for heading in headings {
        assert!(
            texts(&section(heading))
                .iter()
                .any(|(language, _)| language == "toml")
        );
    }
}
