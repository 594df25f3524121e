//! What the environment says beyond [`domain::settings`]: whether a setting was given at all.

use std::path::PathBuf;

use domain::settings::Settings;

use crate::failure::{Failure, USAGE};

/// Reads the settings.
pub(crate) fn settings() -> Result<Settings, Failure> {
    Settings::load().map_err(|fault| Failure::new(fault).next("correct the environment variable").code(USAGE))
}

/// Whether a setting is given, under its plain name or with the prefix.
pub(crate) fn is_set(name: &str) -> bool {
    [name.to_owned(), format!("BIFROST_{name}")]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

/// Whether we are root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// `path`, made absolute and without `..`, or a failure that names it.
pub(crate) fn existing_directory(what: &str, path: &std::path::Path) -> Result<PathBuf, Failure> {
    match path.canonicalize() {
        Ok(path) if path.is_dir() => Ok(path),
        _ => Err(Failure::new(format!("there is no {what} folder {}", path.display())).code(USAGE)),
    }
}
