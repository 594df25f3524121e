//! An HTTP/1.1 client that costs next to nothing, since it shares the machine with what it measures.
//!
//! One request at a time on a connection that stays open, answers with `Content-Length` only, bodies handed
//! out as the bytes that came. It speaks to servers of ours, not to the world.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A connection that is kept open.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// An answer; its body lives until the next call on the connection.
#[derive(Debug)]
pub(crate) struct Reply<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
}

/// Writes requests of one signed-in client as bytes, so that a repeated request is written once.
#[derive(Debug, Clone)]
pub(crate) struct Requests {
    address: SocketAddr,
    token: Option<String>,
    organization: Option<String>,
}

/// Where the body begins, and what is known of it.
struct Head {
    status: u16,
    body: usize,
    length: usize,
}

impl Connection {
    /// Connects.
    pub(crate) async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream =
            TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(16 * 1024) })
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn call(&mut self, request: &[u8]) -> anyhow::Result<Reply<'_>> {
        self.stream.write_all(request).await.context("cannot send a request")?;
        self.buffer.clear();
        let head = loop {
            if let Some(head) = Head::parse(&self.buffer)? {
                break head;
            }
            self.read_more().await?;
        };
        let end = head.body + head.length;
        while self.buffer.len() < end {
            self.read_more().await?;
        }
        Ok(Reply { status: head.status, body: &self.buffer[head.body..end] })
    }

    async fn read_more(&mut self) -> anyhow::Result<()> {
        match self.stream.read_buf(&mut self.buffer).await.context("cannot read an answer")? {
            0 => bail!("the server closed the connection within an answer"),
            _ => Ok(()),
        }
    }
}

impl Head {
    /// The head, once all of it is there.
    fn parse(bytes: &[u8]) -> anyhow::Result<Option<Self>> {
        let Some(end) = find(bytes, b"\r\n\r\n") else { return Ok(None) };
        let text = std::str::from_utf8(&bytes[..end]).context("the head of an answer is no text")?;
        let mut lines = text.split("\r\n");
        let first = lines.next().unwrap_or_default();
        let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.with_context(|| format!("not an HTTP answer: {first}"))?;
        let length = lines
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .and_then(|(_, value)| value.trim().parse().ok());
        match length {
            Some(length) => Ok(Some(Self { status, body: end + 4, length })),
            None if status == 204 => Ok(Some(Self { status, body: end + 4, length: 0 })),
            None => bail!("an answer without Content-Length, status {status}"),
        }
    }
}

impl Requests {
    /// For a client that is not signed in.
    pub(crate) fn anonymous(address: SocketAddr) -> Self {
        Self { address, token: None, organization: None }
    }

    /// For a client with an access token.
    pub(crate) fn signed_in(address: SocketAddr, token: String) -> Self {
        Self { address, token: Some(token), organization: None }
    }

    /// For the same client, within an organization.
    pub(crate) fn within(self, organization: String) -> Self {
        Self { organization: Some(organization), ..self }
    }

    /// The organization it acts in.
    pub(crate) fn organization(&self) -> Option<&str> {
        self.organization.as_deref()
    }

    /// Where they go.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its access token.
    pub(crate) fn token(&self) -> Option<String> {
        self.token.clone()
    }

    /// The value of the header `Authorization`.
    pub(crate) fn authorization(&self) -> Option<String> {
        self.token.as_ref().map(|token| format!("Bearer {token}"))
    }

    /// A GET.
    pub(crate) fn get(&self, path: &str) -> Vec<u8> {
        self.head("GET", path, "").into_bytes()
    }

    /// A POST of a JSON body.
    pub(crate) fn post_json(&self, path: &str, body: &serde_json::Value) -> Vec<u8> {
        self.post(path, "application/json", &body.to_string())
    }

    /// A POST of a form.
    pub(crate) fn post_form(&self, path: &str, fields: &[(&str, &str)]) -> Vec<u8> {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        self.post(path, "application/x-www-form-urlencoded", &body)
    }

    fn post(&self, path: &str, kind: &str, body: &str) -> Vec<u8> {
        let more = format!("Content-Type: {kind}\r\nContent-Length: {}\r\n", body.len());
        let mut request = self.head("POST", path, &more).into_bytes();
        request.extend_from_slice(body.as_bytes());
        request
    }

    fn head(&self, method: &str, path: &str, more: &str) -> String {
        let authorization = self.authorization().map(|value| format!("Authorization: {value}\r\n"));
        let organization = self.organization.as_ref().map(|id| format!("X-Organization-Id: {id}\r\n"));
        format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nAccept: application/json\r\n{}{}{more}\r\n",
            self.address,
            authorization.unwrap_or_default(),
            organization.unwrap_or_default(),
        )
    }
}

/// The text of the first member of this name in a compact JSON text, found without parsing it. For ids and
/// states, which hold nothing that is escaped.
pub(crate) fn member<'a>(json: &'a [u8], name: &str) -> Option<&'a str> {
    let opening = format!("\"{name}\":\"");
    let begin = find(json, opening.as_bytes())? + opening.len();
    let end = json[begin..].iter().position(|byte| *byte == b'"')? + begin;
    std::str::from_utf8(&json[begin..end]).ok()
}

/// Where `wanted` begins.
pub(crate) fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_only_when_it_is_complete() {
        let answer = b"HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\nx-y: z\r\n\r\n{}";

        assert!(Head::parse(&answer[..30]).expect("half a head is no fault").is_none());
        let head = Head::parse(answer).expect("it is one").expect("it is complete");
        assert_eq!((head.status, head.length, &answer[head.body..]), (202, 2, b"{}".as_slice()));
        assert!(Head::parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
    }

    #[test]
    fn a_member_is_found_without_parsing() {
        let json = br#"{"execution_id":"42","status":"Success","result":{"status":"no"}}"#;

        assert_eq!(member(json, "execution_id"), Some("42"));
        assert_eq!(member(json, "status"), Some("Success"));
        assert_eq!(member(json, "workflow_name"), None);
    }
}
