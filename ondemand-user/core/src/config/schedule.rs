//! `keep_up`: times of the week, in the words of systemd.time(7).

use super::{error::Problem, table::Value};

/// Maximum number of entries.
const MOST: usize = 16;
const MINUTES_A_DAY: u32 = 1440;
const MINUTES_A_WEEK: u32 = 7 * MINUTES_A_DAY;

const EXAMPLE: &str = r#""Mon..Fri 08:00-18:00" or ["Sat,Sun", "22:00-06:00"]"#;

/// The names of the days of the week; three letters of them are enough.
const DAYS: [&str; 7] = [
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
    "sunday",
];

/// Times of the week by the local wall clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule(Vec<Times>);

/// A span of time that begins on some days of the week.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Times {
    /// Monday first.
    days: [bool; 7],
    /// Minutes of the day.
    from: u32,
    /// Minutes of that day, or if it is not later, of the next.
    until: u32,
}

/// A minute of the week, by the local wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Minute(u32);

impl Minute {
    /// The minute `hour:minute` of a day; `day` counts from Monday, which is 0.
    pub fn new(day: u32, hour: u32, minute: u32) -> Self {
        Self((day * MINUTES_A_DAY + hour * 60 + minute) % MINUTES_A_WEEK)
    }

    /// `18:00`.
    pub fn time(self) -> String {
        let minute = self.0 % MINUTES_A_DAY;
        format!("{:02}:{:02}", minute / 60, minute % 60)
    }
}

impl Times {
    fn length(&self) -> u32 {
        match self.until.checked_sub(self.from) {
            None | Some(0) => self.until + MINUTES_A_DAY - self.from,
            Some(length) => length,
        }
    }

    /// The first and the last minute of each of its spans in the week.
    fn spans(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let days = (0..7).filter(|day| self.days[*day as usize]);
        days.map(|day| (day * MINUTES_A_DAY + self.from, self.length()))
    }

    fn contains(&self, minute: u32) -> bool {
        self.spans()
            .any(|(begin, length)| (minute + MINUTES_A_WEEK - begin) % MINUTES_A_WEEK < length)
    }
}

impl Schedule {
    /// Whether it has no times.
    pub fn is_absent(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this minute is one of its times.
    pub fn contains(&self, minute: Minute) -> bool {
        self.0.iter().any(|times| times.contains(minute.0))
    }

    /// The end of the time that this minute is in. `None`: it is in none, or in one without end.
    pub fn end(&self, minute: Minute) -> Option<Minute> {
        if !self.contains(minute) {
            return None;
        }
        let ends = self
            .0
            .iter()
            .flat_map(|times| times.spans().map(|(begin, length)| begin + length));
        let ends = ends.map(|end| Minute(end % MINUTES_A_WEEK));
        ends.filter(|end| !self.contains(*end))
            .min_by_key(|end| (end.0 + MINUTES_A_WEEK - minute.0) % MINUTES_A_WEEK)
    }
}

/// Reads the value; without one there are no times.
pub(super) fn read(value: Option<&Value<'_>>) -> Result<Schedule, Problem> {
    let Some(value) = value else {
        return Ok(Schedule::default());
    };
    let texts = value.strings(EXAMPLE)?;
    if texts.is_empty() || texts.len() > MOST {
        let message =
            format!("1 to {MOST} times of use; write them like {EXAMPLE}, or remove the key");
        return Err(value.place.problem(message));
    }
    let times = texts.into_iter().map(|(place, text)| {
        parse(text).map_err(|why| {
            place.problem(format!(
                "{text:?} is no time of use: {why}; write it like {EXAMPLE}"
            ))
        })
    });
    times.collect::<Result<_, _>>().map(Schedule)
}

fn parse(text: &str) -> Result<Times, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (days, span) = match words[..] {
        [one] if one.contains(':') => (None, Some(one)),
        [days] => (Some(days), None),
        [days, span] => (Some(days), Some(span)),
        [] => return Err("it is empty".into()),
        _ => return Err("it has more than days and a span of time".into()),
    };
    let (from, until) = span.map_or(Ok((0, MINUTES_A_DAY)), times_of_day)?;
    let times = Times {
        days: days.map_or(Ok([true; 7]), weekdays)?,
        from,
        until,
    };
    if from == until {
        return Err(format!(
            "{} is no span; a whole day has none",
            span.unwrap_or_default()
        ));
    }
    Ok(times)
}

fn weekdays(text: &str) -> Result<[bool; 7], String> {
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = match part.split_once("..") {
            Some((first, last)) => (weekday(first)?, weekday(last)?),
            None => (weekday(part)?, weekday(part)?),
        };
        // `Sat..Mon` goes over the end of the week.
        for day in 0..=(last + 7 - first) % 7 {
            days[(first + day) % 7] = true;
        }
    }
    Ok(days)
}

fn weekday(text: &str) -> Result<usize, String> {
    let lower = text.to_ascii_lowercase();
    let is_it = |day: &str| lower == day || lower == day[..3];
    let found = DAYS.iter().position(|day| is_it(day));
    found.ok_or_else(|| format!("{text:?} is no day of the week"))
}

fn times_of_day(text: &str) -> Result<(u32, u32), String> {
    let wrong = || format!("{text:?} is no span of time");
    let (from, until) = text.split_once('-').ok_or_else(wrong)?;
    let minutes = |text: &str| {
        let (hour, minute) = text.split_once(':')?;
        let number = |text: &str| {
            let is_plain = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
            is_plain.then(|| text.parse::<u32>().ok()).flatten()
        };
        let at = number(hour)? * 60 + number(minute).filter(|minute| *minute < 60)?;
        (at <= MINUTES_A_DAY).then_some(at)
    };
    let (from, until) = minutes(from).zip(minutes(until)).ok_or_else(wrong)?;
    match from < MINUTES_A_DAY {
        true => Ok((from, until)),
        false => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(texts: &[&str]) -> Schedule {
        Schedule(texts.iter().map(|text| parse(text).unwrap()).collect())
    }

    const MON: u32 = 0;
    const FRI: u32 = 4;
    const SAT: u32 = 5;
    const SUN: u32 = 6;

    #[track_caller]
    fn check(texts: &[&str], at: (u32, u32, u32), expected: bool) {
        let minute = Minute::new(at.0, at.1, at.2);
        assert_eq!(
            schedule(texts).contains(minute),
            expected,
            "{texts:?}, {at:?}"
        );
    }

    #[test]
    fn times_of_the_week() {
        let office = ["Mon..Fri 08:00-18:00"];
        check(&office, (MON, 7, 59), false);
        check(&office, (MON, 8, 0), true);
        check(&office, (FRI, 17, 59), true);
        check(&office, (FRI, 18, 0), false);
        check(&office, (SAT, 12, 0), false);
        let weekend = ["sat,Sunday"];
        check(&weekend, (SUN, 23, 59), true);
        check(&weekend, (MON, 0, 0), false);
        // Over midnight it belongs to the day on which it begins, also at the week's end.
        let night = ["Sun 22:00-06:00"];
        check(&night, (SUN, 5, 0), false);
        check(&night, (SUN, 22, 0), true);
        check(&night, (MON, 5, 59), true);
        check(&night, (MON, 6, 0), false);
        check(&["Sat..Mon 10:00-11:00"], (MON, 10, 30), true);
        check(&["Sat..Mon 10:00-11:00"], (FRI, 10, 30), false);
        check(&["08:00-24:00"], (FRI, 23, 59), true);
        check(&["08:00-24:00"], (SAT, 0, 0), false);
    }

    #[test]
    fn each_time_has_an_end() {
        #[track_caller]
        fn check(texts: &[&str], at: (u32, u32, u32), expected: Option<(u32, u32, u32)>) {
            let end = schedule(texts).end(Minute::new(at.0, at.1, at.2));
            assert_eq!(
                end,
                expected.map(|(day, hour, minute)| Minute::new(day, hour, minute))
            );
        }
        check(&["Mon..Fri 08:00-18:00"], (MON, 9, 0), Some((MON, 18, 0)));
        check(&["Mon..Fri 08:00-18:00"], (SAT, 9, 0), None);
        check(&["Sun 22:00-06:00"], (MON, 1, 0), Some((MON, 6, 0)));
        check(
            &["08:00-12:00", "11:00-13:00", "13:00-14:00"],
            (FRI, 9, 0),
            Some((FRI, 14, 0)),
        );
        check(&["Sat,Sun"], (SAT, 9, 0), Some((MON, 0, 0)));
        check(&["Mon..Sun"], (SAT, 9, 0), None);
        assert_eq!(Minute::new(FRI, 18, 5).time(), "18:05");
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "always",
            "Mon..",
            "Mon..Fry",
            "Mon 8:00-18:00",
            "Mon 08:00",
            "Mon 08:00-25:00",
            "24:00-08:00",
            "08:60-09:00",
            "08:00-08:00",
            "Mon Tue 08:00-09:00",
            "Mon 08:00-09:00 UTC",
            "Mo 08:00-09:00",
            "08:00-",
            "Mon,,Tue",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
