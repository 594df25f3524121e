//! A mail server: takes what is sent to it and keeps it for the test. It speaks as much of RFC 5321 as a sender needs.

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// A mail as it arrived.
#[derive(Debug, Clone)]
pub struct Received {
    /// The recipient of the envelope.
    pub to: String,
    /// Headers and body, decoded from quoted-printable.
    pub text: String,
}

impl Received {
    /// What follows `token=` in its link.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn token(&self) -> String {
        let (_, rest) = self.text.split_once("token=").expect("the mail has a link");
        rest.chars().take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')).collect()
    }
}

/// The server, for as long as it lives.
#[derive(Debug)]
pub struct MailServer {
    url: String,
    mails: mpsc::UnboundedReceiver<Received>,
    serving: tokio::task::JoinHandle<()>,
}

impl MailServer {
    /// Starts one on a port of its own.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("smtp://{}", listener.local_addr().expect("bound"));
        let (sender, mails) = mpsc::unbounded_channel();
        let serving = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let sender = sender.clone();
                tokio::spawn(async move {
                    // A sender that hangs up early is its own affair.
                    let _ = converse(connection, &sender).await;
                });
            }
        });
        Self { url, mails, serving }
    }

    /// For `SMTP_URL`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The next mail.
    ///
    /// # Panics
    /// When none arrives in time.
    pub async fn next(&mut self) -> Received {
        tokio::time::timeout(crate::PATIENCE, self.mails.recv())
            .await
            .expect("a mail arrives in time")
            .expect("the server runs")
    }

    /// Whether a mail has arrived that nobody has looked at.
    pub fn has_more(&mut self) -> bool {
        !self.mails.is_empty()
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn converse(connection: TcpStream, mails: &mpsc::UnboundedSender<Received>) -> std::io::Result<()> {
    let (reader, mut writer) = connection.into_split();
    let mut lines = BufReader::new(reader).lines();
    let mut to = String::new();
    writer.write_all(b"220 testkit\r\n").await?;
    while let Some(line) = lines.next_line().await? {
        let verb = line.get(..4).unwrap_or(&line).to_ascii_uppercase();
        let answer: &[u8] = match verb.as_str() {
            "RCPT" => {
                to = line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
                b"250 ok\r\n"
            }
            "DATA" => {
                writer.write_all(b"354 go on\r\n").await?;
                let mut text = String::new();
                while let Some(line) = lines.next_line().await? {
                    match line.as_str() {
                        "." => break,
                        line => {
                            text.push_str(line.strip_prefix('.').unwrap_or(line));
                            text.push('\n');
                        }
                    }
                }
                // Soft line breaks and the one character that a link needs escaped.
                let text = text.replace("=\n", "").replace("=3D", "=");
                let _ = mails.send(Received { to: to.clone(), text });
                b"250 taken\r\n"
            }
            "QUIT" => {
                writer.write_all(b"221 bye\r\n").await?;
                return Ok(());
            }
            _ => b"250 ok\r\n",
        };
        writer.write_all(answer).await?;
    }
    Ok(())
}
