//! The operator's template of the page for browsers (`waiting_page`).

use std::path::Path;

use anyhow::{Context as _, Result};
use ondemand_core::waiting::{LONGEST_TEMPLATE, Template};

use super::small_file;

/// Reads it.
///
/// # Errors
///
/// It cannot be read, or is none.
pub fn read(path: &Path) -> Result<Template> {
    let bytes = small_file::read(path, LONGEST_TEMPLATE as u64 + 1);
    let bytes = bytes.with_context(|| format!("read {}", path.display()))?;
    Template::parse(&bytes)
        .map_err(anyhow::Error::msg)
        .with_context(|| path.display().to_string())
}
