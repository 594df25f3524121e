//! Extractors: who may call, and what they sent. Each refuses with a problem that points at the fault.

mod caller;
mod client;
mod faults;
mod form;
mod idempotency;
mod json;
mod path;
mod query;
mod text;
pub(crate) mod time;

pub(crate) use caller::{Admin, Sdk, SdkOrSigned, Signed, bearer_of, scope_of};
pub(crate) use client::Client;
pub(crate) use form::Form;
pub(crate) use idempotency::IdempotencyKey;
pub(crate) use json::{Json, OptionalJson, RawBody};
pub(crate) use path::{Path, PathPair};
pub(crate) use query::{Query, whole_number};
pub(crate) use text::{check_json, check_text};

use std::collections::HashMap;

use axum::body::Bytes;
use axum::extract::{FromRequest as _, Request};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::problem::Problem;
use crate::{AppState, deadline};

/// The whole body, which may take its time to arrive.
async fn body(request: Request, app: &AppState) -> Result<Bytes, Problem> {
    let read = deadline::of_body(Bytes::from_request(request, app)).await;
    read.map_err(|error| Problem::new(error.status()))
}

/// Reads named texts into a struct of texts, optional ones included; `prefix` begins the pointer of a fault.
fn from_texts<T: DeserializeOwned>(texts: HashMap<String, String>, prefix: &str) -> Result<T, Problem> {
    for (name, text) in &texts {
        check_text(&format!("{prefix}{name}"), text)?;
    }
    let texts: Value = texts.into_iter().map(|(name, text)| (name, Value::String(text))).collect();
    T::deserialize(&texts).map_err(|_| {
        let mut all = faults::of_texts::<T>(texts);
        for fault in &mut all {
            fault.pointer = format!("{prefix}{}", fault.pointer.trim_start_matches('/'));
        }
        domain::Error::Invalid(all).into()
    })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Fields {
        name: String,
        note: Option<String>,
    }

    fn read(texts: &[(&str, &str)]) -> Result<Fields, Problem> {
        from_texts(texts.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect(), "/")
    }

    #[test]
    fn texts_fill_required_and_optional_members() {
        let fields = read(&[("name", "Ada"), ("note", "n"), ("unknown", "x")]).expect("fits");
        assert_eq!((fields.name.as_str(), fields.note.as_deref()), ("Ada", Some("n")));
        assert_eq!(read(&[("name", "Ada")]).expect("fits").note, None);

        let missing = format!("{:?}", read(&[("note", "n")]).expect_err("must be refused"));
        assert!(missing.contains(r#"pointer: "/name""#) && missing.contains("is required"), "{missing}");
        let nul = format!("{:?}", read(&[("name", "Ada"), ("note", "\0")]).expect_err("must be refused"));
        assert!(nul.contains(r#"pointer: "/note""#), "{nul}");
    }
}
