//! Since when, until when and with which boots the services of a host were watched.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use ondemand_core::words::counted;

use super::{
    api::Point,
    gather::{Gathering, WATCHED, quoted},
    host::{Host, Name, sums},
    segments::{Period, Segment, begins_in, doubts, drops, segments},
};

impl Gathering<'_> {
    /// The segments of each service of a host, and of the host itself.
    pub(super) fn segments(&mut self, host: &mut Host) -> Result<BTreeMap<Name, Vec<Segment>>> {
        let blur = self.period.blur;
        let mut boots: BTreeSet<i64> = BTreeSet::new();
        let mut looked: BTreeSet<i64> = BTreeSet::new();
        let services: Vec<String> = host.points.keys().cloned().collect();
        for service in &services {
            for doubt in doubts(&host.points[service], blur) {
                let known = boots.range(doubt.after..doubt.before).next().is_some();
                if known || (!doubt.is_sure && looked.contains(&doubt.before)) {
                    continue;
                }
                looked.insert(doubt.before);
                let samples = self.samples(host, service, (doubt.after, doubt.before))?;
                boots.extend(drops(&samples));
            }
        }
        // The first and the last samples of what is not there at the begin and at the end.
        let mut edges: BTreeMap<(i64, bool), Vec<&String>> = BTreeMap::new();
        for service in &services {
            let points = &host.points[service];
            let (Some(first), Some(last)) = (points.first(), points.last()) else {
                continue;
            };
            if first.0 > self.period.from && !begins_in(&self.period, *first) {
                edges.entry((first.0, false)).or_default().push(service);
            }
            if last.0 < self.period.until {
                edges.entry((last.0, true)).or_default().push(service);
            }
        }
        let mut more: Vec<(String, Vec<Point>)> = Vec::new();
        for ((at, is_end), some) in edges {
            let stretch = match is_end {
                true => (at, (at + self.step).min(self.period.until)),
                false => ((at - self.step).max(self.period.from), at),
            };
            // As a rule it is the host that has come or gone.
            let mut together = None;
            for service in &some {
                let samples = match &together {
                    Some(samples) if some.len() == services.len() => Vec::clone(samples),
                    _ => self.samples(host, service, stretch)?,
                };
                together = Some(samples.clone());
                let edge = if is_end {
                    samples.last()
                } else {
                    samples.first()
                };
                more.push(((*service).clone(), edge.copied().into_iter().collect()));
            }
        }
        for (service, edge) in more {
            let points = host.points.entry(service).or_default();
            for point in edge
                .into_iter()
                .filter(|point| !points.iter().any(|it| it.0 == point.0))
                .collect::<Vec<_>>()
            {
                points.push(point);
            }
            points.sort_by_key(|point| point.0);
        }
        self.gaps(host)?;
        let boots: Vec<i64> = boots.into_iter().collect();
        let mut found = BTreeMap::new();
        for (service, points) in &host.points {
            found.insert(
                Some(service.clone()),
                segments(points, &boots, &self.period),
            );
        }
        let longest = host.points.values().max_by_key(|points| points.len());
        let whole = longest.map_or_else(Vec::new, |points| segments(points, &boots, &self.period));
        found.insert(None, whole);
        Ok(found)
    }

    /// Notes the stretches of which nothing is known.
    fn gaps(&mut self, host: &Host) -> Result<()> {
        let mut seen: BTreeSet<i64> = BTreeSet::new();
        for points in host.points.values() {
            seen.extend(points.iter().map(|point| point.0));
        }
        let (Some(first), Some(last)) = (seen.first().copied(), seen.last().copied()) else {
            return Ok(());
        };
        let name = host.name.clone();
        let Period { from, until, blur } = self.period;
        let longest = self.step + blur;
        if first > from + blur {
            let first = self.edge(host, first, false)?;
            self.note(format!("{name}: nothing before {}", moment(first)));
        }
        if last < until - blur {
            let last = self.edge(host, last, true)?;
            self.note(format!("{name}: nothing since {}", moment(last)));
        }
        let seen: Vec<i64> = seen.into_iter().collect();
        let gaps = seen.windows(2).filter(|pair| pair[1] - pair[0] > longest);
        let gaps: Vec<&[i64]> = gaps.collect();
        if let Some(gap) = gaps.first() {
            let more = match gaps.len() - 1 {
                0 => String::new(),
                more => format!(", and {}", counted(more as u64, "more gap")),
            };
            let [begin, end] = [
                self.edge(host, gap[0], true)?,
                self.edge(host, gap[1], false)?,
            ];
            self.note(format!(
                "{name}: no samples from {} to {}{more}; its counters go on over a gap",
                moment(begin),
                moment(end)
            ));
        }
        Ok(())
    }

    /// The last sample of a host after a look, before a gap, or the first one before a look, after a gap.
    fn edge(&mut self, host: &Host, look: i64, is_end: bool) -> Result<i64> {
        let has = |points: &&Vec<Point>| points.iter().any(|point| point.0 == look);
        let service = host.points.iter().find(|(_, points)| has(points));
        let Some((service, _)) = service else {
            return Ok(look);
        };
        let stretch = match is_end {
            true => (look, (look + self.step).min(self.period.until)),
            false => ((look - self.step).max(self.period.from), look),
        };
        let samples = self.samples(host, service, stretch)?;
        let sample = if is_end {
            samples.last()
        } else {
            samples.first()
        };
        Ok(sample.map_or(look, |sample| sample.0))
    }

    /// All samples of a service's watched seconds in this time.
    fn samples(
        &mut self,
        host: &Host,
        service: &str,
        (from, until): (i64, i64),
    ) -> Result<Vec<Point>> {
        self.progress();
        let labels = host
            .labels
            .iter()
            .map(|(name, value)| format!(",{name}=\"{}\"", quoted(value)));
        let labels: String = labels.collect();
        let query = format!(
            "{{{WATCHED},service=\"{}\"{labels}}}[{}ms]",
            quoted(service),
            (until - from).max(1) + 1
        );
        let mut found: BTreeMap<i64, [Option<f64>; 2]> = BTreeMap::new();
        self.api.at(&query, until, |series| {
            let is_up = series.label("__name__").starts_with("ondemand_active");
            for (at, value) in series.points() {
                found.entry(at).or_default()[usize::from(is_up)] = Some(value);
            }
        })?;
        Ok(sums(&found))
    }
}

/// A moment in a note.
fn moment(at: i64) -> String {
    let at = jiff::Timestamp::from_millisecond(at).unwrap_or_default();
    at.strftime("%Y-%m-%d %H:%M UTC").to_string()
}
