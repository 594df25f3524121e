//! Gathering: what arrives together is done together.
//!
//! A lone arrival is handed on at once. Under load, a batch waits a moment for more, because on a quick disk
//! a commit is over before the next arrival, and small batches cost more than they gain: the longer, the more came
//! together lately (ADR 11).

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

/// How long a batch waits for more, for each arrival of the load.
const LINGER_PER_ARRIVAL: Duration = Duration::from_millis(1);
/// How long it waits at most.
const LONGEST_LINGER: Duration = Duration::from_millis(6);
/// The share of the load that is left after each smaller batch.
const DECAY: f64 = 0.875;

/// Takes batches, and remembers how large they were.
#[derive(Debug, Default)]
pub struct Gather {
    /// A decaying maximum of the sizes of batches. Up to one there is no load.
    load: f64,
}

impl Gather {
    /// Waits for a first arrival, then takes up to `limit`; empty when the other side is gone.
    pub async fn next<T>(&mut self, arrivals: &mut mpsc::Receiver<T>, limit: usize) -> Vec<T> {
        let mut batch = Vec::new();
        arrivals.recv_many(&mut batch, limit).await;
        if let Some(until) = self.lingers_until()
            && (1..limit).contains(&batch.len())
        {
            tokio::time::sleep_until(until).await;
            while batch.len() < limit
                && let Ok(more) = arrivals.try_recv()
            {
                batch.push(more);
            }
        }
        self.saw(batch.len());
        batch
    }

    /// Until when a batch that is begun now should wait for more; `None` without load.
    pub fn lingers_until(&self) -> Option<Instant> {
        self.linger().map(|linger| Instant::now() + linger)
    }

    fn linger(&self) -> Option<Duration> {
        (self.load > 1.0).then(|| LINGER_PER_ARRIVAL.mul_f64(self.load).min(LONGEST_LINGER))
    }

    /// Remembers the size of a batch.
    pub fn saw(&mut self, size: usize) {
        self.load = (self.load * DECAY).max(size as f64);
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

        for n in 4..6 {
            sender.send(n).await.expect("open");
        }
        let late = send_late(6);
        assert_eq!(gather.next(&mut arrivals, 2).await, [4, 5]);
        assert!(!late.is_finished(), "a full batch waits for nothing");
    }

    #[test]
    fn a_batch_waits_the_longer_the_more_came_together_of_late() {
        let mut gather = Gather::default();
        let mut lingers_after = |size| {
            gather.saw(size);
            gather.linger()
        };

        assert_eq!(lingers_after(1), None);
        assert_eq!(lingers_after(3), Some(LINGER_PER_ARRIVAL * 3));
        assert_eq!(lingers_after(100), Some(LONGEST_LINGER), "but for so long at most");
        assert_eq!(lingers_after(1), Some(LONGEST_LINGER), "a single one is no end of the load");
        let lone = (0..100).take_while(|_| lingers_after(1).is_some()).count();
        assert!((10..50).contains(&lone), "a load that is over is forgotten, after {lone} lone batches");
    }
}
