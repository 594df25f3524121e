//! Each operation × each permission: what a role opens, and that it opens nothing else.

use domain::Permission;
use reqwest::StatusCode;
use serde_json::json;
use testkit::Client;

use super::{Stage, body_of, documented, ends_sessions, is_public, table};
use crate::support::World;

/// What a permission opens: method, path, and what its holder gets. Everything else answers a holder as it answers a
/// colleague without any role.
const OPENS: &[(Permission, &str, &str, u16)] = &[
    (Permission::UsersRead, "get", "/api/users", 200),
    (Permission::UsersRead, "get", "/api/users/{user_id}", 200),
    (Permission::UsersRead, "get", "/api/users/{user_id}/roles", 200),
    (Permission::UsersManage, "post", "/api/users", 201),
    (Permission::UsersManage, "patch", "/api/users/{user_id}", 200),
    (Permission::UsersManage, "delete", "/api/users/{user_id}", 204),
    (Permission::UsersRead, "get", "/api/users/{user_id}/forms", 200),
    (Permission::RolesRead, "get", "/api/roles/{role_id}/forms", 200),
    (Permission::RolesManage, "post", "/api/roles/{role_id}/forms", 204),
    (Permission::RolesManage, "delete", "/api/roles/{role_id}/forms/{form_id}", 204),
    (Permission::FormsManage, "post", "/api/forms", 201),
    (Permission::FormsManage, "get", "/api/forms/{form_id}", 200),
    (Permission::FormsManage, "post", "/api/forms/{form_id}/execute", 400),
    (Permission::FormsManage, "post", "/api/forms/{form_id}/startup", 200),
    (Permission::FormsManage, "post", "/api/forms/{form_id}/data-providers/{name}", 404),
    (Permission::FormsManage, "post", "/api/forms/{form_id}/upload", 200),
    (Permission::FormsManage, "patch", "/api/forms/{form_id}", 200),
    (Permission::FormsManage, "put", "/api/forms/{form_id}", 200),
    (Permission::FormsManage, "delete", "/api/forms/{form_id}", 204),
    (Permission::RolesRead, "get", "/api/roles", 200),
    (Permission::RolesRead, "get", "/api/roles/{role_id}", 200),
    (Permission::RolesRead, "get", "/api/roles/{role_id}/users", 200),
    (Permission::RolesManage, "post", "/api/roles", 201),
    (Permission::RolesManage, "patch", "/api/roles/{role_id}", 200),
    (Permission::RolesManage, "put", "/api/roles/{role_id}", 200),
    (Permission::RolesManage, "delete", "/api/roles/{role_id}", 204),
    (Permission::RolesManage, "post", "/api/roles/{role_id}/users", 204),
    (Permission::RolesManage, "delete", "/api/roles/{role_id}/users/{user_id}", 204),
    // The global key of the matrix is not theirs: a write never falls back to it.
    (Permission::ConfigManage, "get", "/api/config", 200),
    (Permission::ConfigManage, "post", "/api/config", 201),
    (Permission::ConfigManage, "delete", "/api/config/{key}", 404),
    (Permission::SecretsManage, "get", "/api/secrets", 200),
    (Permission::SecretsManage, "post", "/api/secrets", 201),
    (Permission::SecretsManage, "put", "/api/secrets/{key}", 404),
    (Permission::SecretsManage, "delete", "/api/secrets/{key}", 404),
    (Permission::AuditRead, "get", "/api/audit", 200),
    // The key that the stage has is a global one: not theirs, so it does not exist for them.
    (Permission::ConfigManage, "get", "/api/config", 200),
    (Permission::ConfigManage, "post", "/api/config", 201),
    (Permission::ConfigManage, "delete", "/api/config/{key}", 404),
    (Permission::SecretsManage, "get", "/api/secrets", 200),
    (Permission::SecretsManage, "post", "/api/secrets", 201),
    (Permission::SecretsManage, "put", "/api/secrets/{key}", 404),
    (Permission::SecretsManage, "delete", "/api/secrets/{key}", 404),
    (Permission::AuditRead, "get", "/api/audit", 200),
    (Permission::ExecutionsRead, "get", "/api/executions/{execution_id}", 200),
    (Permission::ExecutionsRead, "get", "/api/executions/{execution_id}/result", 200),
    (Permission::ExecutionsRead, "get", "/api/executions/{execution_id}/logs", 200),
    (Permission::ExecutionsRead, "get", "/api/executions/{execution_id}/stream", 200),
    (Permission::ExecutionsRead, "get", "/api/executions/{execution_id}/explain", 200),
    (Permission::ExecutionsCancel, "post", "/api/executions/{execution_id}/cancel", 200),
    (Permission::WorkflowsExecute, "post", "/api/executions/bulk/retry", 200),
];

/// Somebody of the organization with a role that has exactly these permissions.
async fn holder(
    world: &World,
    organization: impl ToString,
    email: &str,
    permissions: &[Permission],
) -> Client {
    let person = world.person(email).await;
    world.grant(organization, &person, permissions).await;
    world.nobody().sign_in(email, crate::support::PASSWORD).await
}

#[tokio::test]
async fn a_permission_opens_what_it_names_and_nothing_else() {
    let stage = Stage::set().await;
    for (_, method, path, _) in OPENS {
        let operation = ((*method).to_owned(), (*path).to_owned());
        assert!(documented().contains(&operation), "{method} {path} is no operation");
    }
    let (mut cells, mut mismatches) = (0, Vec::new());
    for permission in Permission::ALL {
        // The holder before may have deleted the form, and users do not see it then.
        stage.world.sql("UPDATE forms SET is_active = TRUE").await;
        let email = format!("holder-{permission}@acme.example");
        let client = holder(&stage.world, stage.acme, &email, &[*permission]).await;
        let held = domain::PermissionSet::from_iter([*permission]);
        for row in table().filter(|row| !ends_sessions(row)) {
            let opened = OPENS
                .iter()
                .find(|(opens, method, path, _)| held.holds(*opens) && (*method, *path) == (row.0, row.1));
            let expected = opened.map_or(row.3[3], |(.., status)| *status);
            let reply = stage.call(&client, row).await;
            cells += 1;
            if reply.status.as_u16() != expected {
                mismatches.push(format!(
                    "{} {} with {permission}: {} instead of {expected}: {}",
                    row.0, row.1, reply.status, reply.body
                ));
            }
        }
        // What was deleted softly is there for the next.
        stage.world.sql("UPDATE users SET is_active = TRUE").await;
        stage.world.sql("UPDATE roles SET is_active = TRUE").await;
    }
    println!("permission matrix: {cells} cells, mismatches {}", mismatches.len());
    assert!(mismatches.is_empty(), "{}", mismatches.join("\n"));
    stage.world.close().await;
}

#[tokio::test]
async fn no_permission_reaches_into_another_organization() {
    let stage = Stage::set().await;
    let lead = holder(&stage.world, stage.rival_org, "lead@rival.example", Permission::ALL).await;
    let (mut compared, mut leaks) = (0, Vec::new());
    for row in table().filter(|row| row.1.contains('{') && !is_public(row)) {
        let there = stage.call(&lead, row).await;
        let missing = stage.call_with(&lead, row, |name| &name.missing).await;
        compared += 1;
        let is_alike = there.status == missing.status && body_of(&there) == body_of(&missing);
        if !is_alike || !there.status.is_client_error() {
            leaks.push(format!("{} {}: {} {}", row.0, row.1, there.status, there.body));
        }
    }
    for (path, member) in
        [("/api/users", "email"), ("/api/roles", "name"), ("/api/executions?limit=1000", "")]
    {
        let list = lead.get(path).await.expect_status(StatusCode::OK);
        let shown = list.body.contains("acme.example") || list.body.contains("Acme role");
        compared += 1;
        if shown {
            leaks.push(format!("{path} shows the {member} of another organization"));
        }
    }
    println!("tenant oracle with every permission: {compared} answers compared, leaks {}", leaks.len());
    assert!(leaks.is_empty(), "{}", leaks.join("\n"));
    stage.world.close().await;
}

#[tokio::test]
async fn no_other_kind_of_token_is_a_bearer() {
    let stage = Stage::set().await;
    let login = [("username", stage.owner.email.as_str()), ("password", crate::support::PASSWORD)];
    let nobody = stage.world.nobody();
    let reply = nobody.send(nobody.request(reqwest::Method::POST, "/auth/login").form(&login)).await;
    let wrong = [
        nobody.with_bearer(reply.text("refresh_token")),
        nobody.with_bearer(stage.execution.to_string()),
        nobody.with_bearer(format!("bfsk_{}", "k".repeat(40))),
    ];
    // Keys that are good at their own doors, which are not in this list.
    let made = stage.world.admin.client.post("/api/sdk/keys", &json!({"name": "good"})).await;
    let sdk = nobody.with_bearer(made.text("key"));
    let made = stage.world.admin.client.post("/api/workflow-keys", &json!({})).await;
    let workflow = nobody.with_bearer(made.text("raw_key"));
    sdk.get("/api/sdk/context").await.expect_status(StatusCode::OK);
    let (mut cells, mut accepted) = (0, Vec::new());
    for row in table().filter(|row| row.3[0] == 401) {
        let takes_sdk_keys =
            ["context", "config/", "files/"].iter().any(|what| row.1.contains(&format!("/sdk/{what}")));
        for client in wrong.iter().chain([&workflow]).chain((!takes_sdk_keys).then_some(&sdk)) {
            let reply = stage.call(client, row).await;
            cells += 1;
            if reply.status != StatusCode::UNAUTHORIZED {
                accepted.push(format!("{} {}: {}", row.0, row.1, reply.status));
            }
        }
    }
    println!("wrong kinds of token: {cells} cells, accepted {}", accepted.len());
    assert!(accepted.is_empty(), "{}", accepted.join("\n"));
    stage.world.close().await;
}

#[tokio::test]
async fn a_permission_runs_workflows_by_name_and_no_code() {
    let world = World::start().await.with_workflows().await;
    let acme = world.org("acme").await;
    let client = holder(&world, acme, "ada@acme.example", &[Permission::WorkflowsExecute]).await;
    let run = client.post("/api/workflows/execute", &json!({"workflow_id": "collect"})).await;
    let id = run.expect_status(StatusCode::OK).text("execution_id");
    let shown = client.get(&format!("/api/executions/{id}")).await.expect_status(StatusCode::OK).json();
    assert_eq!(shown["org_id"], acme.to_string(), "in their own organization");
    for body in [
        json!({"code": "x = 1"}),
        json!({"workflow_id": "collect", "code": "x = 1"}),
        json!({"workflow_id": "collect", "form_id": uuid::Uuid::now_v7()}),
    ] {
        client.post("/api/workflows/execute", &body).await.expect_status(StatusCode::FORBIDDEN);
    }
    world.close().await;
}
