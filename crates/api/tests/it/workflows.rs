//! What workflows there are, what is wrong with their files, and checking a file before it is stored.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::World;

/// What the indexing of a workspace with one file would hand over.
fn index(workflow: &Value, problems: &Value) -> domain::workflows::Index {
    let file = json!({
        "path": "ops/report.py", "sha256": "1", "data_providers": [], "problems": problems, "workflows": [workflow],
    });
    serde_json::from_value(json!({"files": [file]})).expect("an index")
}

#[tokio::test]
async fn the_list_has_what_the_file_declares() {
    let world = World::start().await;
    let declared = json!({
        "function": "report", "name": "report", "id": "0190aaaa-0000-7000-8000-000000000009", "description": "Counts.",
        "category": "Reports", "execution_mode": "sync", "timeout_seconds": 90, "tags": ["daily"],
        "retry_policy": {"max_attempts": 3, "backoff_seconds": 1.5, "max_backoff_seconds": 60, "retry_on": ["OSError"]},
        "schedule": "0 6 * * *", "endpoint_enabled": true, "allowed_methods": ["GET"], "disable_global_key": true,
        "public_endpoint": true, "concurrency_limit": 3, "concurrency_key": "{site}",
        "rate_limit": {"starts": 100, "seconds": 60}, "endpoint_rate_limit": {"calls": 30, "seconds": 60},
        "parameters": [{
            "name": "site", "type": "string", "required": true, "label": "Site", "default_value": null,
            "description": "Where", "validation": {"min": 1}, "data_provider": "sites", "options": ["Bern"],
        }],
    });
    testkit::sync_workflows(&world.platform().db, &index(&declared, &json!([]))).await.expect("indexes");

    let listed = world.admin.client.get("/api/workflows").await.expect_status(StatusCode::OK).json();

    let mut expected = declared;
    let members = expected.as_object_mut().expect("an object");
    members.remove("function");
    members.insert("paused_at".into(), Value::Null);
    members.insert("source_file_path".into(), json!("ops/report.py"));
    members.insert("relative_file_path".into(), json!("/workspace/ops/report.py"));
    // The contract knows whole seconds.
    members.insert(
        "retry_policy".into(),
        json!({"max_attempts": 3, "backoff_seconds": 2, "max_backoff_seconds": 60, "retry_on": ["OSError"]}),
    );
    assert_eq!(listed, json!([expected]));
    world.close().await;
}

#[tokio::test]
async fn problems_are_listed_by_file_with_line_and_hint() {
    let world = World::start().await;
    let problem =
        json!({"severity": "warning", "line": 7, "column": 4, "message": "is wrong", "hint": "Write x."});
    let workflow = json!({"function": "f", "name": "f", "category": "General", "parameters": []});
    testkit::sync_workflows(&world.platform().db, &index(&workflow, &json!([problem])))
        .await
        .expect("indexes");

    let listed = world.admin.client.get("/api/workflows/problems").await.expect_status(StatusCode::OK).json();

    let expected = json!([{
        "path": "ops/report.py", "line": 7, "severity": "warning", "message": "is wrong", "hint": "Write x.",
    }]);
    assert_eq!(listed, expected);
    world.close().await;
}

#[tokio::test]
async fn a_file_is_checked_without_being_executed() {
    let world = World::start().await;
    let check = async |path: &str, content: Value| {
        let body = json!({"path": path, "content": content});
        world.admin.client.post("/api/workflows/validate", &body).await.expect_status(StatusCode::OK).json()
    };

    let trace = world.platform().settings.workspace_path.join("executed");
    let source = format!(
        "from bifrost import workflow\nopen({trace:?}, 'w')\n\n@workflow(category='Ops', tags=['a'], timeout_seconds=60)\n\
         def patch(site: str):\n    'Patches a site.'\n"
    );
    let good = check("/workspace/ops/patch.py", json!(source)).await;
    assert_eq!((&good["valid"], &good["issues"]), (&json!(true), &json!([])));
    assert_eq!(
        (&good["metadata"]["name"], &good["metadata"]["timeout_seconds"]),
        (&json!("patch"), &json!(60))
    );
    assert_eq!(good["metadata"]["source_file_path"], "ops/patch.py");
    assert_eq!(good["metadata"]["parameters"][0]["name"], "site");
    assert!(!trace.exists(), "nothing of the file was executed");

    let broken = check("a.py", json!("x = 1\ndef (")).await;
    assert_eq!((&broken["valid"], &broken["metadata"]), (&json!(false), &Value::Null));
    assert_eq!(broken["issues"][0]["line"], 2);

    let missing = check("no/such.py", Value::Null).await;
    assert_eq!(missing["issues"][0]["message"], "there is no file no/such.py");
    let outside = check("../../etc/passwd", Value::Null).await;
    assert_eq!(outside["issues"][0]["message"], "the path leads outside of the workspace");
    world.close().await;
}

#[tokio::test]
async fn a_check_reads_nothing_but_python_files_of_the_workspace() {
    let world = World::start().await;
    let (acme, rival) = (world.org("acme").await, world.org("rival").await);
    let root = world.test.workspace();
    let canary = "x = = canary\n";
    std::fs::create_dir_all(root.join(format!(".overlays/{rival}"))).expect("makes");
    for path in [
        format!(".overlays/{rival}/customers.csv"),
        format!(".overlays/{rival}/own.py"),
        ".env".into(),
        "notes.txt".into(),
    ] {
        std::fs::write(root.join(path), canary).expect("writes");
    }
    std::fs::write(world.test.folder().join("outside.py"), canary).expect("writes");
    std::os::unix::fs::symlink(world.test.folder().join("outside.py"), root.join("link.py")).expect("links");
    let ada = world.person("ada@acme.example").await;
    let mut shown = 0;
    let paths = [
        format!(".overlays/{rival}/customers.csv"),
        format!(".overlays/{rival}/own.py"),
        format!("/workspace/.overlays/{rival}/own.py"),
        format!("ops/../.overlays/{rival}/own.py"),
        format!(".overlays/{acme}/../{rival}/own.py"),
        ".env".into(),
        "notes.txt".into(),
        "link.py".into(),
    ];
    for path in &paths {
        for body in [json!({"path": path}), json!({"path": path, "content": "import own\n"})] {
            let answer =
                ada.client.post("/api/workflows/validate", &body).await.expect_status(StatusCode::OK);
            assert_eq!(answer.json()["valid"], false, "{path}");
            shown += usize::from(answer.body.contains("canary"));
        }
    }
    println!("{} paths that are none of a user's, content shown {shown} times", paths.len());
    assert_eq!(shown, 0);
    std::fs::write(root.join("plain.py"), canary).expect("writes");
    let own = ada.client.post("/api/workflows/validate", &json!({"path": "plain.py"})).await.json();
    assert!(own["issues"][0]["message"].as_str().is_some_and(|text| text.contains("syntax error")), "{own}");
    world.close().await;
}

#[tokio::test]
async fn data_providers_are_listed_as_their_files_declare_them() {
    let world = World::start().await;
    let provider = |name: &str, more: Value| {
        let mut provider = json!({"function": name, "name": name, "category": "Lists", "parameters": []});
        provider.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        provider
    };
    let parameters = json!([{"name": "site", "type": "string", "required": true}]);
    let index = json!({"files": [{
        "path": "providers/sites.py", "sha256": "1", "workflows": [], "problems": [],
        "data_providers": [
            provider("sites", json!({"description": "Sites", "cache_ttl_seconds": 0, "parameters": parameters})),
            provider("people", json!({})),
        ],
    }]});
    let index = serde_json::from_value(index).expect("an index");
    testkit::sync_workflows(&world.platform().db, &index).await.expect("indexes");
    world.org("acme").await;
    let user = world.person("ada@acme.example").await.client;
    let listed = user.get("/api/data-providers").await.expect_status(StatusCode::OK).json();
    let shown = |at: usize| {
        (
            listed[at]["name"].clone(),
            listed[at]["cache_ttl_seconds"].clone(),
            listed[at]["parameters"].as_array().map(Vec::len),
        )
    };
    assert_eq!(shown(0), (json!("people"), json!(300), Some(0)));
    assert_eq!(shown(1), (json!("sites"), json!(0), Some(1)));
    assert_eq!(listed[1]["relative_file_path"], "/workspace/providers/sites.py");
    assert_eq!(user.get("/api/workflows").await.json(), json!([]), "a data provider is no workflow");
    world.close().await;
}
