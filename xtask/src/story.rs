//! `cargo xtask run`: the main story with a real application in a private systemd.

use std::{
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde_json::Value;
use tests::{
    built,
    client::{self, Answer, Request},
    datagrams, patience,
    process::field,
    sandbox::{Cgroups, Sandbox},
    service, source_tree, wait_for,
};

const ADDRESS: &str = "127.0.0.1:8000";
const DATAGRAMS: &str = "127.0.0.1:9000";
const UNIT: &str = "wiki.service";
const WARM_REQUESTS: u64 = 200;
/// For what should happen soon.
const SOON: Duration = Duration::from_secs(30);

/// The configuration of the example, with timeouts that one can wait for.
const CONFIG: &str = r#"[agent]
metrics = ""
history = ""

[service.wiki]
listen = ["0.0.0.0:8000", "[::]:8000"]
unit = "wiki.service"
first_client = "held"
idle_timeout = "3s"
min_uptime = "0s"
start_timeout = "30s"

[service.echo]
listen = "udp:0.0.0.0:9000"
unit = "echo.service"
idle_timeout = "3s"
min_uptime = "0s"
"#;

/// Answers each datagram with the same bytes.
const ECHO: &str = "\
import socket
own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
own.bind(('0.0.0.0', 9000))
while True:
    own.sendto(*own.recvfrom(65536))
";

/// A slow machine takes longer for the steps in between.
fn idle_timeout() -> Duration {
    Duration::from_secs(3) * patience().min(10)
}

/// Lines with the time since the beginning in front.
struct Timeline {
    start: Instant,
}

impl Timeline {
    fn say(&self, mark: char, text: &str) {
        println!(
            "[{:7.3} s] {mark} {text}",
            self.start.elapsed().as_secs_f64()
        );
    }

    /// A step that was seen.
    fn seen(&self, text: &str) {
        self.say('✓', text);
    }
}

/// Runs the story; `keep` leaves the sandbox running.
///
/// # Errors
///
/// A step was not seen; what was expected, what was seen and the journal are in the message.
pub fn tell(keep: bool) -> Result<()> {
    let timeline = Timeline {
        start: Instant::now(),
    };
    let cgroups = Cgroups::Accounted;
    let sandbox = if keep {
        Sandbox::boot_kept(cgroups)
    } else {
        Sandbox::boot_with(cgroups)
    }?;
    timeline.seen(&format!("a private systemd is up ({})", version(&sandbox)));
    let told = steps(&timeline, &sandbox).with_context(|| {
        format!(
            "the story went wrong; the last words of the journal:\n{}\n",
            sandbox
                .run(&[
                    "journalctl",
                    "--no-pager",
                    "--lines=30",
                    "--output=short-monotonic"
                ])
                .unwrap_or_default()
        )
    });
    if keep {
        let inside = format!("nsenter --all --target {} --", sandbox.init());
        println!("\nThe sandbox keeps running. From another terminal:");
        println!("  request a page         {inside} curl -si http://{ADDRESS}/");
        println!("  what the agent knows   {inside} ondemand status");
        println!("  what it did            {inside} journalctl -fu ondemand");
        println!("  look around            {inside} bash");
        println!("  end it                 {}", sandbox.end_command());
    }
    told
}

fn version(sandbox: &Sandbox) -> String {
    let text = sandbox.run(&["systemctl", "--version"]).unwrap_or_default();
    text.lines().next().unwrap_or("systemd").to_owned()
}

fn steps(timeline: &Timeline, sandbox: &Sandbox) -> Result<()> {
    install(timeline, sandbox)?;
    let state = sandbox.property(UNIT, "ActiveState")?;
    ensure!(
        state == "inactive",
        "{UNIT} should not run before its first client, and is {state}"
    );
    timeline.seen("the application does not run, and nobody listens on its port 8000");

    let (cold, peer) = seen_by(sandbox)?;
    let held = status(sandbox)?["held_clients"]["to_application"].as_u64();
    let way = match held {
        Some(1) => {
            format!("the kernel held its first packet until then; the application saw it at {peer}")
        }
        // Held for a second at most.
        _ => "by the proxy, since the start took long".to_owned(),
    };
    timeline.seen(&format!(
        "first request: the application was started for it and answered after {}",
        millis(cold.took),
    ));
    timeline.seen(&way);
    let mut answers = vec![cold];
    let mut warm = ask(sandbox, WARM_REQUESTS)?;
    // When the last one began: it was used after that.
    let last = warm.last().map_or(Duration::ZERO, |answer| answer.took);
    let quiet = Instant::now() - last;
    let mut times: Vec<Duration> = warm.iter().map(|answer| answer.took).collect();
    times.sort();
    timeline.seen(&format!(
        "{WARM_REQUESTS} more requests: median {}, slowest {}",
        millis(times[times.len() / 2]),
        millis(times[times.len() - 1]),
    ));
    answers.append(&mut warm);
    compare(timeline, sandbox, &answers)?;
    native(timeline, sandbox)?;

    let memory = memory(sandbox)?;
    timeline.say(
        '·',
        &format!("no more requests; the idle timeout is {:?}", idle_timeout()),
    );
    service::wait_state(sandbox, UNIT, "inactive")?;
    let after = quiet.elapsed();
    ensure!(
        after >= idle_timeout(),
        "stopped {after:?} after the last request, before its idle timeout of {:?}",
        idle_timeout()
    );
    let stops = status(sandbox)?["stops"].as_u64();
    ensure!(
        stops == Some(1),
        "the agent should have counted 1 stop, and counted {stops:?}"
    );
    timeline.seen(&format!(
        "stopped {:.1} s after the last request; {:.1} MiB given back",
        after.as_secs_f64(),
        memory as f64 / f64::from(1 << 20),
    ));

    let (again, peer) = seen_by(sandbox)?;
    let starts = status(sandbox)?["starts"].as_u64();
    ensure!(
        starts == Some(2),
        "the agent should have counted 2 starts, and counted {starts:?}"
    );
    timeline.seen(&format!(
        "one more request: started again, answered after {}, and saw its client at {peer}",
        millis(again.took)
    ));
    answers.push(again);
    compare(timeline, sandbox, &answers)?;
    datagram(timeline, sandbox)?;
    println!("\nThe agent's own words:");
    for line in sandbox.journal("ondemand.service").lines() {
        println!("  {line}");
    }
    Ok(())
}

/// A datagram starts its application, which answers the client itself.
fn datagram(timeline: &Timeline, sandbox: &Sandbox) -> Result<()> {
    let begin = Instant::now();
    sandbox.in_network(|| {
        let client = datagrams::Client::new(DATAGRAMS.parse().expect("an address"))?;
        client.ask(b"hello", SOON)
    })??;
    let took = begin.elapsed();
    let status = service::status(sandbox, "echo")?;
    ensure!(
        status["datagrams"]["held"] == 1 && status["starts"] == 1,
        "the datagram should have been held, and have started its application: {status}"
    );
    timeline.seen(&format!(
        "a datagram for another service: its application was started, got it from the client's own address, and answered \
         after {}",
        millis(took)
    ));
    Ok(())
}

/// The warm requests met the application's own socket.
fn native(timeline: &Timeline, sandbox: &Sandbox) -> Result<()> {
    let status = status(sandbox)?;
    let steered = status["steered"]["accepted"].as_u64().unwrap_or(0);
    ensure!(
        status["route"] == "native" && steered > 0,
        "connections should reach the application itself by now: {status}"
    );
    timeline.seen(&format!(
        "{steered} reached the application's own socket, untouched: nothing is in their path"
    ));
    Ok(())
}

/// One request, and the client's address, which the application must have seen unless the proxy carried it: with its
/// port, so the proxy's is another one.
fn seen_by(sandbox: &Sandbox) -> Result<(Answer, String)> {
    let address = address()?;
    let (answer, local) = sandbox.in_network(|| -> Result<_> {
        let begin = Instant::now();
        let mut stream = client::connect(address).map_err(|loss| anyhow!("{loss}"))?;
        let local = stream.local_addr()?;
        let mut answer =
            client::ask(&mut stream, Request::default()).map_err(|loss| anyhow!("{loss}"))?;
        // A client that is held waits for its connection.
        answer.took = begin.elapsed();
        Ok((answer, local))
    })??;
    let peer = answer.header("X-Peer").unwrap_or("nobody").to_owned();
    let front = status(sandbox)?["front"]["accepted"].as_u64();
    ensure!(
        peer == local.to_string() || front != Some(0),
        "the application should see its client at {local}, and saw {peer}"
    );
    Ok((answer, peer))
}

fn install(timeline: &Timeline, sandbox: &Sandbox) -> Result<()> {
    sandbox.install_ondemand(&built("ondemand")?)?;
    let examples = source_tree().join("units/examples");
    let unit = fs::read(examples.join(UNIT)).context("read the example's unit")?;
    sandbox.write(&format!("/etc/systemd/system/{UNIT}"), unit)?;
    sandbox.install(&examples.join("wiki.py"), "/usr/local/bin/wiki.py")?;
    let timeout = format!("start_timeout = \"{}s\"", 30 * patience());
    let idle = format!("idle_timeout = \"{}s\"", idle_timeout().as_secs());
    let config = CONFIG
        .replace("start_timeout = \"30s\"", &timeout)
        .replace("idle_timeout = \"3s\"", &idle);
    sandbox.write("/etc/ondemand/ondemand.toml", config)?;
    sandbox.write("/usr/local/bin/echo.py", ECHO)?;
    let echo = "[Service]\nExecStart=/usr/bin/python3 /usr/local/bin/echo.py\n";
    sandbox.write("/etc/systemd/system/echo.service", echo)?;
    service::reload(sandbox, &["wiki", "echo"])?;
    sandbox.run(&["systemctl", "enable", "--now", "ondemand.service"])?;
    timeline.seen("installed the program, its units and an example application; the agent runs");
    Ok(())
}

fn address() -> Result<SocketAddr> {
    ADDRESS.parse().context("the address")
}

fn ask(sandbox: &Sandbox, count: u64) -> Result<Vec<Answer>> {
    let address = address()?;
    let request = Request {
        download: 4096,
        ..Request::default()
    };
    let answers = sandbox.in_network(|| {
        (0..count)
            .map(|_| client::get(address, request))
            .collect::<Result<Vec<_>, _>>()
    })?;
    match answers {
        Ok(answers) => Ok(answers),
        Err(loss) => bail!("a request was lost: {loss}"),
    }
}

fn status(sandbox: &Sandbox) -> Result<Value> {
    service::status(sandbox, "wiki")
}

/// What the kernel counted, beside what the clients did.
fn compare(timeline: &Timeline, sandbox: &Sandbox, answers: &[Answer]) -> Result<()> {
    let status = wait_for("every connection is closed", SOON, || {
        let status = status(sandbox).ok()?;
        (status["open_connections"] == 0).then_some(status)
    })?;
    let rows = [
        ("connections", "accepted_connections", answers.len() as u64),
        (
            "bytes from clients",
            "received_bytes",
            answers.iter().map(|answer| answer.sent).sum(),
        ),
        (
            "bytes to clients",
            "sent_bytes",
            answers.iter().map(|answer| answer.received).sum(),
        ),
    ];
    timeline.seen("the kernel's counts equal what the clients did:");
    for (what, key, did) in rows {
        let counted = status[key]
            .as_u64()
            .with_context(|| format!("{key} in {status}"))?;
        println!("              {what:<20} kernel {counted:>9}   clients {did:>9}");
        ensure!(
            counted == did,
            "{what}: the kernel counted {counted}, the clients did {did}"
        );
    }
    Ok(())
}

/// Bytes that the application holds: what its cgroup is charged with, else what its process
/// has resident.
fn memory(sandbox: &Sandbox) -> Result<u64> {
    if let Ok(bytes) = sandbox.property(UNIT, "MemoryCurrent")?.parse::<u64>()
        && bytes < u64::MAX
    {
        return Ok(bytes);
    }
    let pid = sandbox.property(UNIT, "MainPID")?;
    let status = sandbox.run(&["cat", &format!("/proc/{pid}/status")])?;
    let kib: u64 = field(&status, "VmRSS")
        .and_then(|value| value.trim_end_matches("kB").trim().parse().ok())
        .with_context(|| format!("the memory of process {pid}"))?;
    Ok(kib * 1024)
}

fn millis(span: Duration) -> String {
    format!("{:.1} ms", span.as_secs_f64() * 1e3)
}
