//! How a recipe is tried: its texts in a sandbox, and a client for each start.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    process::Command,
};

use tests::{
    client,
    sandbox::Sandbox,
    service::{self, SOON},
    skip, source_tree, wait_for,
};

use crate::{
    recipes::{Client, Over, Recipe},
    require_sandbox,
    steering::parse,
};

/// The section below a heading.
pub fn section(heading: &str) -> String {
    let text = fs::read_to_string(source_tree().join("docs/recipes.md")).unwrap();
    let begin = format!("\n## {heading}\n");
    let (_, rest) = text.split_once(&begin).expect("a recipe");
    rest.split("\n## ").next().unwrap_or(rest).to_owned()
}

/// The fenced texts of a section: of which language, and the text.
pub fn texts(section: &str) -> Vec<(String, String)> {
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

/// What a client hears, or what was wrong.
fn hear(sandbox: &Sandbox, client: &Client) -> Vec<u8> {
    if let Over::Run(command) = client.over {
        let output = sandbox.run(&["sh", "-c", command]);
        return output
            .unwrap_or_else(|error| format!("{error:#}"))
            .into_bytes();
    }
    let to = parse(client.at);
    let heard = sandbox.in_network(|| match client.over {
        Over::Udp => ask_by_datagram(to, client.says),
        Over::Tcp | Over::Run(_) => ask(to, client),
    });
    heard
        .unwrap()
        .unwrap_or_else(|error| error.to_string().into_bytes())
}

fn ask(to: SocketAddr, client: &Client) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(client::patience()))?;
    stream.write_all(client.says)?;
    let (mut heard, mut bytes) = (Vec::new(), [0; 4096]);
    while heard.len() < client.length.max(client.hears.len()) {
        match stream.read(&mut bytes)? {
            0 => break,
            read => heard.extend_from_slice(&bytes[..read]),
        }
    }
    Ok(heard)
}

/// As a client of such a protocol: it says it again until there is an answer.
fn ask_by_datagram(to: SocketAddr, says: &[u8]) -> std::io::Result<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(client::patience()))?;
    socket.send(says)?;
    let mut bytes = [0; 512];
    let read = socket.recv(&mut bytes)?;
    Ok(bytes[..read].to_vec())
}

/// A sandbox with the recipe, if its programs are there.
pub fn boot(recipe: &Recipe) -> Option<(Sandbox, String)> {
    if let Some(missing) = skip::missing(recipe.programs) {
        skip::part(missing);
        return None;
    }
    let sandbox = service::installed().unwrap();
    let unit = install(&sandbox, recipe);
    Some((sandbox, unit))
}

pub fn try_out(recipe: &Recipe) {
    if recipe.long && skip::is_left_out("its program is large, or slow") {
        return;
    }
    require_sandbox!();
    let Some((sandbox, unit)) = boot(recipe) else {
        return;
    };
    let heading = recipe.heading;
    let rounds = if skip::is_long() { 3 } else { 1 };
    for (round, client) in
        (0..rounds).flat_map(|round| recipe.clients.iter().map(move |it| (round, it)))
    {
        let heard = hear(&sandbox, client);
        assert!(
            heard.starts_with(client.hears) && heard.len() >= client.length,
            "{heading}, {round}: {:?}\n{}",
            String::from_utf8_lossy(&heard),
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
