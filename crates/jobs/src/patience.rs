//! How long a worker waits for PostgreSQL, the same for executions and for background jobs.

use std::time::Duration;

/// Between two extensions of a lease.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(3);
/// Before another try while PostgreSQL is away.
pub(crate) const PAUSE_WITHOUT_DATABASE: Duration = Duration::from_millis(300);
