//! Pulls, and the merges they may leave in progress.
//!
//! While a merge is in progress the files stay as they were, so that what runs goes on running: the conflicts are told with both
//! sides and the base, a conflict is resolved by saving or deleting the file, and the commit brings everything else with it. Only
//! what was deleted here and changed there is written when the merge begins, as git does it: deleting it again is then a decision.

use serde_json::json;

use super::apply::{self, Begun, Step};
use super::paths::Paths;
use super::program::{Git, fields, garbled};
use super::session::Session;
use super::{Conflict, Failed, Outcome, change, look, store};
use crate::audit::{self, Action};
use crate::{OrgScope, Platform};

/// What a pull did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pulled {
    /// Files that changed.
    pub updated: Vec<String>,
    /// What somebody has to decide; then no file of ours changed, and a merge is in progress.
    pub conflicts: Vec<Conflict>,
}

/// Fetches the branch, so that it is known how far both are apart.
///
/// # Errors
/// [`Failed::Said`] when the server cannot be reached.
pub async fn fetch(platform: &Platform, scope: &OrgScope) -> Outcome<()> {
    let session = Session::begin(platform, scope).await?;
    session.fetch().await?;
    let mut tx = session.record().await?;
    store::set_synced(&mut tx).await?;
    audit::record(&mut tx, Action::GitFetched, "git", &()).await?;
    tx.commit().await?;
    Ok(())
}

/// Brings the commits of the server into the workspace.
///
/// # Errors
/// [`Failed::Said`] when it would overwrite what is not committed; then nothing has changed.
pub async fn pull(platform: &Platform, scope: &OrgScope) -> Outcome<Pulled> {
    let session = Session::begin(platform, scope).await?;
    session.refuse_while_merging().await?;
    let Some(theirs) = session.fetch().await? else {
        return Err(Failed::said(format!("the repository has no branch {}", session.branch.as_str())));
    };
    let git = &session.git;
    let Some(head) = git.commit("HEAD").await? else {
        return update(&session, None, &theirs).await;
    };
    let base = git.call(["merge-base", &head, &theirs]).run().await?;
    let base = base.text();
    if base == theirs {
        let mut tx = session.record().await?;
        store::set_synced(&mut tx).await?;
        audit::record(&mut tx, Action::GitPulled, "git", &json!({"commit": head})).await?;
        tx.commit().await?;
        return Ok(Pulled::default());
    }
    if base == head {
        return update(&session, Some(head), &theirs).await;
    }
    let merge = look::try_merge(git, &head, &theirs).await?;
    if merge.conflicts.is_empty() {
        let message = format!("Merge {} of the server", session.branch.as_str());
        let merged = change::write_commit(git, &merge.result, &[&head, &theirs], &message).await?;
        return update(&session, Some(head), &merged).await;
    }
    // The commit that ends the merge brings all of it, so what may not be a workspace begins none.
    check_files(git, &merge.result).await?;
    let mut incoming =
        git.list(["diff", "--name-only", "-z", "--no-renames", &head, &merge.result, "--"]).await?;
    incoming.extend(merge.conflicts.keys().cloned());
    let incoming: Paths = incoming.into_iter().collect();
    let dirty = look::dirty(git).await?;
    let mut clash: Vec<String> = dirty.into_iter().filter(|path| incoming.meet(path)).collect();
    clash.extend(apply::unknown_in_the_way(git, &session.tree, &head, &merge.result).await?);
    apply::refuse_overwriting(clash)?;
    let conflicts = look::contents(git, &merge).await?;
    let brought = merge.brought(&look::files(git, &head).await?);
    let details = json!({"commit": theirs});
    let step = Step { begins: Some(Begun { theirs, brought }), ..Step::default() };
    apply::apply(&session, &step, Action::GitMergeBegun, &details).await?;
    Ok(Pulled { updated: Vec::new(), conflicts })
}

/// Gives a merge up: files whose conflict was being resolved become what they were.
///
/// # Errors
/// [`Failed::Said`] when no merge is in progress.
pub async fn abort(platform: &Platform, scope: &OrgScope) -> Outcome<()> {
    let session = Session::begin(platform, scope).await?;
    let (Some(head), Some(theirs)) = (session.git.commit("HEAD").await?, session.merging().await?) else {
        return Err(Failed::said("no merge is in progress"));
    };
    let merge = look::try_merge(&session.git, &head, &theirs).await?;
    let dirty = look::dirty(&session.git).await?;
    let mut restored: Vec<String> = dirty.into_iter().filter(|path| merge.concerns(path)).collect();
    // They go again, those too that `.gitignore` names.
    let brought = merge.brought(&look::files(&session.git, &head).await?);
    restored.extend(brought.into_iter().map(|(path, _)| path));
    restored.sort();
    restored.dedup();
    let step = Step { restored, ends_merge: true, ..Step::default() };
    apply::apply(&session, &step, Action::GitMergeAborted, &json!({"commit": theirs})).await?;
    Ok(())
}

async fn update(session: &Session, from: Option<String>, to: &str) -> Outcome<Pulled> {
    let git = &session.git;
    check_files(git, to).await?;
    let updated = match &from {
        Some(from) => git.list(["diff", "--name-only", "-z", "--no-renames", from, to, "--"]).await?,
        None => git.list(["ls-tree", "-r", "-z", "--name-only", to]).await?,
    };
    let step = Step { from, to: Some(to.to_owned()), ..Step::default() };
    apply::apply(session, &step, Action::GitPulled, &json!({"commit": to, "files": updated.len()})).await?;
    Ok(Pulled { updated, conflicts: Vec::new() })
}

/// Whether the files of a commit, or of the result of a merge, may be a workspace.
pub(super) async fn check_files(git: &Git, commit: &str) -> Outcome<()> {
    use crate::workspace_trees::RESERVED;

    const MAX_FILES: usize = 100_000;
    const MAX_BYTES: u64 = 2 * 1024 * 1024 * 1024;
    let (mut files, mut bytes) = (0, 0_u64);
    let output = git.call(["ls-tree", "-r", "-l", "-z", commit]).done().await?.output;
    if let Some(line) = garbled(&output) {
        let name = line.split_once('\t').map_or("", |(_, path)| path);
        return Err(Failed::said(format!("the repository has {name}, a name that is not UTF-8")));
    }
    for line in fields(&output) {
        let Some((facts, path)) = line.split_once('\t') else { continue };
        files += 1;
        bytes +=
            facts.split_whitespace().nth(3).and_then(|size| size.parse::<u64>().ok()).unwrap_or_default();
        let first = path.split('/').next().unwrap_or_default();
        if RESERVED.iter().any(|name| first.eq_ignore_ascii_case(name)) {
            return Err(Failed::said(format!(
                "the repository has {first}, a name that is kept for Bifrost's own files"
            )));
        }
    }
    if files > MAX_FILES || bytes > MAX_BYTES {
        return Err(Failed::said("the repository is too large: at most 100000 files and 2 GiB"));
    }
    Ok(())
}
