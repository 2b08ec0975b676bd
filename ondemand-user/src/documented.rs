//! Tests ask whether JSON.md is complete.

/// Whether JSON.md names every key.
#[track_caller]
pub fn assert_documented(json: &serde_json::Value) {
    use serde_json::Value;
    match json {
        Value::Object(fields) => {
            for (key, value) in fields {
                let is_there = include_str!("../../JSON.md").contains(&format!("`{key}`"));
                assert!(is_there, "JSON.md does not say what `{key}` is");
                assert_documented(value);
            }
        }
        Value::Array(values) => values.iter().for_each(assert_documented),
        _ => {}
    }
}
