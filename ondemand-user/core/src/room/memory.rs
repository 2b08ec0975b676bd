//! How much memory services may take: a number, or what the host says of itself.

/// What there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Services may take so many bytes together.
    Budget(u64),
    /// As many as the host has.
    Host {
        /// Available to all programs without swapping (`MemAvailable`), in bytes.
        available: u64,
        /// What must stay available, in bytes.
        reserve: u64,
        /// Programs wait for memory ([`Pressure::is_high`]).
        is_short: bool,
    },
}

impl Memory {
    /// How many bytes too many are taken. `taken`: by those that stay, with what they will take soon, which is `grows`.
    /// `leaving`: by those that are being stopped.
    pub(super) fn over(self, taken: u64, grows: u64, leaving: u64) -> u64 {
        match self {
            Self::Budget(bytes) => taken.saturating_sub(bytes),
            Self::Host {
                available, reserve, ..
            } => reserve
                .saturating_add(grows)
                .saturating_sub(available.saturating_add(leaving)),
        }
    }

    pub(super) fn is_short(self) -> bool {
        matches!(self, Self::Host { is_short: true, .. })
    }
}

/// For how much of the last ten seconds some program has waited for memory, in hundredths of a percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pressure(pub u32);

impl Pressure {
    /// Above it applications are noticeably slower: a tenth of the time.
    const HIGH: u32 = 1000;

    /// Reads the line `some` of /proc/pressure/memory (Documentation/accounting/psi.rst).
    pub fn parse(text: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
        let value = line
            .split(' ')
            .find_map(|word| word.strip_prefix("avg10="))?;
        let (whole, hundredths) = value.split_once('.')?;
        if hundredths.len() != 2 {
            return None;
        }
        let whole = whole.parse::<u32>().ok()?.checked_mul(100)?;
        Some(Self(whole.checked_add(hundredths.parse().ok()?)?))
    }

    /// Whether programs wait for memory.
    pub fn is_high(self) -> bool {
        self.0 >= Self::HIGH
    }
}

/// Reads `MemAvailable` of /proc/meminfo (proc_meminfo(5)), in bytes.
pub fn available(text: &str) -> Option<u64> {
    kilobytes(text, "MemAvailable:")
}

fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let number = line.trim().strip_suffix(" kB")?;
    number.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Reads `MemTotal` of /proc/meminfo, in bytes.
pub fn total(text: &str) -> Option<u64> {
    kilobytes(text, "MemTotal:")
}

/// Whether swap is free, zram's or any other (`SwapFree` of /proc/meminfo).
pub fn has_swap(text: &str) -> bool {
    text.lines()
        .filter_map(|line| line.strip_prefix("SwapFree:"))
        .any(|line| line.trim() != "0 kB")
}

/// What a cgroup takes that is not given back as soon as somebody needs it: all but the pages of files that were not used
/// lately, as Kubernetes has its working set. `current`: memory.current, or memory.usage_in_bytes of cgroup v1; `stat`: memory.stat
/// (cgroup-v2.rst, cgroup-v1/memory.rst).
pub fn of_cgroup(current: &str, stat: &str) -> Option<u64> {
    let current = current.trim().parse::<u64>().ok()?;
    let found = |key: &str| {
        let line = stat
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?;
        line.trim().parse::<u64>().ok()
    };
    // v1 has one without its children, too.
    let inactive = found("total_inactive_file").or_else(|| found("inactive_file"));
    Some(current.saturating_sub(inactive.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes() {
        let psi = "some avg10=12.05 avg60=1.00 avg300=0.00 total=5\nfull avg10=99.00 avg60=0.00 avg300=0.00 total=1\n";
        assert_eq!(Pressure::parse(psi), Some(Pressure(1205)));
        assert!(Pressure(1205).is_high() && !Pressure(999).is_high());
        for text in [
            "",
            "some",
            "some avg10=1",
            "some avg10=1.5 ",
            "some avg10=99999999999.00",
        ] {
            assert_eq!(Pressure::parse(text), None, "{text}");
        }
        let meminfo = "MemTotal:       16 kB\nMemFree:  1 kB\nMemAvailable:    8 kB\n";
        assert_eq!(available(meminfo), Some(8192));
        assert_eq!(total(meminfo), Some(16_384));
        assert_eq!(available("MemAvailable: 8\n"), None);
        assert_eq!(available("MemAvailable: 99999999999999999999 kB\n"), None);
        assert!(has_swap("SwapTotal: 8 kB\nSwapFree:   4 kB\n"));
        assert!(!has_swap("SwapTotal: 8 kB\nSwapFree:   0 kB\n") && !has_swap(""));
        assert_eq!(
            of_cgroup("100\n", "inactive_anon 1\ninactive_file 30\n"),
            Some(70)
        );
        let v1 = "inactive_file 30\ntotal_inactive_file 40\n";
        assert_eq!(of_cgroup("100\n", v1), Some(60));
        assert_eq!(of_cgroup("100", ""), Some(100));
        assert_eq!(of_cgroup("10", "inactive_file 30"), Some(0));
        assert_eq!(of_cgroup("max", ""), None);
    }
}
