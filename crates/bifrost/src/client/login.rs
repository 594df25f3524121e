//! `bifrost login`: signs in and keeps the session.

use std::io::{BufRead, IsTerminal};
use std::process::{Command, Stdio};

use super::credentials::{self, Credentials};
use super::{Api, SignIn, normal_url};
use crate::failure::{Failure, USAGE};
use crate::output;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Address of the api: by default the one last signed in to, else http://127.0.0.1:8000.
    #[arg(long, env = "BIFROST_URL")]
    url: Option<String>,
    /// E-mail address; by default the one last used here.
    #[arg(long)]
    email: Option<String>,
    /// Read the password from standard input.
    #[arg(long)]
    password_stdin: bool,
    /// One-time or recovery code, for an account with a second factor; asked for on a terminal.
    #[arg(long)]
    code: Option<String>,
}

pub(crate) async fn run(args: Args) -> Result<u8, Failure> {
    let stored = Credentials::load(credentials::FILE.as_ref())?;
    let url = args
        .url
        .or_else(|| stored.as_ref().map(|stored| stored.url.clone()))
        .unwrap_or_else(|| credentials::DEFAULT_URL.into());
    let url = normal_url(&url)?;
    let stored = stored.filter(|stored| stored.url == url);
    let email = args.email.or_else(|| stored.as_ref().map(|stored| stored.email.clone()));
    let email =
        email.ok_or_else(|| Failure::new("who signs in?").next("bifrost login --email EMAIL").code(USAGE))?;

    let generated = stored.filter(|stored| stored.email == email).and_then(|stored| stored.password);
    let password = match &generated {
        Some(generated) if !args.password_stdin => generated.clone(),
        _ => read_password(args.password_stdin, &email)?,
    };
    let mut api = Api::with(Credentials::new(&url, &email, Some(password)))?;
    if let SignIn::Asked { mfa_token } = api.sign_in().await? {
        let code = args.code.map_or_else(read_code, Ok)?;
        api.give_code(&mfa_token, code.trim()).await?;
    }
    if generated.is_none() {
        api.credentials.password = None; // a password that a person chose is not ours to keep
    }
    api.keep().await?;
    output::say(&format!("Signed in to {url} as {email}; the session is kept in {}", credentials::FILE));
    Ok(0)
}

fn read_password(from_stdin: bool, email: &str) -> Result<String, Failure> {
    let password = if from_stdin {
        read_line()?
    } else if std::io::stdin().is_terminal() {
        echo(false);
        let line = ask(&format!("Password of {email}: "));
        echo(true);
        output::note("");
        line?
    } else {
        return Err(Failure::new("there is no terminal to ask for the password on")
            .next("pass it on standard input: bifrost login --password-stdin")
            .code(USAGE));
    };
    if password.is_empty() {
        return Err(Failure::new("the password is empty").code(USAGE));
    }
    Ok(password)
}

fn read_code() -> Result<String, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(
            "this account asks for a second factor, and there is no terminal to ask on",
        )
        .next("bifrost login --code CODE, with a one-time or a recovery code")
        .code(USAGE));
    }
    ask("Code of your authenticator, or a recovery code: ")
}

fn ask(question: &str) -> Result<String, Failure> {
    output::ask(question);
    read_line()
}

fn read_line() -> Result<String, Failure> {
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    read.map_err(|error| Failure::new(format!("cannot read an answer: {error}")))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Shows or hides what is typed, where the terminal lets us.
fn echo(on: bool) {
    let _ = Command::new("stty").arg(if on { "echo" } else { "-echo" }).stdin(Stdio::inherit()).status();
}
