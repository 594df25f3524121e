//! Bad input for users, roles and lists by name.

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use uuid::Uuid;

use super::cases::{Case, case, invalid};
use crate::support::World;

/// Every case.
pub(super) fn all(world: &World) -> Vec<Case> {
    let mut cases = user_cases(world);
    cases.extend(role_cases(world));
    cases.extend(page_cases(world));
    cases
}

fn user_cases(world: &World) -> Vec<Case> {
    let admin = &world.admin.client;
    let post = |body: Value| admin.request(Method::POST, "/api/users").json(&body);
    let own = format!("/api/users/{}", world.admin.id);
    let patch = |body: Value| admin.request(Method::PATCH, &own).json(&body);
    let email = "new@acme.example";
    let impossible = |name, request| case(name, request, 400, "bad-request", None);
    let missing = |name, request| case(name, request, 404, "not-found", None);
    vec![
        invalid("an invitation without e-mail", post(json!({})), "/email"),
        invalid("an invitation of no e-mail", post(json!({"email": "ada"})), "/email"),
        invalid("an invitation with NUL", post(json!({"email": "a\0@acme.example"})), "/email"),
        invalid("a long name to invite", post(json!({"email": email, "name": "n".repeat(256)})), "/name"),
        invalid("a name with NUL to invite", post(json!({"email": email, "name": "A\0"})), "/name"),
        invalid("an unknown type", post(json!({"email": email, "user_type": "ROOT"})), "/user_type"),
        invalid(
            "the type of the platform",
            post(json!({"email": email, "user_type": "SYSTEM"})),
            "/user_type",
        ),
        invalid(
            "an organization id that is none to invite into",
            post(json!({"email": email, "organization_id": "acme"})),
            "/organization_id",
        ),
        invalid(
            "an unknown organization to invite into",
            post(json!({"email": email, "organization_id": Uuid::now_v7()})),
            "/organization_id",
        ),
        case(
            "an e-mail in use to invite",
            post(json!({"email": "ADMIN@platform.example"})),
            409,
            "conflict",
            None,
        ),
        invalid("a short new password", patch(json!({"password": "short"})), "/password"),
        invalid(
            "a new password with NUL",
            patch(json!({"password": "a long enough\0 password"})),
            "/password",
        ),
        invalid("a new e-mail that is none", patch(json!({"email": "ada"})), "/email"),
        invalid("a long new name", patch(json!({"name": "n".repeat(256)})), "/name"),
        invalid("a truth value as a number", patch(json!({"is_active": 1})), "/is_active"),
        invalid(
            "two answers to one question",
            patch(json!({"is_superuser": true, "user_type": "ORG"})),
            "/user_type",
        ),
        invalid("a demotion to nowhere", patch(json!({"is_superuser": false})), "/organization_id"),
        invalid(
            "an organization for an administrator",
            patch(json!({"organization_id": Uuid::now_v7()})),
            "/organization_id",
        ),
        impossible("a deactivation of the last administrator", patch(json!({"is_active": false}))),
        impossible("a deletion of oneself", admin.request(Method::DELETE, &own)),
        missing("an unknown user", admin.request(Method::GET, "/api/users/nobody@acme.example")),
        missing(
            "an unknown user id",
            admin.request(Method::DELETE, &format!("/api/users/{}", Uuid::now_v7())),
        ),
        invalid("a user with NUL", admin.request(Method::GET, "/api/users/a%00b"), "path:user_id"),
    ]
}

fn role_cases(world: &World) -> Vec<Case> {
    let admin = &world.admin.client;
    let post = |body: Value| admin.request(Method::POST, "/api/roles").json(&body);
    let nowhere = format!("/api/roles/{}", Uuid::now_v7());
    let assign = |body: Value| admin.request(Method::POST, &format!("{nowhere}/users")).json(&body);
    let missing = |name, request: RequestBuilder| case(name, request, 404, "not-found", None);
    vec![
        invalid("a role without name", post(json!({})), "/name"),
        invalid("a role with an empty name", post(json!({"name": " "})), "/name"),
        invalid("a role with a long name", post(json!({"name": "n".repeat(101)})), "/name"),
        invalid("a role with NUL", post(json!({"name": "n\0"})), "/name"),
        invalid("a role that poses as the platform", post(json!({"name": "platformadmin"})), "/name"),
        invalid(
            "a long description",
            post(json!({"name": "n", "description": "d".repeat(10_001)})),
            "/description",
        ),
        invalid("a description with NUL", post(json!({"name": "n", "description": "\0"})), "/description"),
        invalid(
            "an unknown permission",
            post(json!({"name": "n", "permissions": ["users.read", "everything"]})),
            "/permissions/1",
        ),
        invalid(
            "permissions that are no list",
            post(json!({"name": "n", "permissions": "users.read"})),
            "/permissions",
        ),
        invalid(
            "an unknown organization for a role",
            post(json!({"name": "n", "organization_id": Uuid::now_v7()})),
            "/organization_id",
        ),
        invalid("a role id that is none", admin.request(Method::GET, "/api/roles/leads"), "path:role_id"),
        missing("an unknown role", admin.request(Method::GET, &nowhere)),
        missing(
            "a change of an unknown role",
            admin.request(Method::PATCH, &nowhere).json(&json!({"name": "n"})),
        ),
        missing("a deletion of an unknown role", admin.request(Method::DELETE, &nowhere)),
        missing("the users of an unknown role", admin.request(Method::GET, &format!("{nowhere}/users"))),
        invalid("an assignment to nobody", assign(json!({"user_ids": []})), "/user_ids"),
        invalid("an assignment without users", assign(json!({})), "/user_ids"),
        invalid(
            "an assignment to too many",
            assign(json!({"user_ids": vec!["a@b.example"; 1_001]})),
            "/user_ids",
        ),
        invalid("an assignment with NUL", assign(json!({"user_ids": ["a@b.example", "\0"]})), "/user_ids/1"),
        invalid("an assignment to numbers", assign(json!({"user_ids": [1]})), "/user_ids/0"),
        missing("an assignment of an unknown role", assign(json!({"user_ids": ["admin@platform.example"]}))),
    ]
}

fn page_cases(world: &World) -> Vec<Case> {
    let get = |path: &str| world.admin.client.request(Method::GET, path);
    let mut cases = vec![
        invalid("an unknown kind of user", get("/api/users?type=root"), "?type"),
        invalid("an organization filter that is none", get("/api/users?orgId=acme"), "?orgId"),
        invalid("an organization filter with NUL", get("/api/users?orgId=%00"), "?orgId"),
    ];
    for (name, path) in [
        ("users, limit 0", "/api/users?limit=0"),
        ("users, limit 1001", "/api/users?limit=1001"),
        ("roles, limit 0", "/api/roles?limit=0"),
        ("organizations, limit 1001", "/api/organizations?limit=1001"),
    ] {
        cases.push(invalid(name, get(path), "?limit"));
    }
    for (name, path) in [
        ("users, a broken token", "/api/users?continuationToken=nonsense"),
        ("roles, a broken token", "/api/roles?continuationToken=bm9uc2Vuc2Ugbm9uc2Vuc2Ugbm9uc2Vuc2U"),
        ("organizations, a broken token", "/api/organizations?continuationToken=%F0%9F%98%80"),
    ] {
        cases.push(case(name, get(path), 400, "bad-request", None));
    }
    cases
}
