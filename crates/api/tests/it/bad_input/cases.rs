//! The table: every kind of bad input, and the problem it must get.

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use testkit::Client;
use uuid::Uuid;

use crate::support::{PASSWORD, World};
use crate::tokens::Forge;

/// What is wrong, the request, and the problem it must get: status, code and pointer.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) request: RequestBuilder,
    pub(super) status: u16,
    pub(super) code: &'static str,
    pub(super) pointer: Option<&'static str>,
}

/// Every case.
pub(super) fn all(world: &World) -> Vec<Case> {
    let (admin, nobody) = (&world.admin.client, world.nobody());
    let mut cases = execute_cases(admin);
    cases.extend(read_cases(admin));
    cases.extend(organization_cases(admin));
    cases.extend(people_cases(nobody));
    cases.extend(credential_cases(world, &Forge::of(world)));
    cases
}

pub(super) fn case(
    name: &'static str,
    request: RequestBuilder,
    status: u16,
    code: &'static str,
    pointer: Option<&'static str>,
) -> Case {
    Case { name, request, status, code, pointer }
}

/// A 422 that points at one member.
pub(super) fn invalid(name: &'static str, request: RequestBuilder, pointer: &'static str) -> Case {
    case(name, request, 422, "invalid", Some(pointer))
}

fn json_text(client: &Client, method: Method, path: &str, text: impl Into<Vec<u8>>) -> RequestBuilder {
    client.request(method, path).header("content-type", "application/json").body(text.into())
}

fn execute(client: &Client, body: &Value) -> RequestBuilder {
    client.request(Method::POST, "/api/workflows/execute").json(body)
}

fn nested(depth: usize) -> String {
    format!(r#"{{"code": "x", "input_data": {}1{}}}"#, r#"{"a":"#.repeat(depth), "}".repeat(depth))
}

fn execute_cases(admin: &Client) -> Vec<Case> {
    let post = |text: &str| json_text(admin, Method::POST, "/api/workflows/execute", text);
    let greet = |input: Value| execute(admin, &json!({"workflow_id": "greet", "input_data": input}));
    let code = |body: Value| {
        let mut whole = json!({"code": "x = 1"});
        whole.as_object_mut().expect("an object").extend(body.as_object().expect("an object").clone());
        execute(admin, &whole)
    };
    let keyed = |key: &str| code(json!({})).header("idempotency-key", key);
    let no_type = admin.request(Method::POST, "/api/workflows/execute");
    let large = json!({"code": "x".repeat(2 * 1024 * 1024)});
    vec![
        invalid("malformed JSON", post("{"), ""),
        invalid("an empty body", post(""), ""),
        invalid("text after the JSON", post(r#"{"code": "x"} y"#), ""),
        invalid("a number beyond all numbers", post(r#"{"code": "x", "input_data": {"n": 1e999}}"#), ""),
        invalid("half a surrogate pair", post(r#"{"code": "\ud800"}"#), ""),
        invalid(
            "bytes that are no UTF-8",
            json_text(admin, Method::POST, "/api/workflows/execute", b"{\"code\": \"\xff\"}".to_vec()),
            "",
        ),
        invalid("too deep JSON", post(&nested(64)), ""),
        invalid("deep beyond any stack", post(&"[".repeat(500_000)), ""),
        invalid("a list for a body", post("[]"), ""),
        invalid("the members in their order", post(r#" ["greet", null, {}]"#), ""),
        invalid(
            "bytes that are no UTF-8 in a member that nobody knows",
            json_text(admin, Method::POST, "/api/workflows/execute", b"{\"unknown\": \"\xff\"}".to_vec()),
            "",
        ),
        case("an oversized body", execute(admin, &large), 413, "too-large", None),
        case(
            "another media type",
            no_type.try_clone().expect("no stream").header("content-type", "text/plain").body("{}"),
            415,
            "unsupported-media-type",
            None,
        ),
        case("no media type", no_type.body("{}"), 415, "unsupported-media-type", None),
        invalid("neither workflow nor code", execute(admin, &json!({})), "/workflow_id"),
        invalid("a number for a text", execute(admin, &json!({"workflow_id": 5})), "/workflow_id"),
        case(
            "an unknown workflow",
            execute(admin, &json!({"workflow_id": "nothing"})),
            404,
            "not-found",
            None,
        ),
        case(
            "an unknown workflow id",
            execute(admin, &json!({"workflow_id": Uuid::now_v7()})),
            404,
            "not-found",
            None,
        ),
        invalid(
            "a workflow name with NUL",
            execute(admin, &json!({"workflow_id": "gre\0et"})),
            "/workflow_id",
        ),
        invalid("a script name with NUL", code(json!({"script_name": "a\0"})), "/script_name"),
        invalid(
            "a script name that is too long",
            code(json!({"script_name": "a".repeat(256)})),
            "/script_name",
        ),
        invalid("a missing parameter", greet(json!({})), "/input_data/name"),
        invalid("a null for a required parameter", greet(json!({"name": null})), "/input_data/name"),
        invalid("a text for an integer", greet(json!({"name": "a", "times": "many"})), "/input_data/times"),
        invalid("a fraction for an integer", greet(json!({"name": "a", "times": 1.5})), "/input_data/times"),
        invalid("a list for a truth value", greet(json!({"name": "a", "loud": []})), "/input_data/loud"),
        invalid("input that is no object", code(json!({"input_data": [1]})), "/input_data"),
        invalid("priority 0", code(json!({"priority": 0})), "/priority"),
        invalid("priority 11", code(json!({"priority": 11})), "/priority"),
        invalid("a text for a priority", code(json!({"priority": "high"})), "/priority"),
        invalid("a form id that is none", code(json!({"form_id": "mine"})), "/form_id"),
        invalid("code with NUL", code(json!({"code": "x = '\0'"})), "/code"),
        invalid("an empty idempotency key", keyed(""), "header:Idempotency-Key"),
        invalid("an idempotency key with spaces", keyed("a b"), "header:Idempotency-Key"),
        invalid("a long idempotency key", keyed(&"k".repeat(256)), "header:Idempotency-Key"),
    ]
}

fn read_cases(admin: &Client) -> Vec<Case> {
    let get = |path: &str| admin.request(Method::GET, path);
    vec![
        invalid("an id that is none", get("/api/executions/42"), "path:execution_id"),
        invalid("an id with a stray byte", get("/api/executions/%ff"), "path:execution_id"),
        invalid("an organization id that is none", get("/api/organizations/acme"), "path:org_id"),
        invalid("an unknown status", get("/api/executions?status=success"), "?status"),
        invalid("a filter with NUL", get("/api/executions?workflowName=%00"), "?workflowName"),
        invalid("limit 0", get("/api/executions?limit=0"), "?limit"),
        invalid("limit 1001", get("/api/executions?limit=1001"), "?limit"),
        invalid("a text for a limit", get("/api/executions?limit=all"), "?limit"),
        invalid("a limit beyond all numbers", get("/api/executions?limit=99999999999999999999"), "?limit"),
        invalid(
            "a negative sequence",
            get(&format!("/api/executions/{}/logs?after_sequence=-1", Uuid::nil())),
            "?after_sequence",
        ),
        case(
            "a broken continuation token",
            get("/api/executions?continuationToken=nonsense"),
            400,
            "bad-request",
            None,
        ),
        case("an unknown path", get("/api/nothing"), 404, "not-found", None),
        case(
            "an unknown execution",
            get(&format!("/api/executions/{}", Uuid::now_v7())),
            404,
            "not-found",
            None,
        ),
        case(
            "a method that is not allowed",
            admin.request(Method::DELETE, "/api/executions"),
            405,
            "method-not-allowed",
            None,
        ),
        case(
            "an organization header that is none",
            get("/api/executions").header("x-organization-id", "acme"),
            400,
            "bad-request",
            None,
        ),
        case(
            "an unknown organization in the header",
            get("/api/executions").header("x-organization-id", Uuid::now_v7().to_string()),
            400,
            "bad-request",
            None,
        ),
        case("a socket's address without an upgrade", get("/ws/connect"), 400, "bad-request", None),
    ]
}

fn organization_cases(admin: &Client) -> Vec<Case> {
    let post = |body: Value| admin.request(Method::POST, "/api/organizations").json(&body);
    vec![
        invalid("no name", post(json!({})), "/name"),
        invalid("an empty name", post(json!({"name": "  "})), "/name"),
        invalid("a long name", post(json!({"name": "n".repeat(256)})), "/name"),
        invalid("a name with NUL", post(json!({"name": "a\0b"})), "/name"),
        invalid("a domain that is none", post(json!({"name": "n", "domain": "a@b"})), "/domain"),
        invalid("a domain with NUL", post(json!({"name": "n", "domain": "a\0.example"})), "/domain"),
        invalid("a truth value as text", post(json!({"name": "n", "is_active": "yes"})), "/is_active"),
        invalid("settings that are no object", post(json!({"name": "n", "settings": 1})), "/settings"),
        invalid("settings with NUL", post(json!({"name": "n", "settings": {"a": "\0"}})), "/settings"),
        case("a domain in use", post(json!({"name": "n", "domain": "ACME.example"})), 409, "conflict", None),
        invalid(
            "a change with NUL",
            admin
                .request(Method::PATCH, &format!("/api/organizations/{}", Uuid::now_v7()))
                .json(&json!({"settings": {"a": ["\0"]}})),
            "/settings",
        ),
        case(
            "a change of an unknown organization",
            admin
                .request(Method::PATCH, &format!("/api/organizations/{}", Uuid::now_v7()))
                .json(&json!({"name": "n"})),
            404,
            "not-found",
            None,
        ),
    ]
}

fn people_cases(nobody: &Client) -> Vec<Case> {
    let login = |user: &str, password: &str| {
        nobody.request(Method::POST, "/auth/login").form(&[("username", user), ("password", password)])
    };
    let register = |body: Value| nobody.request(Method::POST, "/auth/register").json(&body);
    let refresh = |body: Value| nobody.request(Method::POST, "/auth/refresh").json(&body);
    let unauthenticated = |name, request| case(name, request, 401, "unauthenticated", None);
    vec![
        unauthenticated("a wrong password", login("admin@platform.example", "wrong password")),
        unauthenticated("an unknown e-mail", login("nobody@platform.example", PASSWORD)),
        invalid("an e-mail with NUL", login("admin\0@platform.example", PASSWORD), "/username"),
        invalid(
            "a very long name",
            register(json!({"email": "long@acme.example", "password": PASSWORD, "name": "n".repeat(256)})),
            "/name",
        ),
        unauthenticated("a very long password", login("admin@platform.example", &"p".repeat(100_000))),
        invalid(
            "no password",
            nobody.request(Method::POST, "/auth/login").form(&[("username", "a@b.example")]),
            "/password",
        ),
        invalid(
            "another grant",
            nobody.request(Method::POST, "/auth/login").form(&[
                ("username", "a@b.example"),
                ("password", "p"),
                ("grant_type", "client_credentials"),
            ]),
            "/grant_type",
        ),
        case(
            "a sign-in as JSON",
            nobody.request(Method::POST, "/auth/login").json(&json!({"username": "a", "password": "b"})),
            415,
            "unsupported-media-type",
            None,
        ),
        invalid(
            "a multipart form without its end",
            nobody
                .request(Method::POST, "/auth/login")
                .header("content-type", "multipart/form-data; boundary=x")
                .body("--x\r\nContent-Disposition: form-data; name=\"username\"\r\n\r\nhalf"),
            "",
        ),
        invalid("an e-mail that is none", register(json!({"email": "ada", "password": PASSWORD})), "/email"),
        invalid(
            "an e-mail with NUL to register",
            register(json!({"email": "a\0@acme.example", "password": PASSWORD})),
            "/email",
        ),
        invalid(
            "a short password",
            register(json!({"email": "ada@acme.example", "password": "short"})),
            "/password",
        ),
        invalid(
            "a name with NUL to register",
            register(json!({"email": "ada@acme.example", "password": PASSWORD, "name": "A\0"})),
            "/name",
        ),
        invalid(
            "a password with NUL to register",
            register(json!({"email": "ada@acme.example", "password": "a long enough\0 password"})),
            "/password",
        ),
        case(
            "an e-mail of no organization",
            register(json!({"email": "ada@nowhere.example", "password": PASSWORD})),
            400,
            "bad-request",
            None,
        ),
        case(
            "an e-mail in use",
            register(json!({"email": "Admin@Platform.example", "password": PASSWORD})),
            400,
            "bad-request",
            None,
        ),
        unauthenticated("an unknown refresh token", refresh(json!({"refresh_token": "nonsense"}))),
        unauthenticated("no refresh token", nobody.request(Method::POST, "/auth/refresh")),
        invalid("a refresh token that is no text", refresh(json!({"refresh_token": 1})), "/refresh_token"),
    ]
}

fn credential_cases(world: &World, forge: &Forge) -> Vec<Case> {
    let nobody = world.nobody();
    let with = |header: &str, value: &[u8]| {
        let value = reqwest::header::HeaderValue::from_bytes(value).expect("a header value");
        nobody.request(Method::GET, "/auth/me").header(header, value)
    };
    let bearer = |token: &str| with("authorization", format!("Bearer {token}").as_bytes());
    let good = world.admin.client.bearer().expect("signed in").to_owned();
    let unauthenticated = |name, request| case(name, request, 401, "unauthenticated", None);
    vec![
        unauthenticated("no token", nobody.request(Method::GET, "/auth/me")),
        unauthenticated("an expired token", bearer(&forge.with("exp", json!(1_600_000_000)))),
        unauthenticated("a token that is none", bearer("nonsense")),
        unauthenticated("another scheme", with("authorization", format!("Basic {good}").as_bytes())),
        unauthenticated("a scheme alone", with("authorization", b"Bearer")),
        unauthenticated("a header that is no text", with("authorization", b"Bearer \xff")),
        case(
            "a cookie write without its token",
            nobody
                .request(Method::POST, "/api/organizations")
                .header("cookie", format!("access_token={good}"))
                .json(&json!({"name": "n"})),
            403,
            "forbidden",
            None,
        ),
    ]
}
