//! The template in use: the indexer makes one after the other, and whoever runs something waits here for one that gives
//! processes and has the packages they need.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use runner::Template;
use tokio::sync::{mpsc, watch};

/// How long a run waits until this machine has a template with the packages it needs, before it is given back.
const PATIENCE: Duration = Duration::from_secs(15);

/// Asks the indexer to look at once. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct LookAgain(mpsc::Sender<()>);

/// The template in use; none until the first one is ready.
#[derive(Debug)]
pub(crate) struct Templates {
    current: watch::Receiver<Option<Arc<Template>>>,
    look_again: LookAgain,
    /// The newest packages that were asked for.
    wanted: AtomicI64,
}

impl LookAgain {
    pub(crate) fn through(told: mpsc::Sender<()>) -> Self {
        Self(told)
    }

    pub(crate) fn now(&self) {
        // One pending wish says all.
        let _ = self.0.try_send(());
    }
}

impl Templates {
    pub(crate) fn new(current: watch::Receiver<Option<Arc<Template>>>, look_again: LookAgain) -> Self {
        Self { current, look_again, wanted: AtomicI64::new(0) }
    }

    /// The template with the packages of this version or a later one; `None` when this machine cannot make it in time.
    pub(crate) async fn with_packages(&self, version: i64) -> Option<Arc<Template>> {
        {
            let current = self.current.borrow();
            if is_usable(&current, version) {
                return current.clone();
            }
        }
        self.wanted.fetch_max(version, Ordering::Relaxed);
        self.look_again.now();
        let mut current = self.current.clone();
        let ready = current.wait_for(|template| is_usable(template, version));
        tokio::time::timeout(PATIENCE, ready).await.ok()?.ok()?.clone()
    }

    /// Waits until there is one with the newest packages that were asked for; `false` when there will be none.
    pub(crate) async fn ready(&self) -> bool {
        let wanted = || self.wanted.load(Ordering::Relaxed);
        if is_usable(&self.current.borrow(), wanted()) {
            return true;
        }
        // The indexer looks seldom at one that nobody misses.
        self.look_again.now();
        let mut current = self.current.clone();
        current.wait_for(|template| is_usable(template, wanted())).await.is_ok()
    }
}

/// Whether it gives processes with the packages of this version or a later one.
fn is_usable(template: &Option<Arc<Template>>, version: i64) -> bool {
    template.as_ref().is_some_and(|template| template.environment_version() >= version && !template.is_gone())
}
