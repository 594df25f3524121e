//! How often: counters per client address, account and caller, in the cache that all replicas share.

use std::net::IpAddr;
use std::time::Duration;

use domain::id::{WorkflowId, WorkflowKeyId};
use domain::settings::Environment;
use domain::workflows::CallRate;
use domain::{Error, Result};
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
pub(crate) fn network(address: IpAddr) -> IpAddr {
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
