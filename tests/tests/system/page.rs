//! The page at the address of the metrics, in a browser and for those who are none.

use serde_json::Value;
use tests::{
    browser::{self, Look},
    client, http,
    metrics::address,
    require,
    sandbox::{Cgroups, Sandbox},
    service::{self, CONFIG, SOON, front, wait_state},
    skip, wait_for,
};

use crate::{history::HISTORY, metrics::ask, require_sandbox};

/// One service of this configuration, beside `[agent]` with this.
fn boot(agent: &str) -> Sandbox {
    let sandbox = Sandbox::boot_with(Cgroups::Accounted).unwrap();
    service::prepare(&sandbox).unwrap();
    service::write_backend(&sandbox, "app.service", "").unwrap();
    let config = format!(
        "[agent]\nmetrics = \"{}\"\n{agent}\n[service.test]\n{CONFIG}",
        address()
    );
    sandbox
        .write("/etc/ondemand/ondemand.toml", config)
        .unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    sandbox
}

fn get(sandbox: &Sandbox, path: &str) -> http::Reply {
    http::get(sandbox, address(), path, "").unwrap()
}

fn row(dom: &str) -> String {
    let rows = dom.split("<tbody>").nth(1).unwrap_or_default();
    rows.split("</tbody>").next().unwrap_or_default().to_owned()
}

#[test]
fn a_browser_shows_the_table_and_the_last_week() {
    require_sandbox!();
    require!(skip::missing(&["chromium"]));
    let sandbox = boot(&format!("history = \"{HISTORY}\"\n"));
    ask(&sandbox);
    wait_state(&sandbox, "app.service", "inactive").unwrap();
    // The plots are made by who asks first, for the next one.
    let first = get(&sandbox, "/week.json");
    assert!([202, 200].contains(&first.status), "{first:?}");
    let week = wait_for("the plots are there", SOON, || {
        let reply = get(&sandbox, "/week.json");
        (reply.status == 200).then_some(reply.body)
    })
    .unwrap();
    let week: Value = serde_json::from_str(&week).unwrap();
    assert_eq!(week["services"][0]["name"], "test", "{week}");
    let one = get(&sandbox, "/week.json?test");
    assert!(one.body.starts_with("{\"name\":\"test\""), "{one:?}");
    assert_eq!(get(&sandbox, "/week.json?nobody").status, 404);

    let directory = tempfile::tempdir().unwrap();
    let url = format!("http://{}/", address());
    let visit = || browser::visit(&sandbox, directory.path(), &url, 8000).unwrap();
    let down = visit();
    assert_eq!(down.complaints, "", "the policy lets everything run");
    assert!(row(&down.dom).contains("<td>inactive</td>"), "{}", down.dom);
    assert!(
        row(&down.dom).contains("starts with the next connection"),
        "{}",
        down.dom
    );
    assert!(
        down.dom.contains("id=\"summary\">0 of 1 up"),
        "{}",
        down.dom
    );
    // Its script has run, and has asked more than once.
    let looks = down.dom.split("data-looks=\"").nth(1).unwrap_or_default();
    let looks: u32 = looks.split('"').next().unwrap().parse().unwrap();
    assert!(looks >= 2, "{looks}");
    assert!(down.dom.contains("aria-label=\"When each service was up\""));

    // Live: it has been loaded by then, and the service starts.
    let client = sandbox
        .in_network(|| client::connect(front()).unwrap())
        .unwrap();
    // The browser asks again as soon as it has an answer, however early that is.
    wait_for("the agent knows of the client", SOON, || {
        get(&sandbox, "/")
            .body
            .contains("1 connection open")
            .then_some(())
    })
    .unwrap();
    let up = visit();
    assert!(row(&up.dom).contains("1 connection open"), "{}", up.dom);
    assert!(up.dom.contains("id=\"summary\">1 of 1 up"), "{}", up.dom);
    drop(client);
    // Nobody of this has stopped or started anything.
    wait_state(&sandbox, "app.service", "inactive").unwrap();
}

/// What is shown where.
const PROBE: &str = r##"
const shown = node => node.getBoundingClientRect().height > 0;
const line = document.querySelector("#services tbody tr");
tell({
  width: innerWidth,
  scroll: document.documentElement.scrollWidth,
  ground: getComputedStyle(document.body).backgroundColor,
  ink: getComputedStyle(document.body).color,
  name: line.cells[0].textContent,
  cells: [...line.cells].filter(shown).length,
  chooses: shown(document.querySelector("#choose")),
  letters: Math.min(...[...line.cells].filter(shown).map(cell => parseFloat(getComputedStyle(cell).fontSize))),
});
"##;

#[test]
fn it_fits_any_screen_and_needs_no_script() {
    require_sandbox!();
    require!(skip::missing(&["chromium"]));
    let sandbox = boot("history = \"\"\n");
    // Whole without its script: each row is in it.
    let page = get(&sandbox, "/").body;
    assert!(
        page.contains("<tr class=down><td>test<td>inactive<td>0"),
        "{page}"
    );
    assert!(page.contains("<noscript><meta http-equiv=\"refresh\""));
    assert_eq!(
        get(&sandbox, "/week.json").status,
        404,
        "there is no history"
    );
    let directory = tempfile::tempdir().unwrap();
    let mut grounds = Vec::new();
    for (width, dark) in [(360, false), (1200, false), (360, true)] {
        let look = Look {
            directory: directory.path(),
            width,
            dark,
        };
        let seen = look.at(&page, PROBE).unwrap();
        assert_eq!(seen["width"], width, "{seen}");
        assert!(seen["scroll"].as_u64() <= seen["width"].as_u64(), "{seen}");
        assert_eq!(seen["name"], "test");
        assert_eq!(seen["chooses"], true, "its script has run: {seen}");
        let cells = if width < 640 { 4 } else { 7 };
        assert_eq!(seen["cells"], cells, "{seen}");
        assert!(seen["letters"].as_f64().unwrap() > 12.0, "{seen}");
        assert_ne!(seen["ground"], seen["ink"]);
        grounds.push(seen["ground"].clone());
    }
    assert_eq!(grounds[0], grounds[1]);
    assert_ne!(grounds[0], grounds[2], "dark is another colour");
}

#[test]
fn only_who_may_and_only_to_read() {
    require_sandbox!();
    let sandbox = boot("history = \"\"\nmetrics_names = [\"home.lan\"]\n");
    let send = |text: &str| http::send(&sandbox, address(), text).unwrap();
    for path in ["/", "/table.json", "/week.json", "/metrics"] {
        let reply = get(&sandbox, path);
        for header in [
            "x-content-type-options: nosniff",
            "cache-control: no-store",
            "cross-origin-resource-policy: same-origin",
        ] {
            assert!(reply.head.contains(header), "{path}: {header}: {reply:?}");
        }
        // A page of elsewhere whose name leads here.
        let reply = http::get(&sandbox, address(), path, "Host: evil.example\r\n").unwrap();
        assert_eq!(reply.status, 403, "{path}: {reply:?}");
        assert!(!reply.body.contains("inactive"), "{reply:?}");
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let reply = send(&format!("{method} {path} HTTP/1.0\r\n\r\n"));
            assert_eq!(reply.status, 405, "{method} {path}: {reply:?}");
        }
    }
    let head = send("HEAD / HTTP/1.0\r\n\r\n");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    for part in [
        "default-src 'none'",
        "script-src 'sha256-",
        "style-src 'sha256-",
        "frame-ancestors 'none'",
    ] {
        assert!(head.head.contains(part), "{part}: {head:?}");
    }
    assert!(!head.head.contains("unsafe"), "{head:?}");
    for (host, status) in [
        ("home.lan", 200),
        ("HOME.lan:9464", 200),
        ("localhost:9464", 200),
        ("home.lan.evil.example", 403),
    ] {
        let reply = http::get(&sandbox, address(), "/", &format!("Host: {host}\r\n")).unwrap();
        assert_eq!(reply.status, status, "{host}: {reply:?}");
    }

    // Off, with the next reading of the file.
    let text = std::fs::read_to_string(sandbox.path("/etc/ondemand/ondemand.toml")).unwrap();
    let text = text.replace("history = \"\"\n", "history = \"\"\npage = false\n");
    sandbox.write("/etc/ondemand/ondemand.toml", text).unwrap();
    sandbox.run(&["systemctl", "reload", "ondemand"]).unwrap();
    wait_for("the page is gone", SOON, || {
        (get(&sandbox, "/table.json").status == 404).then_some(())
    })
    .unwrap();
    assert_eq!(
        get(&sandbox, "/").body,
        "ondemand: metrics are at /metrics\n"
    );
    assert_eq!(get(&sandbox, "/metrics").status, 200);
}
