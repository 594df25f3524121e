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
/// In so long half of the load is forgotten. By time and not by batches: after hours of nothing the next arrival is a lone one.
const HALF_LIFE: Duration = Duration::from_millis(40);

/// Takes batches, and remembers how large they were.
#[derive(Debug)]
pub struct Gather {
    /// A decaying maximum of the sizes of batches, as it was at `seen`. Up to one there is no load.
    load: f64,
    seen: Instant,
}

impl Default for Gather {
    fn default() -> Self {
        Self { load: 0.0, seen: Instant::now() }
    }
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
        let now = Instant::now();
        self.linger(now).map(|linger| now + linger)
    }

    /// Remembers the size of a batch.
    pub fn saw(&mut self, size: usize) {
        self.saw_at(size, Instant::now());
    }

    fn saw_at(&mut self, size: usize, now: Instant) {
        (self.load, self.seen) = (self.load_at(now).max(size as f64), now);
    }

    fn linger(&self, now: Instant) -> Option<Duration> {
        let load = self.load_at(now);
        (load > 1.0).then(|| LINGER_PER_ARRIVAL.mul_f64(load).min(LONGEST_LINGER))
    }

    /// What is left of the load.
    fn load_at(&self, now: Instant) -> f64 {
        self.load * 0.5_f64.powf(now.duration_since(self.seen).div_duration_f64(HALF_LIFE))
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
        let began = gather.seen;
        let mut lingers_after = |size, passed| {
            gather.saw_at(size, began + passed);
            gather.linger(began + passed)
        };

        assert_eq!(lingers_after(1, Duration::ZERO), None);
        assert_eq!(lingers_after(3, Duration::ZERO), Some(LINGER_PER_ARRIVAL * 3));
        assert_eq!(lingers_after(128, Duration::ZERO), Some(LONGEST_LINGER), "but for so long at most");
        assert_eq!(
            lingers_after(1, Duration::ZERO),
            Some(LONGEST_LINGER),
            "a single one is no end of the load"
        );
        assert_eq!(lingers_after(1, HALF_LIFE * 6), Some(LINGER_PER_ARRIVAL * 2), "it fades");
        assert_eq!(lingers_after(1, HALF_LIFE * 7), None, "and is forgotten, however few came meanwhile");
    }
}
