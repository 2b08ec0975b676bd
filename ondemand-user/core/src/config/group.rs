//! `[group.NAME]` and `group`: services of which only some are up at a time.

use std::collections::BTreeMap;

use super::{
    error::Problem,
    names,
    parse::{GROUP_KEYS, Problems},
    parsed::Parsed,
    table::{Section, Value, nearest},
};

/// For messages about `group`.
pub(super) const EXAMPLE: &str = "\"gpu\", the name of a [group.gpu]";

/// A group of services that take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Maximum number of its services that are up at once; at least 1.
    pub at_most: u32,
}

/// Reads one table. `None`: it is not valid.
pub(super) fn read(name: &str, table: &Value<'_>, problems: &mut Problems) -> Option<Group> {
    if let Some(rest) = table.dotted() {
        let example = super::table::example(&table.place.key(), &rest);
        let message = format!("a name with dots needs quotes: {example}");
        problems.0.push(table.place.problem(message));
        return None;
    }
    let named = problems.keep(names::service(name).map_err(|message| table.place.problem(message)));
    let mut section = problems.keep(Section::open(table, GROUP_KEYS))?;
    let at_most = match section.take("at_most") {
        Some(value) => problems.keep(at_most(&value)),
        None => {
            let message = "missing; add at_most = 1, or how many of its services may be up at once";
            problems
                .0
                .push(section.place.problem_below("at_most", message));
            None
        }
    };
    problems.0.extend(section.unknown());
    named?;
    Some(Group { at_most: at_most? })
}

fn at_most(value: &Value<'_>) -> Result<u32, Problem> {
    let text = value.string_or_integer("1")?;
    match text.parse::<u32>() {
        Ok(0) => Err(value.place.problem(
            "0 would let none of its services start; write how many of them may be up at once, such as 1",
        )),
        Ok(number) => Ok(number),
        Err(_) => Err(value.place.problem(format!(
            "{text:?} is not a number of services; write it like 1"
        ))),
    }
}

/// The problem of a service whose group does not exist.
pub(super) fn unknown(
    parsed: &Parsed<'_>,
    groups: &BTreeMap<&str, Option<Group>>,
) -> Option<Problem> {
    let (name, place) = (parsed.service.group.as_deref()?, parsed.group.as_ref()?);
    if groups.contains_key(name) {
        return None;
    }
    let known: Vec<&str> = groups.keys().copied().collect();
    let hint = match nearest(name, &known) {
        Some(near) => format!("did you mean {near:?}?"),
        None if known.is_empty() => "add it: a table [group.NAME] with at_most = 1".to_owned(),
        None => format!("there are: {}", known.join(", ")),
    };
    Some(place.problem(format!("no group {name:?}; {hint}")))
}
