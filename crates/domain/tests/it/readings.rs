//! Readings: true, bounded, and one for all processes.

use domain::{Platform, readings};
use sqlx::Connection as _;
use testkit::TestEnv;

use crate::support::{Fixture, scope_of};

#[tokio::test]
async fn a_reading_tells_what_waits_since_when_and_how_late_schedules_are() {
    let fixture = Fixture::embedded().await;
    let scope = scope_of(fixture.org("acme").await);
    for _ in 0..3 {
        fixture.submit(&scope, |_| {}).await.expect("accepted");
    }
    let later = chrono::Utc::now() + chrono::TimeDelta::hours(1);
    fixture.submit(&scope, |new| new.run_at = Some(later)).await.expect("accepted");
    let mut admin = fixture.test.db.connect().await;
    sqlx::raw_sql(
        "UPDATE executions SET due_at = now() - interval '90 seconds'
         WHERE id = (SELECT id FROM executions WHERE due_at <= now() LIMIT 1);
         INSERT INTO workflows (id, kind, path, function_name, name, content_hash)
         VALUES ('00000000-0000-4000-8000-000000000001', 'workflow', 'a.py', 'a', 'a', '');
         INSERT INTO schedules (workflow_id, expression, timezone, overlap, misfire, next_fire_at)
         VALUES ('00000000-0000-4000-8000-000000000001', '* * * * *', 'UTC', 'skip', 'skip', now() - interval '40 seconds')",
    )
    .execute(&mut admin)
    .await
    .expect("the superuser may");
    admin.close().await.expect("closes");

    let reading = readings::current(&fixture.platform).await.expect("it is this process's turn");

    assert_eq!(reading.waiting, 3, "what is not due yet does not wait");
    assert!((90.0..120.0).contains(&reading.oldest_age_seconds), "{reading:?}");
    assert!((40.0..70.0).contains(&reading.schedule_lag_seconds), "{reading:?}");
    assert_eq!(reading.queues[0], Some((3, 0)), "their wake-ups");
    println!(
        "waiting {}, oldest {:.0} s, schedules late by {:.0} s",
        reading.waiting, reading.oldest_age_seconds, reading.schedule_lag_seconds
    );
    fixture.close().await;
}

#[tokio::test]
async fn processes_share_one_reading() {
    let test = TestEnv::create().await;
    let open = || Platform::open(test.settings()).expect("opens");
    let processes = [open(), open(), open()];

    let first = readings::current(&processes[0]).await.expect("it is the first one's turn");
    let mut taken = std::collections::HashSet::from([first.read_at]);
    for _ in 0..5 {
        for process in &processes {
            taken.insert(readings::current(process).await.expect("there is one").read_at);
        }
    }

    // A slow machine may see the next turn come; fifteen readings it never sees.
    assert!(taken.len() <= 3, "{} readings for 16 scrapes", taken.len());
    println!("16 scrapes of 3 processes: {} readings", taken.len());
    for process in processes {
        process.db.close().await;
    }
    test.close().await;
}
