//! Uploaded files, for the runs of the form they were uploaded for.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use domain::uploads;
use domain::{Error, id::FormId};
use serde::Deserialize;
use serde_json::json;

use super::{Answer, Caller, Refusal};

#[derive(Deserialize)]
pub(super) struct Read {
    path: String,
    #[serde(default)]
    offset: u64,
}

#[derive(Deserialize)]
pub(super) struct Find {
    path: String,
}

/// A piece of a file, and how long the whole is.
pub(super) async fn read(caller: &Caller, args: Read) -> Answer {
    let upload = get(caller, &args.path).await?;
    let store = &caller.platform.uploads;
    let piece = store.read(&upload, args.offset).await.map_err(|error| missing(error, &args.path))?;
    Ok(json!({ "data": STANDARD.encode(&piece), "size": upload.received_bytes }))
}

/// Whether there is such a file.
pub(super) async fn exists(caller: &Caller, args: Find) -> Answer {
    match get(caller, &args.path).await {
        Ok(_) => Ok(true.into()),
        Err(refusal) if refusal.kind == "FileNotFoundError" => Ok(false.into()),
        Err(refusal) => Err(refusal),
    }
}

/// Paths of all files of the run's form.
pub(super) async fn list(caller: &Caller) -> Answer {
    let Some(form) = caller.form_id else { return Ok(json!([])) };
    let mut tx = caller.begin(None).await?;
    let paths = uploads::list(&mut tx, FormId(form)).await?;
    tx.commit().await?;
    Ok(paths.into())
}

async fn get(caller: &Caller, path: &str) -> Result<uploads::Upload, Refusal> {
    let is_odd = |part: &str| part == "..";
    if path.contains('\0') || path.split('/').any(is_odd) {
        return Err(Refusal::value(&format!("{} is outside of the folder", path.replace('\0', "?"))));
    }
    let Some(form) = caller.form_id else { return Err(missing(Error::NotFound("file"), path)) };
    let mut tx = caller.begin(None).await?;
    let upload = uploads::get(&mut tx, FormId(form), path).await.map_err(|error| missing(error, path))?;
    tx.commit().await?;
    Ok(upload)
}

fn missing(error: Error, path: &str) -> Refusal {
    match error {
        Error::NotFound(_) => {
            Refusal { kind: "FileNotFoundError", message: format!("there is no file {path} in uploads") }
        }
        other => other.into(),
    }
}
