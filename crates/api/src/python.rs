//! Python as a tool: reads files without executing them, in a process of its own that has no credentials.

use std::process::Stdio;
use std::time::Duration;

use domain::Error;
use domain::settings::Settings;
use domain::workspace_trees;
use tokio::io::AsyncWriteExt;

/// What a module of the platform's package says of the workspace; `question` is what it reads.
///
/// # Errors
/// [`Error::Unavailable`] when it cannot be started or takes longer than `patience`.
pub(crate) async fn ask(
    settings: &Settings,
    module: &str,
    question: Option<String>,
    patience: Duration,
) -> Result<Vec<u8>, Error> {
    let root = workspace_trees::current(&settings.workspace_path);
    let mut child = domain::python::reader(settings, module, &root)?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| Error::Unavailable { service: "python", source: error.into() })?;
    let mut input = child.stdin.take();
    let answered = async move {
        if let (Some(input), Some(question)) = (&mut input, question) {
            input.write_all(question.as_bytes()).await?;
        }
        drop(input);
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(patience, answered)
        .await
        .map_err(|late| Error::Unavailable { service: "python", source: late.into() })?
        .map_err(Error::internal)?;
    if !output.status.success() {
        return Err(Error::internal(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    Ok(output.stdout)
}
