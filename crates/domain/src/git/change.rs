//! Commits and pushes: what stays within the repository. A commit that ends a merge changes files too, by `apply`.

use serde_json::json;

use super::apply::{self, Step};
use super::look::{self, Merge, Version};
use super::paths::Paths;
use super::program::Git;
use super::session::Session;
use super::{Failed, Outcome, on_thread, store};
use crate::audit::{self, Action};
use crate::{OrgScope, Platform};

const MESSAGE: &str = "Changes made in Bifrost";
const MAX_MESSAGE: usize = 10_000;

/// What was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The new commit.
    pub sha: String,
    /// Files that it changes.
    pub files: usize,
}

/// Commits everything that was changed; while a merge is in progress, its result.
///
/// # Errors
/// [`Failed::Said`] when nothing was changed, or nobody has decided on a conflict.
pub async fn commit(platform: &Platform, scope: &OrgScope, message: Option<&str>) -> Outcome<Committed> {
    let session = Session::begin(platform, scope).await?;
    match commit_pending(&session, message).await? {
        Some(committed) => Ok(committed),
        None => Err(Failed::said("there is nothing to commit")),
    }
}

/// Commits what is pending, and pushes.
///
/// # Errors
/// [`Failed::Said`] when the server refuses; what was committed stays committed.
pub async fn push(platform: &Platform, scope: &OrgScope, message: Option<&str>) -> Outcome<()> {
    let mut session = Session::begin(platform, scope).await?;
    if commit_pending(&session, message).await?.is_some() {
        session.tree = crate::workspace_trees::Tree::current(&platform.settings.workspace_path);
        session.git = Git::open(&session.tree, Some(&session.turn)).await?.of(scope.actor());
    }
    let git = &session.git;
    let Some(head) = git.commit("HEAD").await? else {
        return Err(Failed::said("there is nothing to push: the repository has no commit yet"));
    };
    let remote = session.remote().await?;
    let refspec = format!("{head}:{}", session.branch.local());
    git.call([
        "push",
        "--quiet",
        "--no-verify",
        "--no-recurse-submodules",
        "--",
        &remote.argument(),
        &refspec,
    ])
    .at(&remote)
    .done()
    .await?;
    git.ask(["update-ref", &session.branch.tracking(), &head]).await?;
    let mut tx = session.record().await?;
    store::set_synced(&mut tx).await?;
    audit::record(&mut tx, Action::GitPushed, "git", &json!({"commit": head})).await?;
    tx.commit().await?;
    Ok(())
}

async fn commit_pending(session: &Session, message: Option<&str>) -> Outcome<Option<Committed>> {
    let message = message.map(str::trim).filter(|message| !message.is_empty()).unwrap_or(MESSAGE);
    if message.len() > MAX_MESSAGE {
        return Err(Failed::said(format!("a message may have at most {MAX_MESSAGE} characters")));
    }
    let head = session.git.commit("HEAD").await?;
    match (session.merging().await?, &head) {
        (Some(theirs), Some(head)) => Box::pin(commit_merge(session, head, &theirs, message)).await.map(Some),
        _ => commit_changes(session, head.as_deref(), message).await,
    }
}

async fn commit_changes(session: &Session, head: Option<&str>, message: &str) -> Outcome<Option<Committed>> {
    let git = &session.git;
    let paths = look::to_commit(git).await?;
    if paths.is_empty() {
        return Ok(None);
    }
    git.call(["update-index", "--add", "--remove", "--replace", "-z", "--stdin"])
        .paths(&paths)
        .done()
        .await?;
    let tree = git.ask(["write-tree"]).await?;
    let parents: Vec<&str> = head.into_iter().collect();
    let sha = write_commit(git, &tree, &parents, message).await?;
    let mut tx = session.record().await?;
    git.ask(["update-ref", "-m", "commit", &session.branch.local(), &sha]).await?;
    // Last, since others wait with what they record.
    audit::record(&mut tx, Action::GitCommitted, "git", &json!({"commit": sha, "files": paths.len()}))
        .await?;
    tx.commit().await?;
    Ok(Some(Committed { sha, files: paths.len() }))
}

async fn commit_merge(session: &Session, head: &str, theirs: &str, message: &str) -> Outcome<Committed> {
    let git = &session.git;
    let merge = look::try_merge(git, head, theirs).await?;
    let mine = look::files(git, head).await?;
    let Decided { open, given_way } = decided(session, &merge, &mine).await?;
    if !open.is_empty() {
        return Err(Failed::said(format!(
            "there are conflicts in {}; save each of these files as it should be (of a folder, a file in it) or delete it, then commit",
            open.join(", ")
        )));
    }
    let incoming = git.list(["diff", "--name-only", "-z", "--no-renames", head, &merge.result, "--"]).await?;
    let incoming: Paths = incoming.into_iter().collect();
    let dirty = look::to_commit(git).await?;
    let clash: Vec<String> = dirty
        .iter()
        .map(|path| String::from_utf8_lossy(path).into_owned())
        .filter(|path| incoming.meet(path) && !merge.concerns(path))
        .collect();
    apply::refuse_overwriting(clash)?;
    // The result of the merge, with what is in the workspace where that is the answer.
    let mut taken = dirty;
    let is_taken = |path: &&String| given_way.iter().all(|(given, _)| given != *path);
    let conflicts = merge.conflicts.keys().filter(is_taken);
    taken.extend(conflicts.chain(&merge.invented).map(|path| path.clone().into_bytes()));
    taken.sort();
    taken.dedup();
    let index = git.folder().join("merge.index");
    git.call(["read-tree", &merge.result]).index(index.clone()).done().await?;
    apply::take(git, &session.tree, Some(&index), &taken).await?;
    if !given_way.is_empty() {
        apply::put(git, &index, &given_way).await?;
    }
    let tree = git.call(["write-tree"]).index(index.clone()).text().await?;
    on_thread(move || std::fs::remove_file(index)).await?;
    let sha = write_commit(git, &tree, &[head, theirs], message).await?;
    let files = git.list(["diff", "--name-only", "-z", "--no-renames", head, &sha, "--"]).await?.len();
    let step = Step {
        from: Some(head.to_owned()),
        to: Some(sha.clone()),
        taken,
        ends_merge: true,
        ..Step::default()
    };
    apply::apply(session, &step, Action::GitCommitted, &json!({"commit": sha, "merged": theirs})).await?;
    Ok(Committed { sha, files })
}

/// What became of the conflicts since the merge began.
#[derive(Debug, Default)]
struct Decided {
    /// Those that nobody has decided on.
    open: Vec<String>,
    /// Files of theirs for which a folder of ours has made room.
    given_way: Vec<(String, Version)>,
}

/// Each file was at its path when the merge began, or was brought there, so that one that is gone was decided on by whoever removed
/// it; one that is there, by whoever saved it since. Where we have a folder, its files stand for it.
async fn decided(session: &Session, merge: &Merge, mine: &Paths) -> Outcome<Decided> {
    let (files, begun) = (session.tree.files.clone(), session.git.folder().join("MERGE_HEAD"));
    let with_folder = |(path, [_, _, theirs]): (&String, &[Option<Version>; 3])| {
        (path.clone(), theirs.clone(), mine.inside(path).cloned().collect::<Vec<_>>())
    };
    let conflicts: Vec<_> = merge.conflicts.iter().map(with_folder).collect();
    on_thread(move || {
        let begun = begun.metadata()?.modified()?;
        let is_untouched = |path: &str| {
            let saved = files.join(path).symlink_metadata().and_then(|metadata| metadata.modified());
            saved.is_ok_and(|saved| saved <= begun)
        };
        let mut decided = Decided::default();
        for (path, theirs, folder) in conflicts {
            let is_open = if folder.is_empty() {
                is_untouched(&path)
            } else {
                folder.iter().all(|path| is_untouched(path))
            };
            if is_open {
                decided.open.push(path);
            } else if let Some(theirs) = theirs
                && !folder.is_empty()
                && apply::is_free(&files.join(&path))?
            {
                decided.given_way.push((path, theirs));
            }
        }
        Ok(decided)
    })
    .await
}

/// Makes a commit that no branch has yet.
pub(super) async fn write_commit(git: &Git, tree: &str, parents: &[&str], message: &str) -> Outcome<String> {
    let mut arguments = vec!["commit-tree", "--no-gpg-sign"];
    for parent in parents {
        arguments.extend(["-p", parent]);
    }
    arguments.extend(["-F", "-", tree]);
    git.call(arguments).input(format!("{}\n", message.replace('\0', ""))).text().await
}
