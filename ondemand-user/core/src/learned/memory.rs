//! What is remembered of a service's gaps, and the timeout that follows from it.

use std::{ops::Range, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    ROUNDING,
    reason::Reason,
    scale::{BUCKETS, CLASSES, Class, EDGES, bucket, prior},
    terms::Terms,
};

/// The prior counts as this many gaps of the service.
const PRIOR_GAPS: f64 = 3.0;
/// All gaps of the service together count as this many gaps after one of the last one's class.
const POOLED_GAPS: f64 = 5.0;
/// Timeouts whose expected cost exceeds the lowest by no more than this share are equally good.
const SLACK: f64 = 0.01;
/// This much more of it, over the number of gaps.
const THIN: f64 = 0.2;
/// With fewer gaps in its row a reason is that of all gaps.
const ROW_TELLS: f64 = 8.0;
/// With fewer gaps there is nothing to say of them.
const FEW: f64 = 3.0;
/// The weight at which all is divided by it.
const HEAVIEST: f64 = 1e6;
/// What counts less than this is forgotten then.
const FORGOTTEN: f32 = 1e-6;

/// How many gaps there were in each bucket, and how long they were together, each times the memory's weight when it
/// ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Row {
    counts: [f32; BUCKETS],
    /// Seconds.
    sums: [f32; BUCKETS],
}

impl Row {
    fn add(&mut self, gap: f64, weight: f64) {
        let bucket = bucket(gap);
        self.counts[bucket] += weight as f32;
        self.sums[bucket] += (gap * weight) as f32;
    }

    fn total(&self) -> f64 {
        self.among(0..BUCKETS)
    }

    /// How many of them are in these buckets.
    fn among(&self, buckets: Range<usize>) -> f64 {
        let mut sum = 0.0;
        for count in &self.counts[buckets] {
            sum += f64::from(*count);
        }
        sum
    }

    fn divide(&mut self, by: f64) {
        for (count, sum) in self.counts.iter_mut().zip(&mut self.sums) {
            *count /= by as f32;
            *sum /= by as f32;
            // Subnormal numbers take a processor a hundred times as long.
            if *count < FORGOTTEN {
                (*count, *sum) = (0.0, 0.0);
            }
        }
    }

    fn is_sound(&self) -> bool {
        let mut all = self.counts.iter().chain(&self.sums);
        all.all(|figure| figure.is_finite() && *figure >= 0.0)
    }
}

/// Gaps by the class of the gap before. Those that are long ago count less: the weight of a gap doubles with each
/// half-life, so that what is old need not be touched, until all are divided by the weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Memory {
    half_life: f64,
    /// The weight of the next gap.
    weight: f64,
    /// What its advice has cost lately. Seconds.
    score: f64,
    after: [Row; CLASSES],
    /// The sum of them, and the first gap.
    all: Row,
    /// The timeout of the least expected cost. Seconds.
    advice: f64,
}

impl Memory {
    pub(super) fn new(half_life: f64, score: f64) -> Self {
        Self {
            half_life,
            weight: 1.0,
            score,
            after: Default::default(),
            all: Row::default(),
            advice: 0.0,
        }
    }

    pub(super) fn score(&self) -> f64 {
        self.score
    }

    pub(super) fn advice(&self) -> f64 {
        self.advice
    }

    /// Its advice has cost this much; `age`, in half-lives of the score, since the last one.
    pub(super) fn judge(&mut self, age: f64, cost: f64) {
        self.score = self.score * (-age).exp2() + cost;
    }

    /// Remembers a gap. What is older has aged by `age`, in cold starts: a burst of short gaps must not wipe it out.
    pub(super) fn learn(&mut self, after: Option<Class>, gap: f64, age: f64) {
        self.weight *= (age / self.half_life).exp2();
        if self.weight > HEAVIEST {
            for row in self.after.iter_mut().chain([&mut self.all]) {
                row.divide(self.weight);
            }
            self.weight = 1.0;
        }
        self.all.add(gap, self.weight);
        if let Some(class) = after {
            self.after[class.index()].add(gap, self.weight);
        }
    }

    /// Computes the advice after a gap of this class.
    pub(super) fn advise(&mut self, after: Option<Class>, terms: &Terms) {
        self.advice = self.cheapest(after, terms).unwrap_or(terms.fixed());
    }

    /// The best of what may be chosen. `None`: nothing may be.
    ///
    /// What comes is expected to be like what came after such a gap, like all gaps of the service, and like the prior;
    /// the more there was of one, the less the next one counts. All of these are sums over the same buckets, and the
    /// cost is linear in them: so it is that of their sum, and at the edges of buckets it is exact.
    fn cheapest(&self, after: Option<Class>, terms: &Terms) -> Option<f64> {
        let choices = terms.choices();
        let each = 1.0 / self.weight;
        let seen = self.all.total() * each;
        let pooled = POOLED_GAPS / (seen + PRIOR_GAPS);
        let (of_all, of_prior) = (pooled * each, pooled * PRIOR_GAPS);
        let prior = prior(after);
        let none = Row::default();
        let row = after.map_or(&none, |class| &self.after[class.index()]);
        let all = row.total() * each + POOLED_GAPS;
        let (mut longer, mut ended) = (all, 0.0);
        // Of all gaps together.
        let mut costs = [0.0; EDGES.len()];
        for (edge, cost) in costs.iter_mut().enumerate() {
            let (share, length) = prior[edge];
            longer -= f64::from(row.counts[edge]) * each
                + f64::from(self.all.counts[edge]) * of_all
                + share * of_prior;
            ended += f64::from(row.sums[edge]) * each
                + f64::from(self.all.sums[edge]) * of_all
                + share * length * of_prior;
            *cost = ended + longer * (EDGES[edge] + terms.cost());
        }
        let lowest = costs[choices.clone()].iter().copied().reduce(f64::min)?;
        let slack = 1.0 + SLACK + THIN / (seen + PRIOR_GAPS);
        let good = choices.filter(|edge| costs[*edge] <= lowest * slack + 1e-9 * all);
        terms.nearest(good.map(|edge| EDGES[edge]))
    }

    /// Why its advice is what it is.
    pub(super) fn reason(&self, after: Option<Class>, terms: &Terms) -> Reason {
        let seen = self.all.total() / self.weight;
        if seen < FEW {
            return Reason::Few {
                gaps: seen.round() as u64,
            };
        }
        let tells = |class: &Class| self.after[class.index()].total() >= ROW_TELLS * self.weight;
        let class = after.filter(tells);
        let row = class.map_or(&self.all, |class| &self.after[class.index()]);
        let timeout = bucket(self.advice) + 1;
        let patience = (bucket(4.0 * terms.cost()) + 1).min(EDGES.len());
        let count = |gaps: f64| (gaps / self.weight).round() as u64;
        Reason::Seen {
            after: class,
            gaps: count(row.total()),
            ended: count(row.among(0..timeout)),
            later: count(row.among(timeout..patience.max(timeout))),
            within: Duration::from_secs_f64(EDGES[patience - 1].max(self.advice)),
        }
    }

    pub(super) fn is_sound(&self, half_life: f64, terms: &Terms) -> bool {
        let rows = self.after.iter().chain([&self.all]);
        self.half_life == half_life
            && (1.0..=HEAVIEST * ROUNDING).contains(&self.weight)
            && self.score.is_finite()
            && rows.into_iter().all(Row::is_sound)
            && (EDGES.contains(&self.advice) || self.advice == terms.fixed())
    }
}
