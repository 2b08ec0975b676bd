//! The page that browsers see while an application starts. Nobody else sees anything of it.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use tests::{
    browser,
    client::{self, Request},
    require,
    sandbox::Sandbox,
    service::{self, SOON, front, on_demand, status, wait_journal, wait_state},
    skip, wait_for,
};

use crate::{held::asleep, require_sandbox};

const CONFIG: &str = "listen = [\"127.0.0.1:8000\"]\nunit = \"app.service\"\nidle_timeout = \"1s\"\n\
                      min_uptime = \"0s\"\nstart_timeout = \"10s\"\nwaiting_page = true\n";
const BROWSER: &str = "GET /x?bytes=5 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAccept: text/html,*/*;q=0.8\r\n\
                       Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n\r\n";

/// What a client sees that sends this: when the first byte came, when the end, and all of it.
fn see(sandbox: &Sandbox, text: &str) -> (Duration, Duration, String) {
    let begin = Instant::now();
    sandbox
        .in_network(|| {
            let mut stream = TcpStream::connect(front()).unwrap();
            stream.set_read_timeout(Some(client::patience())).unwrap();
            stream.write_all(text.as_bytes()).unwrap();
            let (mut all, mut bytes, mut first) = (Vec::new(), [0; 4096], None);
            loop {
                match stream.read(&mut bytes) {
                    Ok(0) | Err(_) => break,
                    Ok(read) => all.extend_from_slice(&bytes[..read]),
                }
                first.get_or_insert(begin.elapsed());
            }
            let text = String::from_utf8(all).unwrap();
            (first.unwrap_or_default(), begin.elapsed(), text)
        })
        .unwrap()
}

/// One at its own address whose application takes this long.
fn slow(config: &str, options: &str) -> Sandbox {
    on_demand(
        &format!("{CONFIG}{config}"),
        &format!("--listen 127.0.0.1:8000 {options}"),
    )
    .unwrap()
}

#[test]
fn browsers_see_a_page_and_nobody_else_does() {
    require_sandbox!();
    // Who is held comes to the proxy after a second, so that is the longer way.
    let ways: &[&str] = match skip::is_long() {
        true => &["held", "proxied"],
        false => &["held"],
    };
    for first in ways {
        let config = format!("first_client = \"{first}\"\n");
        let sandbox = slow(&config, "--start-delay-ms 3500");
        let tool = BROWSER.replace("text/html,", "");
        let script = BROWSER.replace("GET", "POST");
        thread::scope(|scope| {
            let see = |text: &'static str| scope.spawn(|| see(&sandbox, text));
            let browser = see(BROWSER);
            let others = [tool, script].map(|text| see(text.leak()));
            // One that waits to be spoken to, or for its person.
            let silent = scope.spawn(|| {
                sandbox.in_network(|| {
                    let mut stream = client::connect(front()).unwrap();
                    let mut byte = [0];
                    stream
                        .set_read_timeout(Some(Duration::from_millis(2500)))
                        .unwrap();
                    assert!(stream.read(&mut byte).is_err(), "nothing is said to it");
                    stream.set_read_timeout(Some(client::patience())).unwrap();
                    client::ask(&mut stream, Request::default()).unwrap()
                })
            });
            let upload = scope.spawn(|| {
                let large = Request {
                    upload: 300_000,
                    ..Request::default()
                };
                sandbox.in_network(|| client::get(front(), large).unwrap())
            });
            let (page_at, end_at, page) = browser.join().unwrap();
            assert!(page.starts_with("HTTP/1.1 503 "), "{page}");
            for header in [
                "Retry-After: ",
                "Cache-Control: no-store",
                "default-src 'none'",
            ] {
                assert!(page.contains(header), "{header}: {page}");
            }
            assert!(page.contains("test is starting"), "{page}");
            let latest = Duration::from_millis(2800) * tests::patience();
            let earliest = Duration::from_millis(900);
            assert!(
                page_at > earliest && page_at < latest,
                "{first}: {page_at:?}"
            );
            // It asks again when the application is ready.
            assert!(end_at > Duration::from_millis(3400), "{first}: {end_at:?}");
            assert!(page.trim_end().ends_with("content=\"0\">"), "{page}");
            for other in others {
                let (_, _, text) = other.join().unwrap();
                assert!(text.starts_with("HTTP/1.1 200 "), "{first}: {text}");
                assert!(!text.contains("<html"), "{first}: {text}");
            }
            silent.join().unwrap().unwrap();
            upload.join().unwrap().unwrap();
        });
        let (_, _, text) = see(&sandbox, BROWSER);
        assert!(text.starts_with("HTTP/1.1 200 "), "{first}: {text}");
        asleep(&sandbox);
    }
}

#[test]
fn a_quick_start_has_no_page() {
    require_sandbox!();
    let sandbox = slow("first_client = \"proxied\"\n", "--start-delay-ms 300");
    for _ in 0..2 {
        let (_, end_at, text) = see(&sandbox, BROWSER);
        assert!(text.starts_with("HTTP/1.1 200 "), "{end_at:?}: {text}");
        asleep(&sandbox);
    }
}

#[test]
fn a_start_that_fails_is_told_to_browsers() {
    require_sandbox!();
    let sandbox = slow("first_client = \"proxied\"\n", "--crash");
    let failing = |text: &str| {
        let (_, _, said) = see(&sandbox, text);
        said
    };
    let page = failing(BROWSER);
    assert!(page.starts_with("HTTP/1.1 503 "), "{page}");
    assert!(page.contains("test could not be started"), "{page}");
    // Nothing would start it again and again.
    assert!(!page.contains("http-equiv=\"refresh\""), "{page}");
    assert!(
        !page.contains("app.service"),
        "strangers need not know: {page}"
    );
    wait_state(&sandbox, "ondemand-test.service", "failed").unwrap();
    assert_eq!(failing(&BROWSER.replace("text/html,", "")), "");
    // One that takes too long: the page is there by then.
    wait_state(&sandbox, "ondemand-test.service", "failed").unwrap();
    service::write_backend(&sandbox, "app.service", "--never-listen").unwrap();
    let config = format!("[service.test]\n{CONFIG}").replace("\"10s\"", "\"2s\"");
    service::write_config(&sandbox, &config).unwrap();
    sandbox.run(&["systemctl", "daemon-reload"]).unwrap();
    let page = failing(BROWSER);
    assert!(page.contains("test is starting"), "{page}");
    assert!(page.contains("test could not be started"), "{page}");
}

#[test]
fn the_operators_template() {
    require_sandbox!();
    let config = CONFIG.replace("true", "\"/etc/ondemand/page.html\"");
    let config = format!("{config}first_client = \"proxied\"\n");
    let sandbox = on_demand(&config, "--listen 127.0.0.1:8000 --start-delay-ms 2000").unwrap();
    let check = || {
        sandbox
            .run(&["sh", "-c", "ondemand check || true"])
            .unwrap()
    };
    assert!(
        check().contains("read /etc/ondemand/page.html"),
        "{}",
        check()
    );
    let refused = sandbox.run(&["ondemand", "apply"]).unwrap_err();
    assert!(format!("{refused:#}").contains("page.html"), "{refused:#}");
    let (_, _, page) = see(&sandbox, BROWSER);
    assert!(page.contains("test is starting"), "the usual page: {page}");
    let unit = "ondemand-test.service";
    wait_journal(&sandbox, unit, "browsers see the usual page", 1).unwrap();
    for (text, words) in [("<p>{{nmae}}", "has none of"), ("", "empty")] {
        sandbox.write("/etc/ondemand/page.html", text).unwrap();
        assert!(check().contains(words), "{}", check());
    }
    let text = "<title>{{name}}</title><p>since {{waited}} s, usually {{usual}} s";
    sandbox.write("/etc/ondemand/page.html", text).unwrap();
    sandbox
        .run(&["chmod", "600", "/etc/ondemand/page.html"])
        .unwrap();
    assert!(
        check().contains("user ondemand cannot read it"),
        "{}",
        check()
    );
    sandbox
        .run(&["chmod", "644", "/etc/ondemand/page.html"])
        .unwrap();
    assert!(!check().contains("usual page"), "{}", check());
    asleep(&sandbox);
    let usual = status(&sandbox, "test").unwrap()["usual_start_seconds"].clone();
    assert!(usual.as_f64().is_some_and(|usual| usual > 1.9), "{usual}");
    let (_, _, page) = see(&sandbox, BROWSER);
    assert!(
        page.contains("<title>test</title><p>since 1 s, usually 2 s"),
        "{page}"
    );
}

#[test]
fn an_application_that_systemd_restarts_has_its_browsers_again() {
    require_sandbox!();
    let sandbox = service::installed().unwrap();
    // Its first start in a boot ends after a while; the next works.
    let program = "/bin/sh -c 'if mkdir /run/again; then exec timeout 2 tail -f /etc/hostname; else exec \
                   /usr/bin/test-backend --listen 127.0.0.1:8000; fi'";
    let unit = format!("[Service]\nExecStart={program}\nRestart=always\nRestartSec=100ms\n");
    sandbox
        .write("/etc/systemd/system/app.service", unit)
        .unwrap();
    let config = format!("[service.test]\n{CONFIG}first_client = \"proxied\"\n");
    service::write_config(&sandbox, &config).unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    thread::scope(|scope| {
        let other = scope.spawn(|| see(&sandbox, &BROWSER.replace("text/html,", "")));
        let (_, _, page) = see(&sandbox, BROWSER);
        assert!(page.contains("http-equiv=\"refresh\""), "{page}");
        let (_, _, text) = other.join().unwrap();
        assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    });
}

#[test]
fn a_real_browser_comes_back_by_itself() {
    require_sandbox!();
    require!(skip::missing(&["chromium", "python3"]));
    let sandbox = service::installed().unwrap();
    let page = "<!doctype html><title>wiki</title><p id=there>the application itself</p>";
    sandbox.write("/srv/index.html", page).unwrap();
    let unit = "[Service]\nExecStartPre=/bin/sh -c 'timeout 3 tail -f /etc/hostname || true'\n\
                ExecStart=/usr/bin/python3 -m http.server --bind 127.0.0.1 --directory /srv 8000\n\
                Environment=PYTHONUNBUFFERED=1\n";
    sandbox
        .write("/etc/systemd/system/app.service", unit)
        .unwrap();
    let config =
        format!("[service.test]\n{CONFIG}first_client = \"held\"\n").replace("\"1s\"", "\"1min\"");
    service::write_config(&sandbox, &config).unwrap();
    service::reload(&sandbox, &["test"]).unwrap();
    service::start_agent(&sandbox).unwrap();
    let profile = tempfile::tempdir().unwrap();
    let url = "http://127.0.0.1:8000/index.html";
    let dom = thread::scope(|scope| {
        // Its own time stands still while it waits for an answer.
        let visit = || browser::visit(&sandbox, profile.path(), url, 20_000).unwrap();
        let browser = scope.spawn(visit);
        // A connection of its own shows that it has the page, and waits.
        wait_for("the browser is at the proxy", SOON, || {
            let now = status(&sandbox, "test").ok()?;
            now["front"]["accepted"].as_u64().filter(|count| *count > 0)
        })
        .unwrap();
        browser.join().unwrap().dom
    });
    assert!(dom.contains("the application itself"), "{dom}");
    let journal = wait_journal(&sandbox, "app.service", "GET /index.html", 1).unwrap();
    assert_eq!(journal.matches("GET /index.html").count(), 1, "{journal}");
}
