//! Mail to people: over SMTP, or into the log while developing.
//!
//! Delivery goes on behind the request that asked for it, so that no answer tells by its time whether somebody was
//! written to. It may be lost with the process; whoever waits asks for another link.

use std::sync::Arc;
use std::time::Duration;

use lettre::message::Mailbox;
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::settings::Settings;
use crate::{Error, Result};

/// How long the server is waited for at each step.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pauses before the second and the third try.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];
/// Mails under way at once; beyond that they are dropped, and said to be.
const MOST_AT_ONCE: usize = 64;

/// Sends mail. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Mailer {
    way: Way,
    tasks: TaskTracker,
    places: Arc<Semaphore>,
}

#[derive(Debug, Clone)]
enum Way {
    Smtp {
        transport: AsyncSmtpTransport<Tokio1Executor>,
        from: Mailbox,
    },
    /// Development: whoever develops reads the log.
    Log,
    /// Production without `SMTP_URL`.
    Nowhere,
}

/// A mail with one link.
#[derive(Debug)]
pub struct Mail {
    /// E-mail address.
    pub to: String,
    /// Subject.
    pub subject: &'static str,
    /// What is said around the link; the place of the link is `{link}`.
    pub text: &'static str,
    /// The link, which is as good as a password.
    pub link: SecretString,
}

impl Mailer {
    /// The way that the settings name.
    ///
    /// # Errors
    /// [`Error::Impossible`] for an `SMTP_URL` or `MAIL_FROM` that cannot be read; the value is not repeated.
    pub fn open(settings: &Settings) -> Result<Self> {
        let way = match &settings.smtp_url {
            Some(url) if !url.expose_secret().is_empty() => {
                let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(url.expose_secret())
                    .map_err(|_| {
                        Error::Impossible(
                            "SMTP_URL cannot be read; expected smtps://user:password@host or smtp://host:port?tls=required"
                                .into(),
                        )
                    })?
                    .timeout(Some(PATIENCE))
                    .build();
                let from = settings.mail_from.parse().map_err(|_| {
                    Error::Impossible(
                        "MAIL_FROM must be an e-mail address, such as Bifrost <bifrost@example.com>".into(),
                    )
                })?;
                Way::Smtp { transport, from }
            }
            _ if settings.is_production() => Way::Nowhere,
            _ => Way::Log,
        };
        Ok(Self { way, tasks: TaskTracker::new(), places: Arc::new(Semaphore::new(MOST_AT_ONCE)) })
    }

    /// Whether mail can be sent at all.
    ///
    /// # Errors
    /// [`Error::Unavailable`] in production without `SMTP_URL`.
    pub fn check(&self) -> Result<()> {
        match self.way {
            Way::Nowhere => Err(Error::Unavailable { service: "mail", source: "SMTP_URL is not set".into() }),
            Way::Smtp { .. } | Way::Log => Ok(()),
        }
    }

    /// Makes a mail and sends it behind the caller's back; nothing to send is nothing to do.
    pub fn deliver_later(&self, making: impl Future<Output = Result<Option<Mail>>> + Send + 'static) {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            tracing::warn!(most = MOST_AT_ONCE, "too many mails under way, one is dropped");
            return;
        };
        let mailer = self.clone();
        self.tasks.spawn(async move {
            let _place = place;
            let sent = match making.await {
                Ok(Some(mail)) => mailer.deliver(&mail).await,
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = sent {
                tracing::error!(%error, cause = ?std::error::Error::source(&error).map(ToString::to_string), "a mail was not sent");
            }
        });
    }

    /// Waits until what is under way has ended.
    pub async fn drain(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn deliver(&self, mail: &Mail) -> Result<()> {
        let link = mail.link.expose_secret();
        match &self.way {
            Way::Log => {
                tracing::warn!(
                    to = mail.to,
                    subject = mail.subject,
                    link,
                    "SMTP_URL is not set: a mail goes to the log"
                );
                Ok(())
            }
            Way::Nowhere => self.check(),
            Way::Smtp { transport, from } => {
                let to = mail.to.parse().map_err(Error::internal)?;
                let message = Message::builder()
                    .from(from.clone())
                    .to(Mailbox::new(None, to))
                    .subject(mail.subject)
                    .body(mail.text.replace("{link}", link))
                    .map_err(Error::internal)?;
                let mut pauses = PAUSES.into_iter();
                loop {
                    let Err(error) = transport.send(message.clone()).await else { return Ok(()) };
                    match pauses.next() {
                        Some(pause) if !error.is_permanent() => tokio::time::sleep(pause).await,
                        _ => return Err(Error::Unavailable { service: "mail", source: error.into() }),
                    }
                }
            }
        }
    }
}
