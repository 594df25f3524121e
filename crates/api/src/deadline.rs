//! How long a request may take, and whatever it asks others for.
//!
//! The invariant: a request ends within what is prompt, unless what serves it has said that it waits, and how long.

use std::cell::Cell;
use std::pin::pin;
use std::time::Duration;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use domain::{Error, Result};
use futures::FutureExt as _;
use tokio::time::{Instant, timeout_at};

/// How long a request may take, the wait for the end of a run aside: milliseconds as long as every dependency
/// answers. Without this a network that swallows packets would hold requests for minutes.
pub(crate) const PROMPT: Duration = Duration::from_millis(4_500);
/// How long the servers of others may take, all requests and repetitions together.
pub(crate) const OTHERS: Duration = Duration::from_secs(40);

tokio::task_local! {
    static TIME: Time;
}

/// The time of the request of this task.
struct Time {
    /// Since when it has had nothing to wait for but dependencies.
    since: Cell<Instant>,
    /// When it has taken too long.
    ends: Cell<Instant>,
}

/// Carries a request out, within what is prompt and what it [waits for](may_wait). Its steps, each of them [`in_time`], share what
/// one of them may take.
///
/// # Errors
/// [`Error::Unavailable`] when it takes longer.
pub(crate) fn of_request<T>(work: impl Future<Output = T>) -> impl Future<Output = Result<T>> {
    within(PROMPT, work)
}

async fn within<T>(prompt: Duration, work: impl Future<Output = T>) -> Result<T> {
    let now = Instant::now();
    let time = Time { since: Cell::new(now), ends: Cell::new(now + prompt) };
    TIME.scope(time, async {
        let mut work = pin!(work);
        loop {
            let ends = TIME.with(|time| time.ends.get());
            match timeout_at(ends, &mut work).await {
                Ok(done) => return Ok(done),
                // It may have said meanwhile that it waits.
                Err(late) if TIME.with(|time| time.ends.get() == ends) => return Err(too_late(late)),
                Err(_) => {}
            }
        }
    })
    .await
}

/// Lets the request wait from now on for so long: for a run, a body, the servers of others.
pub(crate) fn may_wait(patience: Duration) {
    let ends = Instant::now() + patience + PROMPT;
    // Outside of a request nothing ends.
    let _ = TIME.try_with(|time| time.ends.set(time.ends.get().max(ends)));
}

/// A layer for routes that ask the servers of others.
pub(crate) async fn asks_others(request: Request, next: Next) -> Response {
    may_wait(OTHERS);
    next.run(request).await
}

/// Gives the request its time anew, after it has waited for the end of a run.
pub(crate) fn begin_anew() {
    // Outside of a request there is nothing to begin.
    let _ = TIME.try_with(|time| time.since.set(Instant::now()));
}

/// What `work` gives, if it does so in time: in what is left to the request.
///
/// # Errors
/// [`Error::Unavailable`] when it does not.
// No `async fn`: that would hold `work` twice, and some of it is large.
pub(crate) fn in_time<T>(work: impl Future<Output = Result<T>>) -> impl Future<Output = Result<T>> {
    let left = TIME.try_with(|time| PROMPT.saturating_sub(time.since.get().elapsed())).unwrap_or(PROMPT);
    tokio::time::timeout(left, work).map(|done| done.unwrap_or_else(|late| Err(too_late(late))))
}

/// What a request that takes too long is refused with.
fn too_late(late: tokio::time::error::Elapsed) -> Error {
    Error::Unavailable { service: "a dependency", source: late.into() }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test]
    async fn a_request_has_the_time_that_it_says_it_needs_and_no_more() {
        let prompt = Duration::from_millis(20);
        assert!(within(prompt, std::future::pending::<()>()).await.is_err());
        assert!(within(prompt, async {}).await.is_ok());
        let long = within(prompt, async {
            may_wait(Duration::from_secs(600));
            may_wait(Duration::ZERO);
            sleep(prompt * 3).await;
        });
        assert!(long.await.is_ok(), "the longest that was said holds");
        assert!(in_time(async { Ok(()) }).await.is_ok(), "outside of a request as well");
    }
}
