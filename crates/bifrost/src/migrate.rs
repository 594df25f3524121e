//! `bifrost migrate`: brings the schema up to date and makes the application's login.

use domain::schema::{self, Inspection};
use secrecy::SecretString;

use crate::failure::{Failure, USAGE, chain};
use crate::{env, output};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only show which migrations are applied, applied in another form, or pending; exits 1 unless the schema is what this
    /// binary expects.
    #[arg(long)]
    status: bool,
}

pub(crate) async fn run(args: &Args) -> Result<u8, Failure> {
    let settings = env::settings()?;
    let app = settings.database_url.clone().ok_or_else(|| {
        Failure::new("DATABASE_URL is not set")
            .next("set it to postgres://LOGIN:PASSWORD@HOST:PORT/DATABASE; `bifrost up` migrates its own PostgreSQL itself")
            .code(USAGE)
    })?;
    let admin = settings.admin_database_url.as_ref().unwrap_or(&app);
    if args.status {
        let found = schema::inspect(admin).await.map_err(|error| unusable(&error))?;
        print_status(&found);
        return Ok(u8::from(!found.is_current()));
    }
    output::say(&migrate(admin, &app).await?);
    Ok(0)
}

/// Migrates and says what it did. A schema newer than this binary is left as it is.
pub(crate) async fn migrate(admin: &SecretString, app: &SecretString) -> Result<String, Failure> {
    let found = schema::inspect(admin).await.map_err(|error| unusable(&error))?;
    if let Some(newest) = found.unknown.iter().max() {
        return Err(Failure::new(format!(
            "the schema is newer than this Bifrost {}: it is at version {newest}, and nothing was changed",
            env!("CARGO_PKG_VERSION")
        ))
        .next("run the Bifrost that brought it there, or a newer one"));
    }
    let done = domain::db::migrate(admin, app).await.map_err(|error| unusable(&error))?;
    Ok(match done.applied {
        0 => format!("Schema is up to date (version {})", done.version),
        1 => format!("Schema brought up to date: 1 migration, now version {}", done.version),
        more => format!("Schema brought up to date: {more} migrations, now version {}", done.version),
    })
}

fn unusable(error: &domain::Error) -> Failure {
    let next = match error {
        domain::Error::Impossible(_) => {
            "run the Bifrost that brought the schema there, or begin with an empty database or a backup"
        }
        _ if error.is_unavailable() => {
            "start PostgreSQL, or correct its address or login; `bifrost doctor` looks at every part"
        }
        _ => "set ADMIN_DATABASE_URL to a login that may create roles and tables, such as the superuser",
    };
    Failure::new(format!("the schema cannot be brought up to date: {}", chain(error))).next(next)
}

fn print_status(found: &Inspection) {
    let row =
        |state: &str, version: i64, text: &str| vec![version.to_string(), state.to_owned(), text.to_owned()];
    let state = |version| if found.changed.contains(version) { "changed" } else { "applied" };
    let mut rows: Vec<Vec<String>> =
        found.applied.iter().map(|(version, text)| row(state(version), *version, text)).collect();
    rows.extend(found.pending.iter().map(|(version, text)| row("pending", *version, text)));
    output::say(&output::table(&["version", "state", "what"], &rows));
    if !found.changed.is_empty() {
        output::say(
            "\nWhat is changed was applied in another form than this binary has it: run the Bifrost that did.",
        );
    }
    if !found.unknown.is_empty() {
        let unknown: Vec<String> = found.unknown.iter().map(ToString::to_string).collect();
        output::say(&format!(
            "\nThe schema is newer than this binary, which does not know {}.",
            unknown.join(", ")
        ));
    }
}
