//! Rows of workflows follow the index: ids survive, broken files keep their rows, names may be ambiguous.

use std::time::{Duration, Instant};

use domain::events::Event;
use domain::workflows::{self, Index, Reading};
use domain::{Error, OrgScope};
use serde_json::{Value, json};
use sqlx::Connection as _;

use crate::support::{Fixture, actor};

fn file(path: &str, workflows: Value, problems: Value) -> Value {
    json!({ "path": path, "sha256": format!("{path}{workflows}"), "workflows": workflows, "data_providers": [], "problems": problems })
}

fn workflow(function: &str, name: &str) -> Value {
    json!({ "function": function, "name": name, "id": null, "description": null, "category": "General", "parameters": [],
            "retry_policy": null, "tags": ["t"], "line": 1 })
}

fn index(files: &[Value]) -> Index {
    serde_json::from_value(json!({ "files": files })).expect("an index")
}

#[tokio::test]
async fn a_row_keeps_its_id_through_edits_breakage_and_absence() {
    let fixture = Fixture::embedded().await;
    let db = &fixture.platform.db;
    let scope = OrgScope::for_run(None, actor("admin", true));
    let listed = async || {
        let mut tx = db.begin(&scope).await.expect("begins");
        workflows::list(&mut tx).await.expect("lists")
    };
    let good = file("a.py", json!([workflow("f", "one")]), json!([]));

    testkit::sync_workflows(db, &index(std::slice::from_ref(&good))).await.expect("syncs");
    let id = listed().await[0].id;
    let edited = file("a.py", json!([workflow("f", "renamed")]), json!([]));
    testkit::sync_workflows(db, &index(&[edited])).await.expect("syncs");
    assert_eq!((listed().await[0].id, listed().await[0].name.as_str()), (id, "renamed"));

    let problem = json!([{ "severity": "error", "line": 3, "message": "invalid syntax", "hint": null }]);
    let broken = file("a.py", json!([]), problem);
    let other = file("b.py", json!([workflow("g", "two")]), json!([]));
    let synced = testkit::sync_workflows(db, &index(&[broken, other])).await.expect("syncs");
    assert_eq!((synced.active, synced.problems), (2, 1), "a broken file keeps its rows and hides no other");
    assert_eq!(workflows::list_problems(db, 100).await.expect("lists")[0].message, "invalid syntax");

    testkit::sync_workflows(db, &index(&[])).await.expect("syncs");
    assert!(listed().await.is_empty());
    testkit::sync_workflows(db, &index(&[good])).await.expect("syncs");
    assert_eq!(listed().await[0].id, id, "it comes back with its id");
    fixture.close().await;
}

#[tokio::test]
async fn what_was_read_before_a_later_index_changes_nothing() {
    let fixture = Fixture::embedded().await;
    let db = &fixture.platform.db;
    let scope = OrgScope::for_run(None, actor("admin", true));
    let names = async || -> Vec<String> {
        let mut tx = db.begin(&scope).await.expect("begins");
        workflows::list(&mut tx).await.expect("lists").into_iter().map(|row| row.name).collect()
    };
    let at = |path: &str, name: &str| file(path, json!([workflow("f", name)]), json!([]));
    let old = index(&[at("a.py", "one"), at("gone.py", "gone")]);
    let new = index(&[at("a.py", "one"), at("saved.py", "saved")]);

    let slow = Reading::begin(db).await.expect("begins");
    let quick = Reading::begin(db).await.expect("begins");
    assert_eq!(quick.sync(db, &new).await.expect("syncs").expect("is the latest").active, 2);
    assert_eq!(slow.sync(db, &old).await.expect("syncs"), None);
    assert_eq!(names().await, ["one", "saved"], "neither is the saved one gone nor the deleted one back");

    // Whoever says no place has read just now, and what was begun before that is late.
    let late = Reading::begin(db).await.expect("begins");
    testkit::sync_workflows(db, &old).await.expect("syncs");
    assert_eq!(late.sync(db, &new).await.expect("syncs"), None);
    assert_eq!(names().await, ["gone", "one"]);
    let next = Reading::begin(db).await.expect("begins");
    assert!(next.sync(db, &new).await.expect("syncs").is_some());
    assert_eq!(names().await, ["one", "saved"]);
    fixture.close().await;
}

#[tokio::test]
async fn what_another_release_reads_in_the_same_file_is_stored() {
    let fixture = Fixture::embedded().await;
    let db = &fixture.platform.db;
    let scope = OrgScope::for_run(None, actor("admin", true));
    let of = |more: Value| {
        let mut found = workflow("f", "one");
        found.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let mut file = file("a.py", json!([found]), json!([]));
        file["sha256"] = json!("the same content");
        index(&[file])
    };
    testkit::sync_workflows(db, &of(json!({}))).await.expect("syncs");
    let parameter = json!({"name": "site", "type": "string", "required": true, "label": null, "default_value": null,
                           "description": null});
    for (more, column, expected) in [
        (json!({"schedule": "0 * * * *"}), "definition ->> 'schedule'", "0 * * * *"),
        (json!({"description": "Greets"}), "description", "Greets"),
        (json!({"timeout_seconds": 60}), "timeout_seconds::text", "60"),
        (json!({"parameters": [parameter]}), "parameters -> 0 ->> 'name'", "site"),
    ] {
        testkit::sync_workflows(db, &of(more)).await.expect("syncs");
        let mut conn = fixture.test.db.connect().await;
        let query = format!("SELECT {column} FROM workflows");
        let stored: Option<String> =
            sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_one(&mut conn).await.expect("reads");
        assert_eq!(stored.as_deref(), Some(expected), "{column}");
        conn.close().await.expect("closes");
    }
    let mut tx = db.begin(&scope).await.expect("begins");
    assert_eq!(workflows::list(&mut tx).await.expect("lists").len(), 1);
    drop(tx);
    fixture.close().await;
}

#[tokio::test]
async fn an_ambiguous_name_is_refused_and_an_id_is_not() {
    let fixture = Fixture::embedded().await;
    let (db, catalog) = (&fixture.platform.db, &fixture.platform.catalog);
    let scope = OrgScope::for_run(None, actor("admin", true));
    let files = [
        file("a.py", json!([workflow("f", "same")]), json!([])),
        file("b.py", json!([workflow("f", "same")]), json!([])),
    ];
    testkit::sync_workflows(db, &index(&files)).await.expect("syncs");
    let mut tx = db.begin(&scope).await.expect("begins");
    let id = workflows::list(&mut tx).await.expect("lists")[0].id;
    drop(tx);

    assert!(matches!(catalog.get(db, &scope, "same").await, Err(Error::Conflict(_))));
    assert_eq!(catalog.get(db, &scope, &id.to_string()).await.expect("finds").id, id);
    assert!(matches!(catalog.get(db, &scope, "unknown").await, Err(Error::NotFound("workflow"))));
    fixture.close().await;
}

fn with_id(function: &str, id: &str) -> Value {
    let mut found = workflow(function, function);
    found["id"] = json!(id);
    found
}

#[tokio::test]
async fn a_moved_file_keeps_the_ids_of_its_functions() {
    let fixture = Fixture::embedded().await;
    let db = &fixture.platform.db;
    let scope = OrgScope::for_run(None, actor("admin", true));
    let listed = async || {
        let mut tx = db.begin(&scope).await.expect("begins");
        workflows::list(&mut tx).await.expect("lists")
    };
    let at = |path: &str| {
        let mut file = file(path, json!([workflow("f", "one"), workflow("g", "two")]), json!([]));
        file["sha256"] = json!("the same content");
        file
    };
    testkit::sync_workflows(db, &index(&[at("a.py")])).await.expect("syncs");
    let before: Vec<_> = listed().await.into_iter().map(|row| (row.id, row.name)).collect();

    testkit::sync_workflows(db, &index(&[at("ops/b.py")])).await.expect("syncs");
    let moved = listed().await;
    assert!(moved.iter().all(|row| row.path == "ops/b.py"));
    assert_eq!(moved.into_iter().map(|row| (row.id, row.name)).collect::<Vec<_>>(), before);

    // A copy is not a move: the original keeps its ids, the copy gets its own.
    testkit::sync_workflows(db, &index(&[at("ops/b.py"), at("copy.py")])).await.expect("syncs");
    let both = listed().await;
    assert_eq!(both.len(), 4);
    assert!(
        both.iter()
            .filter(|row| row.path == "ops/b.py")
            .all(|row| before.iter().any(|(id, _)| *id == row.id))
    );
    fixture.close().await;
}

#[tokio::test]
async fn an_id_in_the_decorator_follows_its_function_wherever_it_goes() {
    const ONE: &str = "0190aaaa-0000-7000-8000-000000000001";
    const TWO: &str = "0190aaaa-0000-7000-8000-000000000002";
    let fixture = Fixture::embedded().await;
    let db = &fixture.platform.db;
    let scope = OrgScope::for_run(None, actor("admin", true));
    let places = async || {
        let mut tx = db.begin(&scope).await.expect("begins");
        let listed = workflows::list(&mut tx).await.expect("lists");
        listed.into_iter().map(|row| (row.id.to_string(), row.path, row.name)).collect::<Vec<_>>()
    };
    let row = |id: &str, path: &str, name: &str| (id.to_owned(), path.to_owned(), name.to_owned());

    testkit::sync_workflows(db, &index(&[file("a.py", json!([workflow("f", "f")]), json!([]))]))
        .await
        .expect("syncs");
    // The function is given an id: it is known by that from now on.
    testkit::sync_workflows(db, &index(&[file("a.py", json!([with_id("f", ONE)]), json!([]))]))
        .await
        .expect("syncs");
    assert_eq!(places().await, [row(ONE, "a.py", "f")]);

    // Another file and another name.
    testkit::sync_workflows(
        db,
        &index(&[file("b.py", json!([with_id("g", ONE), with_id("h", TWO)]), json!([]))]),
    )
    .await
    .expect("syncs");
    assert_eq!(places().await, [row(ONE, "b.py", "g"), row(TWO, "b.py", "h")]);

    // Two functions exchange their ids.
    testkit::sync_workflows(
        db,
        &index(&[file("b.py", json!([with_id("g", TWO), with_id("h", ONE),]), json!([]))]),
    )
    .await
    .expect("syncs");
    assert_eq!(places().await, [row(TWO, "b.py", "g"), row(ONE, "b.py", "h")]);
    fixture.close().await;
}

#[tokio::test]
async fn thousands_of_files_are_brought_up_to_date_without_a_write_for_what_is_unchanged() {
    let fixture = Fixture::embedded().await;
    let db = &fixture.platform.db;
    let mut files: Vec<Value> = (0..5_000)
        .map(|n| file(&format!("area/flow{n}.py"), json!([workflow("f", &format!("flow_{n}"))]), json!([])))
        .collect();
    let timed = async |files: &[Value]| {
        let began = Instant::now();
        let synced = testkit::sync_workflows(db, &index(files)).await.expect("syncs");
        assert_eq!(synced.active, 5_000);
        began.elapsed()
    };
    // The version of a row changes with every write.
    let mut conn = fixture.test.db.connect().await;
    sqlx::query("SET ROLE bifrost_system").execute(&mut conn).await.expect("sets");
    let mut written = async || -> Vec<String> {
        sqlx::query_scalar("SELECT id || ' ' || xmin::text FROM workflows ORDER BY id")
            .fetch_all(&mut conn)
            .await
            .expect("reads")
    };

    let first = timed(&files).await;
    let before = written().await;
    let unchanged = timed(&files).await;
    assert_eq!(written().await, before, "nothing was written");
    files[7] = file("area/flow7.py", json!([workflow("f", "edited")]), json!([]));
    let edited = timed(&files).await;
    let changed = written().await.iter().zip(&before).filter(|(now, then)| now != then).count();
    println!(
        "5,000 files: first {first:.2?}, unchanged {unchanged:.2?}, one edited {edited:.2?}, rows written {changed}"
    );
    assert_eq!((before.len(), changed), (5_000, 1));
    conn.close().await.expect("closes");
    fixture.close().await;
}

#[tokio::test]
async fn a_function_that_is_found_twice_stops_nobody() {
    let fixture = Fixture::embedded().await;
    let db = &fixture.platform.db;
    let twice = file("a.py", json!([workflow("f", "one"), workflow("f", "two")]), json!([]));
    let other = file("b.py", json!([workflow("g", "three")]), json!([]));
    assert_eq!(testkit::sync_workflows(db, &index(&[twice, other])).await.expect("syncs").active, 2);
    let mut tx = db.begin(&OrgScope::for_run(None, actor("admin", true))).await.expect("begins");
    let names: Vec<String> =
        workflows::list(&mut tx).await.expect("lists").into_iter().map(|found| found.name).collect();
    assert_eq!(names, ["one", "three"], "the first counts");
    drop(tx);
    fixture.close().await;
}

#[tokio::test]
async fn a_definition_is_remembered_until_the_workspace_is_said_to_have_changed() {
    let fixture = Fixture::embedded().await;
    let (db, catalog) = (&fixture.platform.db, &fixture.platform.catalog);
    let scope = OrgScope::for_run(None, actor("admin", true));
    let with = |category: &str| {
        let mut flow = workflow("f", "flow");
        flow["category"] = json!(category);
        index(&[file("flow.py", json!([flow]), json!([]))])
    };
    let category = async || catalog.get(db, &scope, "flow").await.expect("finds").category.clone();
    // Less than the second after which a definition is read anew, whatever was said.
    let remembered = Duration::from_millis(900);
    testkit::sync_workflows(db, &with("Before")).await.expect("syncs");
    let asked = Instant::now();
    assert_eq!(category().await, "Before");

    testkit::sync_workflows(db, &with("After")).await.expect("syncs");
    let known = category().await;
    if asked.elapsed() < remembered {
        assert_eq!(known, "Before", "nobody has said anything yet");
    }
    catalog.forget();
    assert_eq!(category().await, "After");

    // Another process says it with an event. A machine that is too slow to tell that from the second is asked again.
    let mut slow = 0;
    loop {
        let later = format!("Later {slow}");
        catalog.forget();
        let asked = Instant::now();
        assert_ne!(category().await, later);
        testkit::sync_workflows(db, &with(&later)).await.expect("syncs");
        fixture.platform.events.publish(Event::WorkspaceChanged);
        testkit::eventually("the catalog to hear it", async || (category().await == later).then_some(()))
            .await;
        if asked.elapsed() < remembered {
            break;
        }
        slow += 1;
        assert!(slow < 5, "an event is heard no sooner than a definition is read anew");
    }
    fixture.close().await;
}
