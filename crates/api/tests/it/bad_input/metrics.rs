//! Bad input for metrics.

use reqwest::Method;

use super::cases::{Case, case, invalid};
use crate::support::World;

/// Every case.
pub(super) fn all(world: &World) -> Vec<Case> {
    let get = |path: &str| world.admin.client.request(Method::GET, &format!("/api/metrics/{path}"));
    vec![
        invalid("no day", get("executions/daily?days=0"), "?days"),
        invalid("more than a year", get("executions/daily?days=366"), "?days"),
        invalid("days that are no number", get("resources?days=week"), "?days"),
        invalid("days of organizations", get("organizations?days=-1"), "?days"),
        invalid("days of workflows", get("workflows?days=1.5"), "?days"),
        invalid("no organization", get("organizations?limit=0"), "?limit"),
        invalid("too many organizations", get("organizations?limit=101"), "?limit"),
        invalid("too many workflows", get("workflows?limit=101"), "?limit"),
        invalid("an order that there is not", get("workflows?sort_by=name;--"), "?sort_by"),
        invalid(
            "an organization that is no id",
            get("executions/daily?organization_id=acme"),
            "?organization_id",
        ),
        invalid("a prefix without an id", get("executions/daily?organization_id=ORG:"), "?organization_id"),
        invalid(
            "another prefix",
            get("executions/daily?organization_id=USER:0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b11"),
            "?organization_id",
        ),
        case("a snapshot that nobody has taken", get("snapshot"), 404, "not-found", None),
    ]
}
