//! Frames: a big-endian length of four bytes, then a JSON object. Payloads pass through unparsed.

use bytes::{Buf, BytesMut};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::Error;

/// Longest frame; a longer one is a broken or hostile peer. A result of 16 MiB fits, with its variables.
pub const MAX_FRAME: usize = 20 * 1024 * 1024;
const HEADER: usize = 4;

/// What a run begins with.
#[derive(Debug, Serialize)]
#[serde(tag = "t", rename = "start")]
#[expect(missing_docs, reason = "the members of the frame, described below where they need it")]
pub struct Start<'a> {
    pub execution_id: &'a str,
    pub attempt: i32,
    /// The decorated function; `None` for inline code.
    pub workflow: Option<WorkflowRef<'a>>,
    /// Inline source.
    pub code: Option<&'a str>,
    pub script_name: Option<&'a str>,
    pub kind: Kind,
    pub parameters: &'a RawValue,
    pub startup: Option<&'a RawValue>,
    pub context: Context<'a>,
    pub limits: Limits,
    /// Private directory of this execution.
    pub temp_dir: Option<&'a str>,
    pub capture_variables: bool,
    /// Whether the process waits for another run after this one.
    pub pooled: bool,
    /// Names the state of the workspace.
    pub generation: &'a str,
}

/// Where a workflow is found.
#[derive(Debug, Clone, Copy, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct WorkflowRef<'a> {
    /// Relative to the workspace.
    pub path: &'a str,
    pub function: &'a str,
    pub name: &'a str,
}

/// What is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Kind {
    Workflow,
    DataProvider,
}

/// Who runs it and for whom, as the SDK's context shows it.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Context<'a> {
    pub user_id: &'a str,
    pub email: &'a str,
    pub name: &'a str,
    /// `GLOBAL` or the organization's id.
    pub scope: &'a str,
    pub organization: Option<Organization<'a>>,
    pub is_platform_admin: bool,
    pub is_function_key: bool,
    /// W3C trace context of the run.
    pub traceparent: Option<&'a str>,
}

/// The organization of a run.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Organization<'a> {
    pub id: &'a str,
    pub name: &'a str,
    pub is_active: bool,
}

/// Resource limits of one process; `None` is unlimited.
#[derive(Debug, Clone, Copy, Serialize)]
#[expect(missing_docs, reason = "the names say it, units included")]
pub struct Limits {
    pub memory_bytes: Option<u64>,
    pub cpu_seconds: Option<u64>,
    pub processes: Option<u64>,
    pub file_size_bytes: Option<u64>,
    pub open_files: Option<u64>,
    pub result_bytes: u64,
}

/// What a run says.
#[derive(Debug, Deserialize)]
pub enum Frame {
    /// It logged.
    Log(Log),
    /// It asks for something.
    Call(Call),
    /// It is done.
    Result(Box<ResultFrame>),
}

/// A log line.
#[derive(Debug, Deserialize)]
pub struct Log {
    /// `DEBUG`, `INFO`, `WARNING`, `ERROR`, `CRITICAL` or `TRACEBACK`.
    pub level: String,
    /// Text.
    pub message: String,
    /// What `extra` held.
    pub data: Option<Box<RawValue>>,
    /// Unix time in microseconds.
    pub at: i64,
    /// The text begins in the middle of a line: its beginning was too long for one message and came before, though
    /// lines of other streams may lie between.
    #[serde(default)]
    pub continues: bool,
    /// The line goes on in a later message.
    #[serde(default)]
    pub goes_on: bool,
}

/// A request of the SDK.
#[derive(Debug, Deserialize)]
pub struct Call {
    /// Names the answer.
    pub id: u64,
    /// `config.get`, …
    pub method: String,
    /// Arguments by name.
    pub args: Box<RawValue>,
}

/// How a run ended.
#[derive(Debug, Deserialize)]
pub struct ResultFrame {
    /// What became of it.
    pub outcome: Outcome,
    /// What it returned.
    pub result: Option<Box<RawValue>>,
    /// `json`, `html` or `text`.
    pub result_type: Option<String>,
    /// Why it failed.
    pub error: Option<Failure>,
    /// Locals of the workflow function.
    pub variables: Option<Box<RawValue>>,
    /// What it took.
    pub usage: Option<Usage>,
    /// Whether the process serves no other run: this one left threads or programs that go on.
    #[serde(default)]
    pub last: bool,
}

/// What became of a run. Whatever else a process says is a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Outcome {
    Success,
    CompletedWithErrors,
    #[serde(other)]
    Failed,
}

/// Why a run failed.
#[derive(Debug, Deserialize)]
pub struct Failure {
    /// Class of the exception, or a name of the platform.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its text.
    pub message: String,
    /// Whether the text was written for the person who runs it.
    #[serde(default)]
    pub user_error: bool,
    /// Names of the class and its bases.
    #[serde(default)]
    pub mro: Vec<String>,
}

/// What a run took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
pub struct Usage {
    /// CPU time.
    pub cpu_seconds: f64,
    /// Peak memory.
    pub peak_memory_bytes: i64,
}

/// What the template says on its control channel.
#[derive(Debug, Deserialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub(crate) enum Control {
    Ready(crate::Ready),
    Exit(Exit),
}

/// The end of a process, as the kernel told the template.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Exit {
    pub(crate) pid: i32,
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) peak_memory_bytes: i64,
    pub(crate) cpu_seconds: f64,
    /// The control group held more than it may, and was ended.
    pub(crate) out_of_memory: bool,
}

/// The first frame of a connection, sent by the template.
#[derive(Debug, Deserialize)]
pub(crate) struct Forked {
    pub(crate) pid: i32,
    /// Names its private directory.
    pub(crate) number: u32,
    /// Names its control group.
    pub(crate) cgroup: Option<String>,
}

/// Encodes a frame.
pub(crate) fn encode(value: &impl Serialize) -> Result<Vec<u8>, Error> {
    let mut frame = vec![0; HEADER];
    serde_json::to_writer(&mut frame, value).map_err(|error| Error::Frame(error.to_string()))?;
    let length = frame.len() - HEADER;
    if length > MAX_FRAME {
        return Err(Error::Frame(format!("{length} bytes are more than {MAX_FRAME}")));
    }
    let length = u32::try_from(length).map_err(|error| Error::Frame(error.to_string()))?;
    frame[..HEADER].copy_from_slice(&length.to_be_bytes());
    Ok(frame)
}

/// Takes the next whole frame out of the buffer.
pub(crate) fn take(buffer: &mut BytesMut) -> Result<Option<BytesMut>, Error> {
    let Some(header) = buffer.first_chunk::<HEADER>() else { return Ok(None) };
    let length = u32::from_be_bytes(*header) as usize;
    if length > MAX_FRAME {
        return Err(Error::Frame(format!("{length} bytes are more than {MAX_FRAME}")));
    }
    if buffer.len() < HEADER + length {
        buffer.reserve(HEADER + length - buffer.len());
        return Ok(None);
    }
    buffer.advance(HEADER);
    Ok(Some(buffer.split_to(length)))
}

/// Reads a frame of a run.
pub(crate) fn decode(frame: &[u8]) -> Result<Frame, Error> {
    // An internally tagged enum would copy every payload; the tag is read first, then the frame by its type.
    #[derive(Deserialize)]
    struct Tag<'a> {
        #[serde(borrow)]
        t: std::borrow::Cow<'a, str>,
    }
    let broken = |error: serde_json::Error| Error::Frame(error.to_string());
    let tag: Tag<'_> = serde_json::from_slice(frame).map_err(broken)?;
    match tag.t.as_ref() {
        "log" => serde_json::from_slice(frame).map(Frame::Log).map_err(broken),
        "call" => serde_json::from_slice(frame).map(Frame::Call).map_err(broken),
        "result" => {
            serde_json::from_slice(frame).map(|result| Frame::Result(Box::new(result))).map_err(broken)
        }
        other => Err(Error::Frame(format!("unknown type {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut() {
        let one = encode(&serde_json::json!({"t": "log", "level": "INFO", "message": "a\nb", "at": 1}))
            .expect("encodes");
        let two =
            encode(&serde_json::json!({"t": "call", "id": 7, "method": "config.get", "args": {"key": "k"}}))
                .expect("encodes");
        let stream = [one, two].concat();
        for cut in 0..stream.len() {
            let mut buffer = BytesMut::from(&stream[..cut]);
            let mut frames = Vec::new();
            while let Some(frame) = take(&mut buffer).expect("no fault") {
                frames.push(decode(&frame).expect("decodes"));
            }
            buffer.extend_from_slice(&stream[cut..]);
            while let Some(frame) = take(&mut buffer).expect("no fault") {
                frames.push(decode(&frame).expect("decodes"));
            }
            assert!(
                matches!(&frames[..], [Frame::Log(log), Frame::Call(call)] if log.message == "a\nb" && call.id == 7),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn a_forged_length_or_type_is_refused() {
        let mut huge = BytesMut::from(&u32::MAX.to_be_bytes()[..]);
        assert!(take(&mut huge).is_err());
        assert!(decode(br#"{"t": "exit", "pid": 1}"#).is_err());
        assert!(decode(b"not json").is_err());
    }

    #[test]
    fn an_unknown_outcome_is_a_failure() {
        let frame = br#"{"t": "result", "outcome": "splendid", "result": {"a": 1}}"#;
        let Ok(Frame::Result(result)) = decode(frame) else { panic!("must decode") };
        assert_eq!(result.outcome, Outcome::Failed);
    }
}
