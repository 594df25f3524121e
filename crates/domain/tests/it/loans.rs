//! Connections of the pools: whoever leaves in the middle of something leaves nothing of it to the next.

use std::time::Duration;

use domain::id::WorkerId;
use domain::{Db, OrgScope, workers};
use testkit::TestEnv;

use crate::support::{SYSTEM, actor};

/// Asks for a transaction and gives up after so many polls, as a request does whose client hangs up.
async fn begin_and_leave(db: &Db, polls: usize) {
    let scope = OrgScope::for_run(None, actor("admin", true));
    let mut system = Box::pin(db.begin_system(&SYSTEM));
    let mut scoped = Box::pin(db.begin(&scope));
    for _ in 0..polls {
        let _ = futures::poll!(&mut system);
        let _ = futures::poll!(&mut scoped);
        tokio::task::yield_now().await;
        if futures::poll!(&mut system).is_ready() || futures::poll!(&mut scoped).is_ready() {
            return;
        }
    }
}

#[tokio::test]
async fn who_leaves_while_a_transaction_begins_leaves_none_open() {
    let test = TestEnv::create().await;
    let settings = test.settings_in_process();
    // One connection: whatever is left in it meets the next.
    let db = Db::open(settings.database_url.as_ref().expect("is set"), 1).expect("opens");
    let mut conn = test.db.connect().await;
    let mut kept = 0;
    for polls in 1..=40 {
        db.ping().await.expect("there is a connection");
        begin_and_leave(&db, polls % 8).await;
        let id = WorkerId::generate();
        workers::beat(&db, id, 1, 0).await.expect("is written");
        let seen: i64 = sqlx::query_scalar("SELECT count(*) FROM workers WHERE id = $1")
            .bind(id.0)
            .fetch_one(&mut conn)
            .await
            .expect("counts");
        assert_eq!(seen, 1, "a statement that was answered is durable, after {polls} polls");
        kept += seen;
    }
    println!("left while a transaction began 40 times: durable {kept} of 40");
    db.close().await;
    test.close().await;
}

#[tokio::test]
async fn a_transaction_that_stands_still_gives_back_what_it_holds() {
    let test = TestEnv::create().await;
    let settings = test.settings_in_process();
    let db = Db::open(settings.database_url.as_ref().expect("is set"), 2).expect("opens");
    let idle = db.begin_system(&SYSTEM).await.expect("begins");
    let mut conn = test.db.connect().await;
    let gone = testkit::eventually_within(Duration::from_secs(25), "the server to end it", || async {
        let mut conn = test.db.connect().await;
        let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'";
        let open: i64 = sqlx::query_scalar(open).fetch_one(&mut conn).await.expect("counts");
        (open == 0).then_some(())
    });
    gone.await;
    let id = WorkerId::generate();
    assert!(idle.commit().await.is_err(), "and it is told so");
    workers::beat(&db, id, 1, 0).await.expect("the pool is well");
    let seen: i64 =
        sqlx::query_scalar("SELECT count(*) FROM workers").fetch_one(&mut conn).await.expect("counts");
    assert_eq!(seen, 1);
    db.close().await;
    test.close().await;
}
