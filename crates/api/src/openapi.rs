//! The OpenAPI document: made from the handlers, so that it cannot say what they do not do.

use std::sync::LazyLock;

use axum::http::StatusCode;
use serde_json::Value;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::{OpenApi, PathItem, RefOr, Required};

use crate::problem::{self, documented};
use crate::routes;

/// Below these a key, a token or a state says which organization it is.
const OWN_ORGANIZATION: [&str; 3] = ["/api/endpoints/", "/api/uploads/", "/api/oauth/callback/"];

/// The document.
pub fn openapi() -> OpenApi {
    let mut document = routes::documented().into_openapi();
    for (path, item) in &mut document.paths.paths {
        describe_answers(item);
        if path.starts_with("/api/") && !OWN_ORGANIZATION.iter().any(|own| path.starts_with(own)) {
            accept_organization(item);
        }
        describe_refusals(item);
    }
    document
}

/// The document as JSON, made once.
pub(crate) fn fixed() -> &'static Value {
    static FIXED: LazyLock<Value> = LazyLock::new(json);
    &FIXED
}

/// The document as text, pretty and in a stable order.
pub fn openapi_json() -> String {
    let mut text = serde_json::to_string_pretty(&json()).expect("the document is always JSON");
    text.push('\n');
    text
}

fn json() -> Value {
    serde_json::to_value(openapi()).expect("the document is always JSON")
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.patch, &mut item.delete];
    operations.into_iter().flatten()
}

/// What an operation refuses for its header or its body alone goes without saying in its annotation; whatever is
/// refused, the answer is a problem document.
fn describe_refusals(item: &mut PathItem) {
    for operation in operations(item) {
        let (has_body, answers) = (operation.request_body.is_some(), &mut operation.responses.responses);
        let mut refusals =
            vec![documented(400, "A header or the body cannot be read, or it asks for the impossible.")];
        if has_body {
            refusals.push(documented(413, "The body is longer than the server reads."));
            refusals.push(documented(415, "The body is of another type than the operation takes."));
        }
        for (status, refusal) in refusals {
            answers.entry(status).or_insert(refusal);
        }
        for (status, answer) in answers {
            if let RefOr::T(answer) = answer
                && answer.content.is_empty()
                && status.starts_with(['4', '5'])
            {
                answer.content.insert(problem::PROBLEM_JSON.into(), problem::document().into());
            }
        }
    }
}

/// The standard asks for a description of every answer; an answer without a peculiarity says what its status says.
fn describe_answers(item: &mut PathItem) {
    for operation in operations(item) {
        for (status, answer) in &mut operation.responses.responses {
            if let RefOr::T(answer) = answer
                && answer.description.is_empty()
            {
                let status = status.parse().ok().and_then(|code: u16| StatusCode::from_u16(code).ok());
                answer.description =
                    status.and_then(|status| status.canonical_reason()).unwrap_or("Answer").into();
            }
        }
    }
}

/// Operations below `/api` take the organization from a header.
fn accept_organization(item: &mut PathItem) {
    for operation in operations(item) {
        operation.parameters.get_or_insert_default().push(organization_header().into());
    }
}

fn organization_header() -> Parameter {
    let uuid = ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Uuid)));
    ParameterBuilder::new()
        .name("X-Organization-Id")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(
            "The organization to act in. A platform administrator may name any, and spans all without; \
             for everybody else it is their own.",
        ))
        .schema(Some(uuid))
        .build()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_operation_has_a_unique_id_a_tag_and_a_summary() {
        let document = serde_json::to_value(openapi()).expect("JSON");
        let mut ids = HashSet::new();
        let declared: HashSet<_> =
            document["tags"].as_array().expect("tags").iter().map(|tag| &tag["name"]).collect();
        for (path, item) in document["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("operations") {
                let id = operation["operationId"].as_str().unwrap_or_default().to_owned();
                assert!(!id.is_empty() && ids.insert(id), "{method} {path}");
                let tag = &operation["tags"][0];
                assert!(declared.contains(tag) && operation["summary"].is_string(), "{method} {path}");
            }
        }
    }

    #[test]
    fn every_answer_has_a_description_as_the_standard_asks() {
        let document = serde_json::to_value(openapi()).expect("JSON");
        for (path, item) in document["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("operations") {
                for (status, answer) in operation["responses"].as_object().expect("answers") {
                    let is_described = answer["description"].as_str().is_some_and(|text| !text.is_empty());
                    assert!(is_described || answer["$ref"].is_string(), "{method} {path} {status}");
                    let is_problem = !answer["content"]["application/problem+json"].is_null();
                    assert!(status.as_str() < "400" || is_problem, "{method} {path} {status}");
                }
            }
        }
    }

    #[test]
    fn the_text_is_the_same_every_time() {
        assert_eq!(openapi_json(), openapi_json());
    }
}
