//! The texts of docs/recipes.md, with the real programs.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Command,
};

use tests::{
    client, require_long,
    sandbox::Sandbox,
    service::{self, SOON},
    skip, source_tree, wait_for,
};

use crate::{require_sandbox, steering::parse};

/// A recipe, and a client of it.
struct Recipe {
    heading: &'static str,
    programs: &'static [&'static str],
    /// Of the packages' own, copied into the sandbox.
    files: &'static [&'static str],
    /// Run as root before it starts.
    prepare: &'static str,
    at: &'static str,
    says: &'static [u8],
    /// How its answer begins.
    hears: &'static str,
}

const GET: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

const RECIPES: [Recipe; 9] = [
    Recipe {
        heading: "nginx",
        programs: &["nginx"],
        files: &["/etc/nginx"],
        prepare: "mkdir -p /var/log/nginx /var/lib/nginx",
        at: "127.0.0.1:80",
        says: GET,
        hears: "HTTP/1.1 ",
    },
    Recipe {
        heading: "Redis",
        programs: &["redis-server"],
        files: &["/etc/redis"],
        prepare: "mkdir -p /var/lib/redis /var/log/redis && chown redis:redis /var/lib/redis /var/log/redis && \
                  chown -R redis:redis /etc/redis",
        at: "127.0.0.1:6379",
        says: b"PING\r\n",
        hears: "+PONG",
    },
    Recipe {
        heading: "PostgreSQL",
        programs: &["/usr/lib/postgresql/15/bin/postgres", "setpriv"],
        files: &[],
        // In place of Debian's unit, whose scripts want all of /etc/postgresql.
        prepare: "mkdir -p /var/lib/postgresql && chown postgres:postgres /var/lib/postgresql && \
                  setpriv --reuid postgres --regid postgres --clear-groups \
                  /usr/lib/postgresql/15/bin/initdb -D /var/lib/postgresql/main >/dev/null && printf '[Service]\\nType=notify\\n\
                  User=postgres\\nRuntimeDirectory=postgresql\\nExecStart=/usr/lib/postgresql/15/bin/postgres -D /var/lib/postgresql/main \
                  -h 127.0.0.1 -k /run/postgresql\\n' >/etc/systemd/system/postgresql@15-main.service",
        at: "127.0.0.1:5432",
        // SSLRequest (PostgreSQL's protocol, 55.2.10): answered by one letter.
        says: &[0, 0, 0, 8, 4, 210, 22, 47],
        hears: "N",
    },
    Recipe {
        heading: "sshd",
        programs: &["sshd", "ssh-keygen"],
        files: &["/etc/ssh/sshd_config"],
        prepare: "mkdir -p /run/sshd && rm -f /etc/ssh/ssh_host_* && ssh-keygen -A >/dev/null",
        at: "127.0.0.1:22",
        // It speaks first.
        says: b"",
        hears: "SSH-2.0-",
    },
    Recipe {
        heading: "Python",
        programs: &["/usr/bin/python3"],
        files: &[],
        prepare: "true",
        at: "127.0.0.1:8000",
        says: GET,
        hears: "HTTP/1.0 200",
    },
    Recipe {
        heading: "Node",
        programs: &["/usr/bin/node"],
        files: &[],
        prepare: "true",
        at: "127.0.0.1:8001",
        says: GET,
        hears: "HTTP/1.1 200",
    },
    Recipe {
        heading: "A server of a language model",
        programs: &[],
        files: &[],
        // It answers 503 for two seconds.
        prepare: "printf '#!/bin/sh\\nexec /usr/bin/test-backend --listen 127.0.0.1:8080 --unready 503 --unready-ms 2000\\n' \
                  >/usr/bin/llama-server && chmod 755 /usr/bin/llama-server",
        at: "127.0.0.1:8080",
        says: b"GET /?bytes=100000 HTTP/1.1\r\nConnection: close\r\n\r\n",
        hears: "HTTP/1.1 200",
    },
    Recipe {
        heading: "One card for several models",
        programs: &[],
        files: &[],
        prepare: "printf '#!/bin/sh\\nexec /usr/bin/test-backend --listen $2:$4 --unready 503 --unready-ms 1000\\n' \
                  >/usr/bin/llama-server && chmod 755 /usr/bin/llama-server",
        at: "127.0.0.1:8082",
        says: b"GET /?bytes=100000 HTTP/1.1\r\nConnection: close\r\n\r\n",
        hears: "HTTP/1.1 200",
    },
    Recipe {
        heading: "A small home server",
        programs: &["/usr/bin/python3"],
        files: &[],
        prepare: "true",
        at: "127.0.0.1:8003",
        says: GET,
        hears: "HTTP/1.0 200",
    },
];

/// The section below a heading.
fn section(heading: &str) -> String {
    let text = fs::read_to_string(source_tree().join("docs/recipes.md")).unwrap();
    let begin = format!("\n## {heading}\n");
    let (_, rest) = text.split_once(&begin).expect("a recipe");
    rest.split("\n## ").next().unwrap_or(rest).to_owned()
}

/// The fenced texts of a section: of which language, and the text.
fn texts(section: &str) -> Vec<(String, String)> {
    let fenced = section.split("```").skip(1).step_by(2);
    let texts = fenced.map(|text| {
        let (language, text) = text.split_once('\n').unwrap();
        (language.to_owned(), text.to_owned())
    });
    texts.collect()
}

fn install(sandbox: &Sandbox, recipe: &Recipe) -> String {
    for file in recipe.files {
        let to = sandbox.path(file);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        let copied = Command::new("cp").arg("-a").arg(file).arg(&to).status();
        assert!(copied.unwrap().success(), "{file}");
    }
    sandbox.run(&["sh", "-ec", recipe.prepare]).unwrap();
    let mut config = String::new();
    for (language, text) in texts(&section(recipe.heading)) {
        if language == "toml" {
            let lines = text
                .lines()
                .filter(|line| !line.starts_with("idle_timeout"));
            config = lines.collect::<Vec<_>>().join("\n");
            continue;
        }
        let path = text
            .lines()
            .next()
            .unwrap()
            .trim_start_matches(['#', '/', ' ']);
        sandbox.write(&format!("/{path}"), &text).unwrap();
    }
    // Of the last service, which is asked.
    config += "\nidle_timeout = \"1s\"\nmin_uptime = \"0s\"\n";
    // Where there is a table of the agent's, it goes on.
    let config = config.trim_start_matches("[agent]\n");
    service::write_config(sandbox, config).unwrap();
    let words = |begin: &str, end: char| {
        let rests = config.split(begin).skip(1);
        let words = rests.map(|rest| rest.split(end).next().unwrap_or(rest));
        words.collect::<Vec<_>>()
    };
    service::reload(sandbox, &words("[service.", ']')).unwrap();
    service::start_agent(sandbox).unwrap();
    let units = words("unit = \"", '"');
    (*units.last().expect("a unit")).to_owned()
}

fn hear(sandbox: &Sandbox, recipe: &Recipe) -> String {
    sandbox
        .in_network(|| {
            let mut stream = TcpStream::connect(parse(recipe.at)).unwrap();
            stream.set_read_timeout(Some(client::patience())).unwrap();
            stream.write_all(recipe.says).unwrap();
            let mut bytes = [0; 64];
            match stream.read(&mut bytes) {
                Ok(read) => String::from_utf8_lossy(&bytes[..read]).into_owned(),
                Err(error) => error.to_string(),
            }
        })
        .unwrap()
}

#[test]
fn the_recipes_work_with_the_real_programs() {
    require_long!("starts nine applications");
    require_sandbox!();
    for recipe in &RECIPES {
        let heading = recipe.heading;
        if let Some(missing) = skip::missing(recipe.programs) {
            // Which of them are installed is not for the tests to say.
            skip::say(format!("{heading}: {missing}"));
            continue;
        }
        let sandbox = service::installed().unwrap();
        let unit = install(&sandbox, recipe);
        for round in 0..3 {
            let heard = hear(&sandbox, recipe);
            assert!(
                heard.starts_with(recipe.hears),
                "{heading}, {round}: {heard:?}\n{}",
                sandbox.journal(&unit)
            );
            wait_for(&format!("{heading} has stopped"), 2 * SOON, || {
                let state = sandbox.property(&unit, "ActiveState").ok()?;
                assert_ne!(state, "failed", "{heading}: {}", sandbox.journal(&unit));
                let shown = sandbox.run(&["ondemand", "status"]).unwrap();
                if shown.contains("as long as its memory fits") {
                    let name = unit.trim_end_matches(".service");
                    // Somebody may use it still.
                    let _ = sandbox.run(&["ondemand", "stop", name]);
                }
                (state == "inactive").then_some(())
            })
            .unwrap_or_else(|error| {
                panic!(
                    "{error:#}\n{}",
                    sandbox.run(&["ondemand", "status"]).unwrap()
                );
            });
        }
        let check = sandbox
            .run(&["sh", "-c", "ondemand check || true"])
            .unwrap();
        assert!(!check.contains("\n  error"), "{heading}: {check}");
    }
}

#[test]
fn each_recipe_is_tried() {
    let text = fs::read_to_string(source_tree().join("docs/recipes.md")).unwrap();
    let headings: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .collect();
    assert_eq!(headings, RECIPES.map(|recipe| recipe.heading));
    for heading in headings {
        assert!(
            texts(&section(heading))
                .iter()
                .any(|(language, _)| language == "toml")
        );
    }
}
