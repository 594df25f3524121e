//! How a command fails: what happened, what to do next, and the exit code.

use std::fmt::{Debug, Display};
use std::process::ExitCode;

use crate::output;

/// The command was used wrongly, or something it needs is not there.
pub(crate) const USAGE: u8 = 2;

/// A failure as a person reads it.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    next: Option<String>,
    code: u8,
}

impl Failure {
    pub(crate) fn new(message: impl Display) -> Self {
        Self { message: message.to_string(), next: None, code: 1 }
    }

    /// What happened, for a report that has a place of its own for the advice.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Says what to do about it; one step per line.
    pub(crate) fn next(mut self, step: impl Display) -> Self {
        self.next = Some(step.to_string());
        self
    }

    pub(crate) fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// Prints it and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        output::note(&format!("error: {}", indented(&self.message, "       ")));
        if let Some(next) = &self.next {
            output::note(&format!("next:  {}", indented(next, "       ")));
        }
        ExitCode::from(self.code)
    }
}

/// An error with all its causes, without repeating one that already says the next.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

fn indented(text: &str, by: &str) -> String {
    text.trim_end().replace('\n', &format!("\n{by}"))
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(format!("{error:#}"))
    }
}

impl From<domain::Error> for Failure {
    fn from(error: domain::Error) -> Self {
        Self::new(chain(&error))
    }
}
