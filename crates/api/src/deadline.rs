//! How long a request may take, and whatever it asks others for.

use std::cell::Cell;
use std::time::{Duration, Instant};

use domain::{Error, Result};
use futures::FutureExt as _;

/// How long a request may take, the wait for the end of a run aside: milliseconds as long as every dependency
/// answers. Without this a network that swallows packets would hold requests for minutes.
pub(crate) const PROMPT: Duration = Duration::from_millis(4_500);

tokio::task_local! {
    /// Since when the request of this task has had nothing to wait for but dependencies.
    static SINCE: Cell<Instant>;
}

/// Carries a request out whose steps, each of them [`in_time`], share what one of them may take.
pub(crate) fn of_request<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    SINCE.scope(Cell::new(Instant::now()), work)
}

/// Gives the request its time anew, after it has waited for the end of a run.
pub(crate) fn begin_anew() {
    // Outside of a request there is nothing to begin.
    let _ = SINCE.try_with(|since| since.set(Instant::now()));
}

/// What `work` gives, if it does so in time: in what is left to the request.
///
/// # Errors
/// [`Error::Unavailable`] when it does not.
// No `async fn`: that would hold `work` twice, and some of it is large.
pub(crate) fn in_time<T>(work: impl Future<Output = Result<T>>) -> impl Future<Output = Result<T>> {
    let left = SINCE.try_with(|since| PROMPT.saturating_sub(since.get().elapsed())).unwrap_or(PROMPT);
    tokio::time::timeout(left, work).map(|done| done.unwrap_or_else(|late| Err(too_late(late))))
}

/// What a request that takes too long is refused with.
pub(crate) fn too_late(late: tokio::time::error::Elapsed) -> Error {
    Error::Unavailable { service: "a dependency", source: late.into() }
}
