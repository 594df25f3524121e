//! Points in time as clients write them, and as they get them.

use chrono::{DateTime, Datelike as _, NaiveDate, NaiveDateTime, NaiveTime, SecondsFormat, Utc};

use crate::problem::Problem;

/// What a day alone stands for where a period begins.
pub(crate) const FIRST_OF_DAY: NaiveTime = NaiveTime::MIN;
/// What a day alone stands for where a period ends.
pub(crate) const LAST_OF_DAY: NaiveTime =
    NaiveTime::from_hms_micro_opt(23, 59, 59, 999_999).expect("a time of day");

/// A time; without a zone it is UTC, a day alone stands for its `time_of_day`. Years beyond four digits are
/// no dates anybody means, and some of them PostgreSQL cannot hold.
pub(crate) fn read(text: &str, time_of_day: NaiveTime) -> Option<DateTime<Utc>> {
    let text = text.trim();
    // A `+` that was not encoded arrives as a space.
    let repaired = text.replace(' ', "+");
    DateTime::parse_from_rfc3339(text)
        .or_else(|_| DateTime::parse_from_rfc3339(&repaired))
        .map(|time| time.to_utc())
        .or_else(|_| text.parse::<NaiveDateTime>().map(|time| time.and_utc()))
        .or_else(|_| text.parse::<NaiveDate>().map(|day| day.and_time(time_of_day).and_utc()))
        .ok()
        .filter(|time| (1..=9999).contains(&time.year()))
}

/// Reads the time at a pointer, if there is any.
///
/// # Errors
/// 422 with this pointer when it is no time.
pub(crate) fn read_at(
    pointer: &str,
    text: Option<&str>,
    time_of_day: NaiveTime,
) -> Result<Option<DateTime<Utc>>, Problem> {
    let wrong = || Problem::invalid(pointer, "must be an RFC 3339 time or a day, such as 2026-01-05");
    text.map(|text| read(text, time_of_day).ok_or_else(wrong)).transpose()
}

/// A time as clients get it: RFC 3339 in UTC, as precise as it is known.
pub(crate) fn text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_every_form_clients_send() {
        let read = |text: &str| read(text, LAST_OF_DAY).map(|time| time.to_rfc3339());
        assert_eq!(read("2026-01-05T10:00:00Z").as_deref(), Some("2026-01-05T10:00:00+00:00"));
        assert_eq!(read("2026-01-05T10:00:00 01:00").as_deref(), Some("2026-01-05T09:00:00+00:00"));
        assert_eq!(read("2026-01-05T10:00:00").as_deref(), Some("2026-01-05T10:00:00+00:00"));
        assert_eq!(read("2026-01-05").as_deref(), Some("2026-01-05T23:59:59.999999+00:00"));
        assert_eq!(read("yesterday"), None);
        assert_eq!(read("-200000-01-01"), None);
        assert_eq!(read("-200000-01-01T00:00:00Z"), None);
    }
}
