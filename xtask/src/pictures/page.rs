//! The picture of the live page: a home server of some services, of which some are used, and one cannot start.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result};
use tests::{
    browser,
    client::{self, Request},
    http,
    sandbox::{Cgroups, Sandbox},
    service, wait_for,
};

/// For what should happen soon.
const SOON: Duration = Duration::from_secs(60);
/// Name, port, MB of memory, and whether a client stays.
const SERVICES: [(&str, u16, u32, bool); 8] = [
    ("forge", 3000, 70, true),
    ("grafana", 3001, 40, false),
    ("jellyfin", 8096, 110, true),
    ("llm", 11_434, 300, false),
    ("mail-archive", 8025, 30, false),
    ("minecraft", 25_565, 150, false),
    ("paperless", 8010, 0, false),
    ("wiki", 8000, 20, false),
];
/// An application of this memory at this port.
const APPLICATION: &str = "#!/usr/bin/python3
import http.server, sys
memory = b'x' * (int(sys.argv[2]) << 20)
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_POST(self):
        self.rfile.read(int(self.headers.get('Content-Length', 0)))
        self.send_response(200)
        self.send_header('Content-Length', '0')
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(('', int(sys.argv[1])), Handler).serve_forever()
";

/// Makes the picture.
///
/// # Errors
///
/// A step fails.
pub fn shoot(directory: &Path) -> Result<()> {
    let sandbox = Sandbox::boot_with(Cgroups::Accounted)?;
    sandbox.run(&["hostname", "home"])?;
    service::prepare(&sandbox)?;
    let program = "/usr/local/bin/application";
    sandbox.write(program, APPLICATION)?;
    sandbox.run(&["chmod", "755", program])?;
    let mut config = "[agent]\nmetrics = \"127.0.0.1:9464\"\n\n".to_owned();
    for (name, port, megabytes, stays) in SERVICES {
        let start = match megabytes {
            0 => "/bin/false".to_owned(),
            _ => format!("{program} {port} {megabytes}"),
        };
        sandbox.write(
            &format!("/etc/systemd/system/{name}.service"),
            format!("[Unit]\nDescription={name}\n[Service]\nExecStart={start}\n"),
        )?;
        let idle = if stays || name == "wiki" {
            "10min"
        } else {
            "3s"
        };
        config += &format!(
            "[service.{name}]\nlisten = [\"0.0.0.0:{port}\"]\nunit = \"{name}.service\"\nidle_timeout = \
             \"{idle}\"\nmin_uptime = \"0s\"\nstart_timeout = \"10s\"\n\n"
        );
    }
    sandbox.write("/etc/ondemand/ondemand.toml", config)?;
    service::reload(&sandbox, &SERVICES.map(|(name, ..)| name))?;
    service::start_agent(&sandbox)?;
    // Who stays connected.
    let mut kept = Vec::new();
    for (_, port, megabytes, stays) in SERVICES {
        let address = ([127, 0, 0, 1], port).into();
        let asked = sandbox.in_network(|| client::get(address, Request::default()))?;
        anyhow::ensure!(asked.is_ok() == (megabytes > 0), "port {port}: {asked:?}");
        if stays {
            kept.push(sandbox.in_network(|| client::connect(address))?.ok());
        }
    }
    for (name, _, megabytes, stays) in SERVICES {
        if megabytes > 0 && !stays && name != "wiki" {
            service::wait_state(&sandbox, &format!("{name}.service"), "inactive")?;
        }
    }
    wait_for("the plots are there", SOON, || {
        let week = http::get(&sandbox, tests::metrics::address(), "/week.json", "").ok()?;
        (week.status == 200).then_some(())
    })
    .context("the page")?;
    let picture = directory.join("page.png");
    let url = format!("http://{}/", tests::metrics::address());
    sandbox.in_network(|| browser::shoot_address(&url, (1000, 860), &picture))??;
    drop(kept);
    Ok(())
}
