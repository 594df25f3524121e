//! Work that covers whatever was done before it began, so that all who ask for it meanwhile share one more turn.

use std::sync::atomic::{AtomicU64, Ordering};

use domain::Result;
use tokio::sync::Mutex;

/// One kind of such work.
#[derive(Debug, Default)]
pub(crate) struct Coalesced {
    asked: AtomicU64,
    /// How many of those who asked are covered by the last turn that ended well.
    covered: Mutex<u64>,
}

impl Coalesced {
    /// Returns once `work` has ended that began after this call, whoever did it.
    ///
    /// # Errors
    /// Those of `work`, for whoever carried it out; who waits next tries by themselves.
    pub(crate) async fn run(&self, work: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
        let mine = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut covered = self.covered.lock().await;
        if *covered >= mine {
            return Ok(());
        }
        let covers = self.asked.load(Ordering::SeqCst);
        work().await?;
        *covered = covers;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn who_asks_meanwhile_shares_one_more_turn_and_none_that_began_before() {
        let (work, turns) = (Coalesced::default(), AtomicU64::new(0));
        let turn = async || {
            turns.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(5)).await;
            Ok(())
        };
        let first = work.run(turn);
        let meanwhile = async {
            // The first has begun by now: the futures of a join are polled in order.
            futures::future::try_join_all((0..9).map(|_| work.run(turn))).await
        };
        let (first, rest) = futures::join!(first, meanwhile);
        first.and(rest.map(drop)).expect("all end well");
        assert_eq!(turns.load(Ordering::SeqCst), 2);
        work.run(turn).await.expect("ends well");
        assert_eq!(turns.load(Ordering::SeqCst), 3, "nothing covers what is asked later");
    }
}
