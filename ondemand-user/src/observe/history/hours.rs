//! Hours of the week, for millions of moments in ascending order.

use jiff::{Timestamp, tz::TimeZone};

/// The hour of the week, local time, starting on Monday at midnight.
pub struct Hours {
    zone: TimeZone,
    /// The last computed quarter of an hour: offsets are whole quarters.
    quarter: i64,
    hour: usize,
}

impl Hours {
    /// Nothing is computed yet.
    pub fn new() -> Self {
        Self {
            zone: TimeZone::system(),
            quarter: i64::MIN,
            hour: 0,
        }
    }

    /// The hour for milliseconds since 1970.
    pub fn of(&mut self, millis: i64) -> usize {
        let quarter = millis.div_euclid(900_000);
        if quarter != self.quarter {
            self.quarter = quarter;
            let at = Timestamp::from_second(quarter * 900).unwrap_or_default();
            let at = at.to_zoned(self.zone.clone());
            let day = at.weekday().to_monday_zero_offset() as usize;
            self.hour = day * 24 + at.hour() as usize;
        }
        self.hour
    }
}
