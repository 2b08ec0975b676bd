//! What differs between two configurations, as they were written.

use std::{collections::BTreeMap, fmt};

use toml::de::{DeTable, DeValue};

use super::parts;

/// A service, or the agent, that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The service, or `[group.NAME]`; `None`: `[agent]`.
    pub service: Option<String>,
    /// What has become of it.
    pub kind: Kind,
}

/// What has become of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is new.
    New,
    /// It is gone.
    Gone,
    /// Keys of it, each with its old and its new value.
    Changed(Vec<(String, Option<String>, Option<String>)>),
}

impl fmt::Display for Difference {
    /// `~ wiki: idle_timeout = "10min" -> "5min"`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.service.as_deref().unwrap_or("[agent]");
        let Kind::Changed(keys) = &self.kind else {
            let (sign, word) = match self.kind {
                Kind::New => ('+', "new"),
                _ => ('-', "gone"),
            };
            return write!(f, "{sign} {name}: {word}");
        };
        for (index, (key, old, new)) in keys.iter().enumerate() {
            let start = match index {
                0 => format!("~ {name}: "),
                _ => ", ".to_owned(),
            };
            let [old, new] = [old, new].map(|value| value.as_deref().unwrap_or("(default)"));
            write!(f, "{start}{key} = {old} -> {new}")?;
        }
        Ok(())
    }
}

/// The values of a table, as text.
type Values = BTreeMap<String, String>;

/// What differs between two texts of configurations, those of several files included. A text that is not valid
/// has no tables.
pub fn differences(before: &str, after: &str) -> Vec<Difference> {
    let (before, after) = (tables(before), tables(after));
    let mut names: Vec<_> = before.keys().chain(after.keys()).collect();
    names.sort();
    names.dedup();
    let empty = Values::new();
    let difference = |name: &Option<String>| {
        let kind = match (before.get(name), after.get(name)) {
            (None, Some(_)) if name.is_some() => Kind::New,
            (Some(_), None) if name.is_some() => Kind::Gone,
            (old, new) => Kind::Changed(changed(old.unwrap_or(&empty), new.unwrap_or(&empty))),
        };
        let service = name.clone();
        (kind != Kind::Changed(Vec::new())).then_some(Difference { service, kind })
    };
    names.into_iter().filter_map(difference).collect()
}

fn changed(old: &Values, new: &Values) -> Vec<(String, Option<String>, Option<String>)> {
    let mut keys: Vec<_> = old.keys().chain(new.keys()).collect();
    keys.sort();
    keys.dedup();
    let pair = |key: &String| (key.clone(), old.get(key).cloned(), new.get(key).cloned());
    let pairs = keys.into_iter().map(pair);
    pairs.filter(|(_, old, new)| old != new).collect()
}

fn tables(text: &str) -> BTreeMap<Option<String>, Values> {
    let mut found = BTreeMap::new();
    for part in parts::split(text) {
        let Ok(table) = DeTable::parse(part.text) else {
            continue;
        };
        for (kind, value) in table.get_ref() {
            let DeValue::Table(inner) = value.get_ref() else {
                continue;
            };
            match &**kind.get_ref() {
                "agent" => _ = found.insert(None, values(inner)),
                "service" => {
                    for (name, value) in inner {
                        if let DeValue::Table(service) = value.get_ref() {
                            found.insert(Some(name.get_ref().to_string()), values(service));
                        }
                    }
                }
                // No name of a service has a bracket.
                "group" => {
                    for (name, value) in inner {
                        if let DeValue::Table(group) = value.get_ref() {
                            found
                                .insert(Some(format!("[group.{}]", name.get_ref())), values(group));
                        }
                    }
                }
                _ => {}
            }
        }
    }
    found
}

fn values(table: &DeTable<'_>) -> Values {
    let pair = |(name, value): (
        &toml::Spanned<toml::de::DeString<'_>>,
        &toml::Spanned<DeValue<'_>>,
    )| { (name.get_ref().to_string(), printed(value.get_ref())) };
    table.iter().map(pair).collect()
}

/// A value in TOML's notation; what no key has is not told apart.
fn printed(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(value) => value.to_string(),
        DeValue::Array(values) => {
            let values: Vec<_> = values
                .iter()
                .map(|value| printed(value.get_ref()))
                .collect();
            format!("[{}]", values.join(", "))
        }
        DeValue::Table(_) => "{...}".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_otherwise() {
        #[track_caller]
        fn check(before: &str, after: &str, expected: &[&str]) {
            let found: Vec<_> = differences(before, after)
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(found, expected);
        }
        let wiki = "[service.wiki]\nlisten = [\"0.0.0.0:80\"]\nidle_timeout = \"10min\"\n";
        check("", "", &[]);
        check(wiki, wiki, &[]);
        check(wiki, &format!("# moved\n\n{wiki}"), &[]);
        check("", wiki, &["+ wiki: new"]);
        check(wiki, "", &["- wiki: gone"]);
        check(
            wiki,
            &wiki
                .replace("10min", "5min")
                .replace(":80\"", ":80\", \"[::]:80\""),
            &[
                "~ wiki: idle_timeout = \"10min\" -> \"5min\", listen = [\"0.0.0.0:80\"] -> [\"0.0.0.0:80\", \"[::]:80\"]",
            ],
        );
        check(
            wiki,
            &format!("{wiki}steer = false\nmin_uptime = 7\n"),
            &["~ wiki: min_uptime = (default) -> 7, steer = (default) -> false"],
        );
        check(
            "[agent]\nmetrics = \"\"\n",
            "",
            &["~ [agent]: metrics = \"\" -> (default)"],
        );
        // From one file to another is no difference.
        let mut parts = "[agent]\n".to_owned();
        super::super::add_part(&mut parts, "wiki.toml", wiki).unwrap();
        check(&format!("[agent]\n{wiki}"), &parts, &[]);
        check("not toml", wiki, &["+ wiki: new"]);
    }
}
