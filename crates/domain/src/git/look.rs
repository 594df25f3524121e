//! What the repository looks like: branch, changed files, conflicts, history. Nothing here changes anything.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use chrono::{DateTime, Utc};

use super::names::Branch;
use super::paths::{Paths, upwards};
use super::program::{Git, fields};
use super::store::{self, Connection};
use super::{Commit, Conflict, Failed, Outcome};
use crate::workspace_trees::Tree;
use crate::{OrgScope, Platform};

/// Commits that the status shows.
const RECENT: i64 = 20;
/// Changed files that one look gives.
const MAX_CHANGES: usize = 2_000;
/// Conflicts that are shown with their contents.
const MAX_CONFLICTS: usize = 200;
/// Longest content of a conflict.
const MAX_CONTENT: u64 = 1024 * 1024;
/// The mode of what is a repository within.
const SUBMODULE: &str = "160000";

/// How a file differs from the last commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Its content.
    Modified,
    /// It is new and will be committed.
    Added,
    /// It is gone.
    Deleted,
    /// git does not know it yet.
    Untracked,
    /// A merge in progress could not decide.
    Conflicted,
}

/// A changed file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Where it is.
    pub path: String,
    /// How.
    pub change: Change,
    /// Lines that are new, in text that git knows.
    pub additions: Option<i64>,
    /// Lines that are gone.
    pub deletions: Option<i64>,
}

/// All of it.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// Whether the workspace has the repository.
    pub is_initialized: bool,
    /// What is connected.
    pub connection: Connection,
    /// The branch.
    pub branch: Option<String>,
    /// Changed files.
    pub changes: Vec<Changed>,
    /// Conflicts of a merge in progress.
    pub conflicts: Vec<Conflict>,
    /// Whether a merge is in progress.
    pub is_merging: bool,
    /// Commits that the server does not have.
    pub ahead: i64,
    /// Commits of the server that are not here.
    pub behind: i64,
    /// The latest commits.
    pub history: Vec<Commit>,
}

/// A part of the history.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Commits, the newest first.
    pub commits: Vec<Commit>,
    /// How many there are.
    pub total: i64,
}

/// A file as one side has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    /// Kind of the file, as git writes it.
    pub(super) mode: String,
    /// Its content.
    pub(super) blob: String,
}

/// A merge, tried out.
#[derive(Debug, Clone)]
pub(super) struct Merge {
    /// The files of both; with marks where both have changed the same.
    pub(super) result: String,
    /// Paths of the conflicts, each with base, ours and theirs.
    pub(super) conflicts: BTreeMap<String, [Option<Version>; 3]>,
    /// Paths of `result` that neither side has: git puts a file there in whose place the other side has a folder or a link.
    pub(super) invented: BTreeSet<String>,
}

impl Merge {
    /// Whether a file belongs to a conflict: it is at its path, or in the folder that is there.
    pub(super) fn concerns(&self, path: &str) -> bool {
        upwards(path).any(|path| self.conflicts.contains_key(path))
    }

    /// What the workspace gets when the merge begins, so that there is something to decide on: the files of conflicts that are
    /// not at their path in `mine`, because they were deleted or have another name here.
    pub(super) fn brought(&self, mine: &Paths) -> Vec<(String, Version)> {
        let missing = self.conflicts.iter().filter(|(path, _)| !mine.meet(path));
        let version = |(path, [_, ours, theirs]): (&String, &[Option<Version>; 3])| {
            let version = ours.as_ref().or(theirs.as_ref())?;
            // A repository within comes empty, whatever was decided.
            (version.mode != SUBMODULE).then(|| (path.clone(), version.clone()))
        };
        missing.filter_map(version).collect()
    }
}

/// The repository as it is now, as far as this machine knows.
///
/// # Errors
/// [`Failed`].
pub async fn status(platform: &Platform, scope: &OrgScope) -> Outcome<Status> {
    let (connection, found) = open(platform, scope).await?;
    let Some((git, branch)) = found else { return Ok(Status { connection, ..Status::default() }) };
    let merging = git.commit("MERGE_HEAD").await?;
    let head = git.commit("HEAD").await?;
    let mut conflicts = Vec::new();
    let mut paths = HashSet::new();
    if let (Some(head), Some(merging)) = (&head, &merging) {
        let merge = try_merge(&git, head, merging).await?;
        paths = merge.conflicts.keys().cloned().collect();
        conflicts = contents(&git, &merge).await?;
    }
    let mut changes = changes(&git, head.is_some()).await?;
    for change in &mut changes {
        if paths.remove(&change.path) {
            change.change = Change::Conflicted;
        }
    }
    let unsaved = paths.into_iter().map(|path| Changed {
        path,
        change: Change::Conflicted,
        additions: None,
        deletions: None,
    });
    changes.extend(unsaved);
    changes.sort_by(|a, b| a.path.cmp(&b.path));
    let (ahead, behind) = distance(&git, &branch).await?;
    Ok(Status {
        is_initialized: true,
        branch: Some(branch.as_str().to_owned()),
        is_merging: merging.is_some(),
        history: log(&git, &branch, "HEAD", RECENT, 0).await?,
        connection,
        changes,
        conflicts,
        ahead,
        behind,
    })
}

/// Commits of the branch, the newest first; nothing when there is no repository.
///
/// # Errors
/// [`Failed`].
pub async fn history(platform: &Platform, scope: &OrgScope, limit: i64, offset: i64) -> Outcome<History> {
    let (_, found) = open(platform, scope).await?;
    let Some((git, branch)) = found else { return Ok(History::default()) };
    if git.commit("HEAD").await?.is_none() {
        return Ok(History::default());
    }
    let total = git.ask(["rev-list", "--count", "HEAD"]).await?.parse().unwrap_or_default();
    Ok(History { commits: log(&git, &branch, "HEAD", limit, offset).await?, total })
}

/// The conflicts of a merge in progress.
///
/// # Errors
/// [`Failed`].
pub async fn conflicts(platform: &Platform, scope: &OrgScope) -> Outcome<Vec<Conflict>> {
    let (_, found) = open(platform, scope).await?;
    let Some((git, _)) = found else { return Ok(Vec::new()) };
    match (git.commit("HEAD").await?, git.commit("MERGE_HEAD").await?) {
        (Some(head), Some(merging)) => contents(&git, &try_merge(&git, &head, &merging).await?).await,
        _ => Ok(Vec::new()),
    }
}

type Found = Option<(Git, Branch)>;

async fn open(platform: &Platform, scope: &OrgScope) -> Outcome<(Connection, Found)> {
    let mut tx = platform.db.begin(&scope.clone().widened()).await?;
    let connection = store::find(&mut tx).await?;
    drop(tx);
    let tree = Tree::current(&platform.settings.workspace_path);
    let Some(branch) = connection.branch.clone().filter(|_| tree.has_repository()) else {
        return Ok((connection, None));
    };
    let git = Git::open(&tree, None).await?;
    let branch = Branch::parse("/branch", &branch)?;
    Ok((connection, Some((git, branch))))
}

/// Files that differ from the last commit. Folders that are repositories themselves are passed by.
async fn changes(git: &Git, has_commits: bool) -> Outcome<Vec<Changed>> {
    let output = fields(&differing(git).await?);
    let mut lines = BTreeMap::new();
    if has_commits {
        let options = ["--no-ext-diff", "--no-textconv", "--no-renames", "--ignore-submodules=all"];
        let arguments = ["diff", "--numstat", "-z"].into_iter().chain(options).chain(["HEAD", "--"]);
        for line in git.list(arguments).await? {
            let mut parts = line.splitn(3, '\t');
            if let (Some(added), Some(deleted), Some(path)) = (parts.next(), parts.next(), parts.next()) {
                lines.insert(path.to_owned(), (added.parse::<i64>().ok(), deleted.parse::<i64>().ok()));
            }
        }
    }
    let parse = |line: String| {
        let (state, path) = line.split_at_checked(3)?;
        if path.ends_with('/') {
            return None;
        }
        let change = match state.trim() {
            "??" => Change::Untracked,
            state if state.contains('D') => Change::Deleted,
            state if state.contains('A') => Change::Added,
            _ => Change::Modified,
        };
        let (additions, deletions) = lines.get(path).copied().unwrap_or_default();
        Some(Changed { path: path.to_owned(), change, additions, deletions })
    };
    Ok(output.into_iter().filter_map(parse).take(MAX_CHANGES).collect())
}

/// Paths of all that differs from the last commit, without bound.
pub(super) async fn dirty(git: &Git) -> Outcome<Vec<String>> {
    let output = differing(git).await?;
    Ok(lines(&output).map(|(_, path)| String::from_utf8_lossy(path).into_owned()).collect())
}

/// The same as git has them, to be committed. A name that is not UTF-8 may go, as it does when its file is renamed, but not come.
pub(super) async fn to_commit(git: &Git) -> Outcome<Vec<Vec<u8>>> {
    let output = differing(git).await?;
    let is_refused =
        |(state, path): &(&[u8], &[u8])| !state.contains(&b'D') && std::str::from_utf8(path).is_err();
    if let Some((_, path)) = lines(&output).find(is_refused) {
        let name = String::from_utf8_lossy(path);
        return Err(Failed::said(format!("the workspace has {name}, a name that is not UTF-8; rename it")));
    }
    Ok(lines(&output).map(|(_, path)| path.to_vec()).collect())
}

/// State and path of all that differs. Folders that are repositories themselves are passed by.
fn lines(output: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let lines = output.split(|byte| *byte == 0).filter_map(|line| line.split_at_checked(3));
    lines.filter(|(_, path)| !path.ends_with(b"/"))
}

/// What differs from the last commit, each ended by NUL: two letters for its state, a blank, its path.
async fn differing(git: &Git) -> Outcome<Vec<u8>> {
    let options = ["--untracked-files=all", "--ignore-submodules=all", "--no-renames"];
    let call = git.call(["status", "--porcelain=v1", "-z"].into_iter().chain(options));
    Ok(call.done().await?.output)
}

/// How many commits only we have, and only the server has.
async fn distance(git: &Git, branch: &Branch) -> Outcome<(i64, i64)> {
    let number = |text: String| text.parse::<i64>().unwrap_or_default();
    match (git.commit("HEAD").await?, git.commit(&branch.tracking()).await?) {
        (Some(ours), Some(theirs)) => {
            let range = format!("{ours}...{theirs}");
            let both = git.ask(["rev-list", "--left-right", "--count", &range]).await?;
            let mut both = both.split_whitespace().map(|text| text.parse::<i64>().unwrap_or_default());
            Ok((both.next().unwrap_or_default(), both.next().unwrap_or_default()))
        }
        (Some(ours), None) => Ok((number(git.ask(["rev-list", "--count", &ours]).await?), 0)),
        (None, Some(theirs)) => Ok((0, number(git.ask(["rev-list", "--count", &theirs]).await?))),
        (None, None) => Ok((0, 0)),
    }
}

/// Commits of `range`, the newest first.
pub(super) async fn log(
    git: &Git,
    branch: &Branch,
    range: &str,
    limit: i64,
    offset: i64,
) -> Outcome<Vec<Commit>> {
    if git.commit("HEAD").await?.is_none() {
        return Ok(Vec::new());
    }
    let unpushed: HashSet<String> = match git.commit(&branch.tracking()).await? {
        Some(theirs) => {
            let range = format!("{theirs}..HEAD");
            git.ask(["rev-list", "--max-count=100000", &range])
                .await?
                .lines()
                .map(ToOwned::to_owned)
                .collect()
        }
        None => git
            .ask(["rev-list", "--max-count=100000", "HEAD"])
            .await?
            .lines()
            .map(ToOwned::to_owned)
            .collect(),
    };
    let (limit, skip) = (format!("--max-count={limit}"), format!("--skip={offset}"));
    let output = git
        .call([
            "log",
            "-z",
            "--no-show-signature",
            "--format=%H%x1f%at%x1f%an%x1f%B",
            &limit,
            &skip,
            range,
            "--",
        ])
        .done()
        .await?;
    let parse = |record: String| {
        let mut parts = record.splitn(4, '\u{1f}');
        let sha = parts.next()?.to_owned();
        let seconds = parts.next()?.parse().unwrap_or_default();
        Some(Commit {
            is_pushed: !unpushed.contains(&sha),
            timestamp: DateTime::<Utc>::from_timestamp(seconds, 0).unwrap_or_default(),
            author: parts.next()?.to_owned(),
            message: parts.next().unwrap_or_default().trim_end().to_owned(),
            sha,
        })
    };
    Ok(fields(&output.output).into_iter().filter_map(parse).collect())
}

/// What a merge of two commits would give. No file changes.
pub(super) async fn try_merge(git: &Git, ours: &str, theirs: &str) -> Outcome<Merge> {
    let answer = git.call(["merge-tree", "--write-tree", "-z", "--no-messages", ours, theirs]).run().await?;
    if !matches!(answer.code, 0 | 1) {
        return Err(answer.failed(git, None));
    }
    let mut parts = fields(&answer.output).into_iter();
    let result = parts.next().ok_or_else(|| Failed::said("git gave no result of the merge"))?;
    let mut merge = Merge { result, conflicts: BTreeMap::new(), invented: BTreeSet::new() };
    for part in parts {
        let Some((facts, path)) = part.split_once('\t') else { continue };
        let mut words = facts.split(' ');
        let (Some(mode), Some(blob), Some(stage)) =
            (words.next(), words.next(), words.next().and_then(|n| n.parse::<usize>().ok()))
        else {
            continue;
        };
        let real = real_path(path, [ours, theirs]);
        if real != path {
            merge.invented.insert(path.to_owned());
        }
        let sides = merge.conflicts.entry(real.to_owned()).or_default();
        if let Some(place) = sides.get_mut(stage.wrapping_sub(1)) {
            *place = Some(Version { mode: mode.to_owned(), blob: blob.to_owned() });
        }
    }
    Ok(merge)
}

/// The path that a file has on its side. Where the other side has a folder or a link, git invents one: the path, `~`, the commit,
/// and a number if somebody has that too.
fn real_path<'a>(path: &'a str, commits: [&str; 2]) -> &'a str {
    let Some((real, rest)) = path.rsplit_once('~') else { return path };
    let commit = rest.split_once('_').map_or(rest, |(commit, _)| commit);
    if commits.contains(&commit) { real } else { path }
}

/// The files of a commit.
pub(super) async fn files(git: &Git, commit: &str) -> Outcome<Paths> {
    Ok(git.list(["ls-tree", "-r", "-z", "--name-only", commit]).await?.into_iter().collect())
}

/// Both sides and the base of each conflict.
pub(super) async fn contents(git: &Git, merge: &Merge) -> Outcome<Vec<Conflict>> {
    let mut found = Vec::new();
    let shown = merge.conflicts.iter().take(MAX_CONFLICTS);
    let blobs: Vec<&String> =
        shown.clone().flat_map(|(_, sides)| sides.iter().flatten()).map(|side| &side.blob).collect();
    let texts = texts(git, &blobs).await?;
    for (path, [base, current, incoming]) in shown {
        let text = |side: &Option<Version>| side.as_ref().and_then(|side| texts.get(&side.blob).cloned());
        found.push(Conflict {
            path: path.clone(),
            current: text(current).unwrap_or_default(),
            incoming: text(incoming).unwrap_or_default(),
            base: text(base),
        });
    }
    Ok(found)
}

/// The contents of blobs, in two calls for all of them.
async fn texts(git: &Git, blobs: &[&String]) -> Outcome<BTreeMap<String, String>> {
    let mut texts = BTreeMap::new();
    if blobs.is_empty() {
        return Ok(texts);
    }
    let ask = |blobs: &[String]| blobs.iter().fold(String::new(), |all, blob| all + blob + "\n");
    let all: Vec<String> = blobs.iter().map(|blob| (*blob).clone()).collect();
    let sizes = git
        .call(["cat-file", "--batch-check=%(objectname) %(objecttype) %(objectsize)"])
        .input(ask(&all))
        .text()
        .await?;
    let mut small = Vec::new();
    for line in sizes.lines() {
        let mut words = line.split(' ');
        let (blob, kind, size) =
            (words.next(), words.next(), words.next().and_then(|n| n.parse::<u64>().ok()));
        match (blob, kind, size) {
            (Some(blob), Some("blob"), Some(size)) if size <= MAX_CONTENT => small.push(blob.to_owned()),
            (Some(blob), ..) => drop(texts.insert(blob.to_owned(), "(too large to show)".to_owned())),
            _ => {}
        }
    }
    let answer = git.call(["cat-file", "--batch"]).input(ask(&small)).done().await?;
    let mut rest = answer.output.as_slice();
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let header = String::from_utf8_lossy(&rest[..end]).into_owned();
        let mut words = header.split(' ');
        let (Some(blob), Some(size)) = (words.next(), words.nth(1).and_then(|n| n.parse::<usize>().ok()))
        else {
            break;
        };
        let content = rest.get(end + 1..end + 1 + size).unwrap_or_default();
        texts.insert(blob.to_owned(), String::from_utf8_lossy(content).into_owned());
        rest = rest.get(end + 2 + size..).unwrap_or_default();
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_git_invents_lead_back_to_the_real_ones() {
        let commits = ["0d24aae5", "65a2337f"];
        let real = |path: &'static str| real_path(path, commits);
        assert_eq!(real("notes~65a2337f"), "notes");
        assert_eq!(real("deep/notes~0d24aae5_0"), "deep/notes");
        assert_eq!(real("old~1~65a2337f_12"), "old~1");
        for own in ["notes", "notes~main", "notes~65a2337f2", "notes~/65a2337f", "65a2337f"] {
            assert_eq!(real(own), own);
        }
    }

    #[test]
    fn a_merge_brings_what_is_not_here_and_is_no_folder() {
        let version = |mode: &str, blob: &str| Some(Version { mode: mode.into(), blob: blob.into() });
        let file = |blob: &str| version("100644", blob);
        let conflicts = [
            ("both", [file("0"), file("1"), file("2")]),
            ("deleted", [file("0"), None, file("2")]),
            ("folder", [None, None, file("2")]),
            ("module", [None, None, version(SUBMODULE, "2")]),
            ("nowhere", [file("0"), None, None]),
            ("renamed", [file("0"), file("1"), file("2")]),
        ];
        let conflicts = conflicts.into_iter().map(|(path, sides)| (path.to_owned(), sides)).collect();
        let merge = Merge { result: String::new(), conflicts, invented: BTreeSet::new() };
        let mine: Paths = ["both", "folder/a"].map(ToOwned::to_owned).into_iter().collect();
        let brought = merge.brought(&mine);
        let brought: Vec<_> = brought.iter().map(|(path, version)| (&**path, &*version.blob)).collect();
        assert_eq!(brought, [("deleted", "2"), ("renamed", "1")]);
        assert!(merge.concerns("folder/a") && merge.concerns("both") && !merge.concerns("bot"));
    }
}
