//! Connections on loan: how they are opened, and what comes back into the pool.
//!
//! A future may be dropped at any await: its caller hung up, or its time was over. The invariant: a connection that may be
//! in the middle of something, in a transaction or in a conversation that nobody answers, never goes back.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Postgres};

/// How long a request waits for a free connection before it is told that the database is away.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(4);
/// Who holds a connection for longer than this may be waiting for an answer that never comes: statements take
/// milliseconds.
const DOUBTFUL: Duration = Duration::from_secs(3);
/// How long a connection may take to come back, with a rollback where one is needed.
const RETURN_TIMEOUT: Duration = Duration::from_secs(3);

/// Connections that act in one role.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    pool: PgPool,
    doubts: Arc<Mutex<Option<Instant>>>,
}

/// A connection on loan, with or without a transaction. Dropping it rolls back what was not committed.
#[derive(Debug)]
pub(crate) struct Loan {
    /// `None` only while it is being given back.
    conn: Option<PoolConnection<Postgres>>,
    since: Instant,
    transaction: Step,
    doubts: Arc<Mutex<Option<Instant>>>,
}

/// How far a transaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    None,
    /// Asked for, or asked to be committed, and not answered.
    Between,
    Open,
}

impl Pool {
    /// Connects when the first connection is needed.
    pub(super) fn new(
        options: PgConnectOptions,
        role: &'static str,
        plans: &'static str,
        connections: u32,
    ) -> Self {
        let doubts = Arc::<Mutex<Option<Instant>>>::default();
        let doubted = doubts.clone();
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // A broken connection shows at its first use; asking before each use would double the round trips.
            .test_before_acquire(false)
            // When one connection was without an answer, those beside it that are as old may be as dead.
            .before_acquire(move |_, about| {
                let opened = Instant::now().checked_sub(about.age);
                let doubted = *doubted.lock().unwrap_or_else(PoisonError::into_inner);
                let is_good = doubted.is_none_or(|doubted| opened.is_some_and(|opened| opened > doubted));
                Box::pin(std::future::ready(Ok(is_good)))
            })
            .after_connect(move |conn, _| {
                Box::pin(async move {
                    // Statements are short, and their estimates generous: compiling one takes longer than carrying it
                    // out. The server takes locks and rows back from whoever stands still or is gone without a word.
                    let settings = format!(
                        "{plans}; SET jit = off; SET ROLE {role};
                         SET idle_in_transaction_session_timeout = '12s'; SET tcp_keepalives_idle = 10;
                         SET tcp_keepalives_interval = 3; SET tcp_keepalives_count = 3; SET tcp_user_timeout = '15s'"
                    );
                    sqlx::raw_sql(AssertSqlSafe(settings)).execute(conn).await?;
                    Ok(())
                })
            })
            .connect_lazy_with(options);
        Self { pool, doubts }
    }

    /// A connection, as soon as one is free.
    pub(super) async fn lend(&self) -> Result<Loan, sqlx::Error> {
        let conn = self.pool.acquire().await?;
        let (since, doubts) = (Instant::now(), self.doubts.clone());
        Ok(Loan { conn: Some(conn), since, transaction: Step::None, doubts })
    }

    /// Connections that are open, and those of them that idle.
    pub(super) fn usage(&self) -> (u32, usize) {
        (self.pool.size(), self.pool.num_idle())
    }

    pub(super) async fn close(&self) {
        self.pool.close().await;
    }
}

impl Loan {
    /// Opens a transaction with this statement. That of the driver would be left open if this is dropped half-way.
    pub(super) async fn begin(&mut self, statement: String) -> Result<(), sqlx::Error> {
        self.transaction = Step::Between;
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut **self).await?;
        self.transaction = Step::Open;
        Ok(())
    }

    pub(super) async fn commit(self) -> Result<(), sqlx::Error> {
        self.end("COMMIT").await
    }

    pub(super) async fn rollback(self) -> Result<(), sqlx::Error> {
        self.end("ROLLBACK").await
    }

    async fn end(mut self, statement: &'static str) -> Result<(), sqlx::Error> {
        self.transaction = Step::Between;
        sqlx::raw_sql(statement).execute(&mut *self).await?;
        self.transaction = Step::None;
        // It has answered just now.
        self.since = Instant::now();
        Ok(())
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let Some(mut conn) = self.conn.take() else { return };
        let is_doubtful = self.since.elapsed() > DOUBTFUL;
        if is_doubtful {
            doubt(&self.doubts);
        }
        if is_doubtful || self.transaction == Step::Between {
            return conn.close_on_drop();
        }
        let (is_open, doubts) = (self.transaction == Step::Open, self.doubts.clone());
        tokio::spawn(async move {
            // The pool asks whether a connection that comes back is well, and would wait for the answer for ever.
            let give_back = async {
                if is_open && sqlx::raw_sql("ROLLBACK").execute(&mut *conn).await.is_err() {
                    return conn.close_on_drop();
                }
                conn.return_to_pool().await;
            };
            if tokio::time::timeout(RETURN_TIMEOUT, give_back).await.is_err() {
                doubt(&doubts);
                conn.close_on_drop();
            }
        });
    }
}

fn doubt(doubts: &Mutex<Option<Instant>>) {
    *doubts.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
}

impl Deref for Loan {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.conn.as_ref().expect("it is there until it is dropped")
    }
}

impl DerefMut for Loan {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.conn.as_mut().expect("it is there until it is dropped")
    }
}
