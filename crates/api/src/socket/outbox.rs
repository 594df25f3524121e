//! What waits to be sent on one WebSocket: bounded, so that a slow reader costs nobody else anything.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message};
use futures::{Sink, SinkExt as _};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Frames that may wait.
const LENGTH: usize = 256;
/// How long a reader may take to make room.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where frames go. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Outbox {
    frames: mpsc::Sender<Message>,
    behind: CancellationToken,
}

/// The writing half of a connection. It ends with the close it is given.
#[derive(Debug)]
pub(super) struct Writer {
    close: oneshot::Sender<CloseFrame>,
    task: tokio::task::JoinHandle<()>,
}

impl Outbox {
    /// Starts writing to a connection.
    pub(super) fn start(sink: impl Sink<Message> + Unpin + Send + 'static) -> (Self, Writer) {
        let (frames, queue) = mpsc::channel(LENGTH);
        let (close, closed) = oneshot::channel();
        let outbox = Self { frames, behind: CancellationToken::new() };
        let task = tokio::spawn(write(sink, queue, closed, outbox.behind.clone()));
        (outbox, Writer { close, task })
    }

    /// Sends a frame, waiting for room. A reader that makes none in time is [`Self::behind`].
    pub(super) async fn send(&self, frame: &impl Serialize) {
        let text = serde_json::to_string(frame).expect("a frame is always JSON");
        self.send_message(Message::Text(text.into())).await;
    }

    /// Asks the other side whether it is still there.
    pub(super) async fn ping(&self) {
        self.send_message(Message::Ping(Vec::new().into())).await;
    }

    /// Resolves when the reader is too slow.
    pub(super) async fn behind(&self) {
        self.behind.cancelled().await;
    }

    async fn send_message(&self, message: Message) {
        if self.frames.send_timeout(message, PATIENCE).await.is_err() {
            self.behind.cancel();
        }
    }
}

impl Writer {
    /// Ends the connection, telling why.
    pub(super) async fn close(self, code: u16, reason: &'static str) {
        // A writer that is gone has nobody to tell.
        let _ = self.close.send(CloseFrame { code, reason: reason.into() });
        let _ = self.task.await;
    }
}

async fn write(
    mut sink: impl Sink<Message> + Unpin,
    mut queue: mpsc::Receiver<Message>,
    mut closed: oneshot::Receiver<CloseFrame>,
    behind: CancellationToken,
) {
    loop {
        let message = tokio::select! {
            biased;
            frame = &mut closed => Message::Close(frame.ok()),
            message = queue.recv() => message.unwrap_or(Message::Close(None)),
        };
        let last = matches!(message, Message::Close(_));
        let sent = tokio::time::timeout(PATIENCE, sink.send(message)).await.map(|sent| sent.is_ok());
        if last {
            return;
        }
        match sent {
            Ok(true) => {}
            // The connection is gone.
            Ok(false) => return behind.cancel(),
            Err(_) => break,
        }
    }
    behind.cancel();
    // Whoever waits for room waits no longer.
    drop(queue);
    // The frame that was cut short goes out first. A reader that reads again meanwhile learns why it was closed.
    if let Ok(frame) = closed.await {
        let _ = tokio::time::timeout(PATIENCE, sink.send(Message::Close(Some(frame)))).await;
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_reads_again_learns_why_it_was_closed() {
        // Without room: a send is over when it was read.
        let (sink, mut reader) = futures::channel::mpsc::channel::<Message>(0);
        let (outbox, writer) = Outbox::start(sink);
        outbox.send(&"one").await;
        outbox.send(&"two").await;
        outbox.behind().await;
        let closing = tokio::spawn(writer.close(1013, "the consumer falls behind"));
        assert_eq!(reader.next().await, Some(Message::Text("\"one\"".into())));
        match reader.next().await {
            Some(Message::Close(Some(frame))) => assert_eq!(frame.code, 1013),
            other => panic!("{other:?}"),
        }
        closing.await.expect("ends");
    }
}
