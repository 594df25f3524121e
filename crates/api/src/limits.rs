//! Limits: how often (counters per client address and per account, in the cache that all replicas share), and
//! how long.

use std::cell::Cell;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use domain::id::{WorkflowId, WorkflowKeyId};
use domain::settings::Environment;
use domain::workflows::CallRate;
use domain::{Error, Result};
use futures::FutureExt as _;
use sha2::{Digest, Sha256};

use crate::state::App;

/// How often something may be done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    /// Times.
    pub(crate) most: u64,
    /// Within this, counted from the first.
    pub(crate) window: Duration,
}

/// What holds where nothing else is said.
const ORDINARY: Rate = Rate { most: 10, window: Duration::from_secs(60) };

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

/// Counts a call of `operation` from this address.
///
/// # Errors
/// [`Error::TooMany`] beyond ten a minute.
pub(crate) async fn by_address(app: &App, operation: &str, address: IpAddr) -> Result<()> {
    by_address_at(app, operation, address, ORDINARY).await
}

/// The same at another rate.
///
/// # Errors
/// [`Error::TooMany`] beyond it.
pub(crate) async fn by_address_at(app: &App, operation: &str, address: IpAddr, rate: Rate) -> Result<()> {
    count(app, &format!("{operation}:address:{}", network(address)), rate).await
}

/// Counts a call of `operation` for this account, whether it exists or not.
///
/// # Errors
/// [`Error::TooMany`] beyond ten a minute.
pub(crate) async fn by_account(app: &App, operation: &str, email: &str) -> Result<()> {
    // The cache is shared and less guarded than the database: it learns no address in the clear.
    let digest = Sha256::digest(email.trim().to_lowercase());
    let name = hex::encode(&digest[..12]);
    count(app, &format!("{operation}:account:{name}"), ORDINARY).await
}

/// Counts a call of an endpoint by its caller: a key, or without one an address.
///
/// # Errors
/// [`Error::TooMany`] beyond what the endpoint says.
pub(crate) async fn by_caller(
    app: &App,
    endpoint: WorkflowId,
    key: Option<WorkflowKeyId>,
    address: IpAddr,
    rate: CallRate,
) -> Result<()> {
    let caller = match key {
        Some(key) => format!("key:{key}"),
        None => format!("address:{}", network(address)),
    };
    let rate = Rate { most: rate.calls.into(), window: Duration::from_secs(rate.seconds.into()) };
    // The window is part of the name, so that an edit of the file holds from the next call on.
    count(app, &format!("endpoint:{endpoint}:{}:{caller}", rate.window.as_secs()), rate).await
}

async fn count(app: &App, key: &str, rate: Rate) -> Result<()> {
    if app.platform.settings.environment == Environment::Testing {
        return Ok(());
    }
    let (count, rest) = app.platform.cache.count_and_rest(key, rate.window).await;
    if count > rate.most {
        // Whole seconds, upwards: whoever comes back then is let in.
        let retry_after = Duration::from_secs(rest.as_millis().div_ceil(1_000).try_into().unwrap_or(1));
        return Err(Error::TooMany { retry_after });
    }
    Ok(())
}

/// What one client controls: an IPv4 address, or a /64 of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        v4 @ IpAddr::V4(_) => v4,
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_client_count_together() {
        let network = |text: &str| network(text.parse().expect("an address"));
        assert_eq!(network("2001:db8:1:2:3::4"), network("2001:db8:1:2:ffff::1"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
        assert_eq!(network("::ffff:192.0.2.7"), network("192.0.2.7"));
    }
}
