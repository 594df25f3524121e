//! Bad input for the repository of the workspace. Hostile names and addresses have a test of their own.

use reqwest::Method;
use serde_json::{Value, json};

use super::cases::{Case, case, invalid};
use crate::support::World;

/// Every case.
pub(super) fn all(world: &World) -> Vec<Case> {
    let admin = &world.admin.client;
    let post = |operation: &str, body: Value| {
        admin.request(Method::POST, &format!("/api/github/{operation}")).json(&body)
    };
    let get = |path: &str| admin.request(Method::GET, &format!("/api/github/{path}"));
    let connect = |url: &str, branch: &str| json!({"repo_url": url, "auth_token": "", "branch": branch});
    vec![
        invalid("no commits", get("commits?limit=0"), "?limit"),
        invalid("too many commits", get("commits?limit=101"), "?limit"),
        invalid("commits before the first", get("commits?offset=-1"), "?offset"),
        invalid("branches of nothing", get("branches"), "?repo"),
        invalid("branches of no repository", get("branches?repo=../x"), "?repo"),
        invalid("a commit without name", post("discard-commit", json!({})), "/commit_sha"),
        invalid(
            "a commit by an option",
            post("discard-commit", json!({"commit_sha": "--all"})),
            "/commit_sha",
        ),
        invalid("a message with NUL", post("commit", json!({"message": "a\0"})), "/message"),
        invalid("an empty token", post("validate", json!({"token": " "})), "/token"),
        invalid("a token of two lines", post("validate", json!({"token": "a\nX-Header: b"})), "/token"),
        invalid("a repository without address", post("init", json!({"auth_token": ""})), "/repo_url"),
        invalid("a repository of this machine", post("init", connect("/srv/x.git", "main")), "/repo_url"),
        invalid("a branch that is an option", post("init", connect("acme/x", "--x")), "/branch"),
        invalid(
            "a repository with a path as its name",
            post("create-repository", json!({"name": "../x"})),
            "/name",
        ),
        invalid(
            "an organization that is a path",
            post("create-repository", json!({"name": "x", "organization": "a/b"})),
            "/organization",
        ),
        case("a job without token", post("configure", connect("acme/x", "main")), 400, "bad-request", None),
    ]
}
