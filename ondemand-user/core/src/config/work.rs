//! `busy_cpu` and `busy_io`: from how much work of its own on a service is not idle.

use super::{error::Problem, table::Value};

const CPU_EXAMPLE: &str = "\"5%\" (of one CPU)";
const IO_EXAMPLE: &str = "\"1M\" (bytes a second)";

/// How much work means that a service is not idle. `None`: any amount is allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Thousandths of one CPU.
    pub cpu: Option<u32>,
    /// Bytes a second, read from and written to disks.
    pub io: Option<u64>,
}

impl Limits {
    /// Whether there is one.
    pub fn exist(&self) -> bool {
        self.cpu.is_some() || self.io.is_some()
    }
}

/// Reads both values.
pub(super) fn read(cpu: Option<&Value<'_>>, io: Option<&Value<'_>>) -> Result<Limits, Problem> {
    let cpu = cpu.map(|value| {
        let text = value.string(CPU_EXAMPLE)?;
        percent(text).ok_or_else(|| {
            value.place.problem(format!(
                "{text:?} is not a share from 0.1% to 100000%; write it like {CPU_EXAMPLE}, 200% are two CPUs"
            ))
        })
    });
    let io = io.map(|value| {
        let text = value.string_or_integer(IO_EXAMPLE)?;
        bytes(text).ok_or_else(|| {
            value.place.problem(format!(
                "{text:?} is not a number of bytes from 1 to 1T; write it like {IO_EXAMPLE}, with K, M, G or T for thousands, \
                 millions and so on"
            ))
        })
    });
    Ok(Limits {
        cpu: cpu.transpose()?,
        io: io.transpose()?,
    })
}

/// In thousandths: one place behind the point.
fn percent(text: &str) -> Option<u32> {
    let number = text.strip_suffix('%')?;
    let (whole, tenth) = number.split_once('.').unwrap_or((number, "0"));
    let is_plain = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_plain(whole) || !is_plain(tenth) || tenth.len() != 1 {
        return None;
    }
    let thousandths = whole.parse::<u32>().ok()?.checked_mul(10)? + tenth.parse::<u32>().ok()?;
    (1..=1_000_000)
        .contains(&thousandths)
        .then_some(thousandths)
}

fn bytes(text: &str) -> Option<u64> {
    let last = text.chars().last()?;
    let power = "KMGT".find(last).map_or(0, |place| place as u32 + 1);
    let digits = if power > 0 {
        &text[..text.len() - 1]
    } else {
        text
    };
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.parse::<u64>().ok().filter(|_| is_plain)?;
    let bytes = number.checked_mul(1000_u64.pow(power))?;
    (1..=1_000_000_000_000).contains(&bytes).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts() {
        for (text, expected) in [
            ("5%", Some(50)),
            ("0.5%", Some(5)),
            ("250%", Some(2_500)),
            ("100000%", Some(1_000_000)),
            ("0%", None),
            ("5", None),
            ("%", None),
            ("-5%", None),
            ("+5%", None),
            ("5.%", None),
            ("5.25%", None),
            ("5 %", None),
            ("99999999999%", None),
        ] {
            assert_eq!(percent(text), expected, "{text}");
        }
        for (text, expected) in [
            ("1M", Some(1_000_000)),
            ("500K", Some(500_000)),
            ("4096", Some(4096)),
            ("1T", Some(1_000_000_000_000)),
            ("0", None),
            ("", None),
            ("M", None),
            ("1m", None),
            ("1.5M", None),
            ("+1M", None),
            ("2T", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }
}
