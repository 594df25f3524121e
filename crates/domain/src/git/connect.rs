//! Connecting the workspace with a repository, whose files take the place of those in use; looking before that; letting it go.
//!
//! The invariant: a job that does it may be killed anywhere and repeated; the old workspace stays as it was, and where it was.

use std::path::Path;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::merge::check_files;
use super::names::{Address, Branch, Server};
use super::program::Git;
use super::remote::Remote;
use super::turn::Turn;
use super::{Failed, Outcome, SCOPE, disk, on_thread, session, store, tame};
use crate::audit::{self, Action};
use crate::background_jobs::{Claimed, work};
use crate::workspace_files::Files;
use crate::workspace_trees::{Building, Look, Tree};
use crate::{OrgScope, Platform, Result};

const TRIES: usize = 5;
/// Longest configuration of somebody's own repository that is read.
const MAX_CONFIG: u64 = 64 * 1024;

/// What is to be connected; a job's payload, so without the token.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Wanted {
    /// Address of the repository.
    pub repo_url: String,
    /// Its branch.
    pub branch: String,
}

/// What the workspace is, before something takes its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Analysis {
    /// Whether and of what repository it is.
    pub standing: Standing,
    /// Files in it.
    pub files: usize,
    /// The repository that it has.
    pub remote: Option<String>,
}

/// What the workspace is, compared with a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// No files.
    Empty,
    /// Files and no repository.
    FilesOnly,
    /// That repository.
    Same,
    /// Another one.
    Different,
}

/// What there is now.
///
/// # Errors
/// [`crate::Error::Unavailable`] when the workspace or PostgreSQL is away.
pub async fn analyze(platform: &Platform, scope: &OrgScope, address: &Address) -> Result<Analysis> {
    let remote = existing_remote(platform, scope).await?;
    let root = platform.settings.workspace_path.clone();
    let found = tokio::task::spawn_blocking(move || Files::open_workspace(&root)?.find(|_| true));
    let files = found.await.map_err(crate::Error::internal)??.len();
    let same = |url: &str| {
        let plain = |url: &str| url.trim_end_matches('/').trim_end_matches(".git").to_lowercase();
        plain(url) == plain(address.url().as_str())
    };
    let standing = match &remote {
        Some(url) if same(url) => Standing::Same,
        Some(_) => Standing::Different,
        None if files == 0 => Standing::Empty,
        None => Standing::FilesOnly,
    };
    Ok(Analysis { standing, files, remote })
}

/// The repository that the workspace has: the connected one, or the one that somebody's own `.git` names.
///
/// # Errors
/// As [`analyze`].
pub async fn existing_remote(platform: &Platform, scope: &OrgScope) -> Result<Option<String>> {
    let mut tx = platform.db.begin(&scope.clone().widened()).await?;
    let connection = store::find(&mut tx).await?;
    drop(tx);
    if connection.repo_url.is_some() {
        return Ok(connection.repo_url);
    }
    let root = platform.settings.workspace_path.clone();
    let read = tokio::task::spawn_blocking(move || own_remote(&Tree::current(&root).files));
    read.await.map_err(crate::Error::internal)
}

/// The address in the configuration of somebody's own repository; read as text, since whatever else is in it may be a trap.
fn own_remote(files: &Path) -> Option<String> {
    use std::io::Read;

    let folder = cap_std::fs::Dir::open_ambient_dir(files, cap_std::ambient_authority()).ok()?;
    let config =
        folder.open(".git/config").ok().filter(|file| file.metadata().is_ok_and(|found| found.is_file()))?;
    let mut text = String::new();
    config.take(MAX_CONFIG).read_to_string(&mut text).ok()?;
    let mut is_origin = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            is_origin = line == "[remote \"origin\"]";
        } else if is_origin
            && let Some((key, value)) = line.split_once('=')
            && key.trim() == "url"
        {
            return shown(value.trim());
        }
    }
    None
}

/// An address without what may be a secret in it.
fn shown(url: &str) -> Option<String> {
    let mut parsed = url::Url::parse(url).ok()?;
    parsed.set_username("").ok()?;
    parsed.set_password(None).ok()?;
    parsed.set_query(None);
    Some(parsed.into())
}

/// Puts the files of a repository in the place of the workspace. An empty repository gets the workspace instead, to be
/// committed. `job` is the job this is done for.
///
/// # Errors
/// [`Failed::Said`] when the repository cannot be had; then nothing has changed.
pub async fn connect(
    platform: &Platform,
    scope: &OrgScope,
    wanted: &Wanted,
    job: Option<&Claimed>,
    tell: impl Fn(String) + Send + Sync,
) -> Outcome<()> {
    Box::pin(connect_by(platform, scope, wanted, None, job, tell)).await
}

/// The same at once, with a token that is kept in place of the saved one when the repository is connected.
///
/// # Errors
/// As [`connect`]; whatever fails, the saved token stays as it is.
pub async fn connect_with(
    platform: &Platform,
    scope: &OrgScope,
    wanted: &Wanted,
    token: SecretString,
) -> Outcome<()> {
    Box::pin(connect_by(platform, scope, wanted, Some(token), None, |_| {})).await
}

async fn connect_by(
    platform: &Platform,
    scope: &OrgScope,
    wanted: &Wanted,
    given: Option<SecretString>,
    job: Option<&Claimed>,
    tell: impl Fn(String) + Send + Sync,
) -> Outcome<()> {
    let address = Address::parse("/repo_url", &wanted.repo_url, &platform.settings)?;
    let branch = Branch::parse("/branch", &wanted.branch)?;
    let scope = scope.clone().widened();
    let turn = Turn::take(platform, &scope).await?;
    let mut tx = platform.db.begin(&scope).await?;
    let connection = store::find(&mut tx).await?;
    if let Some(job) = job
        && connection.disconnected_at.is_some_and(|at| at > job.created_at)
    {
        return Err(Failed::said(
            "the repository was disconnected after this was asked for; ask again to connect it",
        ));
    }
    let server = address.server();
    // A folder of this machine asks for none.
    let new_token = given.zip(server.clone());
    let token = match &new_token {
        Some((token, _)) => Some(token.clone()),
        None => store::token(&mut tx, platform, &connection, server.as_ref()).await?,
    };
    drop(tx);
    let is_there = connection.repo_url.as_deref() == Some(address.url().as_str())
        && connection.branch.as_deref() == Some(branch.as_str());
    if let Some(job) = job
        && is_there
        && connection.connected_at.is_some_and(|at| at > job.created_at)
    {
        // An attempt before this one got as far and then lost its worker.
        return Ok(());
    }
    let connecting = Connecting { platform, scope, turn, address, branch, new_token };
    tell("Looking at the repository".into());
    for _ in 0..TRIES {
        if connecting.once(token.clone(), job, &tell).await? {
            return Ok(());
        }
        tell("Files were saved meanwhile; once more".into());
    }
    Err(Failed::said("files of the workspace are being saved all the time; try again"))
}

/// Lets the repository go, with its token; the files stay as they are. What was asked for before connects none any more.
///
/// # Errors
/// [`Failed::Said`] while another operation is under way; then nothing has changed.
pub async fn disconnect(platform: &Platform, scope: &OrgScope) -> Outcome<()> {
    let scope = scope.clone().widened();
    let turn = Turn::take(platform, &scope).await?;
    let mut tx = platform.db.begin(&scope).await?;
    turn.hold(&mut tx).await?;
    store::disconnect(&mut tx).await?;
    tx.commit().await?;
    Ok(())
}

struct Connecting<'a> {
    platform: &'a Platform,
    scope: OrgScope,
    turn: Turn,
    address: Address,
    branch: Branch,
    /// To be kept for this server when it has connected.
    new_token: Option<(SecretString, Server)>,
}

impl Connecting<'_> {
    /// `false`: somebody saved files meanwhile.
    async fn once(
        &self,
        token: Option<SecretString>,
        job: Option<&Claimed>,
        tell: &(impl Fn(String) + Send + Sync),
    ) -> Outcome<bool> {
        let root = self.platform.settings.workspace_path.clone();
        let old = Tree::current(&root);
        let head = self.branch.local();
        let building = on_thread(move || {
            let building = Building::begin(&root)?;
            tame::create(&building.tree().git, &head)?;
            Ok(building)
        })
        .await?;
        let remote = Remote::resolve(&self.platform.outbound, &self.address, token).await?;
        let git = Git::open(&building.tree(), Some(&self.turn)).await?;
        let (building, seen) = self.fill(&git, &remote, building, &old, tell).await?;
        let replaced = old.clone();
        let ready = on_thread(move || {
            building.finish()?;
            building.lock(&replaced, seen.as_ref())
        })
        .await?;
        let Some(ready) = ready else { return Ok(false) };
        let mut hold = self.platform.db.begin_system(&SCOPE).await?;
        if let Some(job) = job
            && !work::hold(&mut hold, job).await?
        {
            return Err(Failed::said("another worker has taken over"));
        }
        let mut tx = self.platform.db.begin(&self.scope).await?;
        self.turn.hold(&mut tx).await?;
        if let Some((token, server)) = &self.new_token {
            store::set_token(&mut tx, &self.platform.vault, token, server).await?;
        }
        store::set_connected(&mut tx, &self.address, &self.branch, &old.place()).await?;
        let details = json!({"repo_url": self.address.url().as_str(), "branch": self.branch.as_str()});
        audit::record(&mut tx, Action::GitConnected, "git", &details).await?;
        ready.switch().map_err(disk)?;
        tx.commit().await?;
        Ok(true)
    }

    async fn fill(
        &self,
        git: &Git,
        remote: &Remote,
        building: Building,
        old: &Tree,
        tell: &(impl Fn(String) + Send + Sync),
    ) -> Outcome<(Building, Option<Look>)> {
        tell("Fetching".into());
        if let Some(commit) = session::fetch(git, remote, &self.branch).await? {
            check_files(git, &commit).await?;
            git.ask(["update-ref", &self.branch.local(), &commit]).await?;
            tell("Writing the files".into());
            git.ask(["read-tree", "-m", "-u", "HEAD"]).await?;
            return Ok((building, None));
        }
        let heads = git.call(["ls-remote", "--heads", "--", &remote.argument()]).at(remote).text().await?;
        if !heads.is_empty() {
            return Err(Failed::said(format!("the repository has no branch {}", self.branch.as_str())));
        }
        tell("The repository is empty; the workspace stays as it is".into());
        let old = old.clone();
        on_thread(move || {
            let seen = old.look()?;
            building.copy_files(&old)?;
            Ok((building, Some(seen)))
        })
        .await
    }
}
