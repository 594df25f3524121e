//! What a client has sent and nobody has read: a request that is refused for its head may have a body still.
//!
//! It is read to its end before the answer goes out, as long as that is little; else the answer says that the connection
//! closes (RFC 9112 §9.6). The invariant: a client that is not told so can go on over the same connection.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::extract::Request;
use axum::http::header::{CONNECTION, EXPECT};
use axum::http::{HeaderValue, Version};
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Frame, SizeHint};
use tokio::time::timeout;

/// The most that is read for nothing, in bytes.
const MOST: usize = 64 * 1024;
/// How long it may take to arrive.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is left of a body when the one who was to read it is done.
type Left = Arc<Mutex<Option<Body>>>;

/// A body on loan: what is not read of it is given back.
struct Lent {
    /// `None` once it has ended.
    body: Option<Body>,
    left: Left,
}

/// A layer that leaves no body unread without a word.
pub(crate) async fn read_or_close(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let (can_close, is_asked_for) =
        (request.version() <= Version::HTTP_11, request.headers().contains_key(EXPECT));
    let left = Left::default();
    let request = request.map(|body| Body::new(Lent { body: Some(body), left: left.clone() }));
    let mut response = next.run(request).await;

    let body = left.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(body) = body
        && can_close
        // Who waits for the word to send it need not send it at all.
        && (is_asked_for || !is_drained(body).await)
    {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Reads what is left, if that is little; whether it was read to its end.
async fn is_drained(body: Body) -> bool {
    if body.size_hint().lower() > MOST as u64 {
        return false;
    }
    timeout(PATIENCE, to_bytes(body, MOST)).await.is_ok_and(|read| read.is_ok())
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(context);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.body = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) {
            *self.left.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
        }
    }
}
