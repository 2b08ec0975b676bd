//! The real server and the real load: nginx and wrk, in the private systemd.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sched::{CpuSet, sched_getaffinity},
    unistd::Pid,
};
use tests::{sandbox::Sandbox, service};

/// Address of the front socket whose clients are steered.
pub const STEERED: &str = "127.0.0.1:8000";
/// Address of the front socket whose clients are proxied.
pub const PROXIED: &str = "127.0.0.1:8001";
/// Address of the server behind [`STEERED`].
pub const DIRECT: &str = "127.0.0.1:8080";
/// Address that a server keeps, where its clients arrive.
pub const OWN: &str = "127.0.0.1:8004";
/// Address of a server that ondemand does not know.
pub const UNWATCHED: &str = "127.0.0.1:8090";
/// Address of another, behind the peers.
pub const BEHIND_PEERS: &str = "127.0.0.1:8091";
/// Bytes of the file for downloads.
pub const FILE_BYTES: u64 = 256 << 20;

/// Other load on the machine shall matter less: client, server and proxy go first, as
/// sched(7) describes it. It makes the rates several times higher and the 99th percentile of
/// the latency a fiftieth where compilers run at the same time.
pub const FIRST: &str = "CPUSchedulingPolicy=rr\nCPUSchedulingPriority=1\n";

const SERVICES: &str = r#"
[service.steered]
listen = ["127.0.0.1:8000"]
backend = "127.0.0.1:8080"
unit = "steered-nginx.service"
idle_timeout = "1h"
steer = true

[service.proxied]
listen = ["127.0.0.1:8001"]
backend = "127.0.0.1:8081"
unit = "proxied-nginx.service"
idle_timeout = "1h"
steer = false

[service.own]
listen = ["127.0.0.1:8004"]
unit = "own-nginx.service"
idle_timeout = "1h"
"#;

/// The servers' names: each has its unit.
pub const SERVERS: [&str; 5] = ["steered", "proxied", "own", "unwatched", "peers"];

/// Makes wrk print its figures as JSON: latencies in microseconds, time in seconds.
const SCRIPT: &str = r#"
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\n{"seconds":%.6f,"requests":%d,"bytes":%d,"p50":%.1f,"p99":%.1f,"errors":%d}\n',
    summary.duration / 1e6, summary.requests, summary.bytes,
    latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"#;

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Requests on connections that stay open, several at a time.
    KeepAlive,
    /// A connection for each request, several at a time.
    Connections,
    /// One request after another on one connection.
    OneByOne,
    /// One client downloads a large file again and again.
    Bulk,
}

/// The result of one second of load.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// How long it really took.
    pub seconds: f64,
    /// Requests answered.
    pub requests: f64,
    /// Bytes received by clients.
    pub bytes: f64,
    /// Half of the requests took less, in microseconds.
    pub p50: f64,
    /// 99 of 100 requests took less, in microseconds.
    pub p99: f64,
}

/// One request.
fn ask_once(address: &str) -> std::io::Result<usize> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(service::SOON))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    stream.read_to_end(&mut Vec::new())
}

/// Sets up three services, one steered, one proxied and one that keeps its address, each with an nginx of its own, and two
/// more of these.
///
/// # Errors
///
/// Something is not installed, was not built, or does not start.
pub fn set_up(ondemand: &Path) -> Result<Sandbox> {
    let sandbox = Sandbox::boot()?;
    sandbox.install_ondemand(ondemand)?;
    // Behind a proxy it shares the cores with that.
    let (server, _) = cores()?;
    let stays = format!("CPUAffinity={server}\n");
    for (unit, listen, stays) in [
        ("steered", "8080", stays.as_str()),
        ("proxied", "8081", ""),
        ("own", "8004", stays.as_str()),
        ("unwatched", "8090", stays.as_str()),
        ("peers", "8091", ""),
    ] {
        let listen: String = listen
            .split(' ')
            .map(|port| format!("listen 127.0.0.1:{port} backlog=4096; "))
            .collect();
        let file = format!("/etc/bench/{unit}.conf");
        sandbox.write(&file, nginx_configuration(unit, &listen))?;
        sandbox.write(
            &format!("/etc/systemd/system/{unit}-nginx.service"),
            format!(
                "[Service]\n{stays}ExecStart=/usr/sbin/nginx -e stderr -c {file}\n{FIRST}\
                 LimitNOFILE=65536\n"
            ),
        )?;
        sandbox.write(
            &format!("/etc/systemd/system/ondemand-{unit}.service.d/first.conf"),
            format!("[Service]\n{FIRST}"),
        )?;
    }
    sandbox.write("/etc/bench/wrk.lua", SCRIPT)?;
    sandbox.write("/srv/large", vec![0x5a; FILE_BYTES as usize])?;
    service::write_config(&sandbox, SERVICES)?;
    service::reload(&sandbox, &["steered", "proxied", "own"])?;
    for server in SERVERS {
        sandbox.run(&["systemctl", "start", &format!("{server}-nginx.service")])?;
    }
    Ok(sandbox)
}

/// As in nginx's manual, with one worker: the load comes from the other core.
fn nginx_configuration(unit: &str, listen: &str) -> String {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("  {kind}_temp_path /run/{unit}-{kind};\n"))
        .collect();
    format!(
        "daemon off;\npid /run/{unit}-nginx.pid;\nworker_processes 1;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n{temporary}  access_log off;\n  sendfile on;\n\
         \x20 keepalive_timeout 1h;\n  keepalive_requests 1000000000;\n\
         \x20 server {{\n    {listen}\n    root /srv;\n\
         \x20   location = / {{ return 200 \"it works\\n\"; }}\n  }}\n}}\n"
    )
}

/// Where the clients run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a cgroup of the sandbox: both ends of a connection are seen by the programs there,
    /// as on a host whose own processes are the clients.
    Inside,
    /// In the sandbox's network, but in a cgroup of this machine: the programs see the
    /// server's end only, as with clients on other hosts.
    Outside,
}

/// One second of load, or more.
///
/// # Errors
///
/// wrk fails, or a request was lost.
pub fn run(
    sandbox: &Sandbox,
    place: Place,
    load: Load,
    address: &str,
    seconds: u32,
) -> Result<Outcome> {
    let mut command = command(sandbox, place, load, address, seconds)?;
    let output = command.output().context("run wrk")?;
    parse(&output).with_context(|| format!("{load:?} at {address}"))
}

/// The command for [`run`].
///
/// # Errors
///
/// The usable cores are unknown.
pub fn command(
    sandbox: &Sandbox,
    place: Place,
    load: Load,
    address: &str,
    seconds: u32,
) -> Result<Command> {
    let (first, last) = cores()?;
    let cores = match address {
        STEERED | DIRECT | UNWATCHED | OWN => last.to_string(),
        _ => format!("{first}-{last}"),
    };
    let mut command = match place {
        Place::Inside => sandbox.command("chrt"),
        Place::Outside => {
            let mut command = Command::new("nsenter");
            let init = sandbox.init().to_string();
            // Another mount namespace would do no harm, but the script is in this one.
            command.args(["--net", "--mount", "--target", &init, "chrt"]);
            command
        }
    };
    let (connections, close, path) = match load {
        Load::KeepAlive => ("16", false, "/"),
        Load::Connections => ("16", true, "/"),
        Load::OneByOne => ("1", false, "/"),
        Load::Bulk => ("1", false, "/large"),
    };
    command
        .args(["--rr", "1", "taskset", "--cpu-list", &cores])
        .args(["wrk", "--threads", "1", "--timeout", "10s"])
        .args(["--script", "/etc/bench/wrk.lua"])
        .args(["--connections", connections])
        .args(["--duration", &format!("{seconds}s")])
        .args(
            close
                .then_some(["--header", "Connection: close"])
                .iter()
                .flatten(),
        )
        .arg(format!("http://{address}{path}"))
        .stdin(Stdio::null());
    Ok(command)
}

/// The first and the last core that may be used. With one core for the client and one for the server
/// they do not move about, which is what makes one second differ from the next.
///
/// # Errors
///
/// sched_getaffinity(2) fails.
fn cores() -> Result<(usize, usize)> {
    let cores = sched_getaffinity(Pid::from_raw(0)).context("query the usable cores")?;
    let mut usable = (0..CpuSet::count()).filter(|core| cores.is_set(*core).unwrap_or(false));
    let first = usable.next().context("no core may be used")?;
    Ok((first, usable.next_back().unwrap_or(first)))
}

/// What wrk found.
///
/// # Errors
///
/// It failed, or a request was lost.
pub fn parse(output: &std::process::Output) -> Result<Outcome> {
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "wrk failed: {text}{error}");
    let line = text.lines().rfind(|line| line.starts_with('{'));
    let value: serde_json::Value = line
        .and_then(|line| serde_json::from_str(line).ok())
        .with_context(|| format!("output of wrk: {text}{error}"))?;
    let number = |key: &str| {
        value[key]
            .as_f64()
            .with_context(|| format!("{key} in {value}"))
    };
    ensure!(number("errors")? == 0.0, "requests were lost: {value}");
    Ok(Outcome {
        seconds: number("seconds")?,
        requests: number("requests")?,
        bytes: number("bytes")?,
        p50: number("p50")?,
        p99: number("p99")?,
    })
}

/// What of ondemand is attached in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// Nothing: as if it had never been there.
    Nothing,
    /// Connections are steered, and not counted.
    Steering,
    /// Everything.
    All,
}

/// Attaches and detaches, and waits until it is so.
///
/// # Errors
///
/// The agent does not start, or something stays attached.
pub fn attach(sandbox: &Sandbox, wanted: Attached) -> Result<()> {
    match wanted {
        Attached::Nothing => {
            sandbox.run(&["systemctl", "stop", "ondemand.service"])?;
            sandbox.run(&["rm", "-rf", "/sys/fs/bpf/ondemand"])?;
        }
        Attached::All | Attached::Steering => {
            // A restart attaches what is missing, and takes over the rest.
            sandbox.run(&["systemctl", "restart", "ondemand.service"])?;
            // The usual case: an application that has listened since the programs were there. The connections
            // of an older listener get their keep-alive one by one, which costs each some 0.6 µs.
            let servers = ["steered-nginx", "proxied-nginx", "own-nginx"];
            sandbox.run(&[&["systemctl", "restart"], &servers[..]].concat())?;
            for (name, address, route) in [("steered", STEERED, "steered"), ("own", OWN, "native")]
            {
                tests::wait_for("clients reach the server itself", service::SOON, || {
                    // Nobody does before a connection of the run was accepted.
                    sandbox.in_network(|| ask_once(address)).ok()?.ok()?;
                    let status = service::status(sandbox, name).ok()?;
                    (status["route"] == route).then_some(())
                })
                .with_context(|| sandbox.journal("ondemand.service"))?;
            }
        }
    }
    if wanted == Attached::Steering {
        // The agent holds the links, and would attach what is missing.
        sandbox.run(&["systemctl", "stop", "ondemand.service"])?;
        sandbox.run(&["rm", pin("connections").to_string_lossy().as_ref()])?;
    }
    let expected = u32::from(wanted == Attached::All);
    let cgroup = cgroup(sandbox)?;
    tests::wait_for("the programs are attached as wanted", service::SOON, || {
        let here = crate::bpf::attached(&cgroup, crate::bpf::Hook::SockOps).ok()?;
        (here == expected).then_some(())
    })
}

/// The root of the sandbox's cgroups.
///
/// # Errors
///
/// It cannot be opened.
pub fn cgroup(sandbox: &Sandbox) -> Result<File> {
    let path = sandbox.path("/sys/fs/cgroup");
    File::open(&path).with_context(|| format!("open {}", path.display()))
}

/// Where the agent pins the link of a program, inside.
pub fn pin(program: &str) -> PathBuf {
    let directory = format!("v{}", ondemand_ebpf::LAYOUT_VERSION);
    Path::new("/sys/fs/bpf/ondemand")
        .join(directory)
        .join(format!("link_{program}"))
}
