//! `bifrost admin create`: the first administrator of an installation, with a password nobody chose.

use std::path::Path;

use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::credentials::{self, Credentials};
use super::{http, normal_url, read};
use crate::failure::Failure;
use crate::output;
use crate::up::state::generate;

const DEFAULT_EMAIL: &str = "admin@bifrost.localhost";

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Make the first administrator; prints the password once and keeps it in `.bifrost/credentials.json`.
    Create(Create),
}

#[derive(clap::Args)]
pub(crate) struct Create {
    /// E-mail address to sign in with.
    #[arg(long)]
    email: Option<String>,
    /// Address of the api.
    #[arg(long, env = "BIFROST_URL", default_value = credentials::DEFAULT_URL)]
    url: String,
}

pub(crate) async fn run(command: Command) -> Result<u8, Failure> {
    let Command::Create(args) = command;
    let url = normal_url(&args.url)?;
    if !needs_setup(&url).await? {
        return Err(Failure::new(format!("{url} has its first administrator already"))
            .next(format!("bifrost login --url {url} --email EMAIL")));
    }
    let file = Path::new(credentials::FILE);
    // Before there is a password that could get lost.
    let _lock = credentials::lock(file).await?;
    let created = create(&url, None, args.email.as_deref()).await?;
    created.store(file)?;
    output::say(&shown_once(&created));
    Ok(0)
}

/// Whether nobody has registered yet.
pub(crate) async fn needs_setup(url: &str) -> Result<bool, Failure> {
    let status: Value = read(url, http(url)?.get(format!("{url}/auth/status"))).await?;
    Ok(status.get("needs_setup").and_then(Value::as_bool).unwrap_or(false))
}

/// Registers the first administrator: as remembered from before the database was new, else with a new password.
pub(crate) async fn create(
    url: &str,
    remembered: Option<Credentials>,
    email: Option<&str>,
) -> Result<Credentials, Failure> {
    let mut credentials = remembered.unwrap_or_else(|| {
        let password = generate().expose_secret().to_owned();
        Credentials::new(url, email.unwrap_or(DEFAULT_EMAIL), Some(password))
    });
    credentials.url = url.to_owned();
    credentials.forget_tokens();
    let body =
        json!({ "email": credentials.email, "password": credentials.password, "name": "Administrator" });
    let _registered: Value = read(url, http(url)?.post(format!("{url}/auth/register")).json(&body)).await?;
    Ok(credentials)
}

/// The new administrator as it is shown, this once.
pub(crate) fn shown_once(created: &Credentials) -> String {
    let password = created.password.as_deref().unwrap_or_default();
    format!(
        "\n  E-mail    {}\n  Password  {password}\n            (kept in {}, shown only now)\n",
        created.email,
        credentials::FILE
    )
}
