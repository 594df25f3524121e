//! Until when something is worth waiting for: for as long as things break, and a while after the last repair.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::history::lock;

const PAUSE: Duration = Duration::from_millis(200);

/// Everybody's patience; without end until somebody sets one.
#[derive(Debug, Default)]
pub(crate) struct Patience(Mutex<Option<Instant>>);

impl Patience {
    /// From now on what cannot be done within this is given up.
    pub(crate) fn ends_after(&self, rest: Duration) {
        *lock(&self.0) = Some(Instant::now() + rest);
    }

    /// Whether nothing is worth waiting for any more.
    pub(crate) fn is_over(&self) -> bool {
        lock(&self.0).is_some_and(|until| Instant::now() > until)
    }

    /// Returns when it is over.
    pub(crate) async fn over(&self) {
        while !self.is_over() {
            tokio::time::sleep(PAUSE).await;
        }
    }
}
