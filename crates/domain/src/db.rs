//! The only door to PostgreSQL: two private pools, one per role, and transactions bound to a scope.
//!
//! Every connection of a pool carries that pool's role from its first statement on, so a role can neither
//! be forgotten nor leak into the next transaction. Connections of `bifrost_app` see nothing until a
//! transaction sets its scope.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::migrate::MigrateError;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};

use crate::{Error, OrgScope, Result, SystemScope};

mod loan;

use loan::{Loan, Pool};

/// The schema, embedded in the binary.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations");

/// How statements of the system role are planned. They look rows up by key or by array: a plan made for one call in
/// particular gains nothing and costs more than the call. And it is kept while tables grow, so one that reads all of a table
/// because it was small must not be made (ADR 57). Lists with a limit are for the app pool.
pub const SYSTEM_PLANS: &str = "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off";
const APP_PLANS: &str = "SET plan_cache_mode = auto";

/// Pause before a statement on roles is tried again.
const ROLE_RETRY: Duration = Duration::from_millis(20);

/// The database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Db {
    app: Pool,
    system: Pool,
}

/// A transaction that can see one scope and nothing else.
#[derive(Debug)]
pub struct OrgTx {
    tx: Loan,
    scope: OrgScope,
}

/// A transaction of the platform itself, past row-level security.
#[derive(Debug)]
pub struct SystemTx {
    tx: Loan,
}

impl Db {
    /// Opens the pools without connecting: whether the database answers is [`Self::ping`]'s business.
    ///
    /// # Errors
    /// [`Error::Internal`] when the URL cannot be read.
    pub fn open(url: &SecretString, connections: u32) -> Result<Self> {
        let options: PgConnectOptions = url.expose_secret().parse()?;
        let options = options.application_name("bifrost").log_statements(tracing::log::LevelFilter::Off);
        Ok(Self {
            app: Pool::new(options.clone(), "bifrost_app", APP_PLANS, connections),
            system: Pool::new(options, "bifrost_system", SYSTEM_PLANS, connections),
        })
    }

    /// Opens a transaction that can see the scope and nothing else.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when PostgreSQL is away.
    pub async fn begin(&self, scope: &OrgScope) -> Result<OrgTx> {
        // One round trip for BEGIN and the scope. The setting is a UUID or one of two constants.
        let begin = format!("BEGIN; SET LOCAL bifrost.org_id = '{}'", scope.setting());
        let mut tx = self.app.lend().await?;
        tx.begin(begin).await?;
        Ok(OrgTx { tx, scope: scope.clone() })
    }

    /// Opens a transaction of the platform itself.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when PostgreSQL is away.
    pub async fn begin_system(&self, scope: &SystemScope) -> Result<SystemTx> {
        tracing::trace!(reason = scope.reason(), "system transaction");
        let mut tx = self.system.lend().await?;
        tx.begin("BEGIN".to_owned()).await?;
        Ok(SystemTx { tx })
    }

    /// A connection of the app role without a scope: it sees nothing until its statement sets one.
    pub(crate) async fn unscoped(&self) -> Result<Loan> {
        Ok(self.app.lend().await?)
    }

    /// A connection of the system role for one statement that is a transaction by itself: one round trip.
    pub(crate) async fn system(&self, scope: &SystemScope) -> Result<Loan> {
        tracing::trace!(reason = scope.reason(), "system statement");
        Ok(self.system.lend().await?)
    }

    /// Whether PostgreSQL answers and no migration of this binary is pending.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it does not answer or is behind.
    pub async fn ping(&self) -> Result<()> {
        let applied: i64 =
            sqlx::query_scalar("SELECT COALESCE(max(version), 0) FROM _sqlx_migrations WHERE success")
                .fetch_one(&mut *self.system.lend().await?)
                .await?;
        if applied < newest_version() {
            let source = "migrations are pending; run `bifrost migrate`".into();
            return Err(Error::Unavailable { service: "the schema", source });
        }
        Ok(())
    }

    /// Connections that are open and those of them that idle, of each pool.
    pub(crate) fn usage(&self) -> [(u32, usize); 2] {
        [self.app.usage(), self.system.usage()]
    }

    /// Closes all connections.
    pub async fn close(&self) {
        tokio::join!(self.app.close(), self.system.close());
    }
}

impl OrgTx {
    /// The scope it was opened with.
    pub fn scope(&self) -> &OrgScope {
        &self.scope
    }

    /// Commits.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when PostgreSQL went away; then nothing of it was written.
    pub async fn commit(self) -> Result<()> {
        Ok(self.tx.commit().await?)
    }

    pub(crate) fn conn(&mut self) -> &mut PgConnection {
        &mut self.tx
    }
}

impl SystemTx {
    /// Commits.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when PostgreSQL went away; then nothing of it was written.
    pub async fn commit(self) -> Result<()> {
        Ok(self.tx.commit().await?)
    }

    /// Undoes it, now.
    pub(crate) async fn rollback(self) -> Result<()> {
        Ok(self.tx.rollback().await?)
    }

    pub(crate) fn conn(&mut self) -> &mut PgConnection {
        &mut self.tx
    }
}

/// What `work` gives, if it does so in time: a connection may be dead without anybody having said so.
///
/// # Errors
/// Those of `work`, and [`Error::Unavailable`] when it takes longer; then it is not known what of it was done.
pub async fn in_time<T>(patience: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(patience, work).await {
        Ok(done) => done,
        Err(late) => Err(Error::Unavailable { service: "PostgreSQL", source: late.into() }),
    }
}

/// Brings the schema up to date, under a lock that many replicas may race for, and makes sure that the
/// login of `app_url` exists, is no superuser and may act in the two roles.
///
/// `admin_url` needs the right to create roles that pass by row-level security (a superuser has it).
///
/// # Errors
/// [`Error::Impossible`] when a migration was applied in another form than the one of this binary; else a text that names
/// the step that failed.
pub async fn migrate(admin_url: &SecretString, app_url: &SecretString) -> Result<Migrated> {
    let admin: PgConnectOptions = admin_url.expose_secret().parse()?;
    let mut conn = admin.log_statements(tracing::log::LevelFilter::Off).connect().await?;
    // One replica at a time, so that each says truly what it did.
    sqlx::query("SELECT pg_advisory_lock(hashtext('bifrost.migrate'))").execute(&mut conn).await?;
    let before = applied(&mut conn).await?;
    MIGRATOR.run(&mut conn).await.map_err(|error| match error {
        MigrateError::VersionMismatch(version) => Error::Impossible(format!(
            "migration {version} was applied in another form than this Bifrost has it"
        )),
        other => Error::internal(other),
    })?;
    provision_login(&mut conn, admin_url, app_url).await?;
    let after = applied(&mut conn).await?;
    conn.close().await?;
    Ok(Migrated { applied: after - before, version: newest_version() })
}

/// Version of the schema that this binary brings a database to.
pub(crate) fn newest_version() -> i64 {
    MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or_default()
}

/// What a migration run did.
#[derive(Debug, Clone, Copy)]
pub struct Migrated {
    /// Migrations applied by this run.
    pub applied: i64,
    /// Version of the schema now.
    pub version: i64,
}

async fn applied(conn: &mut PgConnection) -> Result<i64> {
    let exists: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *conn)
        .await?;
    if !exists {
        return Ok(0);
    }
    Ok(sqlx::query_scalar("SELECT count(*) FROM _sqlx_migrations WHERE success").fetch_one(conn).await?)
}

async fn provision_login(
    conn: &mut PgConnection,
    admin_url: &SecretString,
    app_url: &SecretString,
) -> Result<()> {
    let login = url::Url::parse(app_url.expose_secret()).map_err(Error::internal)?;
    let admin = url::Url::parse(admin_url.expose_secret()).map_err(Error::internal)?;
    change_role(conn, "GRANT SELECT ON _sqlx_migrations TO bifrost_system".into()).await?;
    if login.username() == admin.username() {
        return Ok(());
    }
    let name = percent_decoded(login.username());
    let password = percent_decoded(login.password().unwrap_or_default());
    // NOINHERIT: the login has the rights of a role only while it acts in it. Identifiers and the password
    // are quoted by the server itself, since DDL takes no parameters.
    let statements: Vec<Option<String>> = sqlx::query_scalar(
        "SELECT unnest(ARRAY[
             CASE WHEN NOT EXISTS (SELECT FROM pg_roles WHERE rolname = $1) THEN format('CREATE ROLE %I', $1) END,
             format('ALTER ROLE %I LOGIN NOSUPERUSER NOINHERIT NOCREATEROLE NOBYPASSRLS PASSWORD %L', $1, $2),
             format('GRANT bifrost_app, bifrost_system TO %I', $1)])",
    )
    .bind(&name)
    .bind(&password)
    .fetch_all(&mut *conn)
    .await?;
    for statement in statements.into_iter().flatten() {
        change_role(conn, statement).await?;
    }
    Ok(())
}

/// Runs a statement on roles, which all databases of a server share: one that another session changes at the
/// same moment is refused as "tuple concurrently updated" or as a duplicate, and then stands as it should.
async fn change_role(conn: &mut PgConnection, statement: String) -> Result<()> {
    const CONCURRENT: [&str; 3] = ["XX000", "42710", "23505"];
    for _ in 0..20 {
        let outcome = sqlx::raw_sql(AssertSqlSafe(statement.clone())).execute(&mut *conn).await;
        match outcome {
            Err(sqlx::Error::Database(error))
                if error.code().is_some_and(|code| CONCURRENT.contains(&code.as_ref())) =>
            {
                tokio::time::sleep(ROLE_RETRY).await;
            }
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(()),
        }
    }
    Err(Error::internal("the roles are being changed by somebody else all the time"))
}

/// A part of an address as it was before it was put there.
pub fn percent_decoded(text: &str) -> String {
    url::form_urlencoded::parse(format!("v={}", text.replace('+', "%2B")).as_bytes())
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}
