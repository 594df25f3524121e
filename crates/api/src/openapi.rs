//! The OpenAPI document: made from the handlers, so that it cannot say what they do not do.

use axum::http::StatusCode;
use utoipa::Modify;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{OpenApi, PathItem, RefOr, Required};

use crate::problem::{self, FieldProblem, ProblemDocument, documented};
use crate::router;

/// The frame of the document; the routes add themselves.
#[derive(Debug, utoipa::OpenApi)]
#[openapi(
    info(
        title = "Bifrost",
        description = "Runs workflows written in Python for many organizations.\n\n\
            Sign in with `POST /auth/login` and send the access token as `Authorization: Bearer …`; browsers \
            may use the cookies instead and then repeat `csrf_token` as `X-CSRF-Token` on every write. \
            Every error is `application/problem+json`.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "health", description = "Whether the server lives and is ready."),
        (name = "auth", description = "Signing in and out."),
        (name = "oauth", description = "Signing in with Google, Microsoft, GitHub or any OpenID Connect provider."),
        (name = "Organizations", description = "The tenants."),
        (name = "Configuration", description = "Values that workflows read; an organization's over the global ones."),
        (name = "Secrets", description = "Values that only runs can read."),
        (name = "OAuth Connections", description = "Accounts at other services that workflows act with."),
        (name = "Branding", description = "How the pages look."),
        (name = "Logs", description = "What happened."),
        (name = "Audit", description = "Who did what."),
        (name = "Users", description = "The people."),
        (name = "Roles", description = "What people may do, and which forms they reach."),
        (name = "Forms", description = "What users fill in to run a workflow."),
        (name = "Packages", description = "What the Python code of the workspace may import."),
        (name = "Workflows", description = "What can run, and running it."),
        (name = "SDK", description = "What the Python package asks for on a developer's machine."),
        (name = "Schedules", description = "Workflows that run by themselves."),
        (name = "Endpoints", description = "Workflows that machines call, with a key or publicly."),
        (name = "Workflow Keys", description = "What they call them with."),
        (name = "Editor", description = "The files of the workspace."),
        (name = "GitHub", description = "The workspace as a repository."),
        (name = "Notifications", description = "What is told about work that goes on by itself."),
        (name = "Dead letters", description = "Messages that nobody could handle."),
        (name = "Metrics", description = "How much runs, how it ends and what it uses."),
        (name = "Executions", description = "What runs, and what became of it."),
    ),
    components(schemas(ProblemDocument<'static>, FieldProblem<'static>)),
    modifiers(&Security),
)]
pub(crate) struct Document;

struct Security;

impl Modify for Security {
    fn modify(&self, document: &mut OpenApi) {
        let components = document.components.get_or_insert_default();
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
        let key = ApiKeyValue::with_description("X-Bifrost-Key", "The key of a workflow endpoint.");
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        components.add_security_scheme("BifrostApiKey", SecurityScheme::ApiKey(ApiKey::Header(key)));
    }
}

/// Below these a key, a token or a state says which organization it is.
const OWN_ORGANIZATION: [&str; 3] = ["/api/endpoints/", "/api/uploads/", "/api/oauth/callback/"];

/// The document.
pub fn openapi() -> OpenApi {
    let mut document = router::documented().into_openapi();
    for (path, item) in &mut document.paths.paths {
        describe_answers(item);
        if path.starts_with("/api/") && !OWN_ORGANIZATION.iter().any(|own| path.starts_with(own)) {
            accept_organization(item);
        }
        describe_refusals(item);
    }
    document
}

/// The document as text, pretty and in a stable order.
pub fn openapi_json() -> String {
    let document = serde_json::to_value(openapi()).expect("the document is always JSON");
    let mut text = serde_json::to_string_pretty(&document).expect("the document is always JSON");
    text.push('\n');
    text
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
