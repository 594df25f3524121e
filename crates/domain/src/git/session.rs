//! One operation on the connected repository, alone over all replicas.

use super::names::{Address, Branch};
use super::program::Git;
use super::remote::Remote;
use super::store::{self, Connection};
use super::turn::Turn;
use super::{Failed, Outcome};
use crate::workspace_trees::Tree;
use crate::{OrgScope, OrgTx, Platform};

const NONE: &str = "no repository is connected";

/// An operation under way.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) platform: Platform,
    pub(super) scope: OrgScope,
    pub(super) branch: Branch,
    pub(super) tree: Tree,
    pub(super) git: Git,
    pub(super) connection: Connection,
    pub(super) turn: Turn,
    address: Address,
}

impl Session {
    /// Begins an operation on behalf of the scope's actor.
    pub(super) async fn begin(platform: &Platform, scope: &OrgScope) -> Outcome<Self> {
        let scope = scope.clone().widened();
        let turn = Turn::take(platform, &scope).await?;
        let mut tx = platform.db.begin(&scope).await?;
        let connection = store::find(&mut tx).await?;
        drop(tx);
        let (Some(url), Some(branch)) = (&connection.repo_url, &connection.branch) else {
            return Err(Failed::said(NONE));
        };
        let tree = Tree::current(&platform.settings.workspace_path);
        if !tree.has_repository() {
            return Err(Failed::said("the workspace has lost its repository; connect it again"));
        }
        Ok(Self {
            address: Address::parse("/repo_url", url, &platform.settings)?,
            branch: Branch::parse("/branch", branch)?,
            git: Git::open(&tree, Some(&turn)).await?.of(scope.actor()),
            platform: platform.clone(),
            scope,
            tree,
            connection,
            turn,
        })
    }

    /// The repository on its server.
    pub(super) async fn remote(&self) -> Outcome<Remote> {
        let mut tx = self.platform.db.begin(&self.scope).await?;
        let server = self.address.server();
        let token = store::token(&mut tx, &self.platform, &self.connection, server.as_ref()).await?;
        drop(tx);
        Remote::resolve(&self.platform.outbound, &self.address, token).await
    }

    /// A transaction in which the operation is written down. As long as it is open, nobody else has the turn.
    pub(super) async fn record(&self) -> Outcome<OrgTx> {
        let mut tx = self.platform.db.begin(&self.scope).await?;
        self.turn.hold(&mut tx).await?;
        Ok(tx)
    }

    /// What is to be told of a merge in progress; `None`: there is none.
    pub(super) async fn merging(&self) -> Outcome<Option<String>> {
        self.git.commit("MERGE_HEAD").await
    }

    /// The same as a refusal.
    pub(super) async fn refuse_while_merging(&self) -> Outcome<()> {
        match self.merging().await? {
            None => Ok(()),
            Some(_) => {
                Err(Failed::said("a merge is in progress; resolve its conflicts and commit, or abort it"))
            }
        }
    }

    /// Fetches the branch; the commit it is at, `None` when the server does not have it yet.
    pub(super) async fn fetch(&self) -> Outcome<Option<String>> {
        let remote = self.remote().await?;
        fetch(&self.git, &remote, &self.branch).await
    }
}

/// Fetches a branch; the commit it is at, `None` when the server does not have it.
pub(super) async fn fetch(git: &Git, remote: &Remote, branch: &Branch) -> Outcome<Option<String>> {
    let there = git
        .call(["ls-remote", "--heads", "--", &remote.argument(), &branch.local()])
        .at(remote)
        .most(64 * 1024)
        .text()
        .await?;
    let wanted = branch.local();
    if !there.lines().any(|line| line.split('\t').nth(1) == Some(wanted.as_str())) {
        return Ok(None);
    }
    let refspec = format!("+{}:{}", branch.local(), branch.tracking());
    git.call([
        "fetch",
        "--quiet",
        "--no-tags",
        "--no-recurse-submodules",
        "--no-write-fetch-head",
        "--no-auto-maintenance",
        "--",
        &remote.argument(),
        &refspec,
    ])
    .at(remote)
    .done()
    .await?;
    git.commit(&branch.tracking()).await
}
