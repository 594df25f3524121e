//! The frame of the OpenAPI document: its title, the tags and how to sign in. The routes add themselves.

use utoipa::Modify;
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};

use crate::problem::{FieldProblem, ProblemDocument};

/// The document without a path.
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
pub(crate) struct Frame;

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
