//! `bifrost openapi`: the document that describes every operation, made from the handlers.

use std::path::PathBuf;

use crate::failure::{Failure, USAGE};
use crate::{output, serve};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Compare with this file instead of printing, and fail when it differs.
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<u8, Failure> {
    let document = serve::openapi_json();
    let Some(file) = &args.check else {
        output::say(document.trim_end());
        return Ok(0);
    };
    let stored = std::fs::read_to_string(file)
        .map_err(|error| Failure::new(format!("cannot read {}: {error}", file.display())).code(USAGE))?;
    if stored.trim_end() == document.trim_end() {
        return Ok(0);
    }
    let line = stored.lines().zip(document.lines()).take_while(|(stored, now)| stored == now).count() + 1;
    Err(Failure::new(format!("{} is not what the handlers say, from line {line} on", file.display()))
        .next(format!("bifrost openapi > {}", file.display())))
}
