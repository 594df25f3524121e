//! A WebSocket client for tests: frames as JSON, with a deadline on every wait.

use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::{Client, PATIENCE};

/// An open WebSocket.
#[derive(Debug)]
pub struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Socket {
    /// Opens a WebSocket of the client's api, with its token.
    ///
    /// # Panics
    /// When the api refuses the handshake; what it refuses after that, [`Self::close_code`] tells.
    pub async fn connect(client: &Client, path: &str) -> Self {
        let bearer = client.bearer().map(|token| ("authorization", format!("Bearer {token}")));
        Self::connect_with(client, path, &bearer.into_iter().collect::<Vec<_>>()).await
    }

    /// The same with these headers alone.
    ///
    /// # Panics
    /// As [`Self::connect`].
    pub async fn connect_with(client: &Client, path: &str, headers: &[(&str, String)]) -> Self {
        let address = format!("{}{path}", client.base().replacen("http", "ws", 1));
        let mut request = address.into_client_request().expect("the address is readable");
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a header name");
            request.headers_mut().insert(name, HeaderValue::from_str(value).expect("a header value"));
        }
        let connecting = tokio::time::timeout(PATIENCE, tokio_tungstenite::connect_async(request));
        let (stream, _) =
            connecting.await.expect("the api answers in time").expect("the api accepts the socket");
        Self { stream }
    }

    /// Sends a frame.
    ///
    /// # Panics
    /// When the socket is closed.
    pub async fn send(&mut self, frame: &Value) {
        self.send_text(&frame.to_string()).await;
    }

    /// Sends text that may be no JSON.
    ///
    /// # Panics
    /// When the socket is closed.
    pub async fn send_text(&mut self, text: &str) {
        self.stream.send(Message::text(text)).await.expect("the socket is open");
    }

    /// The next frame; `None` when the socket was closed.
    ///
    /// # Panics
    /// When nothing comes in time.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            match self.receive().await? {
                Message::Text(text) => {
                    return Some(
                        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")),
                    );
                }
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }

    /// Frames up to the first that fits, which is the last of them.
    ///
    /// # Panics
    /// When the socket closes before.
    pub async fn until(&mut self, mut fits: impl FnMut(&Value) -> bool) -> Vec<Value> {
        let mut frames = Vec::new();
        loop {
            let Some(frame) = self.next().await else { panic!("the socket closed after {frames:#?}") };
            frames.push(frame);
            if frames.last().is_some_and(&mut fits) {
                return frames;
            }
        }
    }

    /// The frames up to the answer to a ping: whatever was sent before it is among them.
    ///
    /// # Panics
    /// When the socket closes before.
    pub async fn settled(&mut self) -> Vec<Value> {
        self.send(&serde_json::json!({"type": "ping"})).await;
        let mut frames = self.until(|frame| frame["type"] == "pong").await;
        frames.pop();
        frames
    }

    /// The code it is closed with, skipping frames before.
    ///
    /// # Panics
    /// When it stays open.
    pub async fn close_code(&mut self) -> Option<u16> {
        loop {
            if let Message::Close(frame) = self.receive().await? {
                return frame.map(|frame| frame.code.into());
            }
        }
    }

    async fn receive(&mut self) -> Option<Message> {
        let waiting = tokio::time::timeout(PATIENCE, self.stream.next());
        waiting.await.expect("a frame comes in time").and_then(Result::ok)
    }
}
