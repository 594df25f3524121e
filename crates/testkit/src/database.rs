//! A database for one test: copied from a migrated template in a fraction of the time a migration takes.
//!
//! The template is made once per schema, by whichever test comes first; its name holds a hash of the
//! migrations, so that two checkouts can share a server.

use std::hash::{DefaultHasher, Hash, Hasher};

use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};
use url::Url;
use uuid::Uuid;

/// Login of the application in tests; the server listens on the loopback interface only.
const LOGIN: &str = "bifrost_test";
const PASSWORD: &str = "bifrost_test";

/// A migrated database. Dropping it removes the database; [`Self::close`] does so without blocking.
#[derive(Debug)]
pub struct TestDb {
    name: String,
    superuser: Url,
    is_closed: bool,
}

impl TestDb {
    /// Makes a database on the server of `superuser_url`.
    ///
    /// # Panics
    /// When PostgreSQL refuses: then no test can go on.
    pub async fn create(superuser_url: &SecretString) -> Self {
        let superuser = Url::parse(superuser_url.expose_secret()).expect("DATABASE_URL is a URL");
        let mut conn = connect(&superuser).await;
        let template = ensure_template(&mut conn, &superuser).await;
        let name = format!("bifrost_test_{}", Uuid::now_v7().simple());
        run(&mut conn, &format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
        close(conn).await;
        Self { name, superuser, is_closed: false }
    }

    /// An empty database, for what is about migrations.
    ///
    /// # Panics
    /// As [`Self::create`].
    pub async fn create_empty(superuser_url: &SecretString) -> Self {
        let superuser = Url::parse(superuser_url.expose_secret()).expect("DATABASE_URL is a URL");
        let name = format!("bifrost_test_{}", Uuid::now_v7().simple());
        let mut conn = connect(&superuser).await;
        run(&mut conn, &format!("CREATE DATABASE {name}")).await;
        close(conn).await;
        Self { name, superuser, is_closed: false }
    }

    /// Its address, as the application's login: no superuser, so that row-level security binds it.
    #[must_use]
    pub fn url(&self) -> SecretString {
        as_application(&at(&self.superuser, &self.name))
    }

    /// Its address as the superuser, for what a test arranges or looks at behind the application's back.
    #[must_use]
    pub fn superuser_url(&self) -> SecretString {
        at(&self.superuser, &self.name).as_str().into()
    }

    /// A connection as the superuser.
    ///
    /// # Panics
    /// When PostgreSQL refuses it.
    pub async fn connect(&self) -> PgConnection {
        connect(&at(&self.superuser, &self.name)).await
    }

    /// Until a statement that contains `text` waits for a lock that somebody else holds.
    ///
    /// # Panics
    /// When none does within [`crate::PATIENCE`].
    pub async fn lock_is_awaited_by(&self, text: &str) {
        crate::eventually(&format!("{text} to wait for a lock"), async || {
            let mut conn = self.connect().await;
            let is_awaited: bool = sqlx::query_scalar(
                "SELECT EXISTS (SELECT FROM pg_stat_activity
                     WHERE datname = current_database() AND wait_event_type = 'Lock' AND strpos(query, $1) > 0)",
            )
            .bind(text)
            .fetch_one(&mut conn)
            .await
            .expect("the catalogue is readable");
            is_awaited.then_some(())
        })
        .await;
    }

    /// Removes the database, whoever is still connected to it.
    ///
    /// # Panics
    /// When PostgreSQL refuses.
    pub async fn close(mut self) {
        self.is_closed = true;
        drop_database(&self.superuser, &self.name).await;
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        if self.is_closed {
            return;
        }
        let (superuser, name) = (self.superuser.clone(), self.name.clone());
        // A thread with a runtime of its own: here we may be inside one, or in none any more. A failure leaves
        // an empty database behind and must not hide why the test failed.
        let dropping = std::thread::spawn(move || {
            if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
                runtime.block_on(drop_database(&superuser, &name));
            }
        });
        let _ = dropping.join();
    }
}

/// The name of the template, made if need be. Databases of one server are made one after the other.
async fn ensure_template(conn: &mut PgConnection, superuser: &Url) -> String {
    let mut hasher = DefaultHasher::new();
    for migration in domain::MIGRATOR.iter() {
        (migration.version, &migration.checksum).hash(&mut hasher);
    }
    let template = format!("bifrost_template_{:016x}", hasher.finish());

    const LOCK: &str = "hashtext('bifrost.testkit')";
    run(conn, &format!("SELECT pg_advisory_lock({LOCK})")).await;
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
        .bind(&template)
        .fetch_one(&mut *conn)
        .await
        .expect("the catalogue is readable");
    if !exists {
        // Under another name until it is whole: a test that is killed here must not leave half a template.
        let unfinished = format!("{template}_unfinished");
        run(conn, &format!("DROP DATABASE IF EXISTS {unfinished} WITH (FORCE)")).await;
        run(conn, &format!("CREATE DATABASE {unfinished}")).await;
        let admin = at(superuser, &unfinished);
        domain::db::migrate(&admin.as_str().into(), &as_application(&admin))
            .await
            .expect("the migrations apply to an empty database");
        run(conn, &format!("ALTER DATABASE {unfinished} WITH ALLOW_CONNECTIONS FALSE")).await;
        run(conn, &format!("ALTER DATABASE {unfinished} RENAME TO {template}")).await;
    }
    run(conn, &format!("SELECT pg_advisory_unlock({LOCK})")).await;
    template
}

async fn drop_database(superuser: &Url, name: &str) {
    let mut conn = connect(superuser).await;
    run(&mut conn, &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
    close(conn).await;
}

async fn connect(url: &Url) -> PgConnection {
    let options: PgConnectOptions = url.as_str().parse().expect("a URL that PostgreSQL understands");
    options
        .disable_statement_logging()
        .connect()
        .await
        .expect("PostgreSQL answers: is `scripts/services up` running?")
}

async fn close(conn: PgConnection) {
    // Whether the goodbye arrives makes no difference.
    let _ = conn.close().await;
}

/// Runs a statement made of names that this file chose.
async fn run(conn: &mut PgConnection, statement: &str) {
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))
        .execute(conn)
        .await
        .unwrap_or_else(|error| panic!("{statement}: {error}"));
}

fn at(server: &Url, database: &str) -> Url {
    let mut url = server.clone();
    url.set_path(database);
    url
}

fn as_application(url: &Url) -> SecretString {
    let mut url = url.clone();
    url.set_username(LOGIN).expect("the URL names a host");
    url.set_password(Some(PASSWORD)).expect("the URL names a host");
    url.as_str().into()
}
