//! What may be lost: rate counters and short-lived flags, in Redis or in the process.
//!
//! Both arms answer the same; the conformance tests run against each. Redis being away is never an error of
//! the caller: counters and notes fall back to the process, so that throttling is never off and what was begun here can
//! be ended here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_redis::redis::AsyncCommands;
use moka::Expiry;
use secrecy::{ExposeSecret, SecretString};

use crate::{Error, Result};

/// How long an answer of Redis is waited for.
const PATIENCE: Duration = Duration::from_millis(500);

/// The cache. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Cache {
    /// For one process.
    InProcess(InProcess),
    /// For many.
    Redis(Redis),
}

/// Counters in the process.
#[derive(Debug, Clone)]
pub struct InProcess {
    counters: moka::sync::Cache<String, Counter>,
    notes: moka::sync::Cache<String, Note>,
}

/// Counters in Redis, with the process's own as fallback.
#[derive(Debug, Clone)]
pub struct Redis {
    pool: deadpool_redis::Pool,
    prefix: Arc<str>,
    fallback: InProcess,
}

#[derive(Debug, Clone)]
struct Counter {
    count: Arc<std::sync::atomic::AtomicU64>,
    ends: Instant,
}

/// A text that is taken once.
#[derive(Debug, Clone)]
struct Note {
    text: Arc<str>,
    ends: Instant,
}

struct AtItsEnd;

impl Expiry<String, Note> for AtItsEnd {
    fn expire_after_create(&self, _: &String, note: &Note, now: Instant) -> Option<Duration> {
        Some(note.ends.saturating_duration_since(now))
    }
}

impl Expiry<String, Counter> for AtItsEnd {
    fn expire_after_create(&self, _: &String, counter: &Counter, now: Instant) -> Option<Duration> {
        Some(counter.ends.saturating_duration_since(now))
    }
}

impl Cache {
    /// A cache of this process.
    pub fn in_process() -> Self {
        Self::InProcess(InProcess::default())
    }

    /// A cache in Redis, every key under `prefix`.
    ///
    /// # Errors
    /// [`Error::Internal`] when the URL cannot be read. Whether Redis answers shows at the first use.
    pub fn redis(url: &SecretString, prefix: &str) -> Result<Self> {
        let pool = deadpool_redis::Config::from_url(url.expose_secret())
            .create_pool(Some(deadpool_redis::Runtime::Tokio1))
            .map_err(Error::internal)?;
        Ok(Self::Redis(Redis { pool, prefix: prefix.into(), fallback: InProcess::default() }))
    }

    /// Adds one to a counter that starts at zero and vanishes `window` after its first count; returns the count.
    pub async fn count(&self, key: &str, window: Duration) -> u64 {
        self.count_and_rest(key, window).await.0
    }

    /// The same, with the time until the counter vanishes.
    pub async fn count_and_rest(&self, key: &str, window: Duration) -> (u64, Duration) {
        match self {
            Self::InProcess(own) => own.count(key, window),
            Self::Redis(redis) => match tokio::time::timeout(PATIENCE, redis.count(key, window)).await {
                Ok(Ok(counted)) => counted,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "redis did not count, the process does");
                    redis.fallback.count(key, window)
                }
                Err(_) => redis.fallback.count(key, window),
            },
        }
    }

    /// Keeps a text under a key that nobody can guess, for `lifetime` or until it is taken.
    pub async fn put(&self, key: &str, text: &str, lifetime: Duration) {
        match self {
            Self::InProcess(own) => own.put(key, text, lifetime),
            Self::Redis(redis) => {
                match tokio::time::timeout(PATIENCE, redis.put(key, text, lifetime)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        tracing::warn!(%error, "redis kept nothing, the process does");
                        redis.fallback.put(key, text, lifetime);
                    }
                    Err(_) => redis.fallback.put(key, text, lifetime),
                }
            }
        }
    }

    /// Takes a text away: of racing takers one gets it.
    pub async fn take(&self, key: &str) -> Option<String> {
        match self {
            Self::InProcess(own) => own.take(key),
            Self::Redis(redis) => {
                // Both places, always: Redis may have kept what it was too slow to confirm.
                let here = redis.fallback.take(key);
                let there = match tokio::time::timeout(PATIENCE, redis.take(key)).await {
                    Ok(Ok(found)) => found,
                    Ok(Err(error)) => {
                        tracing::warn!(%error, "redis gave nothing back");
                        None
                    }
                    Err(_) => None,
                };
                there.or(here)
            }
        }
    }

    /// Looks at a text without taking it.
    pub async fn peek(&self, key: &str) -> Option<String> {
        match self {
            Self::InProcess(own) => own.peek(key),
            Self::Redis(redis) => match tokio::time::timeout(PATIENCE, redis.peek(key)).await {
                Ok(Ok(found)) => found.or_else(|| redis.fallback.peek(key)),
                Ok(Err(_)) | Err(_) => redis.fallback.peek(key),
            },
        }
    }

    /// Whether it answers.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when Redis is away.
    pub async fn ping(&self) -> Result<()> {
        let Self::Redis(redis) = self else { return Ok(()) };
        let away = |source: Box<dyn std::error::Error + Send + Sync>| Error::Unavailable {
            service: "Redis",
            source,
        };
        let ask = async {
            let mut conn = redis.pool.get().await.map_err(|error| away(error.into()))?;
            conn.ping::<()>().await.map_err(|error| away(error.into()))
        };
        tokio::time::timeout(PATIENCE * 4, ask).await.map_err(|error| away(error.into()))?
    }
}

impl Default for InProcess {
    fn default() -> Self {
        Self {
            counters: moka::sync::Cache::builder().max_capacity(100_000).expire_after(AtItsEnd).build(),
            notes: moka::sync::Cache::builder().max_capacity(20_000).expire_after(AtItsEnd).build(),
        }
    }
}

impl InProcess {
    fn count(&self, key: &str, window: Duration) -> (u64, Duration) {
        let fresh = || Counter { count: Arc::default(), ends: Instant::now() + window };
        let counter = self.counters.get_with_by_ref(key, fresh);
        let count = counter.count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        (count, counter.ends.saturating_duration_since(Instant::now()))
    }

    fn put(&self, key: &str, text: &str, lifetime: Duration) {
        self.notes.insert(key.into(), Note { text: text.into(), ends: Instant::now() + lifetime });
    }

    fn take(&self, key: &str) -> Option<String> {
        // What has ended is removed late, and given to whoever removes it first.
        let is_good = |note: &Note| note.ends > Instant::now();
        self.notes.remove(key).filter(is_good).map(|note| note.text.to_string())
    }

    fn peek(&self, key: &str) -> Option<String> {
        self.notes.get(key).map(|note| note.text.to_string())
    }
}

impl Redis {
    async fn count(
        &self,
        key: &str,
        window: Duration,
    ) -> Result<(u64, Duration), Box<dyn std::error::Error + Send + Sync>> {
        let mut conn = self.pool.get().await?;
        let key = format!("{}:count:{key}", self.prefix);
        let millis = i64::try_from(window.as_millis())?;
        // NX: the window starts with the first count.
        let (count, rest): (u64, i64) = deadpool_redis::redis::pipe()
            .atomic()
            .incr(&key, 1)
            .cmd("PEXPIRE")
            .arg(&key)
            .arg(millis)
            .arg("NX")
            .ignore()
            .pttl(&key)
            .query_async(&mut conn)
            .await?;
        // Negative when it vanished this very moment.
        Ok((count, Duration::from_millis(u64::try_from(rest).unwrap_or_default())))
    }

    async fn put(
        &self,
        key: &str,
        text: &str,
        lifetime: Duration,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut conn = self.pool.get().await?;
        let key = format!("{}:note:{key}", self.prefix);
        Ok(conn.pset_ex(key, text, u64::try_from(lifetime.as_millis())?).await?)
    }

    async fn take(&self, key: &str) -> Result<Option<String>, Box<dyn std::error::Error + Send + Sync>> {
        let mut conn = self.pool.get().await?;
        Ok(conn.get_del(format!("{}:note:{key}", self.prefix)).await?)
    }

    async fn peek(&self, key: &str) -> Result<Option<String>, Box<dyn std::error::Error + Send + Sync>> {
        let mut conn = self.pool.get().await?;
        Ok(conn.get(format!("{}:note:{key}", self.prefix)).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_that_has_ended_is_not_given_to_whoever_takes_it() {
        let cache = InProcess::default();
        cache.put("ended", "text", Duration::ZERO);
        assert_eq!(cache.take("ended"), None);
        cache.put("good", "text", Duration::from_secs(60));
        assert_eq!(cache.peek("good").as_deref(), Some("text"));
        assert_eq!(cache.take("good").as_deref(), Some("text"));
        assert_eq!(cache.take("good"), None, "it is taken once");
    }
}
