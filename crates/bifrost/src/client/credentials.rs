//! The credentials file: who is signed in where. Readable by its owner alone.

use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::up::state::write_private;

/// Where it lies, relative to the current directory.
pub(crate) const FILE: &str = ".bifrost/credentials.json";
/// Where an api is looked for when nothing says otherwise.
pub(crate) const DEFAULT_URL: &str = "http://127.0.0.1:8000";

/// A way into one api. The password is kept only for an administrator that was generated here.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Credentials {
    pub(crate) url: String,
    pub(crate) email: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) password: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) access_token: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) refresh_token: Option<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Credentials {
    pub(crate) fn new(url: &str, email: &str, password: Option<String>) -> Self {
        Self {
            url: url.to_owned(),
            email: email.to_owned(),
            password,
            access_token: None,
            refresh_token: None,
        }
    }

    /// What is stored, if anything is.
    pub(crate) fn load(file: &Path) -> Result<Option<Self>, Failure> {
        let bytes = match std::fs::read(file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::new(format!("cannot read {}: {error}", file.display()))),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            Failure::new(format!("{} is broken: {error}", file.display()))
                .next("remove it and sign in: bifrost login")
        })
    }

    pub(crate) fn store(&self, file: &Path) -> Result<(), Failure> {
        let folder = file.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)
            .and_then(|()| write_private(file, &self.to_json()))
            .map_err(|error| Failure::new(format!("cannot write {}: {error}", file.display())))
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("strings are JSON")
    }

    pub(crate) fn forget_tokens(&mut self) {
        self.access_token = None;
        self.refresh_token = None;
    }
}
