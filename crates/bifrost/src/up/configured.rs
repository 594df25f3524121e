//! Waiting for the services that are configured, and saying which one is missing and why.

use std::time::{Duration, Instant};

use domain::cache::Cache;
use domain::schema;
use domain::settings::Settings;
use domain::wakeup::Wakeups;
use domain::wakeup::topology::END_OF_CONFLICT;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, chain};
use crate::output::Progress;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// A service that is configured.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Service {
    Postgres,
    RabbitMq,
    Redis,
}

/// What is wrong with a service.
pub(crate) struct Fault {
    pub(crate) words: String,
    /// What to do where waiting does not help, nor any other address.
    pub(crate) remedy: Option<&'static str>,
}

impl From<String> for Fault {
    fn from(words: String) -> Self {
        Self { words, remedy: None }
    }
}

impl Service {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Postgres => "PostgreSQL",
            Self::RabbitMq => "RabbitMQ",
            Self::Redis => "Redis",
        }
    }

    pub(crate) fn variable(self) -> &'static str {
        match self {
            Self::Postgres => "DATABASE_URL",
            Self::RabbitMq => "RABBITMQ_URL",
            Self::Redis => "REDIS_URL",
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Self::Postgres => 5432,
            Self::RabbitMq => 5672,
            Self::Redis => 6379,
        }
    }

    /// `host:port` of a URL of this service: what may be shown, unlike the URL.
    pub(crate) fn address(self, url: &SecretString) -> Result<String, String> {
        let url = url::Url::parse(url.expose_secret())
            .map_err(|error| format!("{} is not a URL: {error}", self.variable()))?;
        let host = url.host_str().filter(|host| !host.is_empty()).unwrap_or("127.0.0.1");
        Ok(format!("{host}:{}", url.port().unwrap_or(self.default_port())))
    }

    /// Asks it something, once. The error says what is wrong and names no password.
    pub(crate) async fn ask(self, url: &SecretString, queue_prefix: &str) -> Result<(), Fault> {
        let address = self.address(url)?;
        // First the door: its error is the one that people recognise.
        let connect = tokio::time::timeout(CONNECT_PATIENCE, TcpStream::connect(&address));
        connect.await.map_err(|_| "does not answer".to_owned())?.map_err(|error| error.to_string())?;
        match self {
            Self::Postgres => match schema::inspect(url).await {
                Ok(_) => Ok(()),
                Err(error) => Err(chain(&error).into()),
            },
            Self::RabbitMq => {
                let wakeups = Wakeups::rabbit(url, queue_prefix).map_err(|error| chain(&error))?;
                wakeups.ping().await.map_err(|_| match wakeups.conflict() {
                    Some(words) => Fault { words, remedy: Some(END_OF_CONFLICT) },
                    None => "accepts connections, but refuses or does not serve us".to_owned().into(),
                })
            }
            Self::Redis => {
                let cache = Cache::redis(url, "probe").map_err(|error| chain(&error))?;
                cache.ping().await.map_err(|error| chain(&error).into())
            }
        }
    }
}

/// The services that these settings name.
pub(crate) fn named(settings: &Settings) -> Vec<(Service, SecretString)> {
    let all = [
        (Service::Postgres, &settings.database_url),
        (Service::RabbitMq, &settings.rabbitmq_url),
        (Service::Redis, &settings.redis_url),
    ];
    all.into_iter().filter_map(|(service, url)| Some((service, url.clone()?))).collect()
}

/// Waits for all of them together, each as long as `patience`.
pub(crate) async fn wait_for(
    settings: &Settings,
    patience: Duration,
    progress: Progress,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let admin = settings.admin_database_url.as_ref();
    let waits = named(settings).into_iter().map(|(service, url)| {
        // The application's login may be one that the migration makes first.
        let url = if matches!(service, Service::Postgres) { admin.cloned().unwrap_or(url) } else { url };
        wait_for_one(service, url, &settings.queue_prefix, patience, progress)
    });
    tokio::select! {
        waited = futures::future::try_join_all(waits) => waited.map(|_| ()),
        () = stop.cancelled() => Err(Failure::new("interrupted").code(130)),
    }
}

async fn wait_for_one(
    service: Service,
    url: SecretString,
    queue_prefix: &str,
    patience: Duration,
    progress: Progress,
) -> Result<(), Failure> {
    let address = service.address(&url).map_err(Failure::new)?;
    let (name, began, mut pause) = (service.name(), Instant::now(), FIRST_PAUSE);
    loop {
        let fault = match service.ask(&url, queue_prefix).await {
            Ok(()) => {
                progress.say(format!("{name} answers on {address}"));
                return Ok(());
            }
            Err(Fault { words, remedy: Some(remedy) }) => {
                return Err(Failure::new(format!("{name} on {address} is not usable: {words}")).next(remedy));
            }
            Err(fault) => fault.words,
        };
        if began.elapsed() + pause > patience {
            let variable = service.variable();
            return Err(Failure::new(format!("{name} on {address} is not usable: {fault}"))
                .next(format!("start it, correct {variable}, or unset {variable} to do without it")));
        }
        if pause == FIRST_PAUSE {
            progress.say(format!("Waiting for {name} on {address}: {fault}"));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_shows_where_and_never_who() {
        let address = |url: &str| Service::RabbitMq.address(&SecretString::from(url));

        assert_eq!(address("amqp://user:pass@broker.example:5671/%2f"), Ok("broker.example:5671".into()));
        assert_eq!(address("amqp://user:pass@broker.example"), Ok("broker.example:5672".into()));
        assert!(address("broker").is_err_and(|fault| fault.contains("RABBITMQ_URL")));
    }
}
