//! Fabricated histories: a good one that is clean, and one fault at a time that must be found, by the right check.

use chrono::{DateTime, TimeDelta, Utc};

use super::*;
use crate::history::{
    Answer, Followed, Queue, Reach, Seen, Stamp, Start, Submission, Tick, Timetable, Transition,
};

fn at(second: i64) -> Time {
    DateTime::<Utc>::UNIX_EPOCH + TimeDelta::seconds(second)
}

fn change(execution: Uuid, second: i64, from: &str, to: &str, attempts: (i32, i32)) -> Transition {
    Transition {
        execution,
        at: at(second),
        from: from.into(),
        to: to.into(),
        attempt_before: attempts.0,
        attempt: attempts.1,
        lease_until: None,
        lane: None,
    }
}

/// One chatty execution that was lost once and then succeeded, submitted twice with one key, and followed.
fn good() -> History {
    let (id, organization) = (Uuid::from_u128(1), Uuid::from_u128(100));
    let line = |sequence, user_sequence, attempt: i32| Line {
        execution: id,
        sequence,
        user_sequence,
        attempt,
        message: format!("attempt {attempt} line {sequence}"),
    };
    let mut lost = change(id, 14, "Running", "Pending", (1, 1));
    lost.lease_until = Some(at(12));
    let tick = Uuid::from_u128(2);
    let row = Row {
        id,
        organization: Some(organization),
        kind: Some(Kind::Chatty),
        token: Some("1-1".into()),
        status: "Success".into(),
        attempt: 2,
        error_type: None,
        stamp: Some(Stamp {
            execution: id,
            attempt: 2,
            scope: organization.to_string(),
            token: "1-1".into(),
        }),
        started_at: Some(at(1)),
    };
    let scheduled = Row {
        id: tick,
        organization: None,
        kind: Some(Kind::Scheduled),
        token: None,
        attempt: 1,
        stamp: None,
        ..row.clone()
    };
    History {
        submissions: vec![Submission {
            token: "1-1".into(),
            organization,
            kind: Kind::Chatty,
            ids: vec![id, id],
            cancelled: false,
            run_at: Some(at(1)),
        }],
        rows: vec![row, scheduled],
        transitions: vec![
            change(id, 1, "Pending", "Running", (0, 1)),
            lost,
            change(id, 15, "Pending", "Running", (1, 2)),
            change(id, 16, "Running", "Success", (2, 2)),
            change(tick, 60, "Pending", "Running", (0, 1)),
            change(tick, 61, "Running", "Success", (1, 1)),
        ],
        seen: vec![Seen { execution: id, status: "Success".into() }],
        starts: vec![Start { execution: id, attempt: 1 }, Start { execution: id, attempt: 2 }],
        lines: vec![line(1, Some(1), 1), line(2, None, 2), line(3, Some(2), 2)],
        followed: vec![Followed {
            execution: id,
            connections: 2,
            lines: vec![(1, 1), (2, 2)],
            terminal: Some("Success".into()),
            lines_after_end: 0,
        }],
        ticks: vec![Tick {
            schedule: "ticks_a".into(),
            fire_at: at(60),
            outcome: "started".into(),
            execution: Some(tick),
        }],
        timetables: vec![Timetable { schedule: "ticks_a".into(), first: at(60), last: at(60) }],
        faults: vec![Injected { name: "kill".into(), sort: Sort::Broker, began: at(2), healed: at(3) }],
        queue: vec![Queue { at: at(5), consumers: Some(3) }],
        answers: vec![Answer {
            replica: 0,
            at: at(1),
            seconds: 0.1,
            status: 200,
            has_retry_after: false,
            request: "submit",
        }],
        reach: vec![Reach { organization, listed: vec![id], foreign: vec![(Uuid::from_u128(9), 404)] }],
        foreign_messages: 3,
        workers: 3,
        quiet_after: Some(1.0),
        probes: vec![("lone".into(), Some(0.2))],
        stubborn: Vec::new(),
        left_over: 0,
    }
}

fn found(history: &History) -> Vec<&'static str> {
    verify(history).into_iter().filter(|verdict| verdict.violations > 0).map(|verdict| verdict.what).collect()
}

/// Spoils a good history; exactly these checks must notice.
#[track_caller]
fn finds(expected: &[&str], spoil: impl FnOnce(&mut History)) {
    let mut history = good();
    spoil(&mut history);
    assert_eq!(found(&history), expected);
}

#[test]
fn a_good_history_is_clean_and_was_looked_at() {
    let verdicts = verify(&good());
    assert_eq!(found(&good()), [""; 0]);
    let unlooked: Vec<_> = verdicts.iter().filter(|one| one.cases == 0).map(|one| one.what).collect();
    assert_eq!(unlooked, ["limits hold, no slot leaks"], "nothing in it is limited");
}

#[test]
fn what_was_accepted_and_is_gone_or_stuck_is_lost() {
    finds(&["every accepted execution ends"], |history| {
        history.submissions[0].ids = vec![Uuid::from_u128(7)]
    });
    finds(
        &["every accepted execution ends", "one end, never changed", "followers miss nothing"],
        |history| {
            history.rows[0].status = "Running".into();
        },
    );
    finds(&["after the repair everything ends"], |history| history.quiet_after = None);
}

#[test]
fn a_second_end_is_found_in_the_changes_and_in_what_was_read() {
    let id = Uuid::from_u128(1);
    finds(&["one end, never changed"], |history| {
        history.transitions.push(change(id, 20, "Success", "Failed", (2, 2)));
    });
    finds(&["one end, never changed"], |history| history.seen[0].status = "Failed".into());
}

#[test]
fn whatever_a_stale_attempt_leaves_is_found() {
    const STALE: [&str; 1] = ["nothing of a stale attempt counts"];
    finds(&STALE, |history| history.rows[0].stamp.as_mut().expect("has one").attempt = 1);
    finds(&STALE, |history| history.transitions[2].attempt = 0);
    finds(&STALE, |history| history.starts.push(Start { execution: Uuid::from_u128(1), attempt: 2 }));
    finds(&STALE, |history| history.starts.push(Start { execution: Uuid::from_u128(1), attempt: 3 }));
    finds(&STALE, |history| history.lines[1].message = "attempt 1 line 9".into());
    finds(&STALE, |history| {
        history.lines[0].attempt = 2;
        history.lines[0].message = "of no attempt".into();
        history.lines[2].attempt = 1;
        history.lines[2].message = "of no attempt".into();
        // As they were told, so that nothing else is found.
        history.followed[0].lines = vec![(2, 1), (1, 2)];
    });
}

#[test]
fn a_line_of_a_lost_attempt_is_no_substitute_for_that_of_the_next() {
    finds(&["followers miss nothing"], |history| history.followed[0].lines = vec![(1, 1), (1, 2)]);
}

#[test]
fn a_late_recovery_is_found_and_an_outage_explains_it() {
    const LATE: [&str; 1] = ["a lost worker's runs are taken up in time"];
    finds(&LATE, |history| history.transitions[1].lease_until = Some(at(8)));
    finds(&[], |history| {
        history.transitions[1].lease_until = Some(at(8));
        history.faults.push(Injected {
            name: "kill -9 PostgreSQL".into(),
            sort: Sort::Database,
            began: at(7),
            healed: at(9),
        });
    });
}

#[test]
fn a_key_that_became_two_executions_is_found() {
    const EXTRA: [&str; 1] = ["an idempotency key is one execution"];
    finds(&EXTRA, |history| {
        let twin = Row { id: Uuid::from_u128(3), status: "Running".into(), ..history.rows[0].clone() };
        history.rows.push(twin);
    });
}

#[test]
fn what_nobody_submitted_is_found() {
    const PHANTOM: [&str; 1] = ["doubled and invented messages do nothing"];
    finds(&PHANTOM, |history| {
        history.rows[0].token = Some("another".into());
    });
    finds(&PHANTOM, |history| history.starts.push(Start { execution: Uuid::from_u128(8), attempt: 1 }));
}

#[test]
fn a_worker_that_does_not_consume_again_is_found() {
    const AWAY: [&str; 1] = ["workers consume again in time"];
    finds(&AWAY, |history| history.queue[0].consumers = Some(2));
    finds(&AWAY, |history| history.queue[0].at = at(20));
    finds(&[], |history| {
        history.queue[0].at = at(20);
        history.faults.push(Injected {
            name: "stop".into(),
            sort: Sort::Worker,
            began: at(4),
            healed: at(19),
        });
    });
}

#[test]
fn a_limit_that_is_exceeded_and_a_slot_that_leaks_are_found() {
    const LIMIT: [&str; 1] = ["limits hold, no slot leaks"];
    finds(&LIMIT, |history| {
        history.transitions.iter_mut().for_each(|change| change.lane = Some(("keyed".into(), 1)));
        history.transitions[3].at = at(70);
        history.transitions.sort_by_key(|change| change.at);
    });
    finds(&LIMIT, |history| history.probes.push(("keyed".into(), None)));
}

#[test]
fn wrong_ends_are_found() {
    const WRONG: [&str; 1] = ["each ends as it must"];
    finds(&WRONG, |history| history.submissions[0].kind = Kind::Undefined);
    finds(&WRONG, |history| history.submissions[0].cancelled = true);
    finds(&WRONG, |history| history.submissions[0].run_at = Some(at(2)));
}

#[test]
fn ticks_that_are_missed_or_doubled_are_found() {
    const TICKS: [&str; 1] = ["every tick once, over all replicas"];
    finds(&TICKS, |history| history.timetables[0].last = at(120));
    finds(&TICKS, |history| history.ticks.push(history.ticks[0].clone()));
    finds(&TICKS, |history| history.ticks[0].outcome = "missed".into());
    finds(&TICKS, |history| {
        let twin = Row { id: Uuid::from_u128(4), status: "Pending".into(), ..history.rows[1].clone() };
        history.rows.push(twin);
    });
}

#[test]
fn gaps_are_found_in_what_is_stored_and_in_what_is_told() {
    const STORED: [&str; 1] = ["stored lines have no gap"];
    const TOLD: [&str; 1] = ["followers miss nothing"];
    finds(&STORED, |history| history.lines[1].sequence = 9);
    finds(&TOLD, |history| history.followed[0].lines = vec![(1, 1)]);
    finds(&TOLD, |history| history.followed[0].lines = vec![(1, 1), (2, 2), (2, 2)]);
    finds(&TOLD, |history| history.followed[0].terminal = None);
    finds(&TOLD, |history| history.followed[0].lines_after_end = 1);
}

#[test]
fn leaks_between_organizations_are_found() {
    const LEAK: [&str; 1] = ["organizations see their own only"];
    finds(&LEAK, |history| history.rows[0].stamp.as_mut().expect("has one").scope = "another".into());
    finds(&LEAK, |history| history.reach[0].foreign[0].1 = 200);
    finds(&LEAK, |history| history.reach[0].listed.push(Uuid::from_u128(2)));
}

#[test]
fn answers_that_are_wrong_or_late_are_found() {
    const ANSWERS: [&str; 1] = ["answers are right or 503, and prompt"];
    finds(&ANSWERS, |history| history.answers[0].status = 500);
    finds(&ANSWERS, |history| history.answers[0].status = 503);
    finds(&ANSWERS, |history| history.answers[0].seconds = 9.0);
    finds(&[], |history| {
        history.answers[0].seconds = 9.0;
        history.faults.push(Injected {
            name: "stop api 0".into(),
            sort: Sort::FrozenApi(0),
            began: at(2),
            healed: at(8),
        });
    });
    finds(&["who is asked to end does"], |history| history.stubborn.push("api 0".into()));
    finds(&["no process outlives its worker"], |history| history.left_over = 1);
}
