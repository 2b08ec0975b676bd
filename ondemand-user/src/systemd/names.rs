//! The names by which units are watched. PID 1 accepts an alias in every call, but its signals come from the
//! object of the unit's own name (`unit_dbus_path()` of `u->id`, src/core/unit.c).

use std::collections::HashMap;

use super::unit_path;

/// The watched names, and the units that they are names of.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// The unit's own name, by the watched one, as far as it is known to be another.
    aliases: HashMap<String, String>,
    /// The watched names, by object path.
    by_path: HashMap<String, Vec<String>>,
}

impl Names {
    /// Sets the watched names.
    pub fn watch<'a>(&mut self, units: impl IntoIterator<Item = &'a str>) {
        let mut aliases = std::mem::take(&mut self.aliases);
        self.by_path.clear();
        for unit in units {
            let own = aliases.remove(unit);
            self.add(own.as_deref().unwrap_or(unit), unit);
            self.aliases.extend(own.map(|own| (unit.to_owned(), own)));
        }
    }

    fn add(&mut self, own: &str, unit: &str) {
        let names = self.by_path.entry(unit_path::of(own)).or_default();
        names.push(unit.to_owned());
    }

    /// The watched names of the unit with this object path.
    pub fn at(&self, path: &str) -> &[String] {
        self.by_path.get(path).map_or(&[], Vec::as_slice)
    }

    /// Takes the own name of the unit that is watched as `unit`. Returns whether it is another one than
    /// before, so that signals about it were not expected until now.
    pub fn is_new(&mut self, unit: &str, id: &str) -> bool {
        let before = self.aliases.get(unit).map_or(unit, String::as_str);
        if before == id {
            return false;
        }
        let path = unit_path::of(before);
        let Some(names) = self.by_path.get_mut(&path) else {
            return false;
        };
        let Some(index) = names.iter().position(|name| name == unit) else {
            return false;
        };
        names.remove(index);
        if names.is_empty() {
            self.by_path.remove(&path);
        }
        self.add(id, unit);
        if unit == id {
            self.aliases.remove(unit);
        } else {
            self.aliases.insert(unit.to_owned(), id.to_owned());
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_come_by_the_own_name() {
        let mut names = Names::default();
        let path = unit_path::of;
        names.watch(["mysql.service", "wiki.service"]);
        assert_eq!(names.at(&path("mysql.service")), ["mysql.service"]);
        assert!(!names.is_new("wiki.service", "wiki.service"));
        assert!(names.is_new("mysql.service", "mariadb.service"));
        assert!(!names.is_new("mysql.service", "mariadb.service"));
        assert!(names.at(&path("mysql.service")).is_empty());
        assert_eq!(names.at(&path("mariadb.service")), ["mysql.service"]);
        // Another configuration, in which both names are watched.
        names.watch(["mysql.service", "mariadb.service"]);
        assert_eq!(
            names.at(&path("mariadb.service")),
            ["mysql.service", "mariadb.service"]
        );
        // The alias is removed.
        assert!(names.is_new("mysql.service", "mysql.service"));
        assert_eq!(names.at(&path("mysql.service")), ["mysql.service"]);
        assert_eq!(names.at(&path("mariadb.service")), ["mariadb.service"]);
        // What is not watched is not remembered.
        assert!(!names.is_new("other.service", "x.service"));
        assert!(names.at(&path("x.service")).is_empty());
    }
}
