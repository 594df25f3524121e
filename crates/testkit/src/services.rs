//! The services that the tests share.

use secrecy::SecretString;

/// Addresses of PostgreSQL (as its superuser), RabbitMQ and Redis.
#[derive(Debug, Clone)]
pub struct Services {
    /// `DATABASE_URL`, a superuser's: every test makes a database of its own.
    pub database_url: SecretString,
    /// `RABBITMQ_URL`.
    pub rabbitmq_url: SecretString,
    /// `REDIS_URL`.
    pub redis_url: SecretString,
}

impl Services {
    /// Reads the environment.
    ///
    /// # Panics
    /// When a variable is missing: a test that has no database proves nothing, so it fails instead of passing.
    #[must_use]
    pub fn from_env() -> Self {
        let variable = |name: &str| match std::env::var(name) {
            Ok(value) if !value.is_empty() => SecretString::from(value),
            _ => panic!(
                "{name} is not set: run the tests with `scripts/test`, or first `eval \"$(scripts/services env)\"`"
            ),
        };
        Self {
            database_url: variable("DATABASE_URL"),
            rabbitmq_url: variable("RABBITMQ_URL"),
            redis_url: variable("REDIS_URL"),
        }
    }
}
