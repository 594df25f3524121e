//! One run over one process: send the start, read what it says, answer its calls, end it.

use std::any::Any;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf, pipe};
use tokio::sync::Mutex;

use crate::process::Process;
use crate::protocol::{self, Exit, Frame, Log, Start, Usage};
use crate::{Error, Template};

/// Longest captured line; a longer one is cut into several.
const MAX_LINE: usize = 64 * 1024;
/// How long the kernel may take to tell of an end that the connection already showed.
const EXIT_PATIENCE: Duration = Duration::from_secs(2);
const READ_CHUNK: usize = 64 * 1024;
const DRAIN_CHUNK: usize = 8 * 1024;
/// The most that a process without rights can have a pipe hold.
const MAX_PIPE: usize = 1024 * 1024;

/// A run under way. Dropping it kills the process and all it has started.
#[derive(Debug)]
pub struct Run {
    process: Option<Process>,
    incoming: BytesMut,
    captured: BytesMut,
    /// What was captured begins in the middle of a line.
    mid_line: bool,
    output_open: bool,
    template: Arc<Template>,
    tenant: Option<String>,
    /// Why it is ended, once its last lines are given.
    broken: Option<Error>,
    writer: Option<Replier>,
    reader: Option<OwnedReadHalf>,
}

/// Answers calls; may be used from many tasks.
#[derive(Debug, Clone)]
pub struct Replier {
    writer: Arc<Mutex<OwnedWriteHalf>>,
}

/// A process that ended without a result.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// Exit code, if it exited.
    pub code: Option<i32>,
    /// Signal, if it was killed.
    pub signal: Option<i32>,
    /// What it took.
    pub usage: Usage,
    /// Whether it was ended because what it sent was no frame.
    pub broke_protocol: bool,
    /// Whether the kernel ended it because it and what it had started held more memory than they may.
    pub out_of_memory: bool,
}

impl Run {
    pub(crate) fn new(process: Process, template: Arc<Template>, tenant: Option<String>) -> Self {
        Self {
            process: Some(process),
            incoming: BytesMut::new(),
            captured: BytesMut::new(),
            mid_line: false,
            output_open: true,
            template,
            tenant,
            broken: None,
            writer: None,
            reader: None,
        }
    }

    /// Whether the process serves other runs afterwards; belongs into the start frame.
    pub fn is_pooled(&self) -> bool {
        self.tenant.is_some()
    }

    /// What was kept with its process by the run before, or else a new one, which the next run gets too.
    pub fn kept<T: Any + Send + Sync + Default>(&mut self) -> Arc<T> {
        let process = self.process.as_mut().expect("a run has its process until it ends");
        if let Some(kept) = process.kept.as_ref().and_then(|kept| kept.downcast_ref::<Arc<T>>()) {
            return kept.clone();
        }
        let kept = Arc::<T>::default();
        process.kept = Some(Box::new(kept.clone()));
        kept
    }

    /// Starts it.
    ///
    /// # Errors
    /// [`Error::Fork`] when the process is gone, [`Error::Frame`] for a start that is too large.
    pub async fn start(&mut self, start: &Start<'_>) -> Result<Replier, Error> {
        let frame = protocol::encode(start)?;
        let process = self.process.as_mut().expect("a run has its process until it ends");
        let (reader, writer) = take_stream(process)?.into_split();
        let replier = Replier { writer: Arc::new(Mutex::new(writer)) };
        self.reader = Some(reader);
        self.writer = Some(replier.clone());
        replier.writer.lock().await.write_all(&frame).await?;
        Ok(replier)
    }

    /// What it says next: whole frames, and captured output as DEBUG lines. `Err` is the end without a
    /// result. Safe to cancel.
    ///
    /// # Errors
    /// [`Ended`] when the process ended or broke the protocol.
    pub async fn next(&mut self) -> Result<Vec<Frame>, Ended> {
        let mut frames = Vec::new();
        loop {
            if let Some(error) = &self.broken {
                let broke_protocol = matches!(error, Error::Frame(_));
                return Err(Ended { broke_protocol, ..self.ended().await });
            }
            let alive = match self.read(&mut frames).await {
                Ok(alive) => alive,
                Err(error) => {
                    // What it has logged and written before stands; all else that comes with rubbish counts for nothing.
                    frames.retain(|frame| matches!(frame, Frame::Log(_)));
                    // Once: it lives on, and may write without end.
                    frames.extend(self.drain_output());
                    self.broken = Some(error);
                    if frames.is_empty() {
                        continue;
                    }
                    return Ok(frames);
                }
            };
            if !frames.is_empty() {
                if let Some(Frame::Result(result)) = frames.last() {
                    if result.last {
                        self.tenant = None;
                    }
                    // What was written before the result belongs before it.
                    let at = frames.len() - 1;
                    let rest = self.drain_output();
                    frames.splice(at..at, rest);
                }
                return Ok(frames);
            }
            if !alive {
                let rest = self.drain_output();
                if !rest.is_empty() {
                    return Ok(rest);
                }
                return Err(self.ended().await);
            }
        }
    }

    /// Has it give way to runs that are short. A pooled process does not: it could not step forward again.
    pub fn stand_back(&self) {
        if let Some(process) = &self.process
            && !self.is_pooled()
        {
            process.stand_back();
        }
    }

    /// Asks it to end; `finally` blocks run. Whenever that reaches it, it serves no other run.
    pub fn terminate(&mut self) {
        self.tenant = None;
        if let Some(process) = &self.process {
            process.terminate();
        }
    }

    /// Ends it and all it has started.
    pub fn kill(&mut self) {
        self.tenant = None;
        if let Some(process) = &self.process {
            process.kill_tree();
        }
    }

    /// After a result: a pooled process may serve again, unless it says that it does not or was asked to end; any other is ended.
    pub fn finish(mut self) {
        let (Some(mut process), Some(tenant)) = (self.process.take(), self.tenant.take()) else { return };
        let writer = self.writer.take().and_then(|replier| Arc::into_inner(replier.writer));
        if let (Some(reader), Some(writer)) = (self.reader.take(), writer)
            && let Ok(stream) = reader.reunite(writer.into_inner())
            && self.incoming.is_empty()
        {
            process.stream = Some(stream);
            self.template.give_back(tenant, process);
        }
    }

    /// Reads once from the output, the connection or both; false at the end of the connection.
    async fn read(&mut self, frames: &mut Vec<Frame>) -> Result<bool, Error> {
        let process = self.process.as_mut().expect("a run has its process until it ends");
        let reader = self.reader.as_mut().expect("a run is read after it was started");
        let output = (&mut process.output, self.output_open);
        let (written, said) = read_next(output, &mut self.captured, reader, &mut self.incoming).await?;
        if let Some(written) = written {
            self.output_open = written > 0;
            take_lines(&mut self.captured, &mut self.mid_line, !self.output_open, frames);
        }
        if said == Some(0) {
            return Ok(false);
        }
        while let Some(frame) = protocol::take(&mut self.incoming)? {
            frames.push(protocol::decode(&frame)?);
        }
        Ok(true)
    }

    fn drain_output(&mut self) -> Vec<Frame> {
        let mut lines = Vec::new();
        let Some(process) = &self.process else { return lines };
        drain(&process.output, &mut self.captured);
        take_lines(&mut self.captured, &mut self.mid_line, true, &mut lines);
        lines
    }

    async fn ended(&mut self) -> Ended {
        let process = self.process.as_mut().expect("a run has its process until it ends");
        // A process that closed its connection but lives on has no business left.
        process.kill();
        match tokio::time::timeout(EXIT_PATIENCE, &mut process.exit).await {
            Ok(Ok(Exit { code, signal, peak_memory_bytes, cpu_seconds, out_of_memory, .. })) => {
                let usage = Usage { cpu_seconds, peak_memory_bytes };
                Ended { code, signal, usage, broke_protocol: false, out_of_memory }
            }
            _ => Ended {
                code: None,
                signal: None,
                usage: Usage::default(),
                broke_protocol: false,
                out_of_memory: false,
            },
        }
    }
}

impl Replier {
    /// Answers a call.
    ///
    /// # Errors
    /// [`Error::Fork`] when the process is gone, [`Error::Frame`] for an answer that is too large.
    pub async fn reply(&self, id: u64, ok: &impl Serialize) -> Result<(), Error> {
        #[derive(Serialize)]
        struct Reply<'a, T> {
            t: &'static str,
            id: u64,
            ok: &'a T,
        }
        self.send(&Reply { t: "reply", id, ok }).await
    }

    /// Refuses a call; `kind` is the class of the exception that the SDK raises.
    ///
    /// # Errors
    /// As [`Self::reply`].
    pub async fn refuse(&self, id: u64, kind: &str, message: &str) -> Result<(), Error> {
        self.send(
            &serde_json::json!({ "t": "reply", "id": id, "error": { "type": kind, "message": message } }),
        )
        .await
    }

    async fn send(&self, frame: &impl Serialize) -> Result<(), Error> {
        let frame = protocol::encode(frame)?;
        Ok(self.writer.lock().await.write_all(&frame).await?)
    }
}

fn take_stream(process: &mut Process) -> Result<tokio::net::UnixStream, Error> {
    process.stream.take().ok_or_else(|| io::Error::other("the process runs already").into())
}

/// Waits until there is something in the output, if that is open, or on the connection; gives how many bytes were read from
/// each, and `None` where nothing was read. Output comes first, for what was written before a frame belongs before it, but
/// whoever writes without end does not keep the frames waiting.
async fn read_next(
    (output, is_open): (&mut pipe::Receiver, bool),
    captured: &mut BytesMut,
    connection: &mut OwnedReadHalf,
    incoming: &mut BytesMut,
) -> io::Result<(Option<usize>, Option<usize>)> {
    captured.reserve(READ_CHUNK);
    incoming.reserve(READ_CHUNK);
    tokio::select! {
        biased;
        // What is wrong with the connection shows again when it is read next.
        written = output.read_buf(captured), if is_open => {
            Ok((Some(written?), connection.try_read_buf(incoming).ok()))
        }
        said = connection.read_buf(incoming) => Ok((None, Some(said?))),
    }
}

/// Reads what is in the pipe now, and nothing of what is written without end meanwhile. Straight from the descriptor: the
/// runtime would say that there is nothing until it has heard of what was written last.
fn drain(output: &impl AsFd, captured: &mut BytesMut) {
    let mut chunk = [0; DRAIN_CHUNK];
    for _ in 0..MAX_PIPE / DRAIN_CHUNK {
        match rustix::io::read(output, &mut chunk) {
            Ok(0) => return,
            Ok(read) => captured.extend_from_slice(&chunk[..read]),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// Moves whole lines, and at the end the rest, out of the buffer. What is no UTF-8 is replaced. `mid_line` holds from one
/// call to the next whether the buffer begins within a line.
fn take_lines(captured: &mut BytesMut, mid_line: &mut bool, all: bool, frames: &mut Vec<Frame>) {
    let at =
        i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_micros()).unwrap_or(i64::MAX);
    loop {
        let (line, ending) = match captured.iter().position(|byte| *byte == b'\n') {
            Some(end) => (end.min(MAX_LINE), usize::from(end <= MAX_LINE)),
            None if captured.len() >= MAX_LINE => (MAX_LINE, 0),
            None if all && !captured.is_empty() => (captured.len(), 0),
            None => return,
        };
        let taken = captured.split_to(line + ending);
        let message = String::from_utf8_lossy(&taken[..line]).into_owned();
        let goes_on = ending == 0;
        let continues = std::mem::replace(mid_line, goes_on);
        frames.push(Frame::Log(Log { level: "DEBUG".into(), message, data: None, at, continues, goes_on }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(bytes: &[u8], all: bool) -> Vec<Log> {
        let (mut captured, mut frames) = (BytesMut::from(bytes), Vec::new());
        take_lines(&mut captured, &mut false, all, &mut frames);
        let log =
            |frame| if let Frame::Log(log) = frame { log } else { panic!("captured output is log lines") };
        frames.into_iter().map(log).collect()
    }

    fn lines(bytes: &[u8], all: bool) -> Vec<String> {
        taken(bytes, all).into_iter().map(|log| log.message).collect()
    }

    #[tokio::test]
    async fn what_was_written_last_is_read_before_the_runtime_has_heard_of_it() {
        let (reader, writer) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).expect("makes a pipe");
        let output = pipe::Receiver::from_owned_fd(reader).expect("is a pipe");
        rustix::io::write(&writer, b"first\n").expect("fits");
        output.readable().await.expect("is readable");
        let mut captured = BytesMut::new();
        drain(&output, &mut captured);
        // Now the runtime believes the pipe to be empty.
        output.try_read(&mut [0; 8]).expect_err("is empty");
        rustix::io::write(&writer, b"last\n").expect("fits");

        drain(&output, &mut captured);

        assert_eq!(&captured[..], b"first\nlast\n");
    }

    #[tokio::test]
    async fn whoever_writes_without_end_does_not_keep_what_it_says_waiting() {
        let (reader, writer) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).expect("makes a pipe");
        let mut output = pipe::Receiver::from_owned_fd(reader).expect("is a pipe");
        let written = rustix::io::write(&writer, &[b'\n'; READ_CHUNK / 2]).expect("fits");
        let (ours, mut its) = tokio::net::UnixStream::pair().expect("makes sockets");
        its.write_all(b"said").await.expect("fits");
        let (mut connection, _) = ours.into_split();
        output.readable().await.expect("is readable");
        connection.readable().await.expect("is readable");

        let (mut captured, mut incoming) = (BytesMut::new(), BytesMut::new());
        let read = read_next((&mut output, true), &mut captured, &mut connection, &mut incoming).await;

        assert_eq!(read.expect("reads"), (Some(written), Some(4)), "all of both at once");
        assert_eq!((captured.len(), &incoming[..]), (written, &b"said"[..]));
    }

    #[test]
    fn what_is_written_without_end_is_read_to_an_end() {
        let endless = std::fs::File::open("/dev/zero").expect("opens");
        let mut captured = BytesMut::new();

        drain(&endless, &mut captured);

        assert_eq!(captured.len(), MAX_PIPE);
    }

    #[test]
    fn captured_output_becomes_lines() {
        assert_eq!(lines(b"one\ntwo\nthr", false), ["one", "two"]);
        assert_eq!(lines(b"one\n\nthr", true), ["one", "", "thr"]);
        assert_eq!(lines(b"caf\xff\n", false), ["caf\u{fffd}"]);
        let long = vec![b'x'; MAX_LINE * 2 + 5];
        assert_eq!(lines(&long, true).iter().map(String::len).collect::<Vec<_>>(), [MAX_LINE, MAX_LINE, 5]);
    }

    #[test]
    fn a_piece_of_a_line_says_so_whatever_comes_between() {
        let long = [vec![b'x'; MAX_LINE + 5], b"\nnext\n".to_vec()].concat();
        let pieces: Vec<_> = taken(&long, false).iter().map(|log| (log.continues, log.goes_on)).collect();
        assert_eq!(pieces, [(false, true), (true, false), (false, false)]);
    }
}
