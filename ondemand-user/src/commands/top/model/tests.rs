//! Keys, and what is shown after them.

use super::*;

fn service(name: &str, open: u64, accepted: u64, bytes: u64) -> Service {
    Service {
        name: name.into(),
        state: if open > 0 { "active" } else { "inactive" }.into(),
        open_connections: Some(open),
        accepted_connections: accepted,
        sent_bytes: bytes,
        ..Service::default()
    }
}

fn report(services: &[Service]) -> Report {
    Report {
        services: services.to_vec(),
        ..Report::default()
    }
}

fn model() -> Model {
    let mut model = Model::default();
    let services = [
        service("a", 0, 10, 0),
        service("b", 2, 10, 0),
        service("c", 1, 10, 0),
    ];
    model.report(report(&services), Duration::ZERO);
    let services = [
        service("a", 0, 10, 0),
        service("b", 2, 12, 900),
        service("c", 1, 30, 100),
    ];
    model.report(report(&services), Duration::from_secs(2));
    model
}

fn press(model: &mut Model, keys: &str) -> Effect {
    let mut effect = Effect::None;
    for key in keys.chars() {
        effect = model.key(KeyEvent::new(KeyCode::Char(key), KeyModifiers::NONE));
    }
    effect
}

/// Checks the names in their order, and the selected one, after these keys.
#[track_caller]
fn check(keys: &str, expected: &str, effect: Effect) {
    let mut model = model();
    assert_eq!(press(&mut model, keys), effect, "{keys}");
    let selected = model.selected();
    let names = model.rows.iter().enumerate().map(|(place, row)| {
        let mark = if Some(place) == selected { "*" } else { "" };
        format!("{}{mark}", row.service.name)
    });
    let names: Vec<_> = names.collect();
    assert_eq!(names.join(" "), expected, "{keys}");
}

#[test]
fn keys() {
    check("", "a* b c", Effect::None);
    check("j", "a b* c", Effect::None);
    check("jjjj", "a b c*", Effect::None);
    check("jk", "a* b c", Effect::None);
    check("k", "a* b c", Effect::None);
    check("G", "a b c*", Effect::None);
    // State, open connections, rate, traffic; the selection stays with its service.
    check("js", "b* c a", Effect::None);
    check("ss", "b c a*", Effect::None);
    check("sss", "c b a*", Effect::None);
    check("ssss", "b c a*", Effect::None);
    check("sS", "a* b c", Effect::None);
    check("sssssss", "a* b c", Effect::None);
    check("jh", "a b* c", Effect::Hold("b".into()));
    check("jr", "a b* c", Effect::Release("b".into()));
    check("q", "a* b c", Effect::Quit);
    check("x", "a* b c", Effect::None);
    // The next key closes the help.
    check("?j", "a* b c", Effect::None);
    check("?jj", "a b* c", Effect::None);
    check("?q", "a* b c", Effect::Quit);
    let mut model = model();
    let control = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(model.key(control), Effect::Quit);
    let mut nothing = Model::default();
    assert_eq!(press(&mut nothing, "jkGhr"), Effect::None);
}

#[test]
fn rates() {
    let mut model = model();
    let rates = |model: &Model| -> Vec<f64> { model.rows.iter().map(Row::rate).collect() };
    assert_eq!(rates(&model), [0.0, 1.0, 10.0]);
    assert_eq!(model.rows[1].sent, 450.0);
    // A report of the same moment changes no rate, a reset counter gives none.
    let services = [service("b", 2, 20, 900), service("c", 0, 3, 0)];
    model.report(report(&services), Duration::from_secs(2));
    assert_eq!(rates(&model), [1.0, 10.0]);
    model.report(report(&[service("c", 0, 1, 0)]), Duration::from_secs(3));
    assert_eq!(rates(&model), [0.0]);
    assert_eq!(model.selected(), Some(0), "its service is gone");
    for second in 4..1_000 {
        model.report(
            report(&[service("c", 0, second, 0)]),
            Duration::from_secs(second),
        );
    }
    assert_eq!(model.rows[0].connections.len(), KEPT);
}

#[test]
fn messages_go_and_losses_stay_until_the_next_answer() {
    let mut model = model();
    model.say("b: released".into(), Duration::from_secs(3));
    model.lost("no agent".into());
    assert_eq!(model.rows.len(), 3, "the last report stays");
    model.report(report(&[]), Duration::from_secs(8));
    assert!(model.message.is_some());
    assert!(model.lost.is_none());
    model.report(report(&[]), Duration::from_secs(9));
    assert!(model.message.is_none());
    assert_eq!(model.selected(), None);
}

fn code(model: &mut Model, code: KeyCode) -> Effect {
    model.key(KeyEvent::new(code, KeyModifiers::NONE))
}

fn names(model: &Model) -> String {
    let names: Vec<_> = model.shown().map(|row| row.service.name.as_str()).collect();
    names.join(" ")
}

#[test]
fn a_filter_shows_some() {
    let mut model = model();
    model.rows[0].service.unit = "postgres.service".into();
    press(&mut model, "/B");
    assert!(model.is_typing);
    assert_eq!(names(&model), "b");
    assert_eq!(model.selected(), Some(0), "what is shown is selected");
    // A letter is no command meanwhile.
    press(&mut model, "q");
    assert_eq!((names(&model).as_str(), model.selected()), ("", None));
    assert_eq!(press(&mut model, ""), Effect::None);
    code(&mut model, KeyCode::Backspace);
    code(&mut model, KeyCode::Enter);
    assert_eq!(names(&model), "b");
    assert_eq!(press(&mut model, "h"), Effect::Hold("b".into()));
    // It stays with the next report.
    model.report(
        report(&[service("a", 0, 0, 0), service("b", 0, 0, 0)]),
        Duration::from_secs(3),
    );
    assert_eq!(names(&model), "b");
    code(&mut model, KeyCode::Esc);
    assert_eq!(names(&model), "a b");
    // By unit, and given up while it is typed.
    model.rows[0].service.unit = "postgres.service".into();
    press(&mut model, "/post");
    assert_eq!(names(&model), "a");
    code(&mut model, KeyCode::Esc);
    assert!(!model.is_typing);
    assert_eq!(names(&model), "a b");
    // Those that are up.
    model.report(
        report(&[service("a", 0, 0, 0), service("b", 1, 0, 0)]),
        Duration::from_secs(4),
    );
    press(&mut model, "a");
    assert_eq!((names(&model).as_str(), model.selected()), ("b", Some(0)));
    press(&mut model, "a");
    assert_eq!(names(&model), "a b");
}

#[test]
fn a_start_and_a_stop_are_asked() {
    for (key, verb, effect) in [
        ("u", "start b?", Effect::Start("b".into())),
        ("d", "stop b?", Effect::Stop("b".into())),
    ] {
        let mut model = model();
        assert_eq!(press(&mut model, "j"), Effect::None);
        assert_eq!(press(&mut model, key), Effect::None);
        let text = model.question.clone().unwrap().text;
        assert!(
            text.starts_with(verb) && text.contains("2 open connections"),
            "{text}"
        );
        // All else is a no, and no command.
        assert_eq!(press(&mut model, "q"), Effect::None);
        assert_eq!(model.question, None);
        press(&mut model, key);
        // The one that was asked about, though it has gone meanwhile.
        model.report(report(&[service("a", 0, 0, 0)]), Duration::from_secs(3));
        assert_eq!(press(&mut model, "y"), effect);
        assert_eq!(press(&mut model, "y"), Effect::None);
    }
    let mut nothing = Model::default();
    press(&mut nothing, "ud");
    assert_eq!(nothing.question, None);
}

#[test]
fn a_page_is_of_one_service_and_read_again() {
    let mut model = model();
    press(&mut model, "j");
    let look = Effect::Look("b".into(), String::new());
    assert_eq!(code(&mut model, KeyCode::Enter), look);
    model.past("c", "of another".into());
    assert_eq!(model.page.as_ref().unwrap().past, None);
    model.past("b", "started".into());
    assert_eq!(
        model.page.as_ref().unwrap().past.as_deref(),
        Some("started")
    );
    assert_eq!(model.due(Duration::from_secs(3)), Effect::None);
    assert_eq!(model.due(Duration::from_secs(7)), look);
    assert_eq!(model.due(Duration::from_secs(8)), Effect::None);
    // It scrolls, and is of the same service.
    press(&mut model, "jjk");
    assert_eq!(model.page.as_ref().unwrap().scroll, 1);
    assert_eq!(press(&mut model, "h"), Effect::Hold("b".into()));
    press(&mut model, "d");
    assert!(model.question.is_some());
    press(&mut model, "n");
    code(&mut model, KeyCode::Esc);
    assert_eq!(model.page, None);
    assert_eq!(model.selected(), Some(1));
    assert_eq!(model.due(Duration::from_secs(60)), Effect::None);
    let mut nothing = Model::default();
    assert_eq!(code(&mut nothing, KeyCode::Enter), Effect::None);
}
