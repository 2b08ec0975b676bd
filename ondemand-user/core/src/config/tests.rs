use super::*;

/// A file with one valid service; `extra` follows its keys.
pub(super) fn wiki(extra: &str) -> String {
    format!(
        "[service.wiki]\nlisten = [\"0.0.0.0:80\", \"[::]:80\"]\nbackend = \"127.0.0.1:8080\"\nunit = \"wiki.service\"\n{extra}"
    )
}

pub(super) fn parse(text: &str) -> Result<Config, Error> {
    Config::parse(Path::new("/etc/o.toml"), text)
}

/// Asserts that `text` is refused with a message that contains `expected`.
#[track_caller]
pub(super) fn check(text: &str, expected: &str) {
    let message = match parse(text) {
        Ok(config) => panic!("accepted: {config:?}"),
        Err(err) => err.to_string(),
    };
    assert!(
        message.contains(expected),
        "expected: {expected}\nfound: {message}"
    );
}

/// Asserts that `line` after a valid service's four lines is refused.
#[track_caller]
fn check_key(line: &str, expected: &str) {
    check(&wiki(line), &format!("/etc/o.toml:5: {expected}"));
}

/// Like `check_key`, with `key` of the valid service replaced.
#[track_caller]
pub(super) fn check_instead(key: &str, line: &str, expected: &str) {
    let text: Vec<_> = wiki("")
        .lines()
        .map(|old| {
            if old.starts_with(key) {
                line.to_owned()
            } else {
                old.to_owned()
            }
        })
        .collect();
    check(&text.join("\n"), expected);
}

#[track_caller]
fn check_service(extra: &str, expected: impl Fn(&Service) -> bool) {
    let config = parse(&wiki(extra)).unwrap();
    assert!(expected(&config.services["wiki"]), "{config:?}");
}

#[test]
fn a_short_file_gets_the_documented_defaults() {
    let config = parse(&wiki("")).unwrap();
    let expected = Service {
        name: "wiki".into(),
        listen: vec![
            Endpoint::Tcp("0.0.0.0:80".parse().unwrap()),
            Endpoint::Tcp("[::]:80".parse().unwrap()),
        ],
        own_address: false,
        front: config.services["wiki"].listen.clone(),
        backend: Endpoint::Tcp("127.0.0.1:8080".parse().unwrap()),
        unit: "wiki.service".into(),
        idle_timeout: IdleTimeout::After(Duration::from_secs(600)),
        learning: Learning::default(),
        keep_up: Schedule::default(),
        prewarm: false,
        freeze_after: None,
        freeze_reclaim: false,
        group: None,
        silent_after: None,
        busy: Limits::default(),
        min_uptime: Duration::from_secs(30),
        start_timeout: Duration::from_secs(90),
        ready: None,
        waiting_page: None,
        steer: true,
        first_client: FirstClient::Auto,
        activation: Activation::Front,
        wake_from: List::default(),
        ignore_from: List::default(),
        ignore_empty: false,
        keepalive: Some(KeepAlive {
            idle: 120,
            interval: 15,
            probes: 8,
        }),
        veto: None,
        access: Access::default(),
    };
    assert_eq!(config.services["wiki"], expected);
    assert_eq!(
        config.agent.metrics,
        Some("127.0.0.1:9464".parse().unwrap())
    );
    assert_eq!(
        config.agent.history,
        Some("/var/lib/ondemand/history.db".into())
    );
    assert_eq!(config.path, Path::new("/etc/o.toml"));
}

#[test]
fn every_key_is_read() {
    let secs = Duration::from_secs;
    check_service("idle_timeout = \"1h 30min\"", |s| {
        s.idle_timeout == IdleTimeout::After(secs(5400))
    });
    check_service("idle_timeout = 90", |s| {
        s.idle_timeout == IdleTimeout::After(secs(90))
    });
    check_service("ready = \"tcp:127.0.0.1:8080\"", |s| {
        s.ready
            .as_ref()
            .is_some_and(|ready| ready.by == By::Connect)
    });
    check_service(
        "ready = \"http://127.0.0.1:8080/x\"\nready_status = [\"200-299\", \"401\"]",
        |s| {
            let ready = s.ready.as_ref().unwrap();
            ready.to_string() == "http://127.0.0.1:8080/x"
                && ready.status().unwrap().to_string() == "200-299,401"
        },
    );
    check_service(
        "ready = \"http://127.0.0.1:8080/\"\nready_status = 200",
        |s| s.ready.as_ref().unwrap().status().unwrap().contains(200),
    );
    check_service("waiting_page = true", |s| {
        s.waiting_page == Some(WaitingPage::Builtin)
    });
    check_service("waiting_page = false", |s| s.waiting_page.is_none());
    check_service("waiting_page = \"/etc/w.html\"", |s| {
        s.waiting_page == Some(WaitingPage::File("/etc/w.html".into()))
    });
    check_service("silent_after = \"30min\"", |s| {
        s.silent_after == Some(secs(1800))
    });
    check_service("busy_cpu = \"5%\"\nbusy_io = \"1M\"", |s| {
        s.busy
            == Limits {
                cpu: Some(50),
                io: Some(1_000_000),
            }
    });
    check_service("silent_after = \"infinity\"", |s| s.silent_after.is_none());
    check_service("idle_timeout = 1_000", |s| {
        s.idle_timeout == IdleTimeout::After(secs(1000))
    });
    check_service("idle_timeout = \"90\"", |s| {
        s.idle_timeout == IdleTimeout::After(secs(90))
    });
    check_service("idle_timeout = \"0.2s\"", |s| {
        s.idle_timeout == IdleTimeout::After(Duration::from_millis(200))
    });
    check_service("idle_timeout = \"100ms\"", |s| {
        s.idle_timeout == IdleTimeout::After(Duration::from_millis(100))
    });
    check_service("idle_timeout = \"infinity\"", |s| {
        s.idle_timeout == IdleTimeout::Never
    });
    check_service("min_uptime = 0", |s| s.min_uptime == Duration::ZERO);
    check_service("min_uptime = \"2d\"", |s| s.min_uptime == secs(172_800));
    check_service("start_timeout = \"500ms\"", |s| {
        s.start_timeout == Duration::from_millis(500)
    });
    check_service("steer = false", |s| !s.steer);
    check_service("first_client = \"held\"", |s| {
        s.first_client == FirstClient::Held
    });
    check_service("steer = false\nfirst_client = \"proxied\"", |s| {
        s.first_client == FirstClient::Proxied
    });
    check_service("ignore_empty = true", |s| {
        s.ignore_empty && s.first_client == FirstClient::Proxied
    });
    check_service("ignore_empty = true\nfirst_client = \"auto\"", |s| {
        s.first_client == FirstClient::Proxied
    });
    check_service("ignore_empty = false", |s| {
        !s.ignore_empty && s.first_client == FirstClient::Auto
    });
    check_service("keepalive = \"off\"", |s| s.keepalive.is_none());
    check_service("keepalive = \"10s\"", |s| {
        s.keepalive.is_some_and(|it| it.idle == 10)
    });
    check_service("veto = \"/usr/local/bin/a b\"", |s| {
        s.veto == Some("/usr/local/bin/a b".into())
    });
    check_service("[agent]\nmetrics = \"\"\nhistory = \"\"", |_| true);
    let config = parse("agent = { metrics = \"\", history = \"\" }").unwrap();
    assert_eq!(
        config.agent,
        Agent {
            memory_budget: None,
            metrics: None,
            whatif: WhatIfBy::Total,
            metrics_names: Vec::new(),
            page: true,
            history: None,
            cold_start_cost: ColdStartCost::default(),
        }
    );
    assert!(config.services.is_empty());
    let config = parse("[agent]\nmetrics = \"0.0.0.0:1\"\nhistory = \"/x.db\"").unwrap();
    assert_eq!(config.agent.metrics, Some("0.0.0.0:1".parse().unwrap()));
    assert_eq!(config.agent.history, Some("/x.db".into()));
    assert!(parse("").unwrap().services.is_empty());
}

#[test]
fn one_address_needs_no_array_and_paths_are_unix_sockets() {
    let text =
        "[service.a]\nlisten = \"/run/a.sock\"\nbackend = \"/run/b.sock\"\nunit = \"a@1.service\"";
    let service = &parse(text).unwrap().services["a"];
    assert_eq!(service.listen, [Endpoint::Unix("/run/a.sock".into())]);
    assert_eq!(service.backend, Endpoint::Unix("/run/b.sock".into()));
}

#[test]
fn what_is_not_toml_names_its_line() {
    check("[agent\n", "/etc/o.toml:1: not valid TOML: ");
    check("\n\nx = \n", "/etc/o.toml:3: not valid TOML: ");
    check(
        &wiki("steer = true\nsteer = true"),
        "/etc/o.toml:6: not valid TOML: duplicate key",
    );
    check(
        &wiki("[service.wiki]"),
        "/etc/o.toml:5: not valid TOML: duplicate key",
    );
    check(&wiki("steer = yes"), "/etc/o.toml:5: not valid TOML: ");
}

#[test]
fn names_with_dots_need_quotes() {
    let table = |name: &str| wiki("").replace("[service.wiki]", &format!("[service.{name}]"));
    check(
        &table("wiki.example"),
        "/etc/o.toml:1: service.wiki: a name with dots needs quotes: [service.\"wiki.example\"]",
    );
    check(
        &table("wiki.example.org"),
        "/etc/o.toml:1: service.wiki: a name with dots needs quotes: [service.\"wiki.example.org\"]",
    );
    assert!(parse(&table("\"wiki.example.org\"")).is_ok());
    // Beside a service of the first part of the name.
    check(
        &wiki("[service.wiki.example]\nunit = \"a.service\""),
        "/etc/o.toml:5: service.wiki.example: unknown key; if it is a part of a name with dots, quote the \
         name: [service.\"wiki.example\"]",
    );
}

#[test]
fn unknown_keys_are_refused_with_the_nearest() {
    check_key(
        "idle_timout = 5",
        "service.wiki.idle_timout: unknown key; did you mean `idle_timeout`?",
    );
    check_key(
        "idle-timeout = 5",
        "service.wiki.idle-timeout: unknown key; did you mean `idle_timeout`?",
    );
    check_key(
        "Steer = true",
        "service.wiki.Steer: unknown key; did you mean `steer`?",
    );
    check_key(
        "color = 5",
        "service.wiki.color: unknown key; known keys: listen, backend, unit, idle_timeout",
    );
    check_key("sub.x = 5", "service.wiki.sub: unknown key");
    check(
        "[services.x]",
        "/etc/o.toml:1: services: unknown key; did you mean `service`?",
    );
    check(
        "\"a b\" = 1",
        "/etc/o.toml:1: \"a b\": unknown key; known keys: agent, service",
    );
    check(
        "[agent]\nmetric = \"\"",
        "/etc/o.toml:2: agent.metric: unknown key; did you mean `metrics`?",
    );
}

#[test]
fn who_is_held_must_be_steered() {
    check_key(
        "first_client = \"hold\"",
        "service.wiki.first_client: \"hold\" is none of \"auto\", \"held\" or \"proxied\"",
    );
    check(
        &wiki("steer = false\nfirst_client = \"held\""),
        "/etc/o.toml:6: service.wiki.first_client: \"held\" requires steer = true",
    );
    let unix = |listen: &str, backend: &str| {
        format!(
            "[service.wiki]\nlisten = [{listen:?}]\nbackend = {backend:?}\nunit = \"wiki.service\"\n\
             first_client = \"held\""
        )
    };
    let expected = "first_client: \"held\" requires a TCP address";
    check(&unix("/run/wiki.sock", "127.0.0.1:8080"), expected);
    check(&unix("0.0.0.0:80", "/run/wiki.sock"), expected);
}

#[test]
fn a_byte_is_waited_for_where_the_kernel_tells_of_it() {
    check(
        &wiki("ignore_empty = true\nfirst_client = \"held\""),
        "first_client: \"held\" means that a client's first packet starts the service",
    );
    let unix = "[service.wiki]\nlisten = [\"/run/wiki.sock\"]\nbackend = \"127.0.0.1:8080\"\nunit = \"wiki.service\"\n\
                ignore_empty = true";
    check(unix, "ignore_empty: requires a TCP address in `listen`");
    let native = "[service.wiki]\nlisten = [\"127.0.0.1:80\"]\nunit = \"wiki.service\"\nactivation = \"native\"\n\
                  ignore_empty = true";
    check(native, "remove `ignore_empty`");
    check_key("ignore_empty = 1", "service.wiki.ignore_empty: ");
}

#[test]
fn wrong_types_say_what_is_expected() {
    check_key(
        "steer = \"yes\"",
        "service.wiki.steer: expected true or false, found a string",
    );
    check_key(
        "steer = 1",
        "service.wiki.steer: expected true or false, found an integer",
    );
    check_key(
        "idle_timeout = true",
        "service.wiki.idle_timeout: expected a string, found a boolean; write it like \"10min\"",
    );
    check_key(
        "idle_timeout = 1.5",
        "service.wiki.idle_timeout: expected a string, found a float",
    );
    check_key(
        "idle_timeout = 0x10",
        "service.wiki.idle_timeout: expected a string, found an integer",
    );
    check_key(
        "min_uptime = []",
        "service.wiki.min_uptime: expected a string, found an array",
    );
    check_key(
        "start_timeout = 07:32:00",
        "service.wiki.start_timeout: expected a string, found a date",
    );
    check_key(
        "veto = [\"/bin/x\", \"y\"]",
        "service.wiki.veto: expected a string, found an array",
    );
    check_instead(
        "listen",
        "listen = 80",
        "/etc/o.toml:2: service.wiki.listen: expected an array of strings, found an integer; write it like [\"0.0.0.0:80\"",
    );
    check_instead(
        "listen",
        "listen = [80]",
        "/etc/o.toml:2: service.wiki.listen: expected a string, found an integer",
    );
    check_instead(
        "backend",
        "backend = [\"127.0.0.1:1\"]",
        "/etc/o.toml:3: service.wiki.backend: expected a string, found an array",
    );
    check_instead(
        "unit",
        "unit = false",
        "/etc/o.toml:4: service.wiki.unit: expected a string, found a boolean",
    );
    check(
        "service = 5",
        "/etc/o.toml:1: service: expected a table, found an integer; write it like [service]",
    );
    check(
        "[service]\nwiki = 5",
        "/etc/o.toml:2: service.wiki: expected a table, found an integer; write it like [service.wiki]",
    );
    check(
        "[[service]]",
        "/etc/o.toml:1: service: expected a table, found an array",
    );
    check("agent = []", "/etc/o.toml:1: agent: expected a table");
    check(
        "[agent]\nmetrics = 9464",
        "/etc/o.toml:2: agent.metrics: expected a string, found an integer; write it like \"127.0.0.1:9464\"",
    );
    check(
        "[agent]\nhistory = false",
        "/etc/o.toml:2: agent.history: expected a string, found a boolean",
    );
}

#[test]
fn missing_keys_say_what_to_add() {
    check(
        "\n[service.a]\n",
        "/etc/o.toml:2: service.a.listen: missing; add listen = [",
    );
    check(
        "\n[service.a]\n",
        "/etc/o.toml:2: service.a.unit: missing; add unit = \"a.service\"",
    );
}

#[test]
fn bad_values_name_line_and_key() {
    check_key(
        "idle_timeout = 0",
        "service.wiki.idle_timeout: 0 would stop the service immediately",
    );
    check_key(
        "idle_timeout = \"0s\"",
        "service.wiki.idle_timeout: 0 would stop",
    );
    check_key(
        "idle_timeout = \"99ms\"",
        "service.wiki.idle_timeout: 99ms is too short",
    );
    check_key(
        "idle_timeout = -5",
        "service.wiki.idle_timeout: \"-5\" is not a time span",
    );
    check_key(
        "idle_timeout = \"soon\"",
        "service.wiki.idle_timeout: \"soon\" is not a time span",
    );
    check_key(
        "idle_timeout = \"\"",
        "service.wiki.idle_timeout: \"\" is not a time span",
    );
    check_key(
        "idle_timeout = \"500 years\"",
        "service.wiki.idle_timeout: \"500 years\" is not a time span of at most 100 years",
    );
    check_key(
        "min_uptime = \"infinity\"",
        "service.wiki.min_uptime: cannot be infinite; for a service that is never",
    );
    check_key(
        "keepalive = \"500min 10h\"",
        "service.wiki.keepalive: must be between 1 s and 32767 s",
    );
    check_key(
        "keepalive = 0",
        "service.wiki.keepalive: must be between 1 s",
    );
    check_key(
        "keepalive = false",
        "service.wiki.keepalive: expected a string",
    );
    check_key(
        "ready = \"http://127.0.0.1:80/\"",
        "service.wiki.ready: 127.0.0.1:80 is the front address 0.0.0.0:80, whose clients wait",
    );
    check_key("ready = 8080", "service.wiki.ready: expected a string");
    check_key(
        "ready = \"8080\"",
        "service.wiki.ready: \"8080\" is none of",
    );
    check_key(
        "ready_status = 200",
        "service.wiki.ready_status: requires `ready`",
    );
    check(
        &wiki("ready = \"tcp:127.0.0.1:8080\"\nready_status = 200"),
        "/etc/o.toml:6: service.wiki.ready_status: requires `ready` with http",
    );
    for (status, expected) in [
        ("[]", "one to 32 ranges"),
        ("[true]", "expected a string"),
        ("true", "expected an array of strings"),
        ("\"2xx\"", "\"2xx\" is not a status code"),
        ("[200, 399]\nsteer = 1", "steer: expected true or false"),
    ] {
        check(
            &wiki(&format!(
                "ready = \"http://127.0.0.1:8080/\"\nready_status = {status}"
            )),
            expected,
        );
    }
    check_key("busy_cpu = 5", "service.wiki.busy_cpu: expected a string");
    check_key(
        "busy_cpu = \"5\"",
        "service.wiki.busy_cpu: \"5\" is not a share",
    );
    check_key(
        "busy_io = \"1MB\"",
        "service.wiki.busy_io: \"1MB\" is not a number of bytes",
    );
    check_key(
        "silent_after = 0",
        "service.wiki.silent_after: must be between 1 s and 20 days",
    );
    check_key(
        "silent_after = \"1 year\"",
        "service.wiki.silent_after: must be between 1 s and 20 days",
    );
    check_key(
        "start_timeout = 0",
        "service.wiki.start_timeout: 0 would refuse the first client",
    );
    check_key(
        "start_timeout = \"infinity\"",
        "service.wiki.start_timeout: cannot be infinite; the first client",
    );
    check_key(
        "veto = \"checker\"",
        "service.wiki.veto: not an absolute path",
    );
    check_key("veto = \"\"", "service.wiki.veto: not an absolute path");
    check_key(
        "veto = \"/bin/x\\nExecStart=/bin/sh\"",
        "service.wiki.veto: the path contains '\\n'",
    );
    check_instead(
        "listen",
        "listen = []",
        "/etc/o.toml:2: service.wiki.listen: no address",
    );
    check_instead(
        "listen",
        "listen = [\n\"0.0.0.0:80\",\n\"80\"]",
        "/etc/o.toml:4: service.wiki.listen: \"80\" is a port without an address",
    );
    check_instead(
        "listen",
        "listen = [\"localhost:80\"]",
        "/etc/o.toml:2: service.wiki.listen: \"localhost:80\" is a host name",
    );
    check_instead(
        "backend",
        "backend = \"0.0.0.0:81\"",
        "/etc/o.toml:3: service.wiki.backend: \"0.0.0.0:81\" means all addresses",
    );
    check_instead(
        "backend",
        "backend = \"[::]:81\"",
        "let the application listen on \"[::1]:81\"",
    );
    check_instead(
        "backend",
        "backend = \"/run/a\\nExecStart=/bin/sh\"",
        "/etc/o.toml:3: service.wiki.backend: the path contains '\\n'",
    );
    check(
        "[agent]\nmetrics = \"localhost:1\"",
        "/etc/o.toml:2: agent.metrics: \"localhost:1\" is a host name",
    );
    check(
        "[agent]\nmetrics = \"/run/x\"",
        "/etc/o.toml:2: agent.metrics: \"/run/x\" is not an address",
    );
    check(
        "[agent]\nhistory = \"x.db\"",
        "/etc/o.toml:2: agent.history: not an absolute path",
    );
}

#[test]
fn all_problems_are_told_in_the_files_order() {
    let text = wiki("steer = 1\nidle_timeout = 0\ncolor = 1\n[agent]\nx = 1\n");
    let err = parse(&text).unwrap_err();
    let lines: Vec<_> = err
        .problems()
        .iter()
        .map(|problem| problem.line.unwrap())
        .collect();
    assert_eq!(lines, [5, 6, 7, 9]);
    assert_eq!(err.to_string().lines().count(), 4);
}

/// A configuration with this number of services.
fn many(count: usize) -> String {
    (0..count)
        .map(|i| format!("[service.s{i}]\nlisten = \"/run/f{i}\"\nbackend = \"/run/b{i}\"\nunit = \"s{i}.service\"\n"))
        .collect()
}

#[test]
fn there_are_limits() {
    let listen: Vec<_> = (1..=17).map(|port| format!("127.0.0.1:{port}")).collect();
    check_instead(
        "listen",
        &format!("listen = {listen:?}"),
        "service.wiki.listen: 17 addresses; the maximum is 16",
    );
    assert_eq!(parse(&many(1024)).unwrap().services.len(), 1024);
    check(
        &many(1025),
        "/etc/o.toml:1: service: 1025 services; the maximum is 1024",
    );
}

#[test]
fn an_unknown_service_is_named_with_what_there_is() {
    let config = parse(&wiki("")).unwrap();
    assert_eq!(config.service("wiki").unwrap().name, "wiki");
    let message = |name: &str| config.service(name).unwrap_err().to_string();
    assert_eq!(
        message("wikki"),
        "/etc/o.toml: no service \"wikki\"; did you mean \"wiki\"?"
    );
    assert_eq!(
        message("shop"),
        "/etc/o.toml: no service \"shop\"; there are: wiki"
    );
    assert_eq!(
        message(&"w".repeat(30 << 20)),
        format!(
            "/etc/o.toml: no service \"{}...\": longer than 63 characters; names have 1 to 63 \
             letters, digits, '-', '_' or '.'",
            "w".repeat(32)
        )
    );
    let many = parse(&many(100)).unwrap();
    let message = many.service("shop").unwrap_err().to_string();
    assert!(message.ends_with(" and 68 more"), "{message}");
}

#[test]
fn a_learned_timeout_has_a_cost_and_bounds() {
    let secs = Duration::from_secs;
    let learning = |shortest, longest, cold_start_cost| Learning {
        cold_start_cost,
        shortest: secs(shortest),
        longest: secs(longest),
    };
    let span = |seconds| ColdStartCost::Span(secs(seconds));
    let week = 604_800;
    check_service("idle_timeout = \"auto\"", |s| {
        s.idle_timeout == IdleTimeout::Learned && s.learning == learning(5, week, span(300))
    });
    check_service(
        "idle_timeout_min = \"1min\"\nidle_timeout_max = \"1h\"",
        |s| s.learning == learning(60, 3600, span(300)),
    );
    check_service("idle_timeout_min = 5\nidle_timeout_max = 5", |s| {
        s.learning == learning(5, 5, span(300))
    });
    check_service("idle_timeout_min = \"30d\"", |s| {
        s.learning.shortest == secs(30 * 86_400) && s.learning.longest == s.learning.shortest
    });
    check_service("idle_timeout_max = \"infinity\"", |s| {
        s.learning.longest > secs(week)
    });
    check_service("cold_start_cost = 90", |s| {
        s.learning.cold_start_cost == span(90)
    });
    check_service("cold_start_cost = \"10x\"", |s| {
        s.learning.cold_start_cost == ColdStartCost::Starts(10_000)
    });
    check_service("cold_start_cost = \"2.5 x\"", |s| {
        s.learning.cold_start_cost == ColdStartCost::Starts(2_500)
    });
    // What the agent's says is for all that say nothing, wherever it stands.
    check_service("[agent]\ncold_start_cost = \"1min\"", |s| {
        s.learning.cold_start_cost == span(60)
    });
    check_service(
        "cold_start_cost = \"2min\"\n[agent]\ncold_start_cost = \"1min\"",
        |s| s.learning.cold_start_cost == span(120),
    );

    check_key(
        "idle_timeout = \"Auto\"",
        "service.wiki.idle_timeout: \"Auto\" is not a time span",
    );
    check_key(
        "idle_timeout_min = \"4s\"",
        "service.wiki.idle_timeout_min: a learned idle timeout is never shorter than 5 s",
    );
    check_key(
        "idle_timeout_max = 0",
        "service.wiki.idle_timeout_max: a learned idle timeout is never",
    );
    check_key(
        "idle_timeout_min = \"infinity\"",
        "service.wiki.idle_timeout_min: cannot be infinite",
    );
    check(
        &wiki("idle_timeout_min = \"1h\"\nidle_timeout_max = \"10min\""),
        "/etc/o.toml:6: service.wiki.idle_timeout_max: is less than idle_timeout_min, 1 h",
    );
    for value in [
        "\"x\"",
        "\"0x\"",
        "\"-1x\"",
        "\"1e3x\"",
        "\"ten x\"",
        "\"0.0001x\"",
        "\"99999999999x\"",
    ] {
        check_key(
            &format!("cold_start_cost = {value}"),
            "service.wiki.cold_start_cost: ",
        );
    }
    check_key(
        "cold_start_cost = 0",
        "service.wiki.cold_start_cost: \"0\" is too little",
    );
    check_key(
        "cold_start_cost = \"2y\"",
        "service.wiki.cold_start_cost: \"2y\" is more than a year",
    );
    check_key(
        "cold_start_cost = \"infinity\"",
        "service.wiki.cold_start_cost: \"infinity\" is more",
    );
    check(
        "[agent]\ncold_start_cost = true",
        "/etc/o.toml:2: agent.cold_start_cost: expected a string",
    );
}

#[test]
fn for_whom_there_is_a_what_if() {
    for (agent, by) in [
        ("", WhatIfBy::Total),
        ("whatif = \"off\"", WhatIfBy::Off),
        ("whatif = \"total\"", WhatIfBy::Total),
        ("whatif = \"service\"", WhatIfBy::Service),
    ] {
        let text = format!("[agent]\n{agent}\n");
        let config = Config::parse(Path::new("/etc/o.toml"), &text).unwrap();
        assert_eq!(config.agent.whatif, by);
    }
    check(
        "[agent]\nwhatif = \"services\"",
        "/etc/o.toml:2: agent.whatif: \"services\" is none of \"off\", \"total\" or \"service\"",
    );
    check(
        "[agent]\nwhatif = true",
        "/etc/o.toml:2: agent.whatif: expected a string",
    );
}

#[test]
fn a_measured_cost_is_that_of_the_usual_start() {
    let learning = Learning {
        cold_start_cost: ColdStartCost::Starts(10_000),
        ..Learning::default()
    };
    let check = |start: Option<u64>, cost: u64| {
        let terms = learning.terms(start.map(Duration::from_millis));
        assert_eq!(terms.cold_start_cost(), Duration::from_secs(cost));
    };
    check(None, 300);
    check(Some(3_000), 30);
    check(Some(1), 1);
    check(Some(u64::MAX), 366 * 86_400);
}

#[test]
fn native_activation_is_read_or_refused() {
    let own = |extra: &str| wiki(extra).replace("backend = \"127.0.0.1:8080\"\n", "");
    let config = parse(&own("activation = \"native\"")).unwrap();
    assert_eq!(config.services["wiki"].activation, Activation::Native);
    check_key(
        "activation = \"native\"",
        "service.wiki.activation: \"native\" is for an application that systemd hands the socket at `listen`; remove `backend`",
    );
    check(
        &own("activation = \"inetd\""),
        "/etc/o.toml:4: service.wiki.activation: \"inetd\" is not known; write \"native\"",
    );
    check(
        &own("activation = \"native\"\nready = \"tcp:127.0.0.1:80\""),
        "/etc/o.toml:4: service.wiki.activation: \"native\" has clients wait in the socket of the application",
    );
}

#[test]
fn freeze_after_is_read_or_refused() {
    check_service("freeze_after = \"1min\"", |s| {
        s.freeze_after == Some(Duration::from_secs(60))
    });
    check_service("freeze_after = \"infinity\"", |s| s.freeze_after.is_none());
    check_service("freeze_after = \"1h\"\nidle_timeout = \"infinity\"", |s| {
        s.freeze_after.is_some()
    });
    for (line, expected) in [
        ("freeze_after = \"1ms\"", "must be at least \"100ms\""),
        ("freeze_after = \"10min\"", "is not before idle_timeout"),
        (
            "freeze_after = \"1min\"\nbusy_cpu = \"5%\"",
            "and busy_cpu or busy_io exclude each other",
        ),
    ] {
        check_key(line, &format!("service.wiki.freeze_after: {expected}"));
    }
    check_service("freeze_after = \"1min\"\nfreeze_reclaim = true", |s| {
        s.freeze_reclaim
    });
    check_service("freeze_reclaim = false", |s| !s.freeze_reclaim);
    check_key(
        "freeze_reclaim = true",
        "service.wiki.freeze_reclaim: is about the memory of an application that is frozen; add freeze_after",
    );
    let unix = wiki("freeze_after = \"1min\"").replace("127.0.0.1:8080", "/run/wiki.sock");
    check(
        &unix,
        "/etc/o.toml:5: service.wiki.freeze_after: requires TCP addresses",
    );
}

#[test]
fn groups_are_read_or_refused() {
    let with = |group: &str| wiki("group = \"gpu\"") + "\n" + group;
    let config = parse(&with("[group.gpu]\nat_most = 1")).unwrap();
    assert_eq!(config.services["wiki"].group.as_deref(), Some("gpu"));
    assert_eq!(config.groups["gpu"].at_most, 1);
    for (group, expected) in [
        ("", ":5: service.wiki.group: no group \"gpu\"; add it"),
        (
            "[group.gpus]\nat_most = 1",
            ":5: service.wiki.group: no group \"gpu\"; did you mean \"gpus\"?",
        ),
        (
            "[group.gpu]\nat_most = 0",
            ": group.gpu.at_most: 0 would let none of its services start",
        ),
        (
            "[group.gpu]\nat_most = -1",
            ": group.gpu.at_most: \"-1\" is not a number of services",
        ),
        ("[group.gpu]", ": group.gpu.at_most: missing"),
        (
            "[group.gpu]\nat_most = 1\nat_least = 1",
            ": group.gpu.at_least: unknown key; did you mean `at_most`?",
        ),
        (
            "[group.gpu.a]\nat_most = 1",
            ": group.gpu: a name with dots needs quotes: [group.\"gpu.a\"]",
        ),
        ("[group]\ngpu = 1", ": group.gpu: expected a table"),
    ] {
        check(&with(group), expected);
    }
    // Its own mistake alone is reported, not the service.
    let wrong = parse(&with("[group.gpu]\nat_most = 0")).unwrap_err();
    assert_eq!(wrong.problems().len(), 1, "{wrong}");
    check_key("group = 1", "service.wiki.group: expected a string");
}

#[test]
fn a_memory_budget_is_read_or_refused() {
    let with = |lines: &str| format!("[agent]\n{lines}\n{}", wiki(""));
    for (lines, expected) in [
        ("", None),
        (
            "memory_budget = \"8GiB\"",
            Some(MemoryBudget::Bytes(8 << 30)),
        ),
        (
            "memory_budget = \"auto\"",
            Some(MemoryBudget::Auto { reserve: 1 << 30 }),
        ),
        (
            "reserve = \"512M\"\nmemory_budget = \"auto\"",
            Some(MemoryBudget::Auto { reserve: 512 << 20 }),
        ),
    ] {
        assert_eq!(parse(&with(lines)).unwrap().agent.memory_budget, expected);
    }
    for (lines, expected) in [
        (
            "memory_budget = \"8GB\"",
            ":2: agent.memory_budget: \"8GB\" is not an amount of memory",
        ),
        (
            "memory_budget = 8",
            ":2: agent.memory_budget: expected a string",
        ),
        (
            "reserve = \"1G\"",
            ":2: agent.reserve: is what stays available with",
        ),
        (
            "memory_budget = \"1G\"\nreserve = \"1G\"",
            ":3: agent.reserve: is what stays available with",
        ),
        (
            "memory_budget = \"auto\"\nreserve = \"0G\"",
            ":3: agent.reserve: \"0G\" is not an amount of memory",
        ),
    ] {
        check(&with(lines), expected);
    }
}

#[test]
fn prewarm_needs_a_stop() {
    check_service("prewarm = true", |s| s.prewarm);
    check_service("prewarm = false\nidle_timeout = \"infinity\"", |s| {
        !s.prewarm
    });
    check_key(
        "prewarm = true\nidle_timeout = \"infinity\"",
        "service.wiki.prewarm: a service that is never stopped",
    );
    check_key(
        "prewarm = \"1h\"",
        "service.wiki.prewarm: expected true or false, found a string",
    );
}

#[test]
fn times_of_use_are_read_or_refused() {
    let friday = Minute::new(4, 17, 59);
    check_service("keep_up = \"Mon..Fri 08:00-18:00\"", |s| {
        s.keep_up.contains(friday)
    });
    check_service("keep_up = [\"Sat,Sun\", \"22:00-06:00\"]", |s| {
        !s.keep_up.contains(friday)
    });
    check_key(
        "keep_up = \"workdays\"",
        "service.wiki.keep_up: \"workdays\" is no time of use: \"workdays\" is no day",
    );
    check_key("keep_up = []", "service.wiki.keep_up: 1 to 16 times of use");
    check_key(
        "keep_up = 8",
        "service.wiki.keep_up: expected an array of strings, found an integer",
    );
    check(
        &wiki("keep_up = [\"Mon\",\n\"Tue 8-9\"]"),
        "/etc/o.toml:6: service.wiki.keep_up: \"Tue 8-9\" is no time of use",
    );
}
