//! Gathering: what arrives together is done together.
//!
//! A lone arrival is handed on at once. Under load — one of the last batches held several — a batch waits a
//! moment for more, because on a quick disk a commit is over before the next arrival, and small batches cost
//! more than they gain.

use std::time::Duration;

use tokio::sync::mpsc;

/// How long a batch waits for more under load.
pub const LINGER: Duration = Duration::from_millis(3);
/// After this many batches of one in a row there is no load any more.
const LONE_BATCHES: u32 = 16;

/// Takes batches, and remembers whether there is load.
#[derive(Debug, Default)]
pub struct Gather {
    /// Batches of one that will still be taken for load.
    credit: u32,
}

impl Gather {
    /// Waits for a first arrival, then takes up to `limit`; empty when the other side is gone.
    pub async fn next<T>(&mut self, arrivals: &mut mpsc::Receiver<T>, limit: usize) -> Vec<T> {
        let mut batch = Vec::new();
        arrivals.recv_many(&mut batch, limit).await;
        if self.is_busy() && !batch.is_empty() {
            tokio::time::sleep(LINGER).await;
            while batch.len() < limit
                && let Ok(more) = arrivals.try_recv()
            {
                batch.push(more);
            }
        }
        self.saw(batch.len());
        batch
    }

    /// Whether a batch that was begun should wait for more.
    pub fn is_busy(&self) -> bool {
        self.credit > 0
    }

    /// Remembers the size of a batch.
    pub fn saw(&mut self, size: usize) {
        self.credit = if size > 1 { LONE_BATCHES } else { self.credit.saturating_sub(1) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_busy_batch_gathers_what_comes_while_it_waits_and_a_lone_one_does_not_wait() {
        let (sender, mut arrivals) = mpsc::channel(16);
        let mut gather = Gather::default();
        // On this single thread the late sender runs only while the gatherer waits.
        let send_late = |n| {
            let sender = sender.clone();
            tokio::spawn(async move { sender.send(n).await })
        };

        sender.send(0).await.expect("open");
        let late = send_late(1);
        assert_eq!(gather.next(&mut arrivals, 16).await, [0], "handed on at once");
        late.await.expect("runs").expect("open");
        assert_eq!(gather.next(&mut arrivals, 16).await, [1]);

        for n in 0..2 {
            sender.send(n).await.expect("open");
        }
        assert_eq!(gather.next(&mut arrivals, 16).await.len(), 2);
        sender.send(2).await.expect("open");
        send_late(3);
        assert_eq!(gather.next(&mut arrivals, 16).await, [2, 3], "after several, it waits for more");

        for n in 0..LONE_BATCHES {
            gather.saw(1);
            assert_eq!(gather.is_busy(), n + 1 < LONE_BATCHES, "a load that is over is forgotten");
        }
    }
}
