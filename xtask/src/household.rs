//! `cargo xtask run --report`: three services with clients of different habits in a private systemd, and ondemand's report
//! of them.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tests::{
    client::{self, Random, Request},
    sandbox::{Cgroups, Sandbox},
    service, source_tree,
};

/// The duration of the clients.
pub const ACTIVITY: Duration = Duration::from_secs(25);

/// Name, options of its application, idle timeout, milliseconds between its clients.
const SERVICES: [(&str, &str, &str, u64); 3] = [
    ("llm", "--start-delay-ms 700", "2s", 4_000),
    ("preview", "--start-delay-ms 80", "1s", 1_800),
    ("wiki", "--start-delay-ms 150", "1500ms", 700),
];

/// The system with its services and the agent.
///
/// # Errors
///
/// A step failed.
pub fn set_up() -> Result<Sandbox> {
    let sandbox = Sandbox::boot_with(Cgroups::Accounted)?;
    service::prepare(&sandbox)?;
    let mut config = String::new();
    for (index, (name, options, idle, _)) in SERVICES.into_iter().enumerate() {
        let (front, back) = (8000 + index, 8080 + index);
        service::write_backend(
            &sandbox,
            &format!("{name}.service"),
            &format!("--listen 127.0.0.1:{back} {options}"),
        )?;
        config += &format!(
            "[service.{name}]\nlisten = [\"127.0.0.1:{front}\"]\n\
             backend = \"127.0.0.1:{back}\"\nunit = \"{name}.service\"\n\
             idle_timeout = \"{idle}\"\nmin_uptime = \"0s\"\n\n"
        );
    }
    sandbox.write("/etc/ondemand/ondemand.toml", config)?;
    service::reload(&sandbox, &SERVICES.map(|(name, ..)| name))?;
    service::start_agent(&sandbox)?;
    Ok(sandbox)
}

/// Clients of all services until `end`; returns the number of responses.
///
/// # Errors
///
/// A request was lost.
pub fn clients(sandbox: &Sandbox, end: Instant) -> Result<u32> {
    sandbox.in_network(|| {
        thread::scope(|scope| {
            let loads: Vec<_> = SERVICES
                .iter()
                .enumerate()
                .map(|(index, (.., gap))| {
                    scope.spawn(move || {
                        let address = ([127, 0, 0, 1], 8000 + index as u16).into();
                        let mut random = Random::new(index as u64 + 7);
                        let mut answered = 0;
                        while Instant::now() < end {
                            let request = Request {
                                download: 200_000,
                                ..Request::default()
                            };
                            client::get(address, request)
                                .map_err(|loss| anyhow::anyhow!("a request was lost: {loss}"))?;
                            answered += 1;
                            let pause = random.gap(Duration::from_millis(*gap));
                            thread::sleep(pause.min(end.saturating_duration_since(Instant::now())));
                        }
                        anyhow::Ok(answered)
                    })
                })
                .collect();
            let mut all = 0;
            for load in loads {
                all += load
                    .join()
                    .map_err(|_| anyhow::anyhow!("a client panicked"))??;
            }
            Ok(all)
        })
    })?
}

/// Real activity, and the report of it; also as a page, in `target/report.html`.
///
/// # Errors
///
/// A request was lost, or the report does not show what happened.
pub fn report() -> Result<()> {
    println!("boots a private systemd with three services: llm, preview, wiki");
    let sandbox = set_up()?;
    println!("running clients for {} s, with pauses", ACTIVITY.as_secs());
    let answered = clients(&sandbox, Instant::now() + ACTIVITY)?;
    println!("{answered} requests were answered, none was lost; waits until all is quiet\n");
    for (name, ..) in SERVICES {
        service::wait_state(&sandbox, &format!("{name}.service"), "inactive")?;
    }
    let words = [
        "ondemand",
        "report",
        "--price-per-gib-hour",
        "0.005",
        "--cold-start-cost",
        "2s",
        "--timeouts",
        "1s,2s,3s,5s,10s,30s",
    ];
    print!("{}", sandbox.run(&words)?);
    let inside = "/run/report.html";
    sandbox.run(&[&words[..], &["--html", inside]].concat())?;
    let page = source_tree().join("target/report.html");
    fs::copy(sandbox.path(inside), &page).with_context(|| format!("write {}", page.display()))?;
    println!("\nthe same as a page: {}", page.display());
    Ok(())
}
