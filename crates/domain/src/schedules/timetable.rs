//! When a schedule fires: a cron expression read on the clock of a time zone.
//!
//! The expression is walked over local times, where clocks never change, and each local time is then put on the line of
//! real time: one that the clock skips at the first instant after the gap, one that it shows twice at its first occurrence
//! (ADR 37). That mapping never goes back, so the order of ticks is that of local times.

use chrono::{DateTime, Duration, MappedLocalTime, NaiveDateTime, TimeDelta, TimeZone as _, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

/// Longer expressions than any schedule needs are not read.
const LONGEST: usize = 200;
/// Local times that can stand for one instant or lie in one repeated stretch: two days of minutes.
const MOST_SKIPPED: usize = 2 * 24 * 60;
/// Further from an instant than any zone is from UTC.
const BEYOND_ANY_OFFSET: TimeDelta = TimeDelta::hours(30);

/// The fields of an expression, in their order.
const FIELDS: [Field; 5] = [
    Field { name: "minute", first: 0, last: 59, names: &[] },
    Field { name: "hour", first: 0, last: 23, names: &[] },
    Field { name: "day of month", first: 1, last: 31, names: &[] },
    Field {
        name: "month",
        first: 1,
        last: 12,
        names: &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
    },
    // Sunday is 0 and 7.
    Field {
        name: "day of week",
        first: 0,
        last: 7,
        names: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"],
    },
];

/// A field of an expression: the values that it takes, and what may stand for them.
struct Field {
    name: &'static str,
    first: u32,
    last: u32,
    names: &'static [&'static str],
}

/// A schedule that can be computed with.
#[derive(Debug, Clone)]
pub struct Timetable {
    cron: Cron,
    zone: Tz,
}

/// The ticks between two instants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ticks {
    /// The newest, in order.
    pub newest: Vec<DateTime<Utc>>,
    /// How many there are before these, counted to a bound.
    pub earlier: usize,
    /// The last of those before.
    pub last_earlier: Option<DateTime<Utc>>,
}

impl Timetable {
    /// Reads a five-field expression for an IANA zone.
    ///
    /// # Errors
    /// A text that says what to correct.
    pub fn parse(expression: &str, zone: &str) -> Result<Self, String> {
        let zone: Tz = zone
            .parse()
            .map_err(|_| "the time zone is not known; use a name such as Europe/Zurich or UTC".to_owned())?;
        if expression.len() > LONGEST {
            return Err(format!("the expression is longer than {LONGEST} characters"));
        }
        let fields: Vec<&str> = expression.split_whitespace().collect();
        if fields.len() != 5 {
            return Err(format!(
                "the expression has {} fields instead of 5: minute, hour, day of month, month, day of week",
                fields.len()
            ));
        }
        // Marks that only some programs know would mean something else to the next one.
        let usual = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '*' | ',' | '-' | '/');
        if let Some(letter) = expression.chars().find(|letter| !usual(*letter) && !letter.is_whitespace()) {
            return Err(format!("the expression must not contain {letter:?}"));
        }
        for (index, (text, field)) in fields.iter().zip(&FIELDS).enumerate() {
            field.check(index, text)?;
        }
        let cron = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build()
            .parse(expression)
            .map_err(|error| format!("the expression cannot be read: {error}"))?;
        Ok(Self { cron, zone })
    }

    /// Reads an expression that nothing fires by yet, which must also mean what it says: `*/90` in the field of minutes is no
    /// hour and a half, but every full hour. Those that fire already go on.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_new(expression: &str, zone: &str) -> Result<Self, String> {
        let table = Self::parse(expression, zone)?;
        for (text, field) in expression.split_whitespace().zip(&FIELDS) {
            field.check_steps(text)?;
        }
        Ok(table)
    }

    /// The first tick after this instant; `None` when there is none, as on the 30th of February.
    pub fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut local = after.with_timezone(&self.zone).naive_local();
        let mut inclusive = true;
        for _ in 0..MOST_SKIPPED {
            local = self.cron.find_next_occurrence(&local.and_utc(), inclusive).ok()?.naive_utc();
            let tick = self.instant_of(local)?;
            if tick > after {
                return Some(tick);
            }
            inclusive = false;
        }
        None
    }

    /// The last tick that is not after this instant.
    pub fn last_until(&self, until: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut local = until.with_timezone(&self.zone).naive_local();
        // While a stretch is repeated, all of it was shown before.
        if let MappedLocalTime::Ambiguous(first, second) = self.zone.from_local_datetime(&local)
            && until >= second
        {
            local += second - first;
        }
        let mut inclusive = true;
        for _ in 0..MOST_SKIPPED {
            local = self.cron.find_previous_occurrence(&local.and_utc(), inclusive).ok()?.naive_utc();
            let tick = self.instant_of(local)?;
            if tick <= until {
                return Some(tick);
            }
            inclusive = false;
        }
        None
    }

    /// The ticks from `from` to `until`, both included: the newest `most`, and how many more, counted to `count_to`.
    pub fn between(&self, from: DateTime<Utc>, until: DateTime<Utc>, most: usize, count_to: usize) -> Ticks {
        let mut ticks = Ticks::default();
        let mut before = until;
        while let Some(tick) = self.last_until(before).filter(|tick| *tick >= from) {
            if ticks.newest.len() < most {
                ticks.newest.insert(0, tick);
            } else if ticks.earlier < count_to {
                ticks.last_earlier.get_or_insert(tick);
                ticks.earlier += 1;
            } else {
                break;
            }
            before = tick - Duration::seconds(1);
        }
        ticks
    }

    /// The next `count` ticks after this instant.
    pub fn upcoming(&self, after: DateTime<Utc>, count: usize) -> Vec<DateTime<Utc>> {
        std::iter::successors(self.next_after(after), |last| self.next_after(*last)).take(count).collect()
    }

    /// The schedule in words.
    pub fn describe(&self) -> String {
        let text = self.cron.describe();
        let text = text.trim_end_matches('.');
        match self.zone {
            Tz::UTC => text.to_owned(),
            zone => format!("{text} ({})", zone.name()),
        }
    }

    /// When a clock of the zone first shows this time, or first shows a later one.
    fn instant_of(&self, local: NaiveDateTime) -> Option<DateTime<Utc>> {
        match self.zone.from_local_datetime(&local) {
            MappedLocalTime::Single(time) => Some(time.to_utc()),
            MappedLocalTime::Ambiguous(first, _) => Some(first.to_utc()),
            MappedLocalTime::None => {
                let (mut before, mut after) =
                    (local.and_utc() - BEYOND_ANY_OFFSET, local.and_utc() + BEYOND_ANY_OFFSET);
                while after - before > TimeDelta::seconds(1) {
                    let middle = before + (after - before) / 2;
                    if middle.with_timezone(&self.zone).naive_local() > local {
                        after = middle;
                    } else {
                        before = middle;
                    }
                }
                // Clocks change on whole seconds; the halving need not have met one.
                DateTime::from_timestamp(after.timestamp(), 0)
            }
        }
    }
}

impl Field {
    /// Lists of `*`, values and ranges, with a step behind `*` or a range. Names stand for months in the fourth field and for
    /// days in the fifth, and nowhere else.
    fn check(&self, index: usize, text: &str) -> Result<(), String> {
        for item in text.split(',') {
            let (range, step) = match item.split_once('/') {
                Some((range, step)) => (range, Some(step)),
                None => (item, None),
            };
            let is_range = match range.split_once('-') {
                Some((first, last)) => self.has(first) && self.has(last),
                None => range == "*" || (self.has(range) && step.is_none()),
            };
            if !is_range || !step.is_none_or(is_number) {
                return Err(format!(
                    "the expression cannot be read: {item:?} is nothing that field {} takes",
                    index + 1
                ));
            }
            let is_outside = |value: &&str| is_number(value) && !self.is_within(value);
            if let Some(value) = range.split('-').find(is_outside) {
                return Err(format!(
                    "the expression cannot be read: {value} is no {}, which goes from {} to {}",
                    self.name, self.first, self.last
                ));
            }
        }
        Ok(())
    }

    /// A step that is longer than the field begins anew each time before it is over.
    fn check_steps(&self, text: &str) -> Result<(), String> {
        // Both ends of the week are Sunday.
        let longest = if self.last == 7 { 7 } else { self.last - self.first + 1 };
        let steps = text.split(',').filter_map(|item| item.split_once('/'));
        for (_, step) in steps {
            if !step.parse::<u32>().is_ok_and(|step| step <= longest) {
                return Err(format!(
                    "a step of {step} is longer than the field of the {}, which has {longest} values",
                    self.name
                ));
            }
        }
        Ok(())
    }

    fn has(&self, text: &str) -> bool {
        is_number(text) || self.names.contains(&text.to_ascii_uppercase().as_str())
    }

    fn is_within(&self, number: &str) -> bool {
        number.parse().is_ok_and(|number| (self.first..=self.last).contains(&number))
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}
