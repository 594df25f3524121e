//! What a process remembers for a moment: asked for by one at a time, however many want to know.
//!
//! The invariant: what is known is given without what finding it would take. The futures of the cache hold ten kilobytes for
//! somebody who has to ask, which each request would move from place to place.

use std::hash::Hash;

use moka::future::Cache;

use crate::{Error, Result};

/// What is remembered of `key`, or what `find` gives; whoever else asks meanwhile waits for that.
///
/// # Errors
/// That of `find`, the same for all who waited; it is not remembered.
pub async fn get_or_find<K, V>(
    cache: &Cache<K, V>,
    key: K,
    find: impl AsyncFnOnce() -> Result<V>,
) -> Result<V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    if let Some(known) = cache.get(&key).await {
        return Ok(known);
    }
    Box::pin(cache.try_get_with(key, find())).await.map_err(|error| Error::shared(&error))
}
