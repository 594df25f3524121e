//! What every handler works with: the platform, the token keys, and who is signed in.
//!
//! The invariant: a principal comes from the live session, at most [`SESSION_TTL`] old, never from claims.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use domain::id::{OrgId, SessionId};
use domain::remembered::get_or_find;
use domain::sessions::{self, Principal};
use domain::{Error, OrgScope, Platform, Result, organizations};
use ipnet::IpNet;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::coalesce::Coalesced;
use crate::deadline;
use crate::tokens::Tokens;

/// How old a remembered session may be. Together with the period at which sockets look again it stays below
/// the five seconds within which a logout must act everywhere.
const SESSION_TTL: Duration = Duration::from_secs(2);
/// Organizations are never removed, so their existence may be remembered for long.
const ORGANIZATION_TTL: Duration = Duration::from_secs(600);

/// The state of the api. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AppState(Arc<App>);

/// What [`AppState`] shares.
#[derive(Debug)]
pub struct App {
    /// Database, broker, cache, events and settings.
    pub platform: Platform,
    pub(crate) tokens: Tokens,
    /// Whose `X-Forwarded-For` is believed.
    pub(crate) proxies: Vec<IpNet>,
    /// There once the listener is known, and only if it may have one.
    bypass: OnceLock<Bypass>,
    /// Indexing of the workspace after a save.
    pub(crate) indexing: Coalesced,
    /// Cancelled as soon as the process is to stop: it is not ready any more, and waiting ends early.
    pub(crate) draining: CancellationToken,
    /// The WebSockets that are open.
    pub(crate) sockets: TaskTracker,
    /// The SDK as a package, once somebody has asked for it.
    pub(crate) sdk_archive: tokio::sync::OnceCell<axum::body::Bytes>,
    sessions: moka::future::Cache<SessionId, Option<Arc<Principal>>>,
    organizations: moka::future::Cache<OrgId, ()>,
}

/// The session that requests without a credential act in (see `dev.rs`), once there is one.
#[derive(Debug, Default)]
pub(crate) struct Bypass(pub(crate) Mutex<Option<SessionId>>);

/// Who sent a request, and by what credential.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Whose session it is.
    pub principal: Arc<Principal>,
    /// Whether a cookie said so: then the browser may have been tricked into sending it.
    pub by_cookie: bool,
}

impl AppState {
    /// The state for these parts.
    ///
    /// # Errors
    /// [`Error::Impossible`] when `SECRET_KEY` is not set.
    pub fn new(platform: Platform) -> Result<Self> {
        let key = platform
            .settings
            .secret_key
            .as_ref()
            .ok_or_else(|| Error::Impossible("SECRET_KEY is not set".into()))?;
        platform.events.hear_updates();
        Ok(Self(Arc::new(App {
            tokens: Tokens::new(key, platform.settings.access_token_minutes),
            sdk_archive: tokio::sync::OnceCell::new(),
            proxies: platform.settings.proxies().map_err(Error::Impossible)?,
            bypass: OnceLock::new(),
            indexing: Coalesced::default(),
            draining: CancellationToken::new(),
            sockets: TaskTracker::new(),
            sessions: moka::future::Cache::builder().max_capacity(100_000).time_to_live(SESSION_TTL).build(),
            organizations: moka::future::Cache::builder()
                .max_capacity(10_000)
                .time_to_live(ORGANIZATION_TTL)
                .build(),
            platform,
        })))
    }
}

impl Deref for AppState {
    type Target = App;

    fn deref(&self) -> &App {
        &self.0
    }
}

impl App {
    /// Lets requests without a credential act as the development user from now on.
    pub(crate) fn allow_bypass(&self) {
        let _ = self.bypass.set(Bypass::default());
    }

    /// The bypass, where there is one.
    pub(crate) fn bypass(&self) -> Option<&Bypass> {
        self.bypass.get()
    }

    /// The owner of a session while it is live.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when PostgreSQL is away and nobody remembers.
    pub(crate) async fn live_session(&self, id: SessionId) -> Result<Option<Arc<Principal>>> {
        let find = async || {
            deadline::in_time(sessions::find(&self.platform.db, id)).await.map(|found| found.map(Arc::new))
        };
        get_or_find(&self.sessions, id, find).await
    }

    /// Forgets a session that was just ended, so that this process refuses it at once.
    pub(crate) async fn forget_session(&self, id: SessionId) {
        self.sessions.invalidate(&id).await;
    }

    /// Makes sure that an organization a platform administrator names exists.
    ///
    /// # Errors
    /// [`Error::Impossible`] when it does not.
    pub(crate) async fn check_organization(&self, administrator: &Principal, id: OrgId) -> Result<()> {
        let find = async || {
            let scope = OrgScope::for_principal(administrator, None, None)?;
            let mut tx = self.platform.db.begin(&scope).await?;
            organizations::get(&mut tx, id).await?;
            tx.commit().await
        };
        match get_or_find(&self.organizations, id, find).await {
            Err(Error::NotFound(_)) => {
                Err(Error::Impossible("X-Organization-Id names no organization".into()))
            }
            other => other,
        }
    }
}
