//! Jobs of the repository: what its handler does for each payload. The work itself is in `domain::git`.

use std::sync::Arc;

use domain::background_jobs::Outcome;
use domain::git::Failed;
use domain::git::connect::{self, Wanted};
use serde_json::json;

use crate::background::{Running, Work};

/// Connects the workspace with a repository.
pub(crate) fn carry_out(running: Arc<Running>) -> Work {
    Box::pin(async move {
        let wanted: Wanted = serde_json::from_value(running.job.payload.clone())?;
        let scope = running.job.scope();
        let tell = |words: String| running.log("info", words);
        match Box::pin(connect::connect(&running.platform, &scope, &wanted, Some(&running.job), tell)).await {
            Ok(()) => Ok(Outcome::success(
                "The workspace is connected",
                json!({"repoUrl": wanted.repo_url, "branch": wanted.branch}),
            )),
            Err(Failed::Said(words)) => Ok(Outcome::failure(words)),
            Err(Failed::Broken(error)) => Err(error.into()),
        }
    })
}
