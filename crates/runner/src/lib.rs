//! Runs Python in forked processes: starts the warm template, talks in frames, limits, kills whole trees.
//!
//! Knows nothing of tenants, rows or queues. The invariant: no byte of user code decides what this side
//! believes about the process: its pid and its output descriptor come from the template, its end from the
//! kernel.

pub mod cgroups;
mod folders;
mod isolation;
mod process;
mod protocol;
mod run;
mod template;

pub use folders::remove_left_over;
pub use isolation::{Enclosure, Piece, RunAs, Together, probe};
pub use protocol::{
    Call, Context, Failure, Frame, Kind, Limits, Log, MAX_FRAME, Organization, Outcome, ResultFrame, Start,
    Usage, WorkflowRef,
};
pub use run::{Ended, Replier, Run};
pub use template::{Config, Isolation, Ready, Template};

/// What can go wrong on this side.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The interpreter could not be started.
    #[error("cannot start {python}: {source}")]
    Spawn {
        /// The interpreter.
        python: String,
        /// Why.
        source: std::io::Error,
    },
    /// The template ended or said something unexpected while it started.
    #[error("the Python template did not start: {0}")]
    Template(String),
    /// A process could not be had from the template.
    #[error("the Python template gave no process: {0}")]
    Fork(#[from] std::io::Error),
    /// A frame breaks the protocol.
    #[error("broken frame: {0}")]
    Frame(String),
}
