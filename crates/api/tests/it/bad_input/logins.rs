//! Bad input for sign-ins: with providers, of which none is configured here, and with codes.

use reqwest::Method;
use serde_json::{Value, json};

use super::cases::{Case, case, invalid};
use crate::support::World;

/// Every case.
pub(super) fn all(world: &World) -> Vec<Case> {
    let nobody = world.nobody();
    let get = |path: &str| nobody.request(Method::GET, path);
    let end = |body: Value| nobody.request(Method::POST, "/auth/oauth/callback").json(&body);
    let missing = |name, request| case(name, request, 404, "not-found", None);
    let impossible = |name, request| case(name, request, 400, "bad-request", None);
    let unlink = "/auth/oauth/accounts/google";
    let enroll = |code: &str| {
        world.admin.client.request(Method::POST, "/auth/mfa/totp/verify").json(&json!({"code": code}))
    };
    let regenerate = world.admin.client.request(Method::POST, "/auth/mfa/recovery-codes/regenerate");
    vec![
        invalid("a sign-in that ends nowhere", get("/auth/oauth/init/google"), "?redirect_uri"),
        missing(
            "a provider that is not configured",
            get("/auth/oauth/init/google?redirect_uri=https://a.example"),
        ),
        missing("a provider that does not exist", get("/auth/nobody/authorize")),
        missing("the way back from a provider that is not configured", get("/auth/github/callback?code=c")),
        missing("the sign-in with a provider of an odd name", get("/auth/..%2Foauth/authorize")),
        invalid("no provider to end with", end(json!({"code": "c", "state": "s"})), "/provider"),
        invalid("no code to end with", end(json!({"provider": "google", "state": "s"})), "/code"),
        invalid("no state to end with", end(json!({"provider": "google", "code": "c"})), "/state"),
        invalid(
            "a state that is no text",
            end(json!({"provider": "google", "code": "c", "state": 1})),
            "/state",
        ),
        impossible(
            "a state that nobody was given",
            end(json!({"provider": "google", "code": "c", "state": "s"})),
        ),
        invalid("a code of two digits", enroll("12"), "/code"),
        invalid("a code with a letter", enroll("12345a"), "/code"),
        invalid("a code with spaces around it", enroll(" 123456 "), "/code"),
        invalid("a code in full-width digits", enroll("１２３４５６"), "/code"),
        invalid(
            "new recovery codes for two digits",
            regenerate.json(&json!({"mfa_code": "12"})),
            "/mfa_code",
        ),
        missing("a login that is not linked", world.admin.client.request(Method::DELETE, unlink)),
    ]
}
