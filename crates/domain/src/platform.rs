//! The parts every process works with, opened once from the settings.
//!
//! Each dependency is configured on its own: a URL that is set is used and never fallen back from; one that
//! is not set means the arm of this process.

use std::sync::Arc;
use std::time::Duration;

use crate::cache::Cache;
use crate::connections::Refresher;
use crate::events::{Event, Events, at_each};
use crate::executions::submit::Submitter;
use crate::logins::Providers;
use crate::mail::Mailer;
use crate::outbound::Outbound;
use crate::packages::updates::Updates;
use crate::settings::Settings;
use crate::system_events::SystemEvents;
use crate::uploads::Uploads;
use crate::vault::Vault;
use crate::wakeup::Wakeups;
use crate::workflows::Catalog;
use crate::{Db, Error, Result, telemetry};

/// How long the goodbyes to PostgreSQL may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// Everything a handler or a worker needs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Platform {
    /// The settings of this process.
    pub settings: Arc<Settings>,
    /// PostgreSQL.
    pub db: Db,
    /// RabbitMQ, or the queue of this process.
    pub wakeups: Wakeups,
    /// Redis publish/subscribe, or the hub of this process.
    pub events: Events,
    /// Where what happens to the platform is reported.
    pub system_events: SystemEvents,
    /// Redis, or the counters of this process.
    pub cache: Cache,
    /// The way out to addresses that people configure.
    pub outbound: Outbound,
    /// Keeps the tokens of connections fresh.
    pub refresher: Refresher,
    /// The login providers that are configured.
    pub providers: Providers,
    /// The master keys.
    pub vault: Vault,
    /// Where submissions go.
    pub submitter: Submitter,
    /// Sends mail.
    pub mailer: Mailer,
    /// What users upload.
    pub uploads: Uploads,
    /// What is newer at the package index.
    pub updates: Updates,
    /// Workflow definitions.
    pub catalog: Catalog,
}

impl Platform {
    /// Opens everything without waiting for it: what is away is tried again in the background.
    ///
    /// # Errors
    /// [`Error::Impossible`] when a setting is missing or a URL cannot be read.
    pub fn open(settings: Settings) -> Result<Self> {
        let missing = |name: &str| Error::Impossible(format!("{name} is not set"));
        let url = settings.database_url.as_ref().ok_or_else(|| missing("DATABASE_URL"))?;
        let master = settings.secrets_master_key.as_ref().ok_or_else(|| missing("SECRETS_MASTER_KEY"))?;
        let db = Db::open(url, settings.database_connections)?;
        let wakeups = match &settings.rabbitmq_url {
            Some(url) => Wakeups::rabbit(url, &settings.queue_prefix)?,
            None => Wakeups::in_process(),
        };
        let (events, cache) = match &settings.redis_url {
            Some(url) => {
                (Events::redis(url, &settings.redis_prefix)?, Cache::redis(url, &settings.redis_prefix)?)
            }
            None => (Events::in_process(), Cache::in_process()),
        };
        let vault = Vault::new(master);
        let outbound = Outbound::new(&settings.outbound_admit)?;
        let catalog = Catalog::default();
        // It forgets what it knows when another process has brought the workflows up to date.
        let known = catalog.clone();
        tokio::spawn(at_each(
            events.orders(),
            |event| matches!(event, Event::WorkspaceChanged),
            move || known.forget(),
        ));
        Ok(Self {
            providers: Providers::configured(&settings, outbound.clone()),
            mailer: Mailer::open(&settings)?,
            refresher: Refresher::new(db.clone(), vault.clone(), outbound.clone()),
            outbound,
            vault,
            submitter: Submitter::start(db.clone(), wakeups.clone(), events.clone()),
            uploads: Uploads::open(&settings),
            updates: Updates::new(&settings.package_index_url)?,
            catalog,
            system_events: SystemEvents::start(db.clone(), events.clone()),
            settings: Arc::new(settings),
            db,
            wakeups,
            events,
            cache,
        })
    }

    /// Ends what must not be cut off, and closes the database.
    pub async fn close(&self) {
        let grace = Duration::from_secs(self.settings.shutdown_grace_seconds);
        if tokio::time::timeout(grace, self.refresher.drain()).await.is_err() {
            tracing::warn!("a refresh of a token was still under way, its answer may be lost");
        }
        self.system_events.drain().await;
        // Goodbyes that nobody hears must not keep the process.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.db.close()).await;
        telemetry::traces::flush().await;
    }
}
