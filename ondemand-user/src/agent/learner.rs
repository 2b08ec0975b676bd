//! What is learned of one service: its idle timeout, or beside a fixed one, what the learned one would be.

#[cfg(test)]
mod tests;

use std::time::Duration;

use ondemand_core::{
    config::{IdleTimeout, Learning, Service},
    learned::{Choice, Learned, Starts, Tally, Terms, stored::Stored},
    measure::Ktime,
    words::Span,
};

/// Gaps that are kept while the history is read. More end meanwhile only if it hangs.
const MOST_GAPS: usize = 4096;
/// A measured cost of a cold start is in force until it is wrong by this factor: with another one everything is learned
/// anew.
const WRONG: f64 = 1.5;
/// The shortest time between two messages about the timeout.
const SILENCE: Duration = Duration::from_secs(600);
/// A change by a smaller factor is one step between neighbouring timeouts.
const STEP: f64 = 2.05;

/// What is learned of a service.
pub struct Learner {
    learned: Learned,
    starts: Starts,
    /// Gaps that have ended since the history began to be read, which may not have them.
    since: Option<Vec<Duration>>,
    tally: Tally,
    /// The timeout that was logged last, and when.
    logged: Option<(Duration, Ktime)>,
}

impl Learner {
    /// Nothing is known yet.
    pub fn new(learning: &Learning) -> Self {
        Self {
            learned: Learned::new(learning.terms(None)),
            starts: Starts::default(),
            since: None,
            tally: Tally::default(),
            logged: None,
        }
    }

    /// The learned timeout.
    pub fn timeout(&self) -> Duration {
        self.learned.timeout()
    }

    /// The learned timeout, and why.
    pub fn choice(&self) -> Choice {
        self.learned.choice()
    }

    /// The number of gaps that it rests on.
    pub fn gaps(&self) -> u64 {
        self.learned.gaps()
    }

    /// How long its start usually takes. `None`: none was seen.
    pub fn usual_start(&self) -> Option<Duration> {
        self.starts.usual()
    }

    /// What a cold start costs.
    pub fn cold_start_cost(&self) -> Duration {
        self.learned.terms().cold_start_cost()
    }

    /// What became of the gaps since the agent began to watch the service.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// For the file that outlives the agent.
    pub fn stored(&self) -> (&Starts, &Learned) {
        (&self.starts, &self.learned)
    }

    /// Takes what an earlier agent learned.
    pub fn restore(&mut self, stored: Stored, learning: &Learning) {
        self.starts = stored.starts;
        self.learned = stored.learned.by(learning.terms(self.starts.usual()));
    }

    /// Takes a changed configuration. Returns whether everything is to be learned anew.
    pub fn reconfigure(&mut self, learning: &Learning) -> bool {
        let before = self.cold_start_cost();
        let terms = learning.terms(self.starts.usual());
        let is_other = before != terms.cold_start_cost();
        self.change(terms);
        is_other
    }

    fn change(&mut self, terms: Terms) {
        let present = std::mem::replace(&mut self.learned, Learned::new(terms));
        self.learned = present.by(terms);
    }

    /// Takes a start. Returns whether everything is to be learned anew, since a cold start costs something else.
    pub fn started(&mut self, took: Duration, learning: &Learning) -> bool {
        self.starts.add(took);
        let (present, measured) = (self.learned.terms(), learning.terms(self.starts.usual()));
        let [before, now] = [present, measured].map(|terms| terms.cold_start_cost().as_secs_f64());
        let is_wrong = before > now * WRONG || now > before * WRONG;
        if is_wrong {
            self.change(measured);
        }
        is_wrong
    }

    /// The history begins to be read.
    pub fn begin(&mut self) {
        self.since = Some(Vec::new());
    }

    /// Takes what the history tells. It is less than what is known if the history is newer, or was lost. `None`: it
    /// cannot be read.
    pub fn rebuilt(&mut self, past: Option<Stored>, learning: &Learning) {
        let since = self.since.take().unwrap_or_default();
        let Some(past) = past else {
            return;
        };
        if self.starts.usual().is_none() {
            self.starts = past.starts;
        }
        let mut learned = past.learned.by(learning.terms(self.starts.usual()));
        for gap in since {
            learned.learn(gap);
        }
        if learned.gaps() >= self.learned.gaps() || learned.terms() != self.learned.terms() {
            self.learned = learned;
        }
    }

    /// Learns from a gap. Returns a message, if the timeout in force has changed by more than a step.
    pub fn learn(&mut self, gap: Duration, service: &Service, now: Ktime) -> Option<String> {
        self.tally.count(gap, &self.learned, service.idle_timeout);
        self.learned.learn(gap);
        if let Some(since) = &mut self.since
            && since.len() < MOST_GAPS
        {
            since.push(gap);
        }
        if service.idle_timeout != IdleTimeout::Learned {
            return None;
        }
        let timeout = self.timeout();
        let Some((logged, at)) = self.logged else {
            self.logged = Some((timeout, now));
            return Some(format!("its idle timeout is learned: {}", self.choice()));
        };
        let factor = timeout.as_secs_f64() / logged.as_secs_f64();
        if (1.0 / STEP..=STEP).contains(&factor) || now.since(at).is_some_and(|age| age < SILENCE) {
            return None;
        }
        self.logged = Some((timeout, now));
        Some(format!(
            "its idle timeout was {}, and is {}",
            Span(logged),
            self.choice()
        ))
    }
}
