//! Live events: what happens to executions, told to whoever watches, on any replica.
//!
//! Nothing relies on an event arriving: a watcher that misses one finds the state in the rows. Two arms, Redis
//! publish/subscribe (`redis`) and the process itself. What there is to tell is in `kinds`. Changes of state, the most by far,
//! go to those processes alone that have somebody to tell: a worker's own come back to no worker.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};

use crate::Result;
use crate::id::ExecutionId;
use crate::telemetry::metrics;

mod kinds;
mod redis;

pub use kinds::{Event, Happened, Lines, LiveLine, MAX_INLINE_RESULT, News, Notice, Progress, Topic, Update};
use redis::Redis;

/// Events a watcher may be behind before it has to look at the rows.
const BACKLOG: usize = 1_024;

/// Where events go and come from. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Events {
    hub: Arc<Hub>,
    bus: Bus,
}

#[derive(Debug, Clone)]
enum Bus {
    InProcess,
    Redis(Redis),
}

/// Watchers of this process.
#[derive(Debug)]
struct Hub {
    watchers: Mutex<HashMap<ExecutionId, Vec<Watcher>>>,
    everything: broadcast::Sender<Arc<Event>>,
    /// Apart, since workers act on these and on no change of state.
    orders: broadcast::Sender<Arc<Event>>,
    /// Apart, since every connection hears them, and most need nothing else of everything.
    notices: broadcast::Sender<Arc<Event>>,
}

#[derive(Debug)]
struct Watcher {
    id: u64,
    events: mpsc::Sender<Arc<Event>>,
}

/// The events of one execution, from now on. Dropping it ends the watch.
#[derive(Debug)]
pub struct Watch {
    execution_id: ExecutionId,
    id: u64,
    events: mpsc::Receiver<Arc<Event>>,
    from: Events,
    with_logs: bool,
}

impl Events {
    /// Events of this process.
    pub fn in_process() -> Self {
        Self { hub: Arc::new(Hub::new()), bus: Bus::InProcess }
    }

    /// Events through Redis, every channel under `prefix`; connects in the background and goes on trying.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] when the URL cannot be read.
    pub fn redis(url: &SecretString, prefix: &str) -> Result<Self> {
        let hub = Arc::new(Hub::new());
        let redis = Redis::open(url, prefix, hub.clone())?;
        Ok(Self { hub, bus: Bus::Redis(redis) })
    }

    /// Tells it to everybody who watches. Never waits; what does not fit is lost, and found in the rows.
    pub fn publish(&self, event: Event) {
        if let Event::Update(update) = &event
            && update.status.is_terminal()
        {
            // Whoever ends an execution says so here, and nobody else does.
            let took = update.duration_ms.and_then(|took| u64::try_from(took).ok());
            metrics::ended(update.status, took.map(Duration::from_millis));
        }
        let event = Arc::new(event);
        match &self.bus {
            Bus::InProcess => self.hub.dispatch(&event),
            Bus::Redis(redis) => redis.publish(event),
        }
    }

    /// Watches one execution, with its log lines or only its changes of state.
    pub fn watch(&self, execution_id: ExecutionId, with_logs: bool) -> Watch {
        let (sender, events) = mpsc::channel(BACKLOG);
        let id = self.hub.add(execution_id, sender);
        self.hear_updates();
        if with_logs && let Bus::Redis(redis) = &self.bus {
            redis.subscribe(execution_id);
        }
        Watch { execution_id, id, events, from: self.clone(), with_logs }
    }

    /// From now on changes of state reach this process. The first who watches asks for it too, and is heard a moment later:
    /// whoever serves watchers says so before the first comes.
    pub fn hear_updates(&self) {
        if let Bus::Redis(redis) = &self.bus {
            redis.hear_updates();
        }
    }

    /// Every change of state and everything else of the installation, for history channels.
    pub fn everything(&self) -> broadcast::Receiver<Arc<Event>> {
        self.hear_updates();
        self.hub.everything.subscribe()
    }

    /// The same without changes of state: what there is to do, for workers.
    pub fn orders(&self) -> broadcast::Receiver<Arc<Event>> {
        self.hub.orders.subscribe()
    }

    /// What becomes of the notifications of everybody.
    pub fn notices(&self) -> broadcast::Receiver<Arc<Event>> {
        self.hub.notices.subscribe()
    }
}

/// Acts at each order of a kind, until nobody is left who could give one.
pub async fn at_each(
    mut orders: broadcast::Receiver<Arc<Event>>,
    is: impl Fn(&Event) -> bool,
    act: impl Fn(),
) {
    loop {
        match orders.recv().await {
            Ok(event) if !is(&event) => {}
            // It may have been among those that were missed.
            Ok(_) | Err(RecvError::Lagged(_)) => act(),
            Err(RecvError::Closed) => return,
        }
    }
}

impl Watch {
    /// The next event.
    pub async fn next(&mut self) -> Arc<Event> {
        match self.events.recv().await {
            Some(event) => event,
            // The hub keeps the sender as long as this watch lives.
            None => std::future::pending().await,
        }
    }

    /// The terminal update, if it comes in time.
    pub async fn terminal(&mut self, patience: Duration) -> Option<Update> {
        let end = async {
            loop {
                if let Event::Update(update) | Event::Answered(update) = &*self.next().await
                    && update.status.is_terminal()
                {
                    return Update::clone(update);
                }
            }
        };
        tokio::time::timeout(patience, end).await.ok()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.from.hub.remove(self.execution_id, self.id);
        if self.with_logs
            && let Bus::Redis(redis) = &self.from.bus
        {
            redis.unsubscribe(self.execution_id);
        }
    }
}

impl Hub {
    fn new() -> Self {
        Self {
            watchers: Mutex::default(),
            everything: broadcast::channel(BACKLOG * 4).0,
            orders: broadcast::channel(BACKLOG).0,
            notices: broadcast::channel(BACKLOG).0,
        }
    }

    fn add(&self, execution_id: ExecutionId, events: mpsc::Sender<Arc<Event>>) -> u64 {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let id = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.watchers().entry(execution_id).or_default().push(Watcher { id, events });
        id
    }

    fn remove(&self, execution_id: ExecutionId, id: u64) {
        let mut watchers = self.watchers();
        if let Some(of_execution) = watchers.get_mut(&execution_id) {
            of_execution.retain(|watcher| watcher.id != id);
            if of_execution.is_empty() {
                watchers.remove(&execution_id);
            }
        }
    }

    fn dispatch(&self, event: &Arc<Event>) {
        if let Some(id) = event.execution_id()
            && let Some(of_execution) = self.watchers().get(&id)
        {
            for watcher in of_execution {
                // A full watcher is behind and will look at the rows.
                let _ = watcher.events.try_send(event.clone());
            }
        }
        // Nobody listening is no fault.
        let _ = match &**event {
            Event::Lines(_) | Event::Answered(_) => Ok(0),
            Event::Notice(_) => self.notices.send(event.clone()),
            Event::Update(_) => self.everything.send(event.clone()),
            _ => self.orders.send(event.clone()).and(self.everything.send(event.clone())),
        };
    }

    fn watchers(&self) -> std::sync::MutexGuard<'_, HashMap<ExecutionId, Vec<Watcher>>> {
        // The map is consistent after every statement, so a panic elsewhere does not spoil it.
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
