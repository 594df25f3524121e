//! How files change: a new tree is built beside the one in use, and takes its place at once (ADR 43).
//!
//! The invariant: whatever fails, fails before the exchange, and then nothing has changed.

use serde::Serialize;

use super::program::Git;
use super::session::Session;
use super::{Failed, Outcome, disk, on_thread, store};
use crate::audit::{self, Action};
use crate::workspace_trees::{self, Building, Tree};

/// How often somebody may save a file meanwhile before we give up.
const TRIES: usize = 5;
/// Names of files that a refusal lists.
const NAMED: usize = 5;

/// What is to become of the files and the branch.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// The commit that the files are of; `None`: of none yet.
    pub(super) from: Option<String>,
    /// The commit whose files they become; `None`: those they are of.
    pub(super) to: Option<String>,
    /// Files whose present state is part of `to`, as git has their paths.
    pub(super) taken: Vec<Vec<u8>>,
    /// Files that become what the last commit has, or go.
    pub(super) restored: Vec<String>,
    /// Whether a merge in progress ends.
    pub(super) ends_merge: bool,
}

/// Carries a step out, and writes it down.
pub(super) async fn apply(
    session: &Session,
    step: &Step,
    action: Action,
    details: &(impl Serialize + Sync),
) -> Outcome<Tree> {
    let root = &session.platform.settings.workspace_path;
    for _ in 0..TRIES {
        let (folder, old) = (root.clone(), session.tree.clone());
        let (seen, building) = on_thread(move || {
            let building = Building::begin(&folder)?;
            let seen = old.look()?;
            building.copy_files(&old)?;
            building.copy_repository(&old)?;
            Ok((seen, building))
        })
        .await?;
        let git = Git::open(&building.tree(), Some(&session.turn)).await?.of(session.scope.actor());
        carry_out(&git, &building.tree(), session, step).await?;
        let old = session.tree.clone();
        let ready = on_thread(move || {
            building.finish()?;
            building.lock(&old, Some(&seen))
        })
        .await?;
        let Some(ready) = ready else { continue };
        let mut tx = session.record().await?;
        if action == Action::GitPulled {
            store::set_synced(&mut tx).await?;
        }
        audit::record(&mut tx, action, "git", details).await?;
        let tree = ready.switch().map_err(disk)?;
        tx.commit().await?;
        collect(session).await;
        return Ok(tree);
    }
    Err(Failed::said("files of the workspace are being saved all the time; try again"))
}

async fn carry_out(git: &Git, tree: &Tree, session: &Session, step: &Step) -> Outcome<()> {
    // Copies have other inodes than the index knows. What really differs is not an error here.
    git.call(["update-index", "-q", "--ignore-submodules", "--refresh"]).run().await?;
    if !step.taken.is_empty() {
        git.call(["update-index", "--add", "--remove", "--replace", "-z", "--stdin"])
            .paths(&step.taken)
            .done()
            .await?;
    }
    if !step.restored.is_empty() {
        restore(git, tree, &step.restored).await?;
    }
    if let Some(to) = &step.to {
        let empty = git.ask(["hash-object", "-t", "tree", "--stdin"]).await?;
        let from = step.from.as_ref().unwrap_or(&empty);
        let answer = git.call(["read-tree", "-m", "-u", from, to]).run().await?;
        if answer.code != 0 {
            return Err(in_the_way(&answer.errors).unwrap_or_else(|| answer.failed(git, None)));
        }
        git.ask(["update-ref", &session.branch.local(), to]).await?;
    }
    if step.ends_merge {
        let head = git.folder().join("MERGE_HEAD");
        on_thread(move || std::fs::remove_file(head)).await?;
    }
    Ok(())
}

async fn restore(git: &Git, tree: &Tree, paths: &[String]) -> Outcome<()> {
    let known: Vec<String> = git.call(["ls-files", "-z", "--cached"]).done().await.map(|answer| {
        super::program::fields(&answer.output).into_iter().filter(|path| paths.contains(path)).collect()
    })?;
    git.call(["checkout-index", "--force", "-z", "--stdin"]).paths(&known).done().await?;
    let files = tree.files.clone();
    let strange: Vec<String> = paths.iter().filter(|path| !known.contains(path)).cloned().collect();
    on_thread(move || {
        let files = cap_std::fs::Dir::open_ambient_dir(files, cap_std::ambient_authority())?;
        for path in strange {
            match files.remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    })
    .await
}

/// Names the files that git will not overwrite; `None` when it is about something else.
fn in_the_way(errors: &str) -> Option<Failed> {
    let quoted = |line: &str| {
        let is_it = ["not uptodate", "would be overwritten", "would be removed", "would lose untracked"];
        is_it
            .iter()
            .any(|sign| line.contains(sign))
            .then(|| line.split('\'').nth(1).map(ToOwned::to_owned))?
    };
    let names: Vec<String> = errors.lines().filter_map(quoted).collect();
    (!names.is_empty()).then(|| overwrites(&names))
}

/// The refusal that names them.
pub(super) fn overwrites(names: &[String]) -> Failed {
    let shown: Vec<&str> = names.iter().take(NAMED).map(String::as_str).collect();
    let more = names.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Failed::said(format!(
        "this would overwrite uncommitted changes of {}{more}; commit them or undo them first",
        shown.join(", ")
    ))
}

/// Removes trees that nobody needs any more. What cannot be removed is removed the next time.
async fn collect(session: &Session) {
    let root = session.platform.settings.workspace_path.clone();
    let backup = session.connection.backup.clone();
    if let Err(error) = on_thread(move || workspace_trees::collect(&root, backup.as_deref())).await {
        tracing::warn!(?error, "cannot remove old trees of the workspace");
    }
}
