//! Forms: who reaches one, what comes back as it was given, and what running one does.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use testkit::Client;

use crate::support::{Person, World, failure, success};

fn form(name: &str, more: Value) -> Value {
    let mut form = json!({
        "name": name,
        "form_schema": {"fields": [{"name": "name", "label": "Name", "type": "text", "required": true}]},
    });
    form.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    form
}

async fn create(client: &Client, body: &Value) -> String {
    client.post("/api/forms", body).await.expect_status(StatusCode::CREATED).text("id")
}

async fn names(client: &Client) -> Vec<String> {
    let list = client.get("/api/forms").await.expect_status(StatusCode::OK).json();
    let names = list.as_array().expect("a list").iter();
    names.map(|form| form["name"].as_str().expect("text").to_owned()).collect()
}

/// Lets somebody reach a form by a role of their organization.
async fn reach(world: &World, organization: impl ToString, person: &Person, form: &str) -> String {
    let admin = &world.admin.client;
    let body = json!({"name": "Reach", "organization_id": organization.to_string()});
    let role = admin.post("/api/roles", &body).await.expect_status(StatusCode::CREATED).text("id");
    for (what, body) in [("forms", json!({"form_ids": [form]})), ("users", json!({"user_ids": [person.id]}))]
    {
        admin.post(&format!("/api/roles/{role}/{what}"), &body).await.expect_status(StatusCode::NO_CONTENT);
    }
    role
}

#[tokio::test]
async fn a_form_comes_back_as_it_was_given() {
    let world = World::start().await;
    let admin = &world.admin.client;
    let schema = r#"{"title":"T","fields":[{"type":"checkbox","name":"z","label":"Z","default_value":false,"allow_as_query_param":true},{"name":"a","label":"A","type":"number","default_value":0,"validation":{"max":5,"min":1},"unknown":{"b":1,"a":null}},{"name":"t","label":"T","type":"text","default_value":"","placeholder":null}],"another":[]}"#;
    let body = format!(
        r#"{{"name":"Round trip","form_schema":{schema},"allowed_query_params":["site"],"default_launch_params":{{"z":1,"a":[2]}},"access_level":null}}"#
    );
    let request = admin.request(Method::POST, "/api/forms").header("content-type", "application/json");
    let created = admin.send(request.body(body)).await.expect_status(StatusCode::CREATED);
    assert!(created.body.contains(schema), "{}", created.body);
    assert!(created.body.contains(r#""default_launch_params":{"z":1,"a":[2]}"#), "{}", created.body);
    assert_eq!(created.json()["access_level"], "role_based");

    // Absent and null leave as it is, empty clears, and the fields are replaced as a whole.
    let path = format!("/api/forms/{}", created.text("id"));
    let changes = json!({"name": null, "description": "d", "allowed_query_params": []});
    let changed = admin.patch(&path, &changes).await.expect_status(StatusCode::OK);
    assert!(changed.body.contains(schema));
    assert_eq!(
        (&changed.json()["description"], &changed.json()["allowed_query_params"]),
        (&json!("d"), &json!([]))
    );
    let changed = admin.put(&path, &json!({"description": "", "form_schema": {"fields": []}})).await;
    let changed = changed.expect_status(StatusCode::OK).json();
    assert_eq!((&changed["description"], &changed["form_schema"]), (&Value::Null, &json!({"fields": []})));
    assert_eq!(changed["name"], "Round trip");
    world.close().await;
}

#[tokio::test]
async fn users_see_what_their_organization_and_roles_let_them() {
    let world = World::start().await;
    let (acme, rival) = (world.org("acme").await, world.org("rival").await);
    let (ada, bob) = (world.person("ada@acme.example").await, world.person("bob@acme.example").await);
    let eve = world.person("eve@rival.example").await;
    let (global, local) = (&world.admin.client, world.admin.client.in_organization(acme));
    create(global, &form("Global", json!({"access_level": "authenticated"}))).await;
    create(&local, &form("Local", json!({"access_level": "public"}))).await;
    let closed = create(&local, &form("Closed", json!({}))).await;
    let hidden = create(&local, &form("Hidden", json!({"access_level": "public"}))).await;
    local.delete(&format!("/api/forms/{hidden}")).await.expect_status(StatusCode::NO_CONTENT);
    local.delete(&format!("/api/forms/{hidden}")).await.expect_status(StatusCode::NO_CONTENT);
    let role = reach(&world, acme, &ada, &closed).await;

    assert_eq!(names(&ada.client).await, ["Closed", "Global", "Local"]);
    assert_eq!(names(&bob.client).await, ["Global", "Local"]);
    assert_eq!(names(&eve.client).await, ["Global"]);
    assert_eq!(names(global).await, ["Closed", "Global", "Hidden", "Local"]);
    assert_eq!(names(&world.admin.client.in_organization(rival)).await, ["Global"]);
    let path = format!("/api/forms/{closed}");
    for (client, status) in [(&ada, 200), (&bob, 403), (&eve, 404)] {
        assert_eq!(client.client.get(&path).await.status.as_u16(), status);
    }
    bob.client.get(&format!("/api/forms/{hidden}")).await.expect_status(StatusCode::NOT_FOUND);
    let forms =
        ada.client.get(&format!("/api/users/{}/forms", ada.id)).await.expect_status(StatusCode::OK).json();
    assert_eq!(forms["form_ids"].as_array().map(Vec::len), Some(3));
    let all = global.get(&format!("/api/users/{}/forms", world.admin.id)).await.json();
    assert_eq!(all, json!({"user_type": "PLATFORM", "has_access_to_all_forms": true, "form_ids": []}));

    // An inactive role grants nothing, and a form taken from a role is not reached any more.
    let path_of_role = format!("/api/roles/{role}");
    global.patch(&path_of_role, &json!({"is_active": false})).await.expect_status(StatusCode::OK);
    ada.client.get(&path).await.expect_status(StatusCode::FORBIDDEN);
    global.patch(&path_of_role, &json!({"is_active": true})).await.expect_status(StatusCode::OK);
    global.delete(&format!("{path_of_role}/forms/{closed}")).await.expect_status(StatusCode::NO_CONTENT);
    ada.client.get(&path).await.expect_status(StatusCode::FORBIDDEN);
    world.close().await;
}

#[tokio::test]
async fn a_role_takes_its_organizations_forms_and_global_ones_or_none() {
    let world = World::start().await;
    let (acme, rival) = (world.org("acme").await, world.org("rival").await);
    let admin = &world.admin.client;
    let own = create(&admin.in_organization(acme), &form("Own", json!({}))).await;
    let foreign = create(&admin.in_organization(rival), &form("Foreign", json!({}))).await;
    let global = create(admin, &form("Global", json!({}))).await;
    let body = json!({"name": "Role", "organization_id": acme});
    let role = admin.post("/api/roles", &body).await.expect_status(StatusCode::CREATED).text("id");
    let path = format!("/api/roles/{role}/forms");
    let assign = async |ids: Value| admin.post(&path, &json!({"form_ids": ids})).await;
    let reply = assign(json!([own, foreign])).await.expect_status(StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(reply.pointers(), ["/form_ids/1"]);
    assign(json!([own, uuid::Uuid::now_v7()])).await.expect_status(StatusCode::NOT_FOUND);
    assign(json!([])).await.expect_status(StatusCode::UNPROCESSABLE_ENTITY);
    assign(json!(["own"])).await.expect_status(StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(admin.get(&path).await.json(), json!({"form_ids": []}), "all or nothing");
    assign(json!([own, global])).await.expect_status(StatusCode::NO_CONTENT);
    assign(json!([own])).await.expect_status(StatusCode::NO_CONTENT);
    assert_eq!(admin.get(&path).await.json()["form_ids"].as_array().map(Vec::len), Some(2));
    world.close().await;
}

#[tokio::test]
async fn running_a_form_runs_its_workflow_as_the_caller() {
    let world = World::start().await.with_workflows().await;
    let acme = world.org("acme").await;
    let ada = world.person("ada@acme.example").await;
    let local = world.admin.client.in_organization(acme);
    let more = json!({"workflow_id": "greet", "access_level": "public", "default_launch_params": {"name": "Nobody", "times": 2}});
    let id = create(&local, &form("Greet", more)).await;
    let path = format!("/api/forms/{id}/execute");
    let worker = world.worker();
    let run = async |client: &Client, body: Value| {
        let request =
            client.request(Method::POST, &path).header("idempotency-key", body.to_string().replace(' ', ""));
        let answer = client.send(request.json(&body));
        let play = async {
            let claimed = worker.claim().await;
            worker.finish(&claimed, &success(&claimed, r#"{"hello": true}"#)).await;
            claimed
        };
        let (answer, claimed) = tokio::join!(answer, play);
        (answer.expect_status(StatusCode::OK), claimed)
    };
    // Both kinds of body; form data over defaults; the startup data reaches the run.
    let body = json!({"form_data": {"name": "Grace"}, "startup_data": {"sites": [1]}});
    let (answer, claimed) = run(&ada.client, body.clone()).await;
    assert_eq!(
        (&answer.json()["status"], &answer.json()["result"]),
        (&json!("Success"), &json!({"hello": true}))
    );
    let parameters: Value = serde_json::from_str(claimed.parameters.get()).expect("JSON");
    assert_eq!(parameters, json!({"name": "Grace", "times": 2}));
    assert_eq!(claimed.startup.as_ref().map(|startup| startup.get()), Some(r#"{"sites":[1]}"#));
    assert_eq!((claimed.organization_id, claimed.executed_by), (Some(acme), ada.id));
    let (_, bare) = run(&ada.client, json!({"name": "Bare"})).await;
    assert_eq!(
        serde_json::from_str::<Value>(bare.parameters.get()).expect("JSON"),
        json!({"name": "Bare", "times": 2})
    );

    // The same key names the same execution, whoever sees the row knows the form, and another body is refused.
    let request =
        ada.client.request(Method::POST, &path).header("idempotency-key", body.to_string().replace(' ', ""));
    let again = ada.client.send(request.json(&body)).await.expect_status(StatusCode::OK);
    assert_eq!(
        (again.header("idempotency-replayed"), again.text("execution_id")),
        (Some("true"), answer.text("execution_id"))
    );
    let request =
        ada.client.request(Method::POST, &path).header("idempotency-key", body.to_string().replace(' ', ""));
    let other = ada.client.send(request.json(&json!({"name": "x"}))).await;
    other.expect_status(StatusCode::UNPROCESSABLE_ENTITY);
    let execution = ada.client.get(&format!("/api/executions/{}", answer.text("execution_id"))).await.json();
    assert_eq!(execution["form_id"], json!(id));

    let refused = ada.client.post(&path, &json!({"form_data": {"times": "many"}})).await;
    assert_eq!(refused.expect_status(StatusCode::UNPROCESSABLE_ENTITY).pointers(), ["/form_data/times"]);
    let refused = ada.client.post(&path, &json!({"times": "many"})).await;
    assert_eq!(refused.expect_status(StatusCode::UNPROCESSABLE_ENTITY).pointers(), ["/times"]);
    for (body, pointer) in [
        (json!({"startup_data": {"a": "x\0"}}), "/startup_data"),
        (json!({"form_data": {"name": "x\0"}}), "/form_data"),
        (json!({"name": "x\0"}), "/name"),
    ] {
        let refused = ada.client.post(&path, &body).await;
        assert_eq!(refused.expect_status(StatusCode::UNPROCESSABLE_ENTITY).pointers(), [pointer]);
    }
    local.patch(&format!("/api/forms/{id}"), &json!({"workflow_id": uuid::Uuid::now_v7()})).await;
    ada.client.post(&path, &json!({"name": "x"})).await.expect_status(StatusCode::NOT_FOUND);
    local.patch(&format!("/api/forms/{id}"), &json!({"workflow_id": ""})).await.expect_status(StatusCode::OK);
    ada.client.post(&path, &json!({"name": "x"})).await.expect_status(StatusCode::BAD_REQUEST);
    world.close().await;
}

#[tokio::test]
async fn the_launch_workflow_is_waited_for_and_gets_what_the_form_lets_through() {
    let world = World::start().await.with_workflows().await;
    let acme = world.org("acme").await;
    let ada = world.person("ada@acme.example").await;
    let schema = json!({"fields": [
        {"name": "loud", "label": "L", "type": "checkbox", "allow_as_query_param": true},
        {"name": "options", "label": "O", "type": "text"},
    ]});
    let more = json!({
        "launch_workflow_id": "greet", "access_level": "public", "form_schema": schema,
        "default_launch_params": {"name": "Default"}, "allowed_query_params": ["times"],
    });
    let local = world.admin.client.in_organization(acme);
    let id = create(&local, &form("Launch", more)).await;
    let worker = world.worker();
    let path = format!("/api/forms/{id}/startup?times=3&loud=true&options=no&name=no");
    let play = async {
        let claimed = worker.claim().await;
        worker.finish(&claimed, &success(&claimed, r#"{"sites": ["LON"]}"#)).await;
        claimed
    };
    let body = json!({"name": "Body"});
    let (answer, claimed) = tokio::join!(ada.client.post(&path, &body), play);
    assert_eq!(answer.expect_status(StatusCode::OK).json(), json!({"result": {"sites": ["LON"]}}));
    let parameters: Value = serde_json::from_str(claimed.parameters.get()).expect("JSON");
    assert_eq!(parameters, json!({"name": "Body", "times": 3, "loud": true}));

    let wrong = ada.client.post(&path.replace("times=3", "times=many"), &json!({"loud": "loud"})).await;
    assert_eq!(wrong.expect_status(StatusCode::UNPROCESSABLE_ENTITY).pointers(), ["?times"]);
    let wrong = ada.client.post(&path.replace("times=3&loud=true&", ""), &json!({"times": "many"})).await;
    assert_eq!(wrong.expect_status(StatusCode::UNPROCESSABLE_ENTITY).pointers(), ["/times"]);

    let neutral = "An error occurred during execution";
    for (client, user_error, shown) in [
        (&ada.client, true, "no sites yet"),
        (&ada.client, false, neutral),
        (&local, true, "no sites yet"),
        (&local, false, neutral),
    ] {
        let play = async {
            let claimed = worker.claim().await;
            worker.finish(&claimed, &failure(&claimed, "no sites yet", user_error)).await;
        };
        let (answer, ()) = tokio::join!(client.post(&path, &Value::Null), play);
        assert_eq!(answer.expect_status(StatusCode::BAD_REQUEST).detail(), shown);
    }
    let wrong = ada.client.post(&format!("/api/forms/{id}/startup?times=%00"), &Value::Null).await;
    assert_eq!(wrong.expect_status(StatusCode::UNPROCESSABLE_ENTITY).pointers(), ["?times"]);
    let empty = create(&local, &form("Empty", json!({"access_level": "public"}))).await;
    let answer = ada.client.post(&format!("/api/forms/{empty}/startup"), &Value::Null).await;
    assert_eq!(answer.expect_status(StatusCode::OK).json(), json!({"result": null}));
    world.close().await;
}

#[tokio::test]
async fn bad_forms_are_refused_with_their_pointers_and_write_nothing() {
    let world = World::start().await;
    let admin = &world.admin.client;
    let cases = [
        (json!({"form_schema": {"fields": []}}), "/name"),
        (json!({"name": "", "form_schema": {"fields": []}}), "/name"),
        (json!({"name": "n".repeat(256), "form_schema": {"fields": []}}), "/name"),
        (json!({"name": "n"}), "/form_schema"),
        (json!({"name": "n", "form_schema": []}), "/form_schema"),
        (json!({"name": "n", "form_schema": {}}), "/form_schema/fields"),
        (
            json!({"name": "n", "form_schema": {"fields": [{"name": "a", "type": "text"}]}}),
            "/form_schema/fields/0/label",
        ),
        (form("n", json!({"access_level": "everybody"})), "/access_level"),
        (form("n", json!({"default_launch_params": [1]})), "/default_launch_params"),
        (form("n", json!({"allowed_query_params": "site"})), "/allowed_query_params"),
        (form("a\0b", json!({})), "/name"),
        (form("n", json!({"default_launch_params": {"a": "\0"}})), "/default_launch_params"),
    ];
    for (body, pointer) in &cases {
        let reply = admin.post("/api/forms", body).await.expect_status(StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(reply.pointers(), [*pointer], "{body}");
    }
    assert_eq!(world.count("SELECT count(*) FROM forms").await, 0);
    world.close().await;
}
