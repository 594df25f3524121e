//! How long a request may take, and whatever it asks others for.
//!
//! The invariant: a request ends within what is prompt, unless what serves it has said that it waits, and how long.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use domain::{Error, Result};
use futures::FutureExt as _;
use tokio::time::{Instant, sleep_until};
use tracing::Instrument as _;

use crate::problem::Problem;

/// How long a request may take, the wait for the end of a run aside: milliseconds as long as every dependency
/// answers. Without this a network that swallows packets would hold requests for minutes.
pub(crate) const PROMPT: Duration = Duration::from_millis(4_500);
/// How long the servers of others may take, all requests and repetitions together.
pub(crate) const OTHERS: Duration = Duration::from_secs(40);
/// How long a body may take to arrive: not every line is fast.
const BODY: Duration = Duration::from_secs(60);

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

/// A layer that carries requests out, within what is prompt and what they [wait for](may_wait); one that takes longer is refused
/// as [`Error::Unavailable`]. Their steps, each of them [`in_time`], share what one of them may take.
pub(crate) async fn of_request(request: Request, next: Next) -> Response {
    within(PROMPT, next.run(request)).await.unwrap_or_else(|late| Problem::from(late).into_response())
}

async fn within<T>(prompt: Duration, work: impl Future<Output = T>) -> Result<T> {
    let now = Instant::now();
    let time = Time { since: Cell::new(now), ends: Cell::new(now + prompt) };
    TIME.scope(time, async {
        let mut work = pin!(work);
        let mut late = pin!(sleep_until(now + prompt));
        poll_fn(|context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(Ok(done));
            }
            // It may have said just now that it waits, or be done with waiting.
            let ends = TIME.with(|time| time.ends.get());
            if late.deadline() != ends {
                late.as_mut().reset(ends);
            }
            late.as_mut().poll(context).map(|()| Err(too_late("the request took too long")))
        })
        .await
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

/// What `read` gives of a body. While it arrives, the time of the request stands still.
pub(crate) async fn of_body<T>(read: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let ends = TIME.try_with(|time| time.ends.get());
    may_wait(BODY);
    let read = read.await;
    // Outside of a request no time runs.
    if let Ok(ends) = ends {
        let took = began.elapsed();
        TIME.with(|time| {
            time.ends.set(ends + took);
            time.since.set(time.since.get() + took);
        });
    }
    read
}

/// Does `work` on a task of its own, for which the request waits so long: a client that hangs up must not leave it half done.
///
/// # Errors
/// Those of `work`; [`Error::Internal`] when it panics.
// No `async fn`, which would hold `work` until it is asked for.
pub(crate) fn to_the_end<T: Send + 'static>(
    patience: Duration,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> impl Future<Output = Result<T>> {
    may_wait(patience);
    let task = tokio::spawn(work.in_current_span());
    async { task.await.map_err(Error::internal)? }
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
fn too_late(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Unavailable { service: "a dependency", source: source.into() }
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

    #[tokio::test]
    async fn a_body_may_take_its_time_and_leaves_the_request_what_it_had() {
        let prompt = Duration::from_millis(20);
        let slow = || of_body(sleep(prompt * 3));
        assert!(within(prompt, slow()).await.is_ok());
        let hangs = within(prompt, async {
            slow().await;
            std::future::pending::<()>().await;
        });
        let ended = tokio::time::timeout(BODY, hangs).await;
        assert!(ended.expect("as soon as its own time is over").is_err());
        of_body(std::future::ready(())).await;
    }
}
