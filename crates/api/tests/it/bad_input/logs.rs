//! Bad input for what happened.

use reqwest::Method;
use uuid::Uuid;

use super::cases::{Case, case, invalid};
use crate::support::World;

/// Every case.
pub(super) fn all(world: &World) -> Vec<Case> {
    let get = |path: &str| world.admin.client.request(Method::GET, &format!("/api/logs{path}"));
    let missing = Uuid::now_v7();
    vec![
        invalid("no entry at all", get("?limit=0"), "?limit"),
        invalid("too long a list of entries", get("?limit=1001"), "?limit"),
        invalid("entries before the first", get("?offset=-1"), "?offset"),
        invalid("more to skip than may be", get("?offset=1000001"), "?offset"),
        invalid("an unknown category", get("?category=nothing"), "?category"),
        invalid("an unknown level", get("?level=loud"), "?level"),
        invalid("a time that is none", get("?start_date=soon"), "?start_date"),
        invalid("a year that no clock shows", get("?start_date=-200000-01-01T00:00:00Z"), "?start_date"),
        invalid("a day that is none", get("?endDate=2026-02-30"), "?end_date"),
        case("the next page of no list", get("?continuation_token=x"), 400, "bad-request", None),
        case("an entry that is no id", get("/system/5"), 404, "not-found", None),
        case("an entry that is not there", get(&format!("/system/{missing}")), 404, "not-found", None),
        case("an entry of no category", get(&format!("/nothing/{missing}")), 404, "not-found", None),
    ]
}
