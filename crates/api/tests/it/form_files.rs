//! Forms and their files: each follows the other, and neither answers its own writing.

use std::path::PathBuf;

use domain::forms::files::{self, Synced};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::World;

struct Mirror {
    world: World,
}

impl Mirror {
    async fn start() -> Self {
        Self { world: World::start().await }
    }

    fn root(&self) -> PathBuf {
        self.world.test.workspace().to_owned()
    }

    fn names(&self) -> Vec<String> {
        let Ok(folder) = std::fs::read_dir(self.root().join("forms")) else { return Vec::new() };
        let mut names: Vec<String> =
            folder.flatten().map(|entry| entry.file_name().into_string().expect("text")).collect();
        names.sort();
        names
    }

    fn read(&self, path: &str) -> Value {
        serde_json::from_str(&std::fs::read_to_string(self.root().join(path)).expect("is there"))
            .expect("JSON")
    }

    async fn sync(&self) -> Synced {
        files::sync(self.world.platform()).await.expect("syncs")
    }

    async fn create(&self, name: &str) -> Value {
        let fields = r#"[{"type": "checkbox", "name": "z", "label": "Z", "default_value": false}]"#;
        let body = format!(
            r#"{{"name": "{name}", "form_schema": {{"fields": {fields}}}, "access_level": "public"}}"#
        );
        let admin = &self.world.admin.client;
        let request =
            admin.request(Method::POST, "/api/forms").header("content-type", "application/json").body(body);
        admin.send(request).await.expect_status(StatusCode::CREATED).json()
    }

    async fn form(&self, id: &str) -> Value {
        self.world.admin.client.get(&format!("/api/forms/{id}")).await.expect_status(StatusCode::OK).json()
    }

    async fn forms(&self) -> Vec<Value> {
        let list = self.world.admin.client.get("/api/forms").await.expect_status(StatusCode::OK).json();
        list.as_array().expect("a list").clone()
    }

    async fn problems(&self) -> Vec<(String, i64, String)> {
        let list =
            self.world.admin.client.get("/api/workflows/problems").await.expect_status(StatusCode::OK).json();
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let problems = list.as_array().expect("a list").iter();
        problems
            .map(|one| (text(&one["path"]), one["line"].as_i64().expect("a line"), text(&one["message"])))
            .collect()
    }
}

const NOTHING: Synced = Synced { written: 0, imported: 0, problems: 0 };
const ONE: Synced = Synced { imported: 1, ..NOTHING };
const ONE_RENAMED: Synced = Synced { written: 1, ..ONE };

#[tokio::test]
async fn a_form_is_told_though_its_file_has_to_wait() {
    let mirror = Mirror::start().await;
    let mut other = mirror.world.test.db.connect().await;
    let lock = "SELECT pg_advisory_lock(hashtext('bifrost.form_files'))";
    sqlx::raw_sql(lock).execute(&mut other).await.expect("locks");
    mirror.create("Patience").await;
    assert_eq!((mirror.forms().await.len(), mirror.names().len()), (1, 0));

    sqlx::raw_sql("SELECT pg_advisory_unlock_all()").execute(&mut other).await.expect("unlocks");
    assert_eq!(mirror.sync().await, Synced { written: 1, ..NOTHING });
    assert_eq!(mirror.names().len(), 1);
    mirror.world.close().await;
}

#[tokio::test]
async fn a_form_has_its_file_as_soon_as_it_is_saved() {
    let mirror = Mirror::start().await;
    let admin = &mirror.world.admin.client;
    let form = mirror.create("New employee (ÄÖ)!").await;
    let id = form["id"].as_str().expect("an id");
    let path = format!("forms/new-employee-{}.form.json", &id[..8]);
    assert_eq!(form["file_path"], path);
    let file = mirror.read(&path);
    assert_eq!(
        (&file["id"], &file["is_active"], &file["form_schema"]),
        (&json!(id), &json!(true), &form["form_schema"])
    );
    let text = std::fs::read_to_string(mirror.root().join(&path)).expect("is there");
    let order = ["\"type\"", "\"name\": \"z\"", "\"label\"", "\"default_value\": false"]
        .map(|part| text.find(part).expect(part));
    assert!(order.is_sorted(), "members keep their order: {text}");

    // A twin of the same minute has another file.
    let twin = mirror.create("New employee (ÄÖ)!").await;
    assert_ne!(twin["file_path"], form["file_path"]);

    let renamed = admin.patch(&format!("/api/forms/{id}"), &json!({"name": "Leaver"})).await.json();
    let path = format!("forms/leaver-{}.form.json", &id[..8]);
    assert_eq!((renamed["file_path"].as_str(), mirror.names().len()), (Some(path.as_str()), 2));
    admin.delete(&format!("/api/forms/{id}")).await.expect_status(StatusCode::NO_CONTENT);
    assert_eq!(
        (&mirror.read(&path)["is_active"], &mirror.read(&path)["name"]),
        (&json!(false), &json!("Leaver"))
    );

    // No direction answers the other.
    let audited = mirror.world.count("SELECT count(*) FROM audit_log").await;
    for _ in 0..3 {
        assert_eq!(mirror.sync().await, NOTHING);
    }
    assert_eq!(mirror.world.count("SELECT count(*) FROM audit_log").await, audited);
    mirror.world.close().await;
}

#[tokio::test]
async fn a_file_that_somebody_changes_changes_its_form() {
    let mirror = Mirror::start().await;
    let acme = mirror.world.org("acme").await;
    let form = mirror.create("Laptop").await;
    let (id, path) = (form["id"].as_str().expect("an id"), form["file_path"].as_str().expect("a path"));
    let mut file = mirror.read(path);
    file["name"] = json!("Laptop order");
    file["organization_id"] = json!(acme);
    file["is_active"] = json!(false);
    file["form_schema"]["fields"][0]["label"] = json!("Changed");
    // No NUL: a backslash and what follows it.
    file["form_schema"]["fields"][0]["validation"] = json!({"pattern": "[^\\u0000-\\u001f]+"});
    file["form_schema"]["fields"][0]["help_text"] = json!("long ".repeat(400_000));
    mirror.world.test.write(path, &file.to_string());
    assert_eq!(mirror.sync().await, ONE_RENAMED);
    let read = mirror.form(id).await;
    let path = &format!("forms/laptop-order-{}.form.json", &id[..8]);
    assert_eq!(
        (&read["name"], &read["is_active"], &read["file_path"]),
        (&json!("Laptop order"), &json!(false), &json!(path))
    );
    assert_eq!(mirror.names().len(), 1, "its file is renamed with it");
    assert_eq!(read["form_schema"]["fields"][0]["label"], "Changed");
    assert_eq!(read["organization_id"], Value::Null, "a file moves no form to another organization");
    assert_eq!(mirror.read(path)["organization_id"], Value::Null, "and the file says so");
    assert_eq!(mirror.sync().await, NOTHING);
    let mut file = mirror.read(path);
    file["is_active"] = json!(true);
    mirror.world.test.write(path, &file.to_string());
    assert_eq!(mirror.sync().await, ONE, "a file that was read and is called right is not written");
    assert_eq!(mirror.sync().await, NOTHING);

    // Moved: found by its id, and stays where somebody put it, whatever it is called.
    std::fs::create_dir_all(mirror.root().join("customers")).expect("a folder can be made");
    std::fs::rename(mirror.root().join(path), mirror.root().join("customers/order.form.json"))
        .expect("moves");
    assert_eq!(mirror.sync().await, ONE);
    let changed =
        mirror.world.admin.client.patch(&format!("/api/forms/{id}"), &json!({"name": "Order"})).await.json();
    assert_eq!(changed["file_path"], "customers/order.form.json");
    assert_eq!(
        (mirror.read("customers/order.form.json")["name"].as_str(), mirror.names().len()),
        (Some("Order"), 0)
    );

    // Gone: it comes back.
    std::fs::remove_file(mirror.root().join("customers/order.form.json")).expect("removes");
    assert_eq!(mirror.sync().await, Synced { written: 1, ..NOTHING });
    assert_eq!(mirror.read("customers/order.form.json")["name"], "Order");
    let audited = mirror
        .world
        .count("SELECT count(*) FROM audit_log WHERE actor = 'workspace' AND action = 'form.updated'")
        .await;
    assert_eq!(audited, 3);
    mirror.world.close().await;
}

#[tokio::test]
async fn a_file_that_only_gets_another_name_keeps_what_is_in_it() {
    let mirror = Mirror::start().await;
    let form = mirror.create("Laptop").await;
    let (id, path) = (form["id"].as_str().expect("an id"), form["file_path"].as_str().expect("a path"));
    let renamed = |slug: &str| format!("forms/{slug}-{}.form.json", &id[..8]);
    let text = |path: &str| std::fs::read_to_string(mirror.root().join(path)).expect("is there");
    let by_hand =
        |name: &str| format!(r#"{{ "fields": [],   "note": "unknown", "name": "{name}", "id": "{id}" }}"#);
    mirror.world.test.write(path, &by_hand("Desktop"));
    assert_eq!(mirror.sync().await, ONE_RENAMED);
    assert_eq!(text(&renamed("desktop")), by_hand("Desktop"), "its author's, to the last blank");
    assert_eq!(
        (mirror.form(id).await["file_path"].as_str(), mirror.names().len()),
        (Some(&*renamed("desktop")), 1)
    );
    assert_eq!(mirror.sync().await, NOTHING);

    // What is in the way stays too.
    mirror.world.test.write(&renamed("tablet"), "{");
    mirror.world.test.write(&renamed("desktop"), &by_hand("Tablet"));
    assert_eq!(mirror.sync().await, Synced { problems: 1, ..ONE });
    assert_eq!((text(&renamed("desktop")), text(&renamed("tablet"))), (by_hand("Tablet"), "{".into()));
    let read = mirror.form(id).await;
    assert_eq!((&read["name"], &read["file_path"]), (&json!("Tablet"), &json!(renamed("desktop"))));

    // Without an id in it, only its path says whose it is: it gets one with its name.
    std::fs::remove_file(mirror.root().join(renamed("tablet"))).expect("removes");
    mirror.world.test.write(&renamed("desktop"), r#"{"name": "Phone", "fields": []}"#);
    assert_eq!(mirror.sync().await, ONE_RENAMED);
    assert_eq!(mirror.read(&renamed("phone"))["id"], id);
    assert_eq!((mirror.names().len(), mirror.forms().await.len()), (1, 1));
    mirror.world.close().await;
}

#[tokio::test]
async fn a_new_file_becomes_a_form_whatever_its_dialect() {
    let mirror = Mirror::start().await.with_workflows().await;
    let given = uuid::Uuid::now_v7();
    let camel = r#"{"linkedWorkflow": "greet", "name": "Camel", "isActive": true, "accessLevel": "authenticated", "launchWorkflowId": "later",
        "allowedQueryParams": ["site"], "defaultLaunchParams": {"b": 1, "a": 2},
        "formSchema": {"fields": [{"type": "select", "name": "s", "label": "S", "helpText": "h", "allowAsQueryParam": true,
            "dataProvider": "sites", "dataProviderInputs": {"x": {"mode": "fieldRef", "fieldName": "z"}}, "own": {"helpText": 1}}]}}"#;
    mirror.world.test.write("onboarding/form.json", camel);
    mirror.world.test.write(
        "deep/er/plain.form.json",
        &json!({
            "id": given, "name": "Plain", "linked_workflow": "nowhere",
            "fields": [{"type": "text", "name": "t", "label": "T"}],
        })
        .to_string(),
    );
    for ignored in [".hidden/a.form.json", "data.json", "x.form.json.bak", "forms/.a.form.json"] {
        mirror.world.test.write(ignored, camel);
    }
    assert_eq!(mirror.sync().await, Synced { imported: 2, ..NOTHING });
    let forms = mirror.forms().await;
    let [camel, plain] = forms.as_slice() else { panic!("two forms: {forms:?}") };
    let greet = mirror.world.admin.client.get("/api/workflows").await.json();
    let greet = greet
        .as_array()
        .expect("a list")
        .iter()
        .find(|one| one["name"] == "greet")
        .expect("is there")
        .clone();
    assert_eq!((&camel["workflow_id"], &camel["launch_workflow_id"]), (&greet["id"], &json!("later")));
    assert_eq!(
        (&camel["access_level"], &camel["allowed_query_params"]),
        (&json!("authenticated"), &json!(["site"]))
    );
    assert_eq!(camel["file_path"], "onboarding/form.json");
    let expected = json!({"fields": [{"type": "select", "name": "s", "label": "S", "help_text": "h", "allow_as_query_param": true,
        "data_provider": "sites", "data_provider_inputs": {"x": {"mode": "fieldRef", "field_name": "z"}}, "own": {"helpText": 1}}]});
    assert_eq!(camel["form_schema"], expected);
    assert_eq!(
        (&plain["id"], &plain["workflow_id"], &plain["access_level"]),
        (&json!(given), &json!("nowhere"), &json!("role_based"))
    );
    assert_eq!(mirror.sync().await, NOTHING);

    // Without an id the path says which form it is.
    mirror.world.test.write("onboarding/form.json", r#"{"name": "Camel 2", "fields": []}"#);
    assert_eq!(mirror.sync().await, ONE);
    let again = mirror.form(camel["id"].as_str().expect("an id")).await;
    assert_eq!(
        (&again["name"], &again["workflow_id"], &again["access_level"]),
        (&json!("Camel 2"), &Value::Null, &json!("authenticated"))
    );
    mirror.world.close().await;
}

#[tokio::test]
async fn a_broken_file_is_a_problem_that_hides_no_other() {
    let mirror = Mirror::start().await;
    let form = mirror.create("Laptop").await;
    let (id, path) =
        (form["id"].as_str().expect("an id"), form["file_path"].as_str().expect("a path").to_owned());
    let good = r#"{"name": "Good", "fields": []}"#;
    let deep = format!(r#"{{"name": "x", "fields": {}1{}}}"#, "[".repeat(90), "]".repeat(90));
    let large = format!(r#"{{"name": "x", "fields": [], "x": "{}"}}"#, "x".repeat(16 * 1024 * 1024));
    let same_id = json!({"id": id, "name": "Copy", "fields": []}).to_string();
    let broken = [
        ("a.form.json", "{\n  \"name\": \"A\",\n  oops\n}", 3, "malformed JSON"),
        ("b.form.json", "[]", 1, "must be an object"),
        ("c.form.json", r#"{"fields": []}"#, 1, "name is required"),
        ("d.form.json", r#"{"name": "D"}"#, 1, "form_schema is required"),
        (
            "e.form.json",
            r#"{"name": "E", "fields": [{"type": "nothing"}]}"#,
            1,
            "/form_schema/fields/0/name: is required",
        ),
        ("f.form.json", r#"{"name": "F", "fields": [], "id": "1"}"#, 1, "id must be a UUID"),
        (
            "g.form.json",
            r#"{"name": "G", "fields": [], "organization_id": "0198c5a2-7c1e-7d31-9a54-0d5a3f0c2b11"}"#,
            1,
            "names no organization",
        ),
        ("h.form.json", r#"{"name": "H", "fields": [], "access_level": "everybody"}"#, 1, "access_level"),
        ("i.form.json", r#"{"name": "I\u0000", "fields": []}"#, 1, "NUL"),
        ("j.form.json", deep.as_str(), 1, "deeper"),
        ("k.form.json", large.as_str(), 1, "larger than 16 MiB"),
        ("l.form.json", same_id.as_str(), 1, "has the id of the form in forms/laptop-"),
    ];
    for (name, content, ..) in broken {
        mirror.world.test.write(name, content);
    }
    mirror.world.test.write("z.form.json", good);
    let synced = mirror.sync().await;
    assert_eq!(synced, Synced { imported: 1, problems: broken.len(), ..NOTHING });
    let problems = mirror.problems().await;
    for (index, (name, _, line, message)) in broken.iter().enumerate() {
        let (path, at, text) = &problems[index];
        assert!(
            path == name && at == line && text.contains(message),
            "{path}:{at} {text} is not {name}:{line} {message}"
        );
    }
    assert_eq!(mirror.forms().await.len(), 2);
    println!("form files: {} broken ones are problems, the good one is a form", broken.len());

    // A form whose file is broken stays as it was, and follows once it can be read.
    mirror.world.test.write(&path, "{");
    assert_eq!(mirror.sync().await, Synced { problems: broken.len() + 1, ..NOTHING });
    assert_eq!(mirror.form(id).await["name"], "Laptop");
    for (name, ..) in broken {
        std::fs::remove_file(mirror.root().join(name)).expect("removes");
    }
    mirror.world.test.write(&path, &json!({"id": id, "name": "Desktop", "fields": []}).to_string());
    assert_eq!(mirror.sync().await, ONE_RENAMED);
    assert_eq!((mirror.form(id).await["name"].as_str(), mirror.problems().await.len()), (Some("Desktop"), 0));
    mirror.world.close().await;
}

#[tokio::test]
async fn what_is_saved_while_the_workspace_is_away_is_written_later_and_wins() {
    let mirror = Mirror::start().await;
    let form = mirror.create("Laptop").await;
    let (id, path) = (form["id"].as_str().expect("an id"), form["file_path"].as_str().expect("a path"));
    let away = mirror.root().with_extension("away");
    std::fs::rename(mirror.root(), &away).expect("moves");
    let changed =
        mirror.world.admin.client.patch(&format!("/api/forms/{id}"), &json!({"description": "newer"})).await;
    assert_eq!(changed.expect_status(StatusCode::OK).json()["description"], "newer");
    assert!(files::sync(mirror.world.platform()).await.is_err(), "the workspace is away");
    std::fs::rename(&away, mirror.root()).expect("moves back");

    // The file says something else by now: the row is newer.
    let mut file = mirror.read(path);
    file["description"] = json!("older");
    mirror.world.test.write(path, &file.to_string());
    assert_eq!(mirror.sync().await, Synced { written: 1, ..NOTHING });
    assert_eq!(mirror.read(path)["description"], "newer");
    assert_eq!(mirror.form(id).await["description"], "newer");
    mirror.world.close().await;
}

#[tokio::test]
async fn a_file_that_cannot_be_written_holds_no_other_up() {
    let mirror = Mirror::start().await;
    let (stuck, other) = (mirror.create("Stuck").await, mirror.create("Other").await);
    let path = |form: &Value| form["file_path"].as_str().expect("a path").to_owned();
    // A folder has taken its place.
    std::fs::remove_file(mirror.root().join(path(&stuck))).expect("removes");
    std::fs::create_dir(mirror.root().join(path(&stuck))).expect("a folder can be made");
    std::fs::remove_file(mirror.root().join(path(&other))).expect("removes");
    assert_eq!(mirror.sync().await, Synced { written: 1, ..NOTHING });
    assert_eq!(mirror.read(&path(&other))["name"], "Other");
    std::fs::remove_dir(mirror.root().join(path(&stuck))).expect("removes");
    assert_eq!(mirror.sync().await, Synced { written: 1, ..NOTHING });
    assert_eq!(mirror.read(&path(&stuck))["name"], "Stuck");
    mirror.world.close().await;
}

#[tokio::test]
async fn saving_and_reading_at_once_lose_nothing() {
    let mirror = Mirror::start().await;
    let form = mirror.create("Busy").await;
    let (id, path) = (form["id"].as_str().expect("an id"), form["file_path"].as_str().expect("a path"));
    let save = async {
        for n in 0..40 {
            let path = format!("/api/forms/{id}");
            let body = json!({"description": format!("saved {n}")});
            mirror.world.admin.client.patch(&path, &body).await.expect_status(StatusCode::OK);
        }
    };
    let look = async {
        for _ in 0..40 {
            assert_eq!(mirror.sync().await.imported, 0, "what the server wrote is not read back");
        }
    };
    tokio::join!(save, look);
    assert_eq!(mirror.form(id).await["description"], "saved 39");
    assert_eq!(mirror.read(path)["description"], "saved 39");
    mirror.world.close().await;
}

impl Mirror {
    async fn with_workflows(self) -> Self {
        Self { world: self.world.with_workflows().await }
    }
}
