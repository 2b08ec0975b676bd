//! The lengths that gaps are sorted by.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

/// Bounds of the buckets that gaps are counted in, at values that people would choose. They are also the only timeouts
/// that are learned. Seconds, ascending.
pub const EDGES: [f64; 24] = [
    1.0, 2.0, 3.0, 5.0, 8.0, 15.0, 30.0, 60.0, 90.0, 120.0, 180.0, 300.0, 450.0, 600.0, 900.0,
    1200.0, 1800.0, 2700.0, 3600.0, 7200.0, 14_400.0, 43_200.0, 86_400.0, 604_800.0,
];
/// A bucket up to each edge, and one for what is longer.
pub const BUCKETS: usize = EDGES.len() + 1;

/// Bounds of the classes of the gap before. Seconds, ascending.
const BOUNDS: [f64; 5] = [15.0, 60.0, 240.0, 1000.0, 4000.0];
/// A class up to each bound, and one for what is longer.
pub const CLASSES: usize = BOUNDS.len() + 1;

/// A day: what the prior takes for the longest gap. Seconds.
const DAY: f64 = 86_400.0;
/// How much longer or shorter than the middle of its class the prior expects half of the gaps after it.
const LIKE: f64 = 4.0;

/// The bucket of a gap.
pub fn bucket(gap: f64) -> usize {
    EDGES.partition_point(|edge| *edge < gap)
}

/// How long the gap before was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Class(u8);

impl Class {
    /// The class of a gap.
    pub fn of(gap: f64) -> Self {
        Self(BOUNDS.partition_point(|bound| *bound < gap) as u8)
    }

    /// Its place among all, below [`CLASSES`].
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// Gaps of this class are longer than the first and not longer than the second. Seconds.
    pub fn bounds(self) -> (Option<f64>, Option<f64>) {
        let shorter = self.index().checked_sub(1).map(|before| BOUNDS[before]);
        (shorter, BOUNDS.get(self.index()).copied())
    }
}

impl TryFrom<u8> for Class {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        match usize::from(number) < CLASSES {
            true => Ok(Self(number)),
            false => Err(format!("no class {number}")),
        }
    }
}

impl From<Class> for u8 {
    fn from(class: Class) -> Self {
        class.0
    }
}

/// The gap that each bucket stands for. Seconds.
fn middles() -> [f64; BUCKETS] {
    std::array::from_fn(|bucket| match bucket {
        0 => 0.5,
        _ if bucket == EDGES.len() => EDGES[bucket - 1],
        _ => (EDGES[bucket - 1] * EDGES[bucket]).sqrt(),
    })
}

/// What is expected before any gap was seen: half of the gaps are like the one before, the others anything up to a day.
/// For each bucket the share of gaps and their mean length.
pub type Prior = [(f64, f64); BUCKETS];

/// The prior after a gap of this class, or after none.
pub fn prior(after: Option<Class>) -> &'static Prior {
    static PRIORS: LazyLock<[Prior; CLASSES + 1]> = LazyLock::new(|| {
        std::array::from_fn(|number| {
            compute_prior((number < CLASSES).then_some(Class(number as u8)))
        })
    });
    &PRIORS[after.map_or(CLASSES, Class::index)]
}

fn compute_prior(after: Option<Class>) -> Prior {
    let middles = middles();
    let share = |wanted: &dyn Fn(f64) -> bool| {
        let count = middles.iter().filter(|middle| wanted(**middle)).count();
        middles.map(|middle| {
            if wanted(middle) {
                1.0 / count as f64
            } else {
                0.0
            }
        })
    };
    let anything = share(&|middle| middle <= DAY);
    let shares = match after {
        None => anything,
        Some(class) => {
            let (shorter, longer) = class.bounds();
            let middle = (shorter.unwrap_or(1.0) * longer.unwrap_or(DAY)).sqrt();
            let alike = share(&|other| (other / middle).ln().abs() <= LIKE.ln());
            std::array::from_fn(|bucket| (anything[bucket] + alike[bucket]) / 2.0)
        }
    };
    std::array::from_fn(|bucket| (shares[bucket], middles[bucket]))
}
