//! The HTTP API of Prometheus, which Thanos, Mimir and VictoriaMetrics have, too. Answers are taken series by series.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use anyhow::{Context as _, Result, bail};
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::http::{Server, TooMuch};

/// The labels of a series.
pub type Labels = BTreeMap<String, String>;

/// A value at a moment: milliseconds since 1970.
pub type Point = (i64, f64);

/// A series of an answer.
#[derive(Debug, Deserialize)]
pub struct Series<'a> {
    /// Its labels.
    pub metric: Labels,
    #[serde(borrow, default)]
    value: Option<Sample<'a>>,
    #[serde(borrow, default)]
    values: Vec<Sample<'a>>,
}

#[derive(Debug, Deserialize)]
struct Sample<'a>(f64, #[serde(borrow)] Cow<'a, str>);

impl Series<'_> {
    /// A label; empty if it has none.
    pub fn label(&self, name: &str) -> &str {
        self.metric.get(name).map_or("", String::as_str)
    }

    /// Its values, without those that are no numbers.
    pub fn points(&self) -> impl Iterator<Item = Point> {
        let samples = self.value.iter().chain(&self.values);
        let point = |sample: &Sample<'_>| {
            let value = sample.1.parse::<f64>().ok()?;
            value
                .is_finite()
                .then(|| ((sample.0 * 1e3).round() as i64, value))
        };
        samples.filter_map(point)
    }
}

/// A server, and what it warned of.
pub struct Api {
    server: Server,
    /// Whether it takes forms. Some proxies let only GET pass.
    is_get: bool,
    /// Its warnings, each once.
    pub warnings: Vec<String>,
}

impl Api {
    /// Nothing is asked yet.
    pub fn new(server: Server) -> Self {
        Self {
            server,
            is_get: false,
            warnings: Vec::new(),
        }
    }

    /// Its address, for messages.
    pub fn name(&self) -> &str {
        &self.server.name
    }

    /// The server's time: no other clock matters. Milliseconds since 1970.
    ///
    /// # Errors
    ///
    /// It does not answer as Prometheus does.
    pub fn now(&mut self) -> Result<i64> {
        let body = self.ask("query", &[("query", "time()")])?;
        let answer: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        // A scalar; of VictoriaMetrics a vector.
        let now = ["/data/result/1", "/data/result/0/value/1"]
            .into_iter()
            .find_map(|place| answer.pointer(place)?.as_str()?.parse::<f64>().ok());
        let now = now.with_context(|| {
            format!(
                "{}: it does not say what time it is; is it a Prometheus?",
                self.name()
            )
        })?;
        Ok((now * 1e3) as i64)
    }

    /// The values of a label among the series that `selector` matches in this time. Milliseconds since 1970.
    ///
    /// # Errors
    ///
    /// It does not answer, or does not understand.
    pub fn values(
        &mut self,
        label: &str,
        selector: &str,
        (from, until): (i64, i64),
    ) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Values {
            #[serde(default)]
            data: Option<Vec<String>>,
        }
        let fields = [
            ("match[]", selector),
            ("start", &seconds(from)),
            ("end", &seconds(until)),
        ];
        // This one takes no form anywhere.
        let is_get = std::mem::replace(&mut self.is_get, true);
        let body = self.ask(&format!("label/{label}/values"), &fields);
        self.is_get = is_get;
        let values: Values = serde_json::from_slice(&body?)
            .with_context(|| format!("{}: no answer of Prometheus", self.name()))?;
        Ok(values.data.unwrap_or_default())
    }

    /// Calls `take` with each series of `query` at `at`. Milliseconds since 1970.
    ///
    /// # Errors
    ///
    /// It does not answer, or does not understand the query.
    pub fn at(&mut self, query: &str, at: i64, take: impl FnMut(&Series<'_>)) -> Result<()> {
        let body = self.ask("query", &[("query", query), ("time", &seconds(at))])?;
        self.read(&body, take)
    }

    /// The same from `from` until `until` in steps. Milliseconds.
    ///
    /// # Errors
    ///
    /// Like [`Api::at`].
    pub fn range(
        &mut self,
        query: &str,
        (from, until): (i64, i64),
        step: i64,
        take: impl FnMut(&Series<'_>),
    ) -> Result<()> {
        let fields = [
            ("query", query),
            ("start", &seconds(from)),
            ("end", &seconds(until)),
            ("step", &seconds(step)),
        ];
        let body = self.ask("query_range", &fields)?;
        self.read(&body, take)
    }

    /// Sends a question until there is an answer, and explains one that is an error.
    fn ask(&mut self, path: &str, fields: &[(&str, &str)]) -> Result<hyper::body::Bytes> {
        let path = format!("/api/v1/{path}");
        let mut answer = self.server.ask(&path, fields, self.is_get)?;
        if answer.status == 405 && !self.is_get {
            self.is_get = true;
            answer = self.server.ask(&path, fields, true)?;
        }
        if answer.status.is_success() {
            return Ok(answer.body);
        }
        #[derive(Deserialize)]
        struct Refusal {
            error: String,
        }
        let refusal: Option<Refusal> = serde_json::from_slice(&answer.body).ok();
        let why = refusal.map_or_else(String::new, |refusal| {
            let short: String = refusal.error.chars().take(300).collect();
            format!(": {short}")
        });
        let next = match answer.status.as_u16() {
            400 => "; is --match right? It is what stands between { and } in a query",
            401 | 403 => "; give a user in the address, or a token with --header-file",
            404 => "; is this the address of a Prometheus, with its prefix?",
            422 => "; ask for less (--last, --match)",
            _ => "",
        };
        let message = format!("{}: answers {}{why}{next}", self.name(), answer.status);
        match answer.status.as_u16() {
            422 => Err(TooMuch(message).into()),
            _ => bail!(message),
        }
    }

    fn read(&mut self, body: &[u8], take: impl FnMut(&Series<'_>)) -> Result<()> {
        let mut json = serde_json::Deserializer::from_slice(body);
        let warnings = Answer(take).deserialize(&mut json);
        let warnings =
            warnings.with_context(|| format!("{}: no answer of Prometheus", self.name()))?;
        for warning in warnings {
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
        Ok(())
    }
}

/// Milliseconds as the API takes them.
pub fn seconds(millis: i64) -> String {
    format!("{}.{:03}", millis.div_euclid(1000), millis.rem_euclid(1000))
}

/// An answer, whose series are not kept. Returns the warnings.
struct Answer<F>(F);

impl<'de, F: FnMut(&Series<'_>)> DeserializeSeed<'de> for Answer<F> {
    type Value = Vec<String>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de, F: FnMut(&Series<'_>)> Visitor<'de> for Answer<F> {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an answer of Prometheus")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut warnings = Vec::new();
        let mut is_whole = false;
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            match key.as_ref() {
                "data" => {
                    map.next_value_seed(Data(&mut self.0))?;
                    is_whole = true;
                }
                "warnings" => {
                    warnings = map.next_value::<Option<Vec<String>>>()?.unwrap_or_default()
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        match is_whole {
            true => Ok(warnings),
            false => Err(de::Error::missing_field("data")),
        }
    }
}

struct Data<'f, F>(&'f mut F);

impl<'de, F: FnMut(&Series<'_>)> DeserializeSeed<'de> for Data<'_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de, F: FnMut(&Series<'_>)> Visitor<'de> for Data<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a result of Prometheus")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut is_whole = false;
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            if key == "result" {
                map.next_value_seed(Rows(&mut *self.0))?;
                is_whole = true;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        match is_whole {
            true => Ok(()),
            false => Err(de::Error::missing_field("result")),
        }
    }
}

struct Rows<'f, F>(&'f mut F);

impl<'de, F: FnMut(&Series<'_>)> DeserializeSeed<'de> for Rows<'_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de, F: FnMut(&Series<'_>)> Visitor<'de> for Rows<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("series")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<(), A::Error> {
        while let Some(series) = all.next_element::<Series<'_>>()? {
            (self.0)(&series);
        }
        Ok(())
    }
}
