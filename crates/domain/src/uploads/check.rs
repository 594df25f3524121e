//! What may be announced: names, types and sizes, and whether a field of the form takes them.

use serde_json::Value;

use super::NewUpload;
use crate::forms::Form;
use crate::{Error, FieldError, Result};

const MAX_NAME: usize = 255;
const MAX_SAFE_NAME: usize = 100;
const MEBIBYTE: u64 = 1024 * 1024;

/// The upload with its name and type in order, if one of the form's file fields takes it; a form without any takes all.
pub(super) fn checked(max_upload_mb: u64, form: &Form, new: NewUpload) -> Result<NewUpload> {
    let mut faults = Vec::new();
    let mut fault =
        |pointer: &str, detail: String| faults.push(FieldError { pointer: pointer.to_owned(), detail });
    let file_name = new.file_name.rsplit(['/', '\\']).next().unwrap_or_default().trim().to_owned();
    if file_name.is_empty() || file_name.chars().count() > MAX_NAME || file_name.chars().any(char::is_control)
    {
        fault("/file_name", format!("must have 1 to {MAX_NAME} characters, and none that do not print"));
    }
    let content_type = new.content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_token = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&b))
    };
    if content_type.len() > 127
        || !content_type.split_once('/').is_some_and(|(kind, sub)| is_token(kind) && is_token(sub))
    {
        fault("/content_type", "must be a MIME type".into());
    }
    let size = u64::try_from(new.file_size).ok();
    match size {
        None => fault("/file_size", "must not be negative".into()),
        Some(size) if size > max_upload_mb * MEBIBYTE => {
            fault("/file_size", format!("may be at most {max_upload_mb} MiB"))
        }
        Some(_) => {}
    }
    let schema: Value = serde_json::from_str(form.form_schema.get()).unwrap_or_default();
    let fields: Vec<&Value> = schema
        .get("fields")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter(|field| field.get("type").and_then(Value::as_str) == Some("file"))
        .collect();
    if faults.is_empty() && !fields.is_empty() {
        let of_type: Vec<&&Value> =
            fields.iter().filter(|field| takes_type(field, &file_name, &content_type)).collect();
        if of_type.is_empty() {
            faults.push(FieldError {
                pointer: "/content_type".into(),
                detail: "is of no type that the form takes".into(),
            });
        } else if !of_type.iter().any(|field| takes_size(field, size.unwrap_or_default())) {
            faults.push(FieldError {
                pointer: "/file_size".into(),
                detail: "is more than the form takes".into(),
            });
        }
    }
    if faults.is_empty() {
        Ok(NewUpload { file_name, content_type, file_size: new.file_size })
    } else {
        Err(Error::Invalid(faults))
    }
}

fn takes_type(field: &Value, name: &str, content_type: &str) -> bool {
    let Some(allowed) =
        field.get("allowed_types").and_then(Value::as_array).filter(|types| !types.is_empty())
    else {
        return true;
    };
    let name = name.to_lowercase();
    allowed.iter().filter_map(Value::as_str).map(|one| one.trim().to_lowercase()).any(|allowed| match allowed
        .split_once('/')
    {
        Some((kind, "*")) => kind == "*" || content_type.split('/').next() == Some(kind),
        Some(_) => content_type == allowed,
        None => {
            let extension = allowed.trim_start_matches(['*', '.']);
            // Some have two parts, as `.tar.gz`.
            name.strip_suffix(extension).is_some_and(|before| !extension.is_empty() && before.ends_with('.'))
        }
    })
}

fn takes_size(field: &Value, size: u64) -> bool {
    field.get("max_size_mb").and_then(Value::as_u64).is_none_or(|most| size <= most.saturating_mul(MEBIBYTE))
}

/// A name that is one on every disk and in every bucket.
pub(super) fn safe_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let name: String = name.chars().map(plain).collect();
    let name = name.trim_start_matches('.');
    // The end has the extension.
    let name = &name[name.len().saturating_sub(MAX_SAFE_NAME)..];
    if name.is_empty() { "file".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_name_is_made_safe() {
        for (given, safe) in [
            ("report.pdf", "report.pdf"),
            ("..", "file"),
            (".htaccess", "htaccess"),
            ("Übersicht 1.xlsx", "_bersicht_1.xlsx"),
            ("a%2f..%2fb", "a_2f.._2fb"),
            ("", "file"),
        ] {
            assert_eq!(safe_name(given), safe);
        }
        let long = safe_name(&format!("{}.pdf", "x".repeat(300)));
        assert!(long.len() == MAX_SAFE_NAME && long.ends_with(".pdf"), "{long}");
    }

    #[test]
    fn types_are_mime_types_ranges_or_extensions() {
        let takes = |allowed: Value, name: &str, content_type: &str| {
            takes_type(&json!({"allowed_types": allowed}), name, content_type)
        };
        assert!(takes(json!(["application/pdf"]), "a.bin", "application/pdf"));
        assert!(takes(json!(["image/*"]), "a.png", "image/png"));
        assert!(takes(json!([".PDF"]), "A.pdf", "application/octet-stream"));
        assert!(takes(json!(["pdf"]), "a.pdf", "text/plain"));
        assert!(
            takes(json!([]), "a", "x/y")
                && takes(json!(null), "a", "x/y")
                && takes(json!(["*/*"]), "a", "x/y")
        );
        assert!(!takes(json!(["image/*", ".pdf"]), "pdf", "imagex/png"));
        assert!(!takes(json!([".pdf"]), "a.pdf.exe", "application/pdf"));
        assert!(takes(json!([".tar.gz"]), "Logs.TAR.gz", "application/gzip"));
        assert!(takes(json!([".gz"]), "logs.tar.gz", "application/gzip"));
        for other in ["logs.gz", "logstar.gz", "tar.gz"] {
            assert!(!takes(json!([".tar.gz"]), other, "application/gzip"), "{other}");
        }
    }
}
