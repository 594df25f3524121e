//! How a run is stopped from outside: what the worker tells the attempt.

use tokio_util::sync::CancellationToken;

/// Why a run is to be stopped. Whoever holds a clone may say so; only the attempt acts on it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop {
    /// Somebody asked for it: end it gently.
    pub(crate) cancelled: CancellationToken,
    /// The fence is lost: kill it, nothing of it counts.
    pub(crate) fenced: CancellationToken,
    /// The process stops and its patience is over.
    pub(crate) shut_down: CancellationToken,
}
