//! Commits that are taken back before anybody else has them. Files that were changed since and not committed stay changed.

use serde_json::json;

use super::apply::{self, Step};
use super::names::CommitName;
use super::session::Session;
use super::{Commit, Failed, Outcome, look};
use crate::audit::Action;
use crate::{OrgScope, Platform};

/// Commits that one operation takes back at most.
const MAX_COMMITS: i64 = 1_000;

/// What was taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discarded {
    /// The commits, the newest first.
    pub commits: Vec<Commit>,
    /// The latest commit now.
    pub head: String,
}

/// Takes back all commits that the server does not have, as far as was seen at the last fetch or push.
///
/// # Errors
/// [`Failed::Said`] when there are none, or uncommitted changes are in the way.
pub async fn unpushed(platform: &Platform, scope: &OrgScope) -> Outcome<Discarded> {
    let session = Session::begin(platform, scope).await?;
    session.refuse_while_merging().await?;
    let Some(theirs) = session.git.commit(&session.branch.tracking()).await? else {
        return Err(Failed::said("nothing was pushed yet, so that nothing would be left"));
    };
    let head = head(&session).await?;
    // What both have; behind of it the server may be ahead.
    let base = session.git.ask(["merge-base", &head, &theirs]).await?;
    back_to(&session, head, base).await
}

/// Takes back a commit and those after it.
///
/// # Errors
/// [`Failed::Said`] when it is not one of ours that was not pushed, or uncommitted changes are in the way.
pub async fn commit(platform: &Platform, scope: &OrgScope, name: &CommitName) -> Outcome<Discarded> {
    let session = Session::begin(platform, scope).await?;
    session.refuse_while_merging().await?;
    let head = head(&session).await?;
    let Some(wanted) = session.git.commit(name.as_str()).await? else {
        return Err(Failed::said("there is no such commit"));
    };
    let is_below = |answer: super::program::Answer| answer.code == 0;
    if !is_below(session.git.call(["merge-base", "--is-ancestor", &wanted, &head]).run().await?) {
        return Err(Failed::said("the commit is not on this branch"));
    }
    if let Some(theirs) = session.git.commit(&session.branch.tracking()).await?
        && is_below(session.git.call(["merge-base", "--is-ancestor", &wanted, &theirs]).run().await?)
    {
        return Err(Failed::said("the commit was pushed already; others may have it"));
    }
    let Some(parent) = session.git.commit(&format!("{wanted}^")).await? else {
        return Err(Failed::said("it is the first commit, so that nothing would be left"));
    };
    back_to(&session, head, parent).await
}

async fn head(session: &Session) -> Outcome<String> {
    session.git.commit("HEAD").await?.ok_or_else(|| Failed::said("the repository has no commit yet"))
}

async fn back_to(session: &Session, head: String, target: String) -> Outcome<Discarded> {
    let range = format!("{target}..{head}");
    let commits = look::log(&session.git, &session.branch, &range, MAX_COMMITS, 0).await?;
    if commits.is_empty() {
        return Err(Failed::said("there is no commit to discard"));
    }
    let names: Vec<&str> = commits.iter().map(|commit| commit.sha.as_str()).collect();
    let details = json!({"commits": names, "head": target});
    let step = Step { from: Some(head), to: Some(target.clone()), ..Step::default() };
    apply::apply(session, &step, Action::GitCommitsDiscarded, &details).await?;
    Ok(Discarded { commits, head: target })
}
