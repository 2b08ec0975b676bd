//! Parses TOML into [`Service`]s: each key is read once, and all problems of a file are collected in one pass.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    time::Duration,
};

use toml::de::{DeTable, DeValue};

use super::{
    Agent, Endpoint, MAX_LISTEN, MAX_SERVICES, Service, access, activation, empty, endpoint,
    error::Problem,
    first_client, freeze,
    group::{self, Group},
    keepalive,
    learning::{self, ColdStartCost, Learning},
    memory, metrics, names, networks, overlaps, own,
    parsed::Parsed,
    parts, ready, schedule, silence,
    table::{Lines, Place, Section, Value, example},
    timespan, waiting_page, whatif, work,
};

const ROOT_KEYS: &[&str] = &["agent", "service", "group"];
/// Of `[agent]`. MANUAL.md describes each.
pub const AGENT_KEYS: &[&str] = &[
    "metrics",
    "metrics_names",
    "page",
    "whatif",
    "history",
    "memory_budget",
    "reserve",
    "cold_start_cost",
];
/// Of `[group.NAME]`. MANUAL.md describes each.
pub const GROUP_KEYS: &[&str] = &["at_most"];
/// Of `[service.NAME]`. MANUAL.md describes each.
pub const SERVICE_KEYS: &[&str] = &[
    "listen",
    "backend",
    "unit",
    "idle_timeout",
    "idle_timeout_min",
    "idle_timeout_max",
    "cold_start_cost",
    "keep_up",
    "prewarm",
    "freeze_after",
    "freeze_reclaim",
    "group",
    "silent_after",
    "busy_cpu",
    "busy_io",
    "min_uptime",
    "start_timeout",
    "ready",
    "ready_status",
    "waiting_page",
    "steer",
    "first_client",
    "activation",
    "wake_from",
    "ignore_from",
    "ignore_empty",
    "keepalive",
    "veto",
    "socket_mode",
    "socket_user",
    "socket_group",
];

const DEFAULT_HISTORY: &str = "/var/lib/ondemand/history.db";
const DEFAULT_MIN_UPTIME: Duration = Duration::from_secs(30);
const DEFAULT_START_TIMEOUT: Duration = Duration::from_secs(90);

const LISTEN_EXAMPLE: &str = r#"["0.0.0.0:80", "[::]:80"]"#;

/// The problems collected so far.
#[derive(Default)]
pub(super) struct Problems(pub(super) Vec<Problem>);

impl Problems {
    /// Returns the value, or records the problem and returns `None`.
    pub(super) fn keep<T>(&mut self, result: Result<T, Problem>) -> Option<T> {
        result.map_err(|problem| self.0.push(problem)).ok()
    }
}

type Document = (Agent, BTreeMap<String, Service>, BTreeMap<String, Group>);

/// Parses and validates a whole configuration.
pub(super) fn document(path: &Path, text: &str) -> Result<Document, Vec<Problem>> {
    let parts = parts::split(text);
    let lines = parts.iter().enumerate();
    let lines: Vec<_> = lines
        .map(|(index, part)| Lines::new(index, part, path))
        .collect();
    let mut problems = Problems::default();
    let tables: Vec<_> = parts
        .iter()
        .zip(&lines)
        .filter_map(|(part, lines)| {
            let table = DeTable::parse(part.text).map_err(|err| syntax(lines, &err));
            Some(DeValue::Table(problems.keep(table)?.into_inner()))
        })
        .collect();
    if !problems.0.is_empty() {
        return Err(problems.0);
    }
    let roots = lines.iter().zip(&tables);
    let roots: Vec<_> = roots
        .map(|(lines, table)| Value::root(lines, table))
        .collect();
    let (agent, metrics, mut services, groups) = sections(path, &roots, &mut problems);
    own::assign(&mut services);
    // An invalid service cannot be compared with others: its own problem is reported first.
    problems
        .0
        .extend(overlaps::check(&services, metrics.as_ref()));
    if problems.0.is_empty() {
        let by_name = services
            .into_iter()
            .map(|parsed| (parsed.service.name.clone(), parsed.service));
        Ok((agent, by_name.collect(), groups))
    } else {
        Err(problems.0)
    }
}

/// The names of the services in the text of one file, whether they are valid or not; none if it is not TOML.
pub fn service_names(text: &str) -> Vec<String> {
    let Ok(table) = DeTable::parse(text) else {
        return Vec::new();
    };
    let services = table.get_ref().get("service").map(|value| value.get_ref());
    let Some(DeValue::Table(services)) = services else {
        return Vec::new();
    };
    let names = services.iter().map(|(name, _)| name.get_ref().to_string());
    names.collect()
}

fn syntax(lines: &Lines, err: &toml::de::Error) -> Problem {
    let line = err.span().map(|span| lines.at(span.start));
    let message = err.message().replace('\n', ", ");
    Problem {
        file: lines.file(),
        line,
        key: String::new(),
        message: format!("not valid TOML: {message}"),
    }
}

type Sections<'t> = (
    Agent,
    Option<(Endpoint, Place<'t>)>,
    Vec<Parsed<'t>>,
    BTreeMap<String, Group>,
);

/// `roots`: of the files, the main one at `path` first.
fn sections<'t>(path: &Path, roots: &[Value<'t>], problems: &mut Problems) -> Sections<'t> {
    let (mut agent_table, mut service_tables, mut group_tables) = (None, Vec::new(), Vec::new());
    for (index, root) in roots.iter().enumerate() {
        let Some(mut root) = problems.keep(Section::open(root, ROOT_KEYS)) else {
            continue;
        };
        match root.take("agent") {
            Some(table) if index > 0 => problems.0.push(table.place.problem(format!(
                "belongs in {}; other files have services and groups only",
                path.display()
            ))),
            table => agent_table = agent_table.or(table),
        }
        service_tables.extend(root.take("service"));
        group_tables.extend(root.take("group"));
        problems.0.extend(root.unknown());
    }
    let (agent, metrics) = agent(agent_table, problems);
    let groups = all_groups(&group_tables, problems);
    let mut services = all_services(&service_tables, agent.cold_start_cost, problems);
    services.retain(|parsed| match group::unknown(parsed, &groups) {
        Some(problem) => {
            problems.0.push(problem);
            false
        }
        None => true,
    });
    let groups = groups.into_iter();
    let groups = groups.filter_map(|(name, group)| Some((name.to_owned(), group?)));
    (agent, metrics, services, groups.collect())
}

/// The entries of these tables, each name once. `remedy`: for one that is there twice.
fn named<'t>(
    tables: &[Value<'t>],
    remedy: &str,
    problems: &mut Problems,
) -> Vec<(&'t str, Value<'t>)> {
    let mut entries: Vec<(&str, Value<'t>)> = Vec::new();
    let mut seen: HashMap<&str, Place<'t>> = HashMap::new();
    for table in tables {
        for (name, value) in problems.keep(table.table()).unwrap_or_default() {
            match seen.get(name) {
                Some(other) => problems.0.push(value.place.problem(format!(
                    "also in {}; {remedy}",
                    other.seen_from(&value.place)
                ))),
                None => {
                    seen.insert(name, value.place.clone());
                    entries.push((name, value));
                }
            }
        }
    }
    entries
}

/// Each group, or `None` for one that is not valid: its services are not to blame.
fn all_groups<'t>(
    tables: &[Value<'t>],
    problems: &mut Problems,
) -> BTreeMap<&'t str, Option<Group>> {
    let entries = named(tables, "a group has one place: remove one", problems);
    let read = |(name, value): (&'t str, Value<'t>)| (name, group::read(name, &value, problems));
    entries.into_iter().map(read).collect()
}

fn all_services<'t>(
    tables: &[Value<'t>],
    cost: ColdStartCost,
    problems: &mut Problems,
) -> Vec<Parsed<'t>> {
    let entries = named(
        tables,
        "a name is that of one service: rename or remove one",
        problems,
    );
    if entries.len() > MAX_SERVICES {
        let message = format!("{} services; the maximum is {MAX_SERVICES}", entries.len());
        let last = tables.last().map(|table| table.place.problem(message));
        problems.0.extend(last);
        return Vec::new();
    }
    entries
        .iter()
        .filter_map(|(name, value)| service(name, value, cost, problems))
        .collect()
}

fn agent<'t>(
    table: Option<Value<'t>>,
    problems: &mut Problems,
) -> (Agent, Option<(Endpoint, Place<'t>)>) {
    let mut section = table.and_then(|table| problems.keep(Section::open(&table, AGENT_KEYS)));
    let mut take = |key: &str| section.as_mut().and_then(|section| section.take(key));
    let (address, history, cost) = (take("metrics"), take("history"), take("cold_start_cost"));
    let (names, page, whatif) = (take("metrics_names"), take("page"), take("whatif"));
    let (budget, reserve) = (take("memory_budget"), take("reserve"));
    let budget = problems.keep(memory::read(budget.as_ref(), reserve.as_ref()));

    let parsed = match &address {
        None => endpoint::tcp(metrics::DEFAULT).ok(),
        Some(value) => problems.keep(metrics::address(value)).flatten(),
    };
    let history = match &history {
        None => Some(PathBuf::from(DEFAULT_HISTORY)),
        Some(value) => problems.keep(history_path(value)).flatten(),
    };
    let names = names.map(|value| problems.keep(metrics::names(&value)).unwrap_or_default());
    let page = page.and_then(|value| problems.keep(value.boolean()));
    let cost = learning::read_cost(cost.as_ref(), ColdStartCost::default(), &mut problems.0);
    let whatif = problems.keep(whatif::read(whatif.as_ref()));
    problems
        .0
        .extend(section.map(Section::unknown).unwrap_or_default());
    // The default address claims nothing: a conflict with a service is reported when the agent binds it.
    let claim = address
        .zip(parsed)
        .map(|(value, address)| (Endpoint::Tcp(address), value.place));
    (
        Agent {
            metrics: parsed,
            whatif: whatif.unwrap_or_default(),
            metrics_names: names.unwrap_or_default(),
            page: page.unwrap_or(true),
            history,
            memory_budget: budget.flatten(),
            cold_start_cost: cost.unwrap_or_default(),
        },
        claim,
    )
}

fn history_path(value: &Value<'_>) -> Result<Option<PathBuf>, Problem> {
    match value.string(&format!("{DEFAULT_HISTORY:?}, or \"\" for none"))? {
        "" => Ok(None),
        text => names::absolute_path(text)
            .map(Some)
            .map_err(|message| value.place.problem(message)),
    }
}

fn service<'t>(
    name: &str,
    table: &Value<'t>,
    cost: ColdStartCost,
    problems: &mut Problems,
) -> Option<Parsed<'t>> {
    if let Some(rest) = table.dotted() {
        let example = example(&table.place.key(), &rest);
        let message = format!("a name with dots needs quotes: {example}");
        problems.0.push(table.place.problem(message));
        return None;
    }
    let before = problems.0.len();
    problems.keep(names::service(name).map_err(|message| table.place.problem(message)));
    let mut section = problems.keep(Section::open(table, SERVICE_KEYS))?;

    let listen = required(&mut section, "listen", LISTEN_EXAMPLE, problems);
    let listen = listen.and_then(|value| listen_addresses(&value, problems));
    let backend = section.take("backend");
    let own_address = backend.is_none();
    let backend =
        backend.and_then(|value| Some((problems.keep(backend_address(&value))?, value.place)));
    let unit = required(
        &mut section,
        "unit",
        &format!("{:?}", format!("{name}.service")),
        problems,
    );
    let unit = unit.and_then(|value| Some((problems.keep(unit_name(&value))?, value.place)));

    if let Some((listen, places)) = &listen {
        if !own_address {
            problems.0.extend(own::moved(listen, places));
        }
        if listen.iter().all(Endpoint::is_udp) {
            for value in own::OF_CONNECTIONS
                .iter()
                .filter_map(|key| section.peek(key))
            {
                let message =
                    "is about connections, and `listen` has addresses of UDP alone; remove it";
                problems.0.push(value.place.problem(message));
            }
        }
    }
    let mut optional = |key: &str| section.take(key);
    let idle_timeout = problems.keep(learning::idle_timeout(optional("idle_timeout").as_ref()));
    let keep_up = problems.keep(schedule::read(optional("keep_up").as_ref()));
    let prewarm = problems.keep(learning::prewarm(
        optional("prewarm").as_ref(),
        idle_timeout,
    ));
    let busy = problems.keep(work::read(
        optional("busy_cpu").as_ref(),
        optional("busy_io").as_ref(),
    ));
    let silent_after = problems.keep(silence::read(optional("silent_after").as_ref()));
    let min_uptime = match optional("min_uptime") {
        None => Some(DEFAULT_MIN_UPTIME),
        Some(value) => problems.keep(finite(
            &value,
            "for a service that is never stopped write idle_timeout = \"infinity\"",
        )),
    };
    let start_timeout = match optional("start_timeout") {
        None => Some(DEFAULT_START_TIMEOUT),
        Some(value) => problems.keep(start_timeout(&value)),
    };
    let ready = problems.keep(ready::read(
        optional("ready").as_ref(),
        optional("ready_status").as_ref(),
        listen.as_ref().map(|(all, _)| all.as_slice()),
        backend.as_ref().map(|(backend, _)| backend),
    ));
    let steer = match optional("steer") {
        None => Some(true),
        Some(value) => problems.keep(value.boolean()),
    };
    let backend = match &listen {
        Some((listen, places)) if own_address => {
            let backend = own::backend(listen, places, steer, &table.place);
            let backend = backend.map_err(|found| problems.0.extend(found)).ok();
            backend.zip(places.first().cloned())
        }
        _ => backend,
    };
    let ignore_empty = problems.keep(empty::read(
        optional("ignore_empty").as_ref(),
        listen.as_ref().map(|(all, _)| all.as_slice()),
    ));
    let first_client = problems.keep(first_client::read(
        optional("first_client").as_ref(),
        steer,
        ignore_empty,
        listen.as_ref().map(|(all, _)| all.as_slice()),
        backend.as_ref().map(|(backend, _)| backend),
    ));
    let rest = freeze::Rest {
        idle_timeout,
        busy,
        listen: listen.as_ref().map(|(all, _)| all.as_slice()),
        backend: backend.as_ref().map(|(backend, _)| backend),
    };
    let freeze_after = problems.keep(freeze::read(optional("freeze_after").as_ref(), &rest));
    let freeze_reclaim = problems.keep(freeze::reclaim(
        optional("freeze_reclaim").as_ref(),
        freeze_after.map(|after| after.is_some()),
    ));
    let group = section.take("group");
    let group = match &group {
        None => None,
        Some(value) => {
            let name = problems.keep(value.string(group::EXAMPLE));
            name.map(|name| (name.to_owned(), value.place.clone()))
        }
    };
    let mut optional = |key: &str| section.take(key);
    let waiting_page = problems.keep(waiting_page::read(
        optional("waiting_page").as_ref(),
        backend.as_ref().map(|(backend, _)| backend),
    ));
    let activation = problems.keep(activation::read(
        optional("activation").as_ref(),
        &[
            (
                !own_address,
                "is for an application that systemd hands the socket at `listen`; remove `backend`",
            ),
            (
                listen
                    .as_ref()
                    .is_some_and(|(all, _)| all.iter().any(Endpoint::is_udp)),
                "is for connections alone: a socket of UDP that systemd holds cannot be told from that of the application; remove it, \
                 or the addresses of UDP",
            ),
            (
                ready.as_ref().is_some_and(Option::is_some),
                "has clients wait in the socket of the application, which nobody asks whether it is ready; remove `ready`",
            ),
            (
                waiting_page.as_ref().is_some_and(Option::is_some),
                "has clients wait in the socket of the application, where nobody shows them a page; remove `waiting_page`",
            ),
            (
                ignore_empty == Some(true),
                "has systemd start the application for any connection at the socket of the application; remove `ignore_empty`",
            ),
        ],
    ));
    let keepalive = problems.keep(keepalive::read(optional("keepalive").as_ref()));
    let veto = match optional("veto") {
        None => Some(None),
        Some(value) => problems.keep(veto(&value)),
    };
    let access = access::read(
        &mut section,
        listen.as_ref().map(|(all, _)| all.as_slice()),
        &mut problems.0,
    );
    let learning = Learning::read(&mut section, cost, &mut problems.0);
    let mut list = |key: &'static str| {
        let value = section.take(key)?;
        let kernel_knows = KernelKnows {
            steer,
            listen: listen.as_ref().map(|(all, _)| all.as_slice()),
        };
        problems.0.extend(kernel_knows.problem(&value));
        networks::list(&value, &mut problems.0)
    };
    let (wake_from, ignore_from) = (list("wake_from"), list("ignore_from"));
    problems.0.extend(section.unknown());
    if problems.0.len() > before {
        return None;
    }

    let ((listen, listen_places), (backend, backend_place), (unit, unit_place)) =
        (listen?, backend?, unit?);
    let service = Service {
        name: name.to_owned(),
        front: listen.clone(),
        listen,
        own_address,
        backend,
        unit,
        idle_timeout: idle_timeout?,
        learning: learning?,
        keep_up: keep_up?,
        prewarm: prewarm?,
        freeze_after: freeze_after?,
        freeze_reclaim: freeze_reclaim?,
        group: group.as_ref().map(|(name, _)| name.clone()),
        silent_after: silent_after?,
        busy: busy?,
        min_uptime: min_uptime?,
        start_timeout: start_timeout?,
        ready: ready?,
        waiting_page: waiting_page?,
        steer: steer?,
        first_client: first_client?,
        activation: activation?,
        wake_from: wake_from.unwrap_or_default(),
        ignore_from: ignore_from.unwrap_or_default(),
        ignore_empty: ignore_empty?,
        keepalive: keepalive?,
        veto: veto?,
        access: access?,
    };
    Some(Parsed {
        service,
        listen: listen_places,
        backend: backend_place,
        unit: unit_place,
        group: group.map(|(_, place)| place),
    })
}

fn required<'t>(
    section: &mut Section<'t>,
    key: &str,
    example: &str,
    problems: &mut Problems,
) -> Option<Value<'t>> {
    let value = section.take(key);
    if value.is_none() {
        let message = format!("missing; add {key} = {example}");
        problems.0.push(section.place.problem_below(key, message));
    }
    value
}

fn listen_addresses<'t>(
    value: &Value<'t>,
    problems: &mut Problems,
) -> Option<(Vec<Endpoint>, Vec<Place<'t>>)> {
    let texts = problems.keep(value.strings(LISTEN_EXAMPLE))?;
    if texts.is_empty() {
        problems.0.push(
            value
                .place
                .problem(format!("no address; write it like {LISTEN_EXAMPLE}")),
        );
        return None;
    }
    if texts.len() > MAX_LISTEN {
        let message = format!("{} addresses; the maximum is {MAX_LISTEN}", texts.len());
        problems.0.push(value.place.problem(message));
        return None;
    }
    let count = texts.len();
    let good: Vec<_> = texts
        .into_iter()
        .filter_map(|(place, text)| {
            let parsed = endpoint::parse(text).map_err(|message| place.problem(message));
            Some((problems.keep(parsed)?, place))
        })
        .collect();
    (good.len() == count).then(|| good.into_iter().unzip())
}

/// What a list of client networks requires: the kernel checks the list where it steers.
struct KernelKnows<'l> {
    steer: Option<bool>,
    listen: Option<&'l [Endpoint]>,
}

impl KernelKnows<'_> {
    fn problem(&self, value: &Value<'_>) -> Option<Problem> {
        let message = if self.steer == Some(false) {
            "requires steer = true: the list is checked by the program that steers connections"
        } else if self
            .listen
            .is_some_and(|all| !all.iter().any(|it| it.is_tcp() || it.is_udp()))
        {
            "requires a TCP or UDP address in `listen`: clients of a Unix socket have no address"
        } else {
            return None;
        };
        Some(value.place.problem(message))
    }
}

fn backend_address(value: &Value<'_>) -> Result<Endpoint, Problem> {
    let text = value.string("\"127.0.0.1:8080\"")?;
    let backend = endpoint::parse(text).map_err(|message| value.place.problem(message))?;
    if backend.is_udp() {
        return Err(value.place.problem(format!(
            "{text:?} is of UDP, whose datagrams are not passed on; remove backend, and write the address into `listen`, \
             where the application keeps it"
        )));
    }
    if let Endpoint::Tcp(address) = &backend
        && address.ip().is_unspecified()
    {
        let (own, port) = (
            if address.is_ipv4() {
                "127.0.0.1"
            } else {
                "[::1]"
            },
            address.port(),
        );
        return Err(value.place.problem(format!(
            "{text:?} means all addresses, and clients could bypass the front socket; let the application listen on \"{own}:{port}\" and write that"
        )));
    }
    Ok(backend)
}

fn unit_name(value: &Value<'_>) -> Result<String, Problem> {
    let name = value.string("\"wiki.service\"")?;
    names::unit(name).map_err(|message| value.place.problem(message))?;
    Ok(name.to_owned())
}

fn veto(value: &Value<'_>) -> Result<Option<PathBuf>, Problem> {
    let path = value.string("\"/usr/local/bin/checker\"")?;
    names::absolute_path(path).map(Some).map_err(|message| {
        value.place.problem(format!(
            "{message} (a single program without arguments; remove the key for no veto)"
        ))
    })
}

/// Parses a time span; `None` is `infinity`.
pub(super) fn span(value: &Value<'_>) -> Result<Option<Duration>, Problem> {
    let text = value.string_or_integer("\"10min\", \"1h 30min\" or 90 (seconds)")?;
    if matches!(text, "infinity" | "inf") {
        return Ok(None);
    }
    timespan::parse(text).map(Some).ok_or_else(|| {
        let longest = timespan::MAX.as_secs() / 31_557_600;
        value.place.problem(format!(
            "{text:?} is not a time span of at most {longest} years; write it like \"10min\", \"1h 30min\", \"500ms\" or 90 (seconds)"
        ))
    })
}

fn finite(value: &Value<'_>, instead: &str) -> Result<Duration, Problem> {
    span(value)?.ok_or_else(|| {
        value
            .place
            .problem(format!("cannot be infinite; {instead}"))
    })
}

fn start_timeout(value: &Value<'_>) -> Result<Duration, Problem> {
    let instead = "the first client would wait for ever; write a time span such as \"90s\"";
    match finite(value, instead)? {
        Duration::ZERO => Err(value.place.problem(
            "0 would refuse the first client before the service can start; write a time span such as \"90s\"",
        )),
        span => Ok(span),
    }
}
