//! What was begun before its wake-up came (ADR 56): such a wake-up has nothing to say any more.
//!
//! A wake-up is a hint, and so is what is remembered here: it may come to another worker, and then it is forgotten.

use std::collections::HashMap;
use std::time::Duration;

use domain::executions::claim::Claimed;
use domain::id::ExecutionId;
use tokio::time::Instant;

/// For so long a wake-up is expected. Were it longer, that of a retry could be taken for it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Executions of this worker whose first wake-up is on its way.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    begun: HashMap<ExecutionId, Instant>,
}

impl Ahead {
    /// Remembers what was begun.
    pub(crate) fn remember(&mut self, claimed: &[Claimed]) {
        let now = Instant::now();
        self.begun.retain(|_, since| now - *since < PATIENCE);
        self.begun.extend(claimed.iter().map(|claimed| (claimed.id, now)));
    }

    /// Takes note that these wake-ups have come; whether all of them are of executions that were begun. Each comes once.
    pub(crate) fn take(&mut self, wakeups: impl Iterator<Item = ExecutionId>) -> bool {
        let mut were_begun = true;
        for id in wakeups {
            were_begun &= self.begun.remove(&id).is_some_and(|since| since.elapsed() < PATIENCE);
        }
        were_begun
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wakeup_is_expected_once_and_for_a_moment() {
        let ids: Vec<ExecutionId> = (0..4).map(|_| ExecutionId::generate()).collect();
        let now = Instant::now();
        let mut ahead = Ahead { begun: ids[..3].iter().map(|id| (*id, now)).collect() };

        assert!(ahead.take([ids[0]].into_iter()));
        assert!(!ahead.take([ids[0]].into_iter()), "once");
        assert!(!ahead.take([ids[3], ids[1]].into_iter()), "one of them was not begun");
        assert!(!ahead.take([ids[1]].into_iter()), "and the other has come");

        let long_ago = now.checked_sub(PATIENCE).expect("the machine has run for longer");
        ahead.begun.insert(ids[2], long_ago);
        assert!(!ahead.take([ids[2]].into_iter()), "too late");
        ahead.begun.insert(ids[2], long_ago);
        ahead.remember(&[]);
        assert!(ahead.begun.is_empty(), "and forgotten");
    }
}
