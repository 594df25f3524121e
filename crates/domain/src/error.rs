//! The one error type of the domain. A variant exists when a caller or a client acts on it.
//!
//! Nothing here knows HTTP; the api maps each variant to a problem document in one place.

use std::sync::Arc;
use std::time::Duration;

/// Result of a domain function.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong, as far as anybody acts on it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It does not exist, or it belongs to another organization: callers cannot tell which.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// A duplicate or an ambiguous name.
    #[error("{0}")]
    Conflict(String),
    /// Input that breaks a rule, field by field.
    #[error("invalid input")]
    Invalid(Vec<FieldError>),
    /// Understood, but impossible in this state.
    #[error("{0}")]
    Impossible(String),
    /// No, expired or revoked credential.
    #[error("not authenticated")]
    Unauthenticated,
    /// Known caller, reachable object, missing right.
    #[error("{0}")]
    Forbidden(String),
    /// A limit was reached.
    #[error("too many requests, try again in {} s", retry_after.as_secs())]
    TooMany {
        /// How long to wait.
        retry_after: Duration,
    },
    /// A dependency is away; trying again helps.
    #[error("{service} is not available")]
    Unavailable {
        /// Which one, as a person calls it.
        service: &'static str,
        /// For the log, never for the client.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A bug or a surprise.
    #[error("internal error")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// One broken rule of the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// RFC 6901 pointer into the body (`/input_data/site`), or `?limit`, `header:Idempotency-Key`, `path:id`.
    pub pointer: String,
    /// What is wrong with it.
    pub detail: String,
}

impl Error {
    /// A single broken field.
    pub fn invalid(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldError { pointer: pointer.into(), detail: detail.into() }])
    }

    /// A bug or a surprise, with its cause for the log.
    pub fn internal(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Internal(source.into())
    }

    /// An error of work that many waited for, as each of them gets it.
    pub fn shared(error: &Arc<Self>) -> Self {
        match &**error {
            Self::NotFound(what) => Self::NotFound(what),
            Self::Conflict(text) => Self::Conflict(text.clone()),
            Self::Unavailable { service, .. } => {
                Self::Unavailable { service, source: error.to_string().into() }
            }
            _ => Self::internal(error.clone()),
        }
    }

    /// Whether trying again later can help.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// Whether PostgreSQL does not take our login, which waiting alone does not change.
    pub fn is_refused_login(&self) -> bool {
        let Self::Unavailable { source, .. } = self else { return false };
        let said = source.downcast_ref::<sqlx::Error>().and_then(sqlx::Error::as_database_error);
        said.and_then(|said| said.code()).is_some_and(|code| code.starts_with("28"))
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let away = match &error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => true,
            // What a proxy in front of a server that is down says to the first word of a connection: nothing.
            sqlx::Error::Protocol(said) if said.contains("SSLRequest") => true,
            // 57P0x: the server shuts down, crashed or starts; 53xxx: out of connections, memory or disk;
            // 08xxx: the connection broke; 40xxx: rolled back in favour of another transaction; 25P03: it waited too long for us;
            // 28xxx and 3D000: it does not know our login or our database, which whoever operates it corrects.
            sqlx::Error::Database(db) => db.code().is_some_and(|code| {
                ["57P", "53", "08", "40", "25P03", "28", "3D"].iter().any(|class| code.starts_with(class))
            }),
            _ => false,
        };
        if away {
            Self::Unavailable { service: "PostgreSQL", source: error.into() }
        } else {
            Self::internal(error)
        }
    }
}

/// What the violation of a constraint means for a person.
pub type Refusal = (&'static str, fn() -> Error);

/// Turns the violation of a named constraint into the error that a person can act on.
pub trait OnConstraint<T> {
    /// Maps a violation of `constraint` to `error`, everything else as usual.
    fn on_constraint(self, constraint: &str, error: impl FnOnce() -> Error) -> Result<T>;

    /// The same for several constraints.
    fn on_constraints(self, refusals: &[Refusal]) -> Result<T>;
}

impl<T> OnConstraint<T> for Result<T, sqlx::Error> {
    fn on_constraint(self, constraint: &str, error: impl FnOnce() -> Error) -> Result<T> {
        self.map_err(|cause| match &cause {
            sqlx::Error::Database(db) if db.constraint() == Some(constraint) => error(),
            _ => cause.into(),
        })
    }

    fn on_constraints(self, refusals: &[Refusal]) -> Result<T> {
        self.map_err(|cause| {
            let violated = cause.as_database_error().and_then(|error| error.constraint());
            match refusals.iter().find(|(constraint, _)| violated == Some(*constraint)) {
                Some((_, error)) => error(),
                None => cause.into(),
            }
        })
    }
}
