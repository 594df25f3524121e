//! When schedules fire: a table of what clocks do to them, and a second implementation that walks real time.

use std::collections::HashSet;

use chrono::{DateTime, Datelike as _, NaiveDateTime, TimeDelta, Timelike as _, Utc};
use chrono_tz::Tz;
use domain::schedules::Timetable;
use proptest::prelude::*;

/// Zone, expression, an instant, and the ticks after it, all in UTC. Computed with the time zones of another language
/// and checked by hand where a clock changes: summer time in spring and autumn, half an hour, two hours, at midnight, a
/// whole day that was skipped, Ramadan, and zones where nothing changes.
const CHANGES_OF_CLOCKS: &[(&str, &str, &str, &[&str])] = &[
    (
        "Europe/Zurich",
        "30 2 * * *",
        "2026-03-28T00:00",
        &["2026-03-28T01:30", "2026-03-29T01:00", "2026-03-30T00:30"],
    ),
    (
        "Europe/Zurich",
        "0 2 * * *",
        "2026-03-28T12:00",
        &["2026-03-29T01:00", "2026-03-30T00:00", "2026-03-31T00:00"],
    ),
    (
        "Europe/Zurich",
        "0 3 * * *",
        "2026-03-28T12:00",
        &["2026-03-29T01:00", "2026-03-30T01:00", "2026-03-31T01:00"],
    ),
    (
        "Europe/Zurich",
        "15,45 2 * * *",
        "2026-03-28T12:00",
        &["2026-03-29T01:00", "2026-03-30T00:15", "2026-03-30T00:45"],
    ),
    (
        "Europe/Zurich",
        "*/30 * * * *",
        "2026-03-29T00:15",
        &["2026-03-29T00:30", "2026-03-29T01:00", "2026-03-29T01:30"],
    ),
    (
        "Europe/Zurich",
        "0 * * * *",
        "2026-03-29T00:00",
        &["2026-03-29T01:00", "2026-03-29T02:00", "2026-03-29T03:00"],
    ),
    ("Europe/Zurich", "30 2 29 3 *", "2026-01-01T00:00", &["2026-03-29T01:00", "2027-03-29T00:30"]),
    (
        "Europe/Zurich",
        "30 2 * * SUN",
        "2026-03-22T12:00",
        &["2026-03-29T01:00", "2026-04-05T00:30", "2026-04-12T00:30"],
    ),
    (
        "Europe/Zurich",
        "30 2 * * *",
        "2026-10-24T12:00",
        &["2026-10-25T00:30", "2026-10-26T01:30", "2026-10-27T01:30"],
    ),
    (
        "Europe/Zurich",
        "0 3 * * *",
        "2026-10-24T12:00",
        &["2026-10-25T02:00", "2026-10-26T02:00", "2026-10-27T02:00"],
    ),
    (
        "Europe/Zurich",
        "*/30 * * * *",
        "2026-10-24T23:45",
        &["2026-10-25T00:00", "2026-10-25T00:30", "2026-10-25T02:00"],
    ),
    (
        "Europe/Zurich",
        "0 * * * *",
        "2026-10-24T23:30",
        &["2026-10-25T00:00", "2026-10-25T02:00", "2026-10-25T03:00"],
    ),
    (
        "Europe/Zurich",
        "59 2 * * *",
        "2026-10-24T12:00",
        &["2026-10-25T00:59", "2026-10-26T01:59", "2026-10-27T01:59"],
    ),
    (
        "Europe/Zurich",
        "0 2 * * *",
        "2026-10-25T00:00",
        &["2026-10-26T01:00", "2026-10-27T01:00", "2026-10-28T01:00"],
    ),
    (
        "Europe/Zurich",
        "0 2 * * *",
        "2026-10-25T01:00",
        &["2026-10-26T01:00", "2026-10-27T01:00", "2026-10-28T01:00"],
    ),
    (
        "Europe/Zurich",
        "0 0 * * *",
        "2026-10-24T12:00",
        &["2026-10-24T22:00", "2026-10-25T23:00", "2026-10-26T23:00"],
    ),
    (
        "Europe/London",
        "0 0 * * *",
        "2026-03-28T12:00",
        &["2026-03-29T00:00", "2026-03-29T23:00", "2026-03-30T23:00"],
    ),
    (
        "Europe/London",
        "0 1 * * *",
        "2026-03-28T12:00",
        &["2026-03-29T01:00", "2026-03-30T00:00", "2026-03-31T00:00"],
    ),
    (
        "Europe/London",
        "30 1 * * *",
        "2026-03-28T12:00",
        &["2026-03-29T01:00", "2026-03-30T00:30", "2026-03-31T00:30"],
    ),
    (
        "Europe/London",
        "30 1 * * *",
        "2026-10-24T12:00",
        &["2026-10-25T00:30", "2026-10-26T01:30", "2026-10-27T01:30"],
    ),
    (
        "Europe/Dublin",
        "30 1 * * *",
        "2026-03-28T12:00",
        &["2026-03-29T01:00", "2026-03-30T00:30", "2026-03-31T00:30"],
    ),
    (
        "Europe/Dublin",
        "30 1 * * *",
        "2026-10-24T12:00",
        &["2026-10-25T00:30", "2026-10-26T01:30", "2026-10-27T01:30"],
    ),
    (
        "America/New_York",
        "30 2 * * *",
        "2026-03-07T12:00",
        &["2026-03-08T07:00", "2026-03-09T06:30", "2026-03-10T06:30"],
    ),
    (
        "America/New_York",
        "0 2 8 * *",
        "2026-03-01T00:00",
        &["2026-03-08T07:00", "2026-04-08T06:00", "2026-05-08T06:00"],
    ),
    (
        "America/New_York",
        "30 1 * * *",
        "2026-10-31T12:00",
        &["2026-11-01T05:30", "2026-11-02T06:30", "2026-11-03T06:30"],
    ),
    (
        "America/New_York",
        "*/20 1 * * *",
        "2026-11-01T04:00",
        &["2026-11-01T05:00", "2026-11-01T05:20", "2026-11-01T05:40"],
    ),
    (
        "America/New_York",
        "0 6 * * MON-FRI",
        "2026-03-06T12:00",
        &["2026-03-09T10:00", "2026-03-10T10:00", "2026-03-11T10:00"],
    ),
    (
        "America/New_York",
        "0 0 1 * *",
        "2026-10-15T00:00",
        &["2026-11-01T04:00", "2026-12-01T05:00", "2027-01-01T05:00"],
    ),
    (
        "America/St_Johns",
        "0 2 * * *",
        "2026-03-07T12:00",
        &["2026-03-08T05:30", "2026-03-09T04:30", "2026-03-10T04:30"],
    ),
    (
        "America/St_Johns",
        "30 1 * * *",
        "2026-10-31T12:00",
        &["2026-11-01T04:00", "2026-11-02T05:00", "2026-11-03T05:00"],
    ),
    (
        "America/Havana",
        "30 0 * * *",
        "2026-03-07T12:00",
        &["2026-03-08T05:00", "2026-03-09T04:30", "2026-03-10T04:30"],
    ),
    (
        "America/Havana",
        "0 0 * * *",
        "2026-03-07T12:00",
        &["2026-03-08T05:00", "2026-03-09T04:00", "2026-03-10T04:00"],
    ),
    (
        "America/Havana",
        "30 0 * * *",
        "2026-10-31T12:00",
        &["2026-11-01T04:30", "2026-11-02T05:30", "2026-11-03T05:30"],
    ),
    (
        "Australia/Lord_Howe",
        "15 2 * * *",
        "2026-10-03T00:00",
        &["2026-10-03T15:30", "2026-10-04T15:15", "2026-10-05T15:15"],
    ),
    (
        "Australia/Lord_Howe",
        "*/10 2 * * *",
        "2026-10-03T14:00",
        &["2026-10-03T15:30", "2026-10-03T15:40", "2026-10-03T15:50"],
    ),
    (
        "Australia/Lord_Howe",
        "45 1 * * *",
        "2026-04-04T00:00",
        &["2026-04-04T14:45", "2026-04-05T15:15", "2026-04-06T15:15"],
    ),
    (
        "Australia/Lord_Howe",
        "*/15 1 * * *",
        "2026-04-04T14:00",
        &["2026-04-04T14:15", "2026-04-04T14:30", "2026-04-04T14:45"],
    ),
    (
        "Australia/Sydney",
        "30 2 * * *",
        "2026-10-03T00:00",
        &["2026-10-03T16:00", "2026-10-04T15:30", "2026-10-05T15:30"],
    ),
    (
        "Australia/Sydney",
        "30 2 * * *",
        "2026-04-04T00:00",
        &["2026-04-04T15:30", "2026-04-05T16:30", "2026-04-06T16:30"],
    ),
    (
        "Pacific/Apia",
        "0 12 * * *",
        "2011-12-28T00:00",
        &["2011-12-28T22:00", "2011-12-29T22:00", "2011-12-30T10:00"],
    ),
    ("Pacific/Apia", "0 12 30 12 *", "2011-12-01T00:00", &["2011-12-30T10:00", "2012-12-29T22:00"]),
    (
        "Pacific/Apia",
        "0 */6 * * *",
        "2011-12-30T03:00",
        &["2011-12-30T04:00", "2011-12-30T10:00", "2011-12-30T16:00"],
    ),
    (
        "Antarctica/Troll",
        "30 2 * * *",
        "2026-03-28T12:00",
        &["2026-03-29T01:00", "2026-03-30T00:30", "2026-03-31T00:30"],
    ),
    (
        "Antarctica/Troll",
        "30 1 * * *",
        "2026-03-28T12:00",
        &["2026-03-29T01:00", "2026-03-29T23:30", "2026-03-30T23:30"],
    ),
    (
        "Antarctica/Troll",
        "30 1 * * *",
        "2026-10-24T12:00",
        &["2026-10-24T23:30", "2026-10-26T01:30", "2026-10-27T01:30"],
    ),
    (
        "Africa/Casablanca",
        "30 2 * * *",
        "2026-02-14T00:00",
        &["2026-02-14T01:30", "2026-02-15T01:30", "2026-02-16T02:30"],
    ),
    (
        "Africa/Casablanca",
        "30 2 * * *",
        "2026-03-21T00:00",
        &["2026-03-21T02:30", "2026-03-22T02:00", "2026-03-23T01:30"],
    ),
    (
        "America/Santiago",
        "30 0 * * *",
        "2026-09-05T12:00",
        &["2026-09-06T04:00", "2026-09-07T03:30", "2026-09-08T03:30"],
    ),
    (
        "America/Santiago",
        "30 23 * * *",
        "2026-04-04T00:00",
        &["2026-04-04T02:30", "2026-04-05T02:30", "2026-04-06T03:30"],
    ),
    (
        "Asia/Beirut",
        "0 0 * * *",
        "2026-03-28T00:00",
        &["2026-03-28T22:00", "2026-03-29T21:00", "2026-03-30T21:00"],
    ),
    (
        "Asia/Kathmandu",
        "0 6 * * *",
        "2026-03-28T00:00",
        &["2026-03-28T00:15", "2026-03-29T00:15", "2026-03-30T00:15"],
    ),
    ("UTC", "30 2 * * *", "2026-03-28T12:00", &["2026-03-29T02:30", "2026-03-30T02:30", "2026-03-31T02:30"]),
    ("UTC", "0 0 29 2 *", "2026-01-01T00:00", &["2028-02-29T00:00"]),
    (
        "Europe/Zurich",
        "0 0 13 * FRI",
        "2026-02-01T00:00",
        &["2026-02-05T23:00", "2026-02-12T23:00", "2026-02-19T23:00"],
    ),
    (
        "Europe/Zurich",
        "0 12 * * 7",
        "2026-03-27T00:00",
        &["2026-03-29T10:00", "2026-04-05T10:00", "2026-04-12T10:00"],
    ),
    (
        "Europe/Zurich",
        "0 12 * * 0",
        "2026-03-27T00:00",
        &["2026-03-29T10:00", "2026-04-05T10:00", "2026-04-12T10:00"],
    ),
];

const ZONES: [Tz; 14] = [
    Tz::Europe__Zurich,
    Tz::Europe__Dublin,
    Tz::America__New_York,
    Tz::America__St_Johns,
    Tz::America__Havana,
    Tz::America__Santiago,
    Tz::Australia__Lord_Howe,
    Tz::Antarctica__Troll,
    Tz::Africa__Casablanca,
    Tz::Pacific__Apia,
    Tz::Asia__Tehran,
    Tz::Asia__Kathmandu,
    Tz::Atlantic__Azores,
    Tz::UTC,
];

fn instant(text: &str) -> DateTime<Utc> {
    NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M").expect("a time").and_utc()
}

#[test]
fn changes_of_clocks_neither_lose_nor_double_a_tick() {
    let mut wrong = Vec::new();
    for (zone, expression, after, expected) in CHANGES_OF_CLOCKS {
        let table = Timetable::parse(expression, zone).expect("valid");
        let ticks = table.upcoming(instant(after), expected.len());
        let expected: Vec<DateTime<Utc>> = expected.iter().map(|text| instant(text)).collect();
        if ticks != expected {
            wrong.push(format!("{zone} {expression} after {after}: {ticks:?} instead of {expected:?}"));
        }
    }
    println!("changes of clocks: {} rows, wrong {}", CHANGES_OF_CLOCKS.len(), wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(CHANGES_OF_CLOCKS.len() >= 40);
}

#[test]
fn the_newest_ticks_of_an_outage_are_found_from_its_end() {
    let table = Timetable::parse("*/10 * * * *", "UTC").expect("valid");
    let ticks = table.between(instant("2026-01-01T00:00"), instant("2026-01-01T01:05"), 3, 1_000);
    assert_eq!(ticks.newest, ["2026-01-01T00:40", "2026-01-01T00:50", "2026-01-01T01:00"].map(instant));
    assert_eq!((ticks.earlier, ticks.last_earlier), (4, Some(instant("2026-01-01T00:30"))));
    let decade = table.between(instant("2016-01-01T00:00"), instant("2026-01-01T00:00"), 24, 1_000);
    assert_eq!((decade.newest.len(), decade.earlier), (24, 1_000), "counted to a bound");
    let none = table.between(instant("2026-01-01T00:01"), instant("2026-01-01T00:09"), 24, 1_000);
    assert_eq!((none.newest.len(), none.last_earlier), (0, None));
}

#[test]
fn expressions_are_five_usual_fields_and_nothing_else() {
    for good in [
        "* * * * *",
        "0 0 1 1 0",
        "59 23 31 12 7",
        "*/5 0-6,18-23 1,15 JAN-MAR mon-fri",
        "0 6 * * 1-5",
        "0 0 * * 5-7",
        "5/15 * * * *",
    ] {
        let parsed = Timetable::parse(good, "UTC");
        // A step needs a range: from one number it means different things to different programs.
        assert_eq!(parsed.is_ok(), good != "5/15 * * * *", "{good}: {parsed:?}");
    }
    for bad in [
        "",
        "* * * *",
        "* * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * 32 * *",
        "* * * 13 *",
        "* * * 0 *",
        "* * * * 8",
        "*/0 * * * *",
        "5-1 * * * *",
        "a * * * *",
        "* * L * *",
        "* * 15W * *",
        "* * * * 5#3",
        "* * ? * *",
        "@hourly",
        "* * * * MONDAY",
        "* * * MON *",
        "-1 * * * *",
        "1,,2 * * * *",
        "1- * * * *",
        "* * * * +5",
        "1.5 * * * *",
    ] {
        assert!(Timetable::parse(bad, "UTC").is_err(), "{bad}");
    }
    let said = |expression: &str| Timetable::parse(expression, "UTC").expect_err("is refused");
    assert!(said("60 * * * *").contains("60 is no minute, which goes from 0 to 59"));
    assert!(said("* * * * 1,6-8").contains("8 is no day of week, which goes from 0 to 7"));
    let long = format!("{} * * * *", vec!["1"; 200].join(","));
    assert!(Timetable::parse(&long, "UTC").is_err());
}

#[test]
fn a_step_longer_than_its_field_is_refused_where_nothing_fires_by_it_yet() {
    for (expression, field) in [
        ("*/90 * * * *", "minute"),
        ("0 */25 * * *", "hour"),
        ("0 0 */32 * *", "day of month"),
        ("0 0 1 */13 *", "month"),
        ("0 0 * * 1-5/8", "day of week"),
    ] {
        let refused = Timetable::parse_new(expression, "UTC").expect_err("is refused");
        assert!(refused.contains(&format!("field of the {field},")), "{refused}");
        Timetable::parse(expression, "UTC").expect("goes on to fire");
    }
    for whole in ["*/60 */24 * * *", "0 0 */31 */12 *", "0 0 * * */7"] {
        Timetable::parse_new(whole, "UTC").expect("says what it means");
    }
}

/// A field of a random expression: its text, and the values it stands for.
type Field = (String, Vec<u32>);

fn field(least: u32, most: u32) -> impl Strategy<Value = Field> {
    let all: Vec<u32> = (least..=most).collect();
    let stepped = all.clone();
    prop_oneof![
        3 => Just(("*".to_owned(), all)),
        2 => (2_u32..=20).prop_map(move |step| {
            (format!("*/{step}"), stepped.iter().copied().step_by(step as usize).collect())
        }),
        2 => (least..=most, least..=most).prop_map(|(a, b)| {
            let (a, b) = (a.min(b), a.max(b));
            (format!("{a}-{b}"), (a..=b).collect())
        }),
        3 => proptest::collection::btree_set(least..=most, 1..4).prop_map(|set| {
            let texts: Vec<String> = set.iter().map(ToString::to_string).collect();
            (texts.join(","), set.into_iter().collect())
        }),
    ]
}

/// Every tick in a stretch of real time, minute by minute: a minute fires when its local time fits and was not shown
/// before, or when the clock has just skipped one that fits.
fn walk(fields: &[Field; 5], zone: Tz, from: DateTime<Utc>, minutes: i64) -> Vec<DateTime<Utc>> {
    let has = |index: usize, value: u32| fields[index].1.contains(&value);
    let fits = |local: NaiveDateTime| {
        let weekday = local.weekday().num_days_from_sunday();
        let (day, week) = (has(2, local.day()), has(4, weekday) || (weekday == 0 && has(4, 7)));
        let is_day = match (fields[2].0.as_str(), fields[4].0.as_str()) {
            ("*", _) => week,
            (_, "*") => day,
            _ => day || week,
        };
        has(0, local.minute()) && has(1, local.hour()) && has(3, local.month()) && is_day
    };
    let mut ticks = Vec::new();
    let mut shown = HashSet::new();
    let mut previous: Option<NaiveDateTime> = None;
    // A day more at the front, so that what was shown before is known.
    for minute in -1_500..=minutes {
        let now = from + TimeDelta::minutes(minute);
        let local = now.with_timezone(&zone).naive_local();
        let mut fires = fits(local) && !shown.contains(&local);
        if let Some(mut skipped) = previous.map(|previous| previous + TimeDelta::minutes(1)) {
            while skipped < local {
                fires |= fits(skipped);
                skipped += TimeDelta::minutes(1);
            }
        }
        shown.insert(local);
        previous = Some(local);
        if fires && minute > 0 {
            ticks.push(now);
        }
    }
    ticks
}

/// The instants at which a clock of the zone changes in these years, to the hour.
fn changes(zone: Tz) -> Vec<DateTime<Utc>> {
    let offset = |time: DateTime<Utc>| {
        let local = time.with_timezone(&zone).naive_local();
        (local - time.naive_utc()).num_seconds()
    };
    let start = instant("2011-01-01T00:00");
    let hours = (0..24 * 365 * 3).map(|hour| start + TimeDelta::hours(hour));
    hours.filter(|hour| offset(*hour) != offset(*hour + TimeDelta::hours(1))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_second_implementation_finds_the_same_ticks(
        minute in field(0, 59), hour in field(0, 23), day in field(1, 31), month in field(1, 12), weekday in field(0, 7),
        zone in proptest::sample::select(ZONES.to_vec()), which in any::<proptest::sample::Index>(), shift in -2_000_i64..600,
    ) {
        let changes = changes(zone);
        let near = if changes.is_empty() { instant("2012-06-01T00:00") } else { changes[which.index(changes.len())] };
        let from = near + TimeDelta::minutes(shift);
        let fields = [minute, hour, day, month, weekday];
        let expression = fields.iter().map(|field| field.0.as_str()).collect::<Vec<_>>().join(" ");
        let table = Timetable::parse(&expression, zone.name()).expect("valid");
        let minutes = 3_000;
        let until = from + TimeDelta::minutes(minutes);

        let walked = walk(&fields, zone, from, minutes);
        let mut found = Vec::new();
        let mut next = table.next_after(from);
        while let Some(tick) = next.filter(|tick| *tick <= until) {
            found.push(tick);
            next = table.next_after(tick);
        }
        prop_assert_eq!(&found, &walked, "{} in {} after {}", expression, zone, from);

        let backwards = table.between(from + TimeDelta::seconds(1), until, usize::MAX, 0).newest;
        prop_assert_eq!(&backwards, &walked, "{} in {} before {}", expression, zone, until);
    }
}
