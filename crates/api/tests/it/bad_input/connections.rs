//! Bad input for OAuth connections.

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::cases::{Case, case, invalid};
use crate::support::World;

/// Every case.
pub(super) fn all(world: &World) -> Vec<Case> {
    let mut cases = creations(world);
    cases.extend(others(world));
    cases
}

fn creations(world: &World) -> Vec<Case> {
    let post = |member: &str, value: Value| -> RequestBuilder {
        let mut body = json!({
            "connection_name": "graph", "oauth_flow_type": "authorization_code", "client_id": "client",
            "authorization_url": "https://id.example/authorize", "token_url": "https://id.example/token",
        });
        body[member] = value;
        world.admin.client.request(Method::POST, "/api/oauth/connections").json(&body)
    };
    let unattended = json!({
        "connection_name": "graph", "oauth_flow_type": "client_credentials", "client_id": "client",
        "token_url": "https://id.example/token",
    });
    let unattended = world.admin.client.request(Method::POST, "/api/oauth/connections").json(&unattended);
    let mut cases = vec![
        invalid("a connection without name", post("connection_name", json!("")), "/connection_name"),
        invalid("a connection named with a space", post("connection_name", json!("a b")), "/connection_name"),
        invalid(
            "a long name of a connection",
            post("connection_name", json!("n".repeat(101))),
            "/connection_name",
        ),
        invalid(
            "a connection of another flow",
            post("oauth_flow_type", json!("implicit")),
            "/oauth_flow_type",
        ),
        invalid("a connection without client", post("client_id", json!("")), "/client_id"),
        invalid("a client with NUL", post("client_id", json!("a\0")), "/client_id"),
        invalid("a long display name", post("name", json!("n".repeat(256))), "/name"),
        invalid("a long description", post("description", json!("n".repeat(501))), "/description"),
        invalid("no page to consent at", post("authorization_url", Value::Null), "/authorization_url"),
        invalid(
            "a page without TLS",
            post("authorization_url", json!("http://id.example/")),
            "/authorization_url",
        ),
        invalid(
            "a page of script",
            post("authorization_url", json!("javascript:alert(1)")),
            "/authorization_url",
        ),
        invalid("endless scopes", post("scopes", json!("s".repeat(4_097))), "/scopes"),
        invalid("client credentials without secret", unattended, "/client_secret"),
    ];
    for (name, address) in [
        ("a token endpoint without TLS", "http://id.example/token"),
        ("a token endpoint that is no address", "token"),
        ("a token endpoint on this machine", "https://127.0.0.1/token"),
        ("a token endpoint in a private network", "https://10.0.0.1/token"),
        ("a token endpoint of cloud metadata", "https://169.254.169.254/latest"),
        ("a token endpoint in IPv6 clothes", "https://[::ffff:127.0.0.1]/token"),
        ("a token endpoint in decimal clothes", "https://2130706433/token"),
        ("a token endpoint with a password", "https://user:secret@id.example/token"),
        ("a token endpoint that is a file", "file:///etc/passwd"),
    ] {
        cases.push(invalid(name, post("token_url", json!(address)), "/token_url"));
    }
    cases
}

fn others(world: &World) -> Vec<Case> {
    let admin = &world.admin.client;
    let missing = |name, request| case(name, request, 404, "not-found", None);
    let one = "/api/oauth/connections/nothing";
    let authorize = |query: &str| admin.request(Method::POST, &format!("{one}/authorize{query}"));
    let complete = |body: Value| admin.request(Method::POST, "/api/oauth/callback/nothing").json(&body);
    let nul = "/api/oauth/connections/a%00b";
    vec![
        missing("a connection named with NUL", admin.request(Method::GET, nul)),
        missing("a change of one named with NUL", admin.request(Method::PUT, nul).json(&json!({}))),
        missing("a deletion of one named with NUL", admin.request(Method::DELETE, nul)),
        missing(
            "a cancellation of one named with NUL",
            admin.request(Method::POST, &format!("{nul}/cancel")),
        ),
        missing("a refresh of one named with NUL", admin.request(Method::POST, &format!("{nul}/refresh"))),
        missing(
            "an authorization of one named with NUL",
            admin.request(Method::POST, &format!("{nul}/authorize?redirect_uri=https://app.example/")),
        ),
        missing(
            "credentials of one named with NUL",
            admin.request(Method::GET, "/api/oauth/credentials/a%00b"),
        ),
        missing("an unknown connection", admin.request(Method::GET, one)),
        missing("a change of an unknown connection", admin.request(Method::PUT, one).json(&json!({}))),
        missing("a deletion of an unknown connection", admin.request(Method::DELETE, one)),
        missing(
            "a cancellation of an unknown connection",
            admin.request(Method::POST, &format!("{one}/cancel")),
        ),
        missing("a refresh of an unknown connection", admin.request(Method::POST, &format!("{one}/refresh"))),
        missing("credentials of nothing", admin.request(Method::GET, "/api/oauth/credentials/nothing")),
        missing("an authorization of nothing", authorize("?redirect_uri=https://app.example/")),
        invalid("an authorization that ends nowhere", authorize(""), "?redirect_uri"),
        invalid(
            "an authorization that ends in script",
            authorize("?redirect_uri=javascript:a"),
            "?redirect_uri",
        ),
        invalid(
            "an authorization that ends at a fragment",
            authorize("?redirect_uri=https://app.example/%23a"),
            "?redirect_uri",
        ),
        invalid("a completion without code", complete(json!({"state": "s"})), "/code"),
        case("a completion without state", complete(json!({"code": "c"})), 400, "bad-request", None),
        case(
            "a completion with a guessed state",
            complete(json!({"code": "c", "state": "s"})),
            400,
            "bad-request",
            None,
        ),
    ]
}
