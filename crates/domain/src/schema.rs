//! What an operator asks a database before anything runs on it: does it answer, what is it, what is missing.
//!
//! Nothing here changes rows. It connects on its own, as whatever login it is given, and not through the
//! pools of [`crate::Db`], which need the roles that may be what is missing.

use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};

use crate::db::MIGRATOR;
use crate::{Error, Result};

/// What a look at a database found.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// Version as the server writes it: `15.18 (Debian …)`.
    pub version: String,
    /// Major version.
    pub major: i32,
    /// The login we came as.
    pub login: String,
    /// Whether that login passes by row-level security.
    pub is_superuser: bool,
    /// Roles that the login cannot act in, or that do not exist.
    pub missing_roles: Vec<String>,
    /// Migrations applied: version and description.
    pub applied: Vec<(i64, String)>,
    /// Of these, the ones that were applied in another form than this binary has them.
    pub changed: Vec<i64>,
    /// Migrations of this binary that are not applied.
    pub pending: Vec<(i64, String)>,
    /// Migrations in the database that this binary does not know: it is older than the schema.
    pub unknown: Vec<i64>,
    /// Tables without forced row-level security.
    pub open_tables: Vec<String>,
}

impl Inspection {
    /// Whether the schema is the one that this binary brings a database to.
    pub fn is_current(&self) -> bool {
        self.changed.is_empty() && self.pending.is_empty() && self.unknown.is_empty()
    }
}

/// Makes sure that a database of this name exists. The URL names any other database of the server.
///
/// # Errors
/// [`Error::Unavailable`] while the server starts or is away.
pub async fn ensure_database(admin_url: &SecretString, name: &str) -> Result<()> {
    let mut conn = connect(admin_url).await?;
    let create: Option<String> = sqlx::query_scalar(
        "SELECT format('CREATE DATABASE %I', $1)
         WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = $1)",
    )
    .bind(name)
    .fetch_optional(&mut conn)
    .await?;
    if let Some(create) = create {
        sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut conn).await?;
    }
    Ok(conn.close().await?)
}

/// Removes a database, whoever is still connected to it. The URL names any other database of the server.
///
/// # Errors
/// [`Error::Internal`] when the server refuses.
pub async fn drop_database(admin_url: &SecretString, name: &str) -> Result<()> {
    let mut conn = connect(admin_url).await?;
    let drop: String = sqlx::query_scalar("SELECT format('DROP DATABASE IF EXISTS %I WITH (FORCE)', $1)")
        .bind(name)
        .fetch_one(&mut conn)
        .await?;
    sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut conn).await?;
    Ok(conn.close().await?)
}

/// Whether a database has no tables of anybody.
///
/// # Errors
/// As [`inspect`].
pub async fn is_empty(url: &SecretString) -> Result<bool> {
    let mut conn = connect(url).await?;
    let is_empty = sqlx::query_scalar(
        "SELECT NOT EXISTS (
             SELECT FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = current_schema()::regnamespace)",
    )
    .fetch_one(&mut conn)
    .await?;
    conn.close().await?;
    Ok(is_empty)
}

/// Version of the schema that this binary knows and brings a database to.
pub fn newest_version() -> i64 {
    crate::db::newest_version()
}

/// How much there is in a database.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
pub struct Counts {
    /// Executions in every state.
    pub executions: i64,
    /// Organizations, the removed ones included.
    pub organizations: i64,
}

/// Counts what is in a database, as a login that row-level security does not bind.
///
/// # Errors
/// As [`inspect`].
pub async fn counts(url: &SecretString) -> Result<Counts> {
    let mut conn = connect(url).await?;
    let counts = sqlx::query_as(
        "SELECT (SELECT count(*) FROM executions) AS executions, (SELECT count(*) FROM organizations) AS organizations",
    )
    .fetch_one(&mut conn)
    .await?;
    conn.close().await?;
    Ok(counts)
}

/// Whether a file was ever uploaded, as a login that row-level security does not bind.
///
/// # Errors
/// As [`inspect`].
pub async fn has_uploads(url: &SecretString) -> Result<bool> {
    let mut conn = connect(url).await?;
    let has_uploads = sqlx::query_scalar("SELECT EXISTS (SELECT FROM uploads WHERE received_at IS NOT NULL)")
        .fetch_one(&mut conn)
        .await?;
    conn.close().await?;
    Ok(has_uploads)
}

/// Looks at a database.
///
/// # Errors
/// [`Error::Unavailable`] when it does not answer, or does not know the login or the database.
pub async fn inspect(url: &SecretString) -> Result<Inspection> {
    let mut conn = connect(url).await?;
    let (version, number, login, is_superuser): (String, i32, String, bool) = sqlx::query_as(
        "SELECT current_setting('server_version'), current_setting('server_version_num')::int, current_user::text,
             (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user)",
    )
    .fetch_one(&mut conn)
    .await?;
    let missing_roles = sqlx::query_scalar(
        "SELECT name
         FROM unnest(ARRAY['bifrost_app', 'bifrost_system']) AS name
         WHERE NOT COALESCE((SELECT pg_has_role(oid, 'MEMBER') FROM pg_roles WHERE rolname = name), FALSE)",
    )
    .fetch_all(&mut conn)
    .await?;
    let open_tables = sqlx::query_scalar(
        r"SELECT relname::text
          FROM pg_class
          WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace AND relname NOT LIKE '\_sqlx%'
              AND NOT (relrowsecurity AND relforcerowsecurity)
          ORDER BY relname",
    )
    .fetch_all(&mut conn)
    .await?;
    let applied = applied(&mut conn, &missing_roles).await?;
    conn.close().await?;

    let known = || MIGRATOR.iter().filter(|migration| migration.migration_type.is_up_migration());
    let of = |version| applied.iter().find(|done| done.version == version);
    let pending = known().filter(|m| of(m.version).is_none());
    let pending = pending.map(|m| (m.version, m.description.to_string())).collect();
    let changed = known().filter(|m| of(m.version).is_some_and(|done| done.checksum != *m.checksum));
    let changed = changed.map(|m| m.version).collect();
    let unknown = applied.iter().map(|done| done.version);
    let unknown = unknown.filter(|version| !known().any(|m| m.version == *version)).collect();
    let applied = applied.into_iter().map(|done| (done.version, done.description)).collect();
    Ok(Inspection {
        version,
        major: number / 10_000,
        login,
        is_superuser,
        missing_roles,
        applied,
        changed,
        pending,
        unknown,
        open_tables,
    })
}

/// A migration as the database remembers it.
#[derive(sqlx::FromRow)]
struct Applied {
    version: i64,
    description: String,
    checksum: Vec<u8>,
}

/// The applied migrations. Our login may read them only in the system role.
async fn applied(conn: &mut PgConnection, missing_roles: &[String]) -> Result<Vec<Applied>> {
    let exists: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *conn)
        .await?;
    if !exists {
        return Ok(Vec::new());
    }
    let readable: bool = sqlx::query_scalar("SELECT has_table_privilege('_sqlx_migrations', 'SELECT')")
        .fetch_one(&mut *conn)
        .await?;
    if !readable && !missing_roles.iter().any(|role| role == "bifrost_system") {
        sqlx::raw_sql("SET ROLE bifrost_system").execute(&mut *conn).await?;
    }
    Ok(sqlx::query_as(
        "SELECT version, description, checksum FROM _sqlx_migrations WHERE success ORDER BY version",
    )
    .fetch_all(conn)
    .await?)
}

async fn connect(url: &SecretString) -> Result<PgConnection> {
    let options: PgConnectOptions = url.expose_secret().parse().map_err(Error::from)?;
    Ok(options.application_name("bifrost").log_statements(tracing::log::LevelFilter::Off).connect().await?)
}
