//! The object path of a unit on the bus.

/// The object path of `unit`. It is computed, not queried: it stays the same when the unit
/// is unloaded and loaded again, and a call to it loads the unit (`bus_unit_find()`,
/// src/core/dbus.c).
pub fn of(unit: &str) -> String {
    format!("/org/freedesktop/systemd1/unit/{}", label(unit))
}

/// A name as one part of an object path, with systemd's escaping.
pub fn label(name: &str) -> String {
    let mut label = String::new();
    if name.is_empty() {
        label.push('_');
    }
    // bus_label_escape(), src/basic/bus-label.c
    for (index, byte) in name.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (index > 0 && byte.is_ascii_digit()) {
            label.push(char::from(byte));
        } else {
            label.push_str(&format!("_{byte:02x}"));
        }
    }
    label
}

#[cfg(test)]
mod tests {
    #[track_caller]
    fn check(unit: &str, expected: &str) {
        let expected = format!("/org/freedesktop/systemd1/unit/{expected}");
        assert_eq!(super::of(unit), expected);
    }

    #[test]
    fn escapes_as_systemd_does() {
        check("wiki.service", "wiki_2eservice");
        check("ondemand-wiki.target", "ondemand_2dwiki_2etarget");
        check("7zip.service", "_37zip_2eservice");
        check("a7.service", "a7_2eservice");
        check("app@x_y.service", "app_40x_5fy_2eservice");
        check("é.service", "_c3_a9_2eservice");
        check("", "_");
    }
}
