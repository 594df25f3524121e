//! `bifrost`: everything in one process, the operator's commands, and the command-line client.
//!
//! One file per command. A command returns its exit code or a [`Failure`]; only this file prints failures and
//! ends the process.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use failure::Failure;

mod backup;
mod client;
mod database;
mod doctor;
mod env;
mod failure;
mod healthcheck;
mod migrate;
mod openapi;
mod output;
mod serve;
mod settings;
mod up;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Workflow automation for many tenants: write Python, run it here, see what happened.
#[derive(Parser)]
#[command(name = "bifrost", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run everything in this process: a private PostgreSQL, the api and the worker.
    Up(up::Args),
    /// Run the api alone; needs PostgreSQL, RabbitMQ and Redis.
    Api(serve::ApiArgs),
    /// Run a worker alone; needs PostgreSQL, RabbitMQ and Redis.
    Jobs,
    /// Bring the schema of the database up to date.
    Migrate(migrate::Args),
    /// Print the OpenAPI document.
    Openapi(openapi::Args),
    /// Ask whether the api, or the worker beside it, is healthy: for containers.
    Healthcheck(healthcheck::Args),
    /// Look at every part, say what is wrong and what to do.
    Doctor(doctor::Args),
    /// List every setting: what it means, its default, and whether it is set; never its value.
    Settings(settings::Args),
    /// Manage the administrators of an installation.
    #[command(subcommand)]
    Admin(client::admin::Command),
    /// Sign in and keep the session in `.bifrost/credentials.json`.
    Login(client::login::Args),
    /// Run a workflow: its log on standard error, its result on standard output.
    Run(client::run::Args),
    /// Look at executions and stop them.
    #[command(subcommand)]
    Executions(client::executions::Command),
    /// Look at messages that no worker could handle, put them back or drop them.
    #[command(subcommand)]
    DeadLetters(client::dead_letters::Command),
    /// Prove that the audit log is what was written.
    #[command(subcommand)]
    Audit(database::audit::Command),
    /// Rotate the master key that protects secrets.
    #[command(subcommand)]
    Secrets(database::secrets::Command),
    /// Copy an installation into a folder, check the copy, and bring it back.
    #[command(subcommand)]
    Backup(backup::Command),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // The first installation wins; a second one is the same provider.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::new(format!("cannot start the runtime: {error}")).report(),
    };
    // The command runs on the main thread: what it starts to die with us is bound to the thread that starts it.
    let done = runtime.block_on(Box::pin(dispatch(cli.command)));
    let code = match done.and_then(all_said) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => failure.report(),
    };
    // A blocked read of standard input must not keep the process.
    runtime.shutdown_background();
    code
}

/// The exit code, unless what should be on standard output was lost.
fn all_said(code: u8) -> Result<u8, Failure> {
    match output::lost() {
        Some(why) if code == 0 => Err(Failure::new(format!("cannot write to standard output: {why}"))),
        _ => Ok(code),
    }
}

async fn dispatch(command: Command) -> Result<u8, Failure> {
    match command {
        Command::Up(args) => up::run(args).await,
        Command::Api(args) => serve::api(args).await,
        Command::Jobs => serve::jobs().await,
        Command::Migrate(args) => migrate::run(&args).await,
        Command::Openapi(args) => openapi::run(&args),
        Command::Healthcheck(args) => healthcheck::run(&args).await,
        Command::Doctor(args) => doctor::run(&args).await,
        Command::Settings(args) => settings::run(&args),
        Command::Admin(command) => client::admin::run(command).await,
        Command::Login(args) => client::login::run(args).await,
        Command::Run(args) => client::run::run(args).await,
        Command::Executions(command) => client::executions::run(command).await,
        Command::DeadLetters(command) => client::dead_letters::run(command).await,
        Command::Audit(command) => database::audit::run(command).await,
        Command::Secrets(command) => database::secrets::run(command).await,
        Command::Backup(command) => Box::pin(backup::run(command)).await,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
