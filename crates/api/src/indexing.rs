//! Bringing the rows up to date with the files of the workspace, before whoever changed them is answered.
//!
//! The invariant: what is changed on disk is indexed whether or not its client stays, and stands whatever comes of that; the indexer
//! of the jobs process looks too.

use std::time::Duration;

use domain::editor::{self, Clash, Stored};
use domain::events::Event;
use domain::forms::files;
use domain::workflows::{Index, Reading};
use domain::workspace_files::{FilePath, is_form_file};
use domain::{Error, OrgScope, in_time};

use crate::{AppState, deadline, python};

/// How long Python may take to read the workspace.
const READ_PATIENCE: Duration = Duration::from_secs(45);
/// How long an answer waits for the index.
const INDEX_PATIENCE: Duration = Duration::from_secs(60);
/// The same with what is to be indexed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// What may have changed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Changed {
    forms: bool,
    python: bool,
}

impl Changed {
    /// Anything, as with a folder.
    pub(crate) const ANY: Self = Self { forms: true, python: true };

    /// What a file of this path declares.
    pub(crate) fn by(path: &FilePath) -> Self {
        Self { forms: is_form_file(path.name()), python: path.name().ends_with(".py") }
    }
}

/// Stores a file, and has what it declares indexed.
///
/// # Errors
/// As [`editor::write`].
pub(crate) async fn write(
    app: AppState,
    scope: OrgScope,
    path: FilePath,
    bytes: Vec<u8>,
    expected: Option<String>,
) -> Result<Result<Stored, Clash>, Error> {
    let written = deadline::to_the_end(PATIENCE, async move {
        let changed = Changed::by(&path);
        let written = editor::write(&app.platform, &scope, path, bytes, expected).await?;
        if written.is_ok() {
            follow(&app, changed).await;
        }
        Ok(written)
    });
    written.await
}

/// Removes a file or folder, and has what it declared forgotten.
///
/// # Errors
/// As [`editor::delete`].
pub(crate) async fn delete(
    app: AppState,
    scope: OrgScope,
    path: FilePath,
    changed: Changed,
) -> Result<(), Error> {
    let removed = deadline::to_the_end(PATIENCE, async move {
        editor::delete(&app.platform, &scope, path).await?;
        follow(&app, changed).await;
        Ok(())
    });
    removed.await
}

/// Brings the rows up to date with what was changed.
pub(crate) async fn follow(app: &AppState, changed: Changed) {
    if changed.forms
        && let Err(error) = Box::pin(files::sync(&app.platform)).await
    {
        tracing::warn!(%error, "forms and their files differ until the indexer looks");
    }
    if changed.python
        && let Err(error) = in_time(INDEX_PATIENCE, index(app)).await
    {
        tracing::warn!(%error, "the workspace is indexed later");
    }
}

/// Reads the whole workspace anew. Whoever saves meanwhile shares the next reading.
async fn index(app: &AppState) -> Result<(), Error> {
    app.indexing
        .run(async || {
            let platform = &app.platform;
            let reading = Reading::begin(&platform.db).await?;
            let found = python::ask(&platform.settings, "bifrost._host.index", None, READ_PATIENCE).await?;
            let index: Index = serde_json::from_slice(&found).map_err(Error::internal)?;
            // Where a later reading is in the rows already, it has found what this one has.
            Box::pin(reading.sync(&platform.db, &index)).await?;
            platform.catalog.forget();
            platform.events.publish(Event::WorkspaceChanged);
            Ok(())
        })
        .await
}
