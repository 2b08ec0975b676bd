//! Real stores have the same to say as the fake one of the other tests.

use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::Value;
use tests::{prometheus, require, require_long};

use crate::{
    fake::{self, Fake, Faults},
    fleet,
    hosts::{BEGIN, DAY, HOUR, Host, MINUTE, NOW},
    json_of, named, run,
};

const UNTIL: i64 = BEGIN + DAY;

/// A day, in which one is booted.
fn day() -> Vec<Host> {
    let mut hosts = fleet();
    hosts[1].boots.push(BEGIN + 12 * HOUR + 30 * MINUTE);
    hosts.iter_mut().for_each(|host| host.interval = 2 * MINUTE);
    hosts
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// A server with its log in this directory. It dies with the test.
fn start(program: &str, arguments: &[String], directory: &Path) -> Killed {
    let log = fs::File::create(directory.join("log")).unwrap();
    let server = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--"])
        .arg(prometheus::program(program).unwrap())
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn();
    Killed(server.unwrap())
}

/// Its report of that day is that of the fake one.
fn equals_the_fake(address: SocketAddr) {
    let url = format!("http://{address}");
    let period = [
        "--since",
        &format!("@{}", BEGIN / 1000),
        "--until",
        &format!("@{}", UNTIL / 1000),
    ];
    let mut last = None;
    let real = tests::wait_for("the store answers", tests::service::SOON, || {
        let output = run(&url, &[&period[..], &["--json"]].concat());
        let is_there = output.status.success();
        last = Some(output);
        is_there.then_some(())
    });
    let last = last.unwrap();
    real.unwrap_or_else(|error| panic!("{error:#}: {last:?}"));
    let real: Value = serde_json::from_slice(&last.stdout).unwrap();
    let fake = Fake::start(day(), NOW, Faults::default());
    let mut faked = json_of(&fake.url(), &period);
    faked["file"] = real["file"].clone();
    assert_eq!(real["total"], faked["total"]);
    assert_eq!(real["hosts"], faked["hosts"]);
    assert_eq!(real, faked);
    assert_eq!(named(&real, "hosts", "web2:9464")["connections"], 24);
}

#[test]
fn a_real_prometheus_says_the_same() {
    require!(prometheus::unavailable());
    let directory = tempfile::tempdir().unwrap();
    let text = directory.path().join("metrics");
    fs::write(&text, fake::open_metrics(&day(), BEGIN, UNTIL)).unwrap();
    let data = directory.path().join("data");
    let made = Command::new(prometheus::program("promtool").unwrap())
        .args(["tsdb", "create-blocks-from", "openmetrics", "--quiet"])
        .args([&text, &data])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let address = free_address();
    let config = directory.path().join("prometheus.yml");
    fs::write(&config, "").unwrap();
    let arguments = [
        format!("--config.file={}", config.display()),
        format!("--storage.tsdb.path={}", data.display()),
        "--storage.tsdb.retention.time=100y".to_owned(),
        format!("--web.listen-address={address}"),
    ];
    let _server = start("prometheus", &arguments, directory.path());
    equals_the_fake(address);
}

/// Sends it, and returns the status line and the rest.
fn send(address: SocketAddr, method: &str, path: &str, body: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    let head = format!(
        "{method} {path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// Debian 12 has it; of Thanos and Mimir there are no packages.
#[test]
fn a_real_victoria_metrics_says_the_same() {
    require_long!("a store of which only Debian has a package");
    require!(
        prometheus::program("victoria-metrics")
            .err()
            .map(|error| error.to_string())
    );
    let directory = tempfile::tempdir().unwrap();
    let address = free_address();
    let arguments = [
        format!(
            "-storageDataPath={}",
            directory.path().join("data").display()
        ),
        "-retentionPeriod=100y".to_owned(),
        format!("-httpListenAddr={address}"),
    ];
    let _server = start("victoria-metrics", &arguments, directory.path());
    // It takes milliseconds.
    let mut text = String::new();
    for line in fake::open_metrics(&day(), BEGIN, UNTIL).lines() {
        let Some((sample, at)) = line.rsplit_once(' ').filter(|_| line != "# EOF") else {
            continue;
        };
        let millis = at.parse::<f64>().unwrap() * 1e3;
        writeln!(text, "{sample} {millis}").unwrap();
    }
    tests::wait_for("it takes the samples", tests::service::SOON, || {
        let answer = send(address, "POST", "/api/v1/import/prometheus", &text)?;
        answer.contains(" 204 ").then_some(())
    })
    .unwrap();
    let flushed = send(address, "GET", "/internal/force_flush", "").unwrap();
    assert!(flushed.contains(" 200 "), "{flushed}");
    equals_the_fake(address);
}
