//! The table of messages: what people read when something is wrong, and what it tells them to do. `tests/data/messages.md` is
//! made from the sources, and compared with them: a new message shows up there, beside its next step.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

const TABLE: &str = "tests/data/messages.md";

/// Words by which a message tells what is right, or what to do: it needs no second sentence.
const TELLS: [&str; 26] = [
    "; ",
    "`",
    "must ",
    "requires",
    "expected",
    "write ",
    "did you mean",
    "maximum is",
    "needs ",
    "remove ",
    "set ",
    "use ",
    "run ",
    "give ",
    "choose",
    "at least",
    "at most",
    "between",
    "instead",
    "is not ",
    "only ",
    "none of {EXAMPLE}",
    "leave out",
    "(is ",
    "(true ",
    "no longer than",
];

/// Parts of other messages, which tell it; what a person has answered; and what nobody but a developer can see.
const WITHOUT: [&str; 16] = [
    "{name}:{number}: {why}",
    "no agent is running: {why}",
    "\"native\" {why}",
    "a string",
    "a table",
    "true or false",
    "it is empty",
    "it has more than days and a span of time",
    "nothing was changed",
    "MANUAL.md has no section {heading:?}",
    "draw a plot: {error}",
    "a result of Prometheus",
    "an answer of Prometheus",
    "{}: answers {}{why}{next}",
    "{}: {why}",
    "no attempt",
];

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The Rust files below a directory, without their tests and comments.
fn sources(directory: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut places = vec![top().join(directory)];
    while let Some(place) = places.pop() {
        for entry in fs::read_dir(&place).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                places.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("tests.rs")
            {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]").next().unwrap();
                let lines = code
                    .lines()
                    .filter(|line| !line.trim_start().starts_with("//"));
                let name = path.strip_prefix(top().join(directory)).unwrap();
                found.push((
                    name.display().to_string(),
                    lines.collect::<Vec<_>>().join("\n"),
                ));
            }
        }
    }
    found.sort();
    found
}

/// The end of what begins here, up to the closing bracket or one of `ends`, and where its commas are.
fn extent(text: &str, ends: &[char]) -> (usize, Vec<usize>) {
    let (mut depth, mut commas) = (0_i32, Vec::new());
    let mut letters = text.char_indices().peekable();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => {
                while let Some((_, letter)) = letters.next() {
                    match letter {
                        '\\' => drop(letters.next()),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            // A character, not a lifetime.
            '\'' if text[at..].chars().nth(2) == Some('\'') => drop(letters.nth(1)),
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth == 0 => return (at, commas),
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => commas.push(at),
            letter if depth == 0 && ends.contains(&letter) => return (at, commas),
            _ => {}
        }
    }
    (text.len(), commas)
}

/// The arguments of a call whose opening bracket was before this.
fn arguments(text: &str) -> Vec<&str> {
    let (end, commas) = extent(text, &[]);
    let begins = [0].into_iter().chain(commas.iter().map(|at| at + 1));
    let ends = commas.iter().copied().chain([end]);
    begins
        .zip(ends)
        .map(|(begin, end)| text[begin..end].trim())
        .filter(|it| !it.is_empty())
        .collect()
}

/// The strings in some code that are words for people.
fn strings(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(begin) = rest.find('"') {
        let mut text = String::new();
        let mut letters = rest[begin + 1..].char_indices();
        let mut end = rest.len();
        while let Some((at, letter)) = letters.next() {
            match letter {
                '"' => {
                    end = begin + 1 + at + 1;
                    break;
                }
                '\\' => match letters.next() {
                    // Continued on the next line, without its indentation.
                    Some((_, '\n')) => {
                        let after = letters.as_str();
                        let skipped = after.len() - after.trim_start().len();
                        for _ in 0..after[..skipped].chars().count() {
                            letters.next();
                        }
                    }
                    Some((_, 'n')) => text.push(' '),
                    Some((_, letter)) => text.push(letter),
                    None => {}
                },
                letter => text.push(letter),
            }
        }
        if text.contains(' ') && text.chars().any(char::is_alphabetic) {
            found.push(text);
        }
        rest = &rest[end.min(rest.len())..];
    }
    found
}

/// The words of an argument: its own strings, or those of the variable that it names.
fn words(argument: &str, before: &str) -> String {
    let own = strings(argument);
    if !own.is_empty() {
        return own.join(" / ");
    }
    let name = argument
        .trim_start_matches('&')
        .split('.')
        .next()
        .unwrap_or_default();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(is_name) {
        return String::new();
    }
    if name.chars().all(|c| c.is_ascii_uppercase() || c == '_') {
        let constant = before
            .rsplit(&format!("const {name}: &str = "))
            .next()
            .unwrap_or_default();
        return strings(constant.split(';').next().unwrap_or_default()).join(" / ");
    }
    for (at, _) in before.rmatch_indices("let ") {
        let statement = &before[at + 4..];
        let Some((pattern, value)) = statement.split_once(" = ") else {
            continue;
        };
        if pattern.len() < 60 && pattern.split(|c| !is_name(c)).any(|part| part == name) {
            let (end, _) = extent(value, &[';']);
            return strings(&value[..end]).join(" / ");
        }
    }
    String::new()
}

/// What a call of this name says: the arguments at these places.
fn calls(
    directory: &str,
    names: &[&str],
    places: impl Fn(usize) -> Vec<usize>,
) -> BTreeSet<(String, Vec<String>)> {
    let mut found = BTreeSet::new();
    for (file, text) in sources(directory) {
        for name in names {
            for (at, _) in text.match_indices(name) {
                let arguments = arguments(&text[at + name.len()..]);
                let said = places(arguments.len());
                let said = said.iter().filter_map(|place| arguments.get(*place));
                let said: Vec<String> = said.map(|argument| words(argument, &text[..at])).collect();
                if said.iter().any(|it| !it.is_empty()) {
                    found.insert((file.clone(), said));
                }
            }
        }
    }
    found
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[test]
fn each_message_has_its_next_step() {
    let mut table = String::from(
        "# Messages\n\nWhat people read when something is wrong, and its next step: made from the sources, and compared with them, by the test\n\
         `each_message_has_its_next_step`. With `ONDEMAND_WRITE_MESSAGES=1` it writes this file anew. `{}`: what is inserted.\n",
    );
    let mut lacking = Vec::new();
    table += "\n## Of `ondemand check`\n\n| where | message | next step |\n| --- | --- | --- |\n";
    let findings = ["Finding::warning(", "Finding::error("];
    for (file, said) in calls("ondemand-user/src/install/check", &findings, |_| vec![1, 2]) {
        let [message, next] = &said[..] else {
            panic!("{file}: {said:?}")
        };
        let shown = |text: &str| match text.is_empty() {
            true => "(of what it has found)".to_owned(),
            false => cell(text),
        };
        if next.is_empty() && message.is_empty() {
            lacking.push((file.clone(), said.join(" ")));
        }
        let _ = writeln!(table, "| {file} | {} | {} |", shown(message), shown(next));
    }
    for (head, directory, names) in [
        (
            "Of a refused configuration",
            "ondemand-user/core/src/config",
            &[".problem(", "problem_below(", "Err("][..],
        ),
        (
            "Of a command that fails",
            "ondemand-user/src/commands",
            &[
                "bail!(",
                "ensure!(",
                "anyhow!(",
                "refuse(",
                "Usage(",
                "Refusal(",
                "write!(f,",
                "f.write_str(",
            ],
        ),
    ] {
        let _ = write!(
            table,
            "\n## {head}\n\n| where | message, and what to do |\n| --- | --- |\n"
        );
        for (file, said) in calls(directory, names, |count| (0..count).collect()) {
            let said: Vec<_> = said.into_iter().filter(|it| !it.is_empty()).collect();
            let said = said.join(" / ");
            if !TELLS.iter().any(|words| said.contains(words)) && !WITHOUT.contains(&said.as_str())
            {
                lacking.push((file.clone(), said.clone()));
            }
            let _ = writeln!(table, "| {file} | {} |", cell(&said));
        }
    }
    let path = top().join(TABLE);
    if std::env::var_os("ONDEMAND_WRITE_MESSAGES").is_some() {
        fs::write(&path, &table).unwrap();
    }
    assert!(
        lacking.is_empty(),
        "they do not tell what to do: {lacking:#?}"
    );
    let lines = |text: &str| -> BTreeMap<String, usize> {
        let mut lines = BTreeMap::new();
        text.lines()
            .for_each(|line| *lines.entry(line.to_owned()).or_default() += 1);
        lines
    };
    let (expected, found) = (
        lines(&table),
        lines(&fs::read_to_string(&path).unwrap_or_default()),
    );
    let new: Vec<_> = expected
        .keys()
        .filter(|line| !found.contains_key(*line))
        .collect();
    let stale: Vec<_> = found
        .keys()
        .filter(|line| !expected.contains_key(*line))
        .collect();
    assert!(
        new.is_empty() && stale.is_empty(),
        "{TABLE} is not of these sources; ONDEMAND_WRITE_MESSAGES=1 writes it anew, to be read.\nnew: {new:#?}\nstale: {stale:#?}"
    );
}
