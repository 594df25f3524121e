//! A line between one process and one service, which can be cut, severed, silenced, slowed down, and left half open.
//!
//! Bytes are never changed, lost in the middle or reordered: what a TCP connection promises holds here too, until it ends.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use url::Url;

const CHUNK: usize = 16 * 1024;

/// A way to a service that can be broken and mended.
#[derive(Debug)]
pub struct Line {
    /// Where clients connect to.
    pub port: u16,
    state: Arc<watch::Sender<State>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    /// Number of the newest connection.
    newest: u64,
    /// Connections up to this number end.
    ended: u64,
    /// Connections up to this number carry nothing any more, and stay open.
    dead: u64,
    severed: bool,
    silent: bool,
    delay: Duration,
}

impl State {
    fn ends(self, number: u64) -> bool {
        self.severed || self.ended >= number
    }
}

impl Line {
    /// A line to a port of this machine.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn to(port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let line = Self { port: listener.local_addr()?.port(), state: Arc::default() };
        let state = line.state.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let mut number = 0;
                state.send_modify(|state| {
                    state.newest += 1;
                    number = state.newest;
                });
                tokio::spawn(carry(near, port, state.subscribe(), number));
            }
        });
        Ok(line)
    }

    /// A line to the service of a URL, and the URL that leads over it.
    ///
    /// # Panics
    /// When the URL names no port, or no port is free.
    pub async fn beside(url: &SecretString) -> (Self, SecretString) {
        let port = Url::parse(url.expose_secret()).expect("a URL").port().expect("a port");
        let line = Self::to(port).await.expect("a free port");
        let over = at_port(url, line.port);
        (line, over)
    }

    /// Ends every connection, and new ones too, until it is told otherwise.
    pub fn sever(&self, severed: bool) {
        self.state.send_modify(|state| state.severed = severed);
    }

    /// Ends every connection; new ones are well.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.ended = state.newest);
    }

    /// Carries nothing until it is told otherwise; what is held back comes then.
    pub fn silence(&self, silent: bool) {
        self.state.send_modify(|state| state.silent = silent);
    }

    /// Carries each piece this much later.
    pub fn slow(&self, delay: Duration) {
        self.state.send_modify(|state| state.delay = delay);
    }

    /// The connections there are carry nothing ever again, and neither side is told; new ones are well.
    pub fn half_open(&self) {
        self.state.send_modify(|state| state.dead = state.newest);
    }
}

/// A URL with another port of this machine.
///
/// # Panics
/// When it is no URL.
#[must_use]
pub fn at_port(url: &SecretString, port: u16) -> SecretString {
    let mut url = Url::parse(url.expose_secret()).expect("a URL");
    url.set_host(Some("127.0.0.1")).expect("a host fits");
    url.set_port(Some(port)).expect("a port fits");
    url.as_str().into()
}

async fn carry(near: TcpStream, port: u16, state: watch::Receiver<State>, number: u64) {
    let Ok(far) = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await else { return };
    // Waiting for more to send would be a delay that nobody asked for.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
    let mut watch = state.clone();
    // Whatever ends first ends both directions, and with them both connections.
    tokio::select! {
        () = pump(from_near, to_far, state.clone(), number) => {}
        () = pump(from_far, to_near, state, number) => {}
        _ = watch.wait_for(|state| state.ends(number)) => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut state: watch::Receiver<State>,
    number: u64,
) {
    let mut chunk = vec![0; CHUNK];
    loop {
        let Ok(read @ 1..) = from.read(&mut chunk).await else { return };
        if state.wait_for(|state| !state.silent || state.dead >= number).await.is_err() {
            return;
        }
        let now = *state.borrow();
        if now.dead >= number {
            // Still read, so that the end of the side that gives up is noticed.
            continue;
        }
        if !now.delay.is_zero() {
            tokio::time::sleep(now.delay).await;
        }
        if to.write_all(&chunk[..read]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A service that says everything back.
    async fn echo() -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.into_split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        port
    }

    async fn says_back(stream: &mut TcpStream, word: &[u8; 4]) -> bool {
        let said = async {
            stream.write_all(word).await.ok()?;
            let mut back = [0; 4];
            stream.read_exact(&mut back).await.ok()?;
            (&back == word).then_some(())
        };
        tokio::time::timeout(Duration::from_millis(300), said).await.ok().flatten().is_some()
    }

    #[tokio::test]
    async fn a_line_is_cut_silenced_and_left_half_open() {
        let line = Line::to(echo().await).await.expect("listens");
        let connect = async || TcpStream::connect(("127.0.0.1", line.port)).await.expect("connects");

        let mut first = connect().await;
        assert!(says_back(&mut first, b"well").await);
        line.cut();
        assert!(!says_back(&mut first, b"gone").await);
        line.sever(true);
        assert!(!says_back(&mut connect().await, b"none").await);
        line.sever(false);

        let mut second = connect().await;
        assert!(says_back(&mut second, b"well").await);
        line.silence(true);
        assert!(!says_back(&mut second, b"held").await);
        line.silence(false);
        let mut held = [0; 4];
        second.read_exact(&mut held).await.expect("comes now");
        assert_eq!(&held, b"held");

        line.half_open();
        assert!(!says_back(&mut second, b"dead").await);
        assert!(says_back(&mut connect().await, b"well").await);
    }
}
