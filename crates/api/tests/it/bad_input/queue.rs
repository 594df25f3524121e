//! Bad input for what operators do with the queue.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::cases::{Case, case, invalid};
use crate::support::World;

/// Every case.
pub(super) fn all(world: &World) -> Vec<Case> {
    let admin = &world.admin.client;
    let post = |path: &str, body: Value| admin.request(Method::POST, path).json(&body);
    let execute =
        |run_at: Value| post("/api/workflows/execute", json!({"workflow_id": "collect", "run_at": run_at}));
    let (cancel, retry) = ("/api/executions/bulk/cancel", "/api/executions/bulk/retry");
    let (replay, drop) = ("/api/dead-letters/replay", "/api/dead-letters/drop");
    let organization = |limit: Value| {
        post("/api/organizations", json!({"name": "Limited", "settings": {"concurrency_limit": limit}}))
    };
    let history = |days: Value| {
        post("/api/organizations", json!({"name": "Forgetful", "settings": {"history_days": days}}))
    };
    vec![
        invalid("a start at no time", execute(json!("tomorrow")), "/run_at"),
        invalid("a start at a number", execute(json!(5)), "/run_at"),
        invalid("a start in two years", execute(json!("2099-01-01T00:00:00Z")), "/run_at"),
        invalid("cancelling everything unsaid", post(cancel, json!({})), "/all"),
        invalid("cancelling everything but not all", post(cancel, json!({"all": false})), "/all"),
        invalid("cancelling what has ended", post(cancel, json!({"status": ["Failed"]})), "/status/0"),
        invalid(
            "cancelling a state that is none",
            post(cancel, json!({"status": ["Pending", "x"]})),
            "/status/1",
        ),
        invalid("cancelling none", post(cancel, json!({"all": true, "limit": 0})), "/limit"),
        invalid("cancelling too many", post(cancel, json!({"all": true, "limit": 1001})), "/limit"),
        invalid("cancelling of no workflow", post(cancel, json!({"workflow_id": "x"})), "/workflow_id"),
        invalid("cancelling since never", post(cancel, json!({"since": "x"})), "/since"),
        invalid("cancelling until never", post(cancel, json!({"until": "x"})), "/until"),
        invalid(
            "cancelling by a class of error",
            post(cancel, json!({"error_type": "KeyError"})),
            "/error_type",
        ),
        invalid("cancelling of nobody", post(cancel, json!({"executed_by": "x"})), "/executed_by"),
        invalid(
            "cancelling a name with NUL",
            post(cancel, json!({"workflow_name": "a\0"})),
            "/workflow_name",
        ),
        invalid("retrying everything unsaid", post(retry, json!({})), "/all"),
        invalid("retrying what runs", post(retry, json!({"status": ["Running"]})), "/status/0"),
        invalid("retrying an error with NUL", post(retry, json!({"error_type": "a\0"})), "/error_type"),
        invalid("letters of no queue", admin.request(Method::GET, "/api/dead-letters?queue=x"), "?queue"),
        invalid("no letters", admin.request(Method::GET, "/api/dead-letters?limit=0"), "?limit"),
        invalid("replaying no queue", post(replay, json!({"queue": "x"})), "/queue"),
        invalid("replaying without a queue", post(replay, json!({})), "/queue"),
        invalid("replaying none", post(replay, json!({"queue": "git.sync", "ids": []})), "/ids"),
        invalid(
            "replaying too many",
            post(replay, json!({"queue": "git.sync", "ids": vec!["x"; 1001]})),
            "/ids",
        ),
        invalid("dropping everything unsaid", post(drop, json!({"queue": "git.sync"})), "/ids"),
        invalid("dropping none", post(drop, json!({"queue": "git.sync", "ids": []})), "/ids"),
        invalid("an organization of no runs", organization(json!(0)), "/settings/concurrency_limit"),
        invalid("an organization of half a run", organization(json!(0.5)), "/settings/concurrency_limit"),
        invalid("an organization of many words", organization(json!("many")), "/settings/concurrency_limit"),
        invalid("an organization without history", history(json!(0)), "/settings/history_days"),
        invalid("an organization of half a day", history(json!(1.5)), "/settings/history_days"),
        invalid("an organization of all times", history(json!("always")), "/settings/history_days"),
        invalid("pausing what is no id", post("/api/workflows/collect/pause", Value::Null), "path:id"),
        case(
            "pausing what does not exist",
            post(&format!("/api/workflows/{}/pause", Uuid::now_v7()), Value::Null),
            404,
            "not-found",
            None,
        ),
    ]
}
