//! Learning that runs have ended: one WebSocket tells the ends of all runs of a load.
//!
//! An event is a hint; one that does not come in time is made up for by reading the row, and counted.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures::StreamExt;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use uuid::Uuid;

use crate::http::{Connection, Requests, member};

const TERMINAL: [&str; 5] = ["Success", "CompletedWithErrors", "Failed", "Timeout", "Cancelled"];
/// How long an event is waited for before the row is read.
const EVENT_PATIENCE: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// How long a run may take at all.
const RUN_PATIENCE: Duration = Duration::from_secs(120);

/// Follows all runs of one load.
#[derive(Debug)]
pub(crate) struct Follower {
    ends: Arc<Mutex<Ends>>,
    requests: Requests,
    polled: AtomicUsize,
    listener: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Ends {
    waiting: HashMap<Uuid, oneshot::Sender<()>>,
    /// Runs that ended before anybody asked.
    early: HashSet<Uuid>,
    /// The WebSocket broke: only the rows tell from here.
    deaf: bool,
}

impl Follower {
    /// Joins the channel that tells every change of state.
    pub(crate) async fn open(requests: &Requests) -> anyhow::Result<Arc<Self>> {
        let organization = requests.organization().context("runs are followed within an organization")?;
        let channel = format!("history:{organization}");
        let mut socket = connect(requests, &channel).await?;
        let greeting = socket.next().await.context("the WebSocket was closed")??;
        let granted = greeting.to_text().unwrap_or_default().contains(&channel);
        ensure!(granted, "the WebSocket did not grant {channel}: {greeting}");
        let ends = Arc::<Mutex<Ends>>::default();
        let listener = tokio::spawn(listen(socket, ends.clone()));
        Ok(Arc::new(Self { ends, requests: requests.clone(), polled: AtomicUsize::new(0), listener }))
    }

    /// Returns when the run has ended.
    pub(crate) async fn ended(&self, id: Uuid, connection: &mut Connection) -> anyhow::Result<()> {
        let told = {
            let mut ends = lock(&self.ends);
            if ends.early.remove(&id) {
                return Ok(());
            }
            let (sender, told) = oneshot::channel();
            if !ends.deaf {
                ends.waiting.insert(id, sender);
            }
            told
        };
        if let Ok(Ok(())) = tokio::time::timeout(EVENT_PATIENCE, told).await {
            return Ok(());
        }
        lock(&self.ends).waiting.remove(&id);
        self.polled.fetch_add(1, Ordering::Relaxed);
        poll(&self.requests, id, connection).await
    }

    /// Runs whose end was read from the row because no event told it.
    pub(crate) fn polled(&self) -> usize {
        self.polled.load(Ordering::Relaxed)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// Reads the row until it is terminal.
async fn poll(requests: &Requests, id: Uuid, connection: &mut Connection) -> anyhow::Result<()> {
    let request = requests.get(&format!("/api/executions/{id}"));
    let (began, mut pause) = (std::time::Instant::now(), FIRST_PAUSE);
    loop {
        let reply = connection.call(&request).await?;
        let status = member(reply.body, "status").unwrap_or_default();
        if TERMINAL.contains(&status) {
            return Ok(());
        }
        if began.elapsed() > RUN_PATIENCE {
            bail!("execution {id} is still {status}");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn connect(requests: &Requests, channel: &str) -> anyhow::Result<WebSocketStream<TcpStream>> {
    let address = requests.address();
    let mut request = format!("ws://{address}/ws/connect?channels={channel}").into_client_request()?;
    let authorization = requests.authorization().context("only a signed-in client follows")?;
    request.headers_mut().insert("authorization", authorization.parse()?);
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (socket, _) = tokio_tungstenite::client_async(request, stream).await.context("no WebSocket")?;
    Ok(socket)
}

async fn listen(mut socket: WebSocketStream<TcpStream>, ends: Arc<Mutex<Ends>>) {
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else { continue };
        let frame = text.as_bytes();
        let ended = member(frame, "status").is_some_and(|status| TERMINAL.contains(&status));
        let id = member(frame, "executionId").and_then(|id| id.parse::<Uuid>().ok());
        if let (true, Some(id)) = (ended, id) {
            let mut ends = lock(&ends);
            match ends.waiting.remove(&id) {
                // Whoever waited may have given up.
                Some(waiting) => _ = waiting.send(()),
                None => _ = ends.early.insert(id),
            }
        }
    }
    // Whoever waits is told by the drop of the sender to look at the row, and the report says so.
    let mut ends = lock(&ends);
    ends.deaf = true;
    ends.waiting.clear();
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
