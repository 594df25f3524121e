//! Progress on standard error, with the seconds since the start.

use std::time::Instant;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    began: Instant,
}

impl Progress {
    pub(crate) fn start() -> Self {
        Self { began: Instant::now() }
    }

    /// Prints a line.
    pub(crate) fn say(self, text: impl std::fmt::Display) {
        eprintln!("[{:6.1} s] {text}", self.began.elapsed().as_secs_f64());
    }
}
