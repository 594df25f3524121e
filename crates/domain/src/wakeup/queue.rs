//! The queues of work, by name. What travels through them is in the module above, how it does in `rabbit`.

use std::str::FromStr;

/// A queue of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Queue {
    /// Wake-ups of executions.
    Executions,
    /// Git jobs.
    GitSync,
    /// Package builds.
    PackagesInstall,
}

impl Queue {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Executions, Self::GitSync, Self::PackagesInstall];

    /// The name of the queue, without the prefix of an installation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Executions => "workflow.executions",
            Self::GitSync => "git.sync",
            Self::PackagesInstall => "packages.install",
        }
    }
}

impl FromStr for Queue {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|queue| queue.as_str() == name).ok_or(())
    }
}
