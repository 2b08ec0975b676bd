//! The documents at the top of the source tree, for tests that ask whether they are complete.

use std::fs;

use serde_json::Value;

use crate::source_tree;

/// A document at the top of the source tree.
///
/// # Panics
///
/// It cannot be read.
#[track_caller]
pub fn document(name: &str) -> String {
    let path = source_tree().join(name);
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Panics unless JSON.md names every key of `json`.
#[track_caller]
pub fn assert_documented(json: &Value) {
    let manual = document("JSON.md");
    for key in keys(json) {
        let is_there = manual.contains(&format!("`{key}`"));
        assert!(is_there, "JSON.md does not say what `{key}` is");
    }
}

fn keys(json: &Value) -> Vec<&String> {
    match json {
        Value::Object(fields) => {
            let inner = fields.values().flat_map(keys);
            fields.keys().chain(inner).collect()
        }
        Value::Array(values) => values.iter().flat_map(keys).collect(),
        _ => Vec::new(),
    }
}
