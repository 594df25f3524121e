//! What tests stand on: services, a database each, settings, clients, and the real binaries as processes.
//!
//! Never shipped. The invariant: whatever a test makes has a name of its own and is gone when the test is,
//! so tests run side by side and in any order.

mod client;
mod collector;
mod database;
mod env;
mod figures;
mod github_server;
mod launch;
mod line;
mod login_server;
mod origin;
mod package_index;
mod process;
mod services;
mod smtp;
mod socket;
mod token_server;

pub use client::{Client, Reply};
pub use collector::{Collector, Exported};
pub use database::TestDb;
pub use env::{TestEnv, copy as copy_folder, repository, uv};
pub use figures::Figures;
pub use github_server::GithubServer;
pub use launch::{Ended, Launch, binary};
pub use line::{Line, at_port};
pub use login_server::{Back, LoginServer, Signing, TENANT, Visitor};
pub use origin::Origin;
pub use package_index::{PackageIndex, Wheel};
pub use process::{Process, free_port};
pub use services::Services;
pub use smtp::MailServer;
pub use socket::Socket;
pub use token_server::TokenServer;

use std::future::Future;
use std::time::{Duration, Instant};

use domain::workflows::{Index, Reading, Synced};

/// Source of workflows of a hostile tenant, by what each takes: `hostile_forks`, `hostile_memory`, `hostile_lines` and
/// `hostile_result`.
pub const HOSTILE: &str = include_str!("hostile.py");

/// How long a test waits for something that should be there in a moment.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Has the workflows be those of this index, as if it were read just now.
///
/// # Errors
/// When PostgreSQL is away, or somebody else indexes at the same time.
pub async fn sync_workflows(db: &domain::Db, index: &Index) -> domain::Result<Synced> {
    let synced = Reading::begin(db).await?.sync(db, index).await?;
    synced.ok_or_else(|| domain::Error::internal("somebody else has indexed"))
}

/// Asks until there is an answer, or fails the test, naming what it waited for.
///
/// # Panics
/// When there is none within [`PATIENCE`].
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, ask: impl FnMut() -> F) -> T {
    eventually_within(PATIENCE, what, ask).await
}

/// The same for what may take another time.
///
/// # Panics
/// When there is no answer by then.
pub async fn eventually_within<T, F: Future<Output = Option<T>>>(
    patience: Duration,
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(began.elapsed() < patience, "waited {} s in vain for {what}", patience.as_secs());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
