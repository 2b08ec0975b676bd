//! `memory_budget` and `reserve`: how much memory services may take together before idle ones go.

use super::{error::Problem, table::Value};

const EXAMPLE: &str = "\"8GiB\", or \"auto\"";
/// What is left free where nothing is said.
const RESERVE: u64 = 1 << 30;
/// Below this no service fits. Bytes.
const LEAST: u64 = 1 << 20;
/// 1 PiB. Bytes.
const MOST: u64 = 1 << 50;

/// How long idle services are kept warm: as long as their memory fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryBudget {
    /// The memory of all services that are up, in bytes.
    Bytes(u64),
    /// As much as the host has.
    Auto {
        /// How much of it stays available, in bytes.
        reserve: u64,
    },
}

/// Reads both values. `None`: services go when they are idle.
pub(super) fn read(
    budget: Option<&Value<'_>>,
    reserve: Option<&Value<'_>>,
) -> Result<Option<MemoryBudget>, Problem> {
    let budget_is_auto = match budget {
        Some(value) => value.string(EXAMPLE)? == "auto",
        None => false,
    };
    if let Some(value) = reserve.filter(|_| !budget_is_auto) {
        return Err(value.place.problem(
            "is what stays available with memory_budget = \"auto\"; write that, or remove it",
        ));
    }
    match (budget, reserve) {
        (None, _) => Ok(None),
        (Some(_), None) if budget_is_auto => Ok(Some(MemoryBudget::Auto { reserve: RESERVE })),
        (Some(_), Some(reserve)) => Ok(Some(MemoryBudget::Auto {
            reserve: size(reserve, "\"1GiB\"")?,
        })),
        (Some(value), None) => Ok(Some(MemoryBudget::Bytes(size(value, EXAMPLE)?))),
    }
}

fn size(value: &Value<'_>, example: &str) -> Result<u64, Problem> {
    let text = value.string(example)?;
    bytes(text).ok_or_else(|| {
        value.place.problem(format!(
            "{text:?} is not an amount of memory from 1MiB to 1024TiB; write it like {example}, with M, G or T, or MiB, GiB \
             or TiB, for 1024 times 1024 bytes and so on"
        ))
    })
}

fn bytes(text: &str) -> Option<u64> {
    let text = text.strip_suffix("iB").unwrap_or(text);
    let power = "MGT".find(text.chars().last()?)?;
    let digits = &text[..text.len() - 1];
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.parse::<u64>().ok().filter(|_| is_plain)?;
    let bytes = number.checked_mul(1 << (20 + 10 * power))?;
    (LEAST..=MOST).contains(&bytes).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts() {
        for (text, expected) in [
            ("8GiB", Some(8 << 30)),
            ("8G", Some(8 << 30)),
            ("512MiB", Some(512 << 20)),
            ("1T", Some(1 << 40)),
            ("1024T", Some(1 << 50)),
            ("0G", None),
            ("8GB", None),
            ("8", None),
            ("G", None),
            ("", None),
            ("-8G", None),
            ("1.5G", None),
            ("8 G", None),
            ("1025T", None),
            ("99999999999999999999G", None),
            ("8\u{e9}", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }
}
