//! Metrics over HTTP: who counts what, the snapshot, and the sums by day, organization and workflow.

use domain::executions::Status;
use domain::executions::finish::Outcome;
use domain::id::OrgId;
use reqwest::StatusCode;
use serde_json::{Value, json};
use testkit::Client;

use crate::support::{Person, World, failure, success};

async fn read(client: &Client, path: &str) -> Value {
    client.get(path).await.expect_status(StatusCode::OK).json()
}

async fn refresh(world: &World) {
    domain::metrics::refresh(&world.platform().db).await.expect("ticks");
}

/// Two who share an organization, one of another.
struct Cast {
    world: World,
    acme: OrgId,
    rival: OrgId,
    ada: Person,
    bob: Person,
    eve: Person,
}

impl Cast {
    async fn new() -> Self {
        let world = World::start().await.with_workflows().await;
        let (acme, rival) = (world.org("acme").await, world.org("rival").await);
        let ada = world.person("ada@acme.example").await;
        let bob = world.person("bob@acme.example").await;
        let eve = world.person("eve@rival.example").await;
        Self { acme, rival, ada, bob, eve, world }
    }

    /// A run of this person that ends so, after `duration_ms`.
    async fn run(&self, person: &Person, org: OrgId, status: Status, duration_ms: i64) {
        let id = self.world.submit(person, Some(org)).await;
        let worker = self.world.worker();
        let claimed = worker.claim().await;
        assert_eq!(claimed.id, id);
        let outcome = match status {
            Status::Failed => failure(&claimed, "KeyError: 'site'", false),
            _ => success(&claimed, "null"),
        };
        worker.record(&Outcome { status, duration_ms, ..outcome }).await;
    }
}

fn stats(dashboard: &Value) -> [&Value; 5] {
    ["total_executions", "success_count", "failed_count", "running_count", "pending_count"]
        .map(|name| &dashboard["execution_stats"][name])
}

#[tokio::test]
async fn a_dashboard_counts_what_its_reader_may_see_at_once_and_after_a_tick() {
    let cast = Cast::new().await;
    let (world, admin) = (&cast.world, &cast.world.admin.client);
    cast.run(&cast.ada, cast.acme, Status::Success, 1_000).await;
    cast.run(&cast.ada, cast.acme, Status::Success, 3_000).await;
    cast.run(&cast.ada, cast.acme, Status::Failed, 2_000).await;
    cast.run(&cast.bob, cast.acme, Status::Failed, 1).await;
    cast.run(&cast.bob, cast.acme, Status::Timeout, 1).await;
    cast.run(&cast.eve, cast.rival, Status::Success, 1).await;
    cast.run(&world.admin, cast.rival, Status::Cancelled, 1).await;
    // One runs, one waits.
    world.submit(&cast.bob, Some(cast.acme)).await;
    world.worker().claim().await;
    world.submit(&cast.ada, Some(cast.acme)).await;

    let lead = world.person("lead@acme.example").await;
    world.grant(cast.acme, &lead, &[domain::Permission::ExecutionsRead]).await;
    let lead = world.nobody().sign_in("lead@acme.example", crate::support::PASSWORD).await;
    world.person("stray@acme.example").await;
    world.sql("UPDATE users SET organization_id = NULL WHERE email = 'stray@acme.example'").await;
    let stray = world.nobody().sign_in("stray@acme.example", crate::support::PASSWORD).await;
    let at_acme = admin.in_organization(cast.acme);
    let expected = [
        ("ada", &cast.ada.client, [4, 2, 1, 0, 1]),
        ("bob", &cast.bob.client, [3, 0, 2, 1, 0]),
        ("eve", &cast.eve.client, [1, 1, 0, 0, 0]),
        ("who belongs nowhere", &stray, [0; 5]),
        ("who may read executions", &lead, [7, 2, 3, 1, 1]),
        ("an administrator in it", &at_acme, [7, 2, 3, 1, 1]),
        ("an administrator", admin, [9, 3, 3, 1, 1]),
    ];
    for moment in ["at once", "after a tick", "after another"] {
        for (who, client, counts) in &expected {
            let dashboard = read(client, "/api/metrics").await;
            assert_eq!(
                stats(&dashboard),
                counts.map(|count| json!(count)).each_ref(),
                "{who} {moment}: {dashboard}"
            );
        }
        let ada = read(&cast.ada.client, "/api/metrics").await;
        assert_eq!(
            (&ada["execution_stats"]["success_rate"], &ada["execution_stats"]["avg_duration_seconds"]),
            (&json!(66.67), &json!(2.0))
        );
        refresh(world).await;
    }

    // Failures are of the same executions, the newest first, and say what the reader may know.
    let failures = |dashboard: Value| dashboard["recent_failures"].as_array().cloned().expect("a list");
    let ada = failures(read(&cast.ada.client, "/api/metrics").await);
    assert_eq!(ada.len(), 1);
    assert_eq!(ada[0]["error_message"], "An error occurred during execution");
    assert!(ada[0]["started_at"].is_string() && ada[0]["workflow_name"].is_string(), "{ada:?}");
    let all = failures(read(&at_acme, "/api/metrics").await);
    assert_eq!((all.len(), &all[2]["error_message"]), (3, &json!("KeyError: 'site'")));
    assert_eq!(all[2]["execution_id"], ada[0]["execution_id"]);
    assert!(failures(read(&cast.eve.client, "/api/metrics").await).is_empty());
    assert_eq!(failures(read(admin, "/api/metrics").await).len(), 3);
    cast.world.close().await;
}

#[tokio::test]
async fn a_dashboard_counts_the_forms_and_workflows_that_its_reader_reaches() {
    let cast = Cast::new().await;
    let admin = &cast.world.admin.client;
    for (organization, name, level) in [
        (Some(cast.acme), "open", "authenticated"),
        (Some(cast.acme), "closed", "role_based"),
        (Some(cast.rival), "theirs", "authenticated"),
        (None, "global", "public"),
    ] {
        let body = json!({"name": name, "form_schema": {"fields": []}, "access_level": level});
        let client = organization.map_or_else(|| admin.clone(), |id| admin.in_organization(id));
        client.post("/api/forms", &body).await.expect_status(StatusCode::CREATED);
    }
    let counts = async |client: &Client| {
        let dashboard = read(client, "/api/metrics").await;
        let listed = read(client, "/api/forms").await.as_array().map_or(0, Vec::len);
        assert_eq!(dashboard["form_count"], listed, "as the list has it");
        ["form_count", "workflow_count", "data_provider_count"]
            .map(|name| dashboard[name].as_i64().expect("a number"))
    };
    assert_eq!(counts(&cast.ada.client).await, [2, 2, 0]);
    assert_eq!(counts(&cast.eve.client).await, [2, 2, 0]);
    assert_eq!(counts(&admin.in_organization(cast.acme)).await, [3, 2, 0]);
    assert_eq!(counts(admin).await, [4, 2, 0]);
    cast.world.close().await;
}

#[tokio::test]
async fn the_snapshot_is_there_after_the_first_tick() {
    let cast = Cast::new().await;
    let admin = &cast.world.admin.client;
    let missing = admin.get("/api/metrics/snapshot").await.expect_status(StatusCode::NOT_FOUND);
    assert!(missing.detail().contains("the first is taken soon"), "{}", missing.body);
    cast.run(&cast.ada, cast.acme, Status::Success, 10).await;
    cast.run(&cast.eve, cast.rival, Status::Failed, 20).await;
    cast.world.submit(&cast.ada, Some(cast.acme)).await;
    refresh(&cast.world).await;
    let snapshot = read(admin, "/api/metrics/snapshot").await;
    for (member, value) in [
        ("workflow_count", json!(2)),
        ("organization_count", json!(2)),
        ("user_count", json!(4)),
        ("total_executions", json!(2)),
        ("total_success", json!(1)),
        ("total_failed", json!(1)),
        ("executions_24h", json!(2)),
        ("success_24h", json!(1)),
        ("failed_24h", json!(1)),
        ("running_count", json!(0)),
        ("pending_count", json!(1)),
        ("avg_duration_ms_24h", json!(15)),
        ("total_memory_bytes_24h", json!(2_000_000)),
        ("total_cpu_seconds_24h", json!(0.5)),
        ("success_rate_all_time", json!(50.0)),
        ("success_rate_24h", json!(50.0)),
    ] {
        assert_eq!(snapshot[member], value, "{member}: {snapshot}");
    }
    assert!(snapshot["refreshed_at"].as_str().is_some_and(|time| time.ends_with('Z')), "{snapshot}");
    cast.world.close().await;
}

#[tokio::test]
async fn days_are_of_one_organization_in_either_spelling_or_of_all() {
    let cast = Cast::new().await;
    let admin = &cast.world.admin.client;
    cast.run(&cast.ada, cast.acme, Status::Success, 10).await;
    cast.run(&cast.ada, cast.acme, Status::Timeout, 30).await;
    cast.run(&cast.eve, cast.rival, Status::Success, 1).await;
    cast.world.sql("UPDATE execution_endings SET completed_at = completed_at - interval '3 days' WHERE duration_ms = 30").await;
    refresh(&cast.world).await;

    let (acme, path) = (cast.acme, "/api/metrics/executions/daily");
    let all = read(admin, path).await;
    assert_eq!((&all["total_days"], &all["days"][0]["organization_id"]), (&json!(2), &Value::Null));
    assert_eq!(all["days"][0]["execution_count"], 2);
    let written = read(admin, &format!("{path}?organization_id=ORG:{acme}")).await;
    assert_eq!(written, read(admin, &format!("{path}?organization_id={acme}")).await);
    assert_eq!(written, read(&admin.in_organization(acme), path).await);
    let days = written["days"].as_array().expect("a list");
    assert_eq!(days.len(), 2);
    for day in days {
        assert_eq!(
            (&day["organization_id"], &day["organization_name"]),
            (&json!(format!("ORG:{acme}")), &json!("acme"))
        );
    }
    let counts = |day: &Value| {
        [
            "execution_count",
            "success_count",
            "failed_count",
            "timeout_count",
            "cancelled_count",
            "avg_duration_ms",
            "max_duration_ms",
        ]
        .map(|name| day[name].as_i64().expect("a number"))
    };
    assert_eq!((counts(&days[0]), counts(&days[1])), ([1, 1, 0, 0, 0, 10, 10], [1, 0, 0, 1, 0, 30, 30]));
    assert!(days[0]["date"].as_str() > days[1]["date"].as_str(), "the newest first");
    assert_eq!(read(admin, &format!("{path}?days=3&organization_id={acme}")).await["total_days"], 1);
    // Exactly the scope: another organization's are not in it, and what is unknown has none.
    let rival = read(&admin.in_organization(acme), &format!("{path}?organization_id={}", cast.rival)).await;
    let unknown = read(admin, &format!("{path}?organization_id={}", uuid::Uuid::now_v7())).await;
    assert_eq!(
        (&rival, &unknown),
        (&json!({"days": [], "total_days": 0}), &json!({"days": [], "total_days": 0}))
    );

    let resources = read(&admin.in_organization(acme), "/api/metrics/resources?days=1").await;
    assert_eq!(resources["total_days"], 1);
    let mut day = resources["days"][0].clone();
    day.as_object_mut().expect("an object").remove("date");
    assert_eq!(
        day,
        json!({
            "peak_memory_bytes": 1_000_000, "total_memory_bytes": 1_000_000, "avg_memory_bytes": 1_000_000,
            "peak_cpu_seconds": 0.25, "total_cpu_seconds": 0.25, "avg_cpu_seconds": 0.25, "execution_count": 1,
        })
    );
    cast.world.close().await;
}

#[tokio::test]
async fn organizations_and_workflows_are_ranked_and_limited() {
    let cast = Cast::new().await;
    let admin = &cast.world.admin.client;
    cast.run(&cast.ada, cast.acme, Status::Success, 10).await;
    for status in [Status::Success, Status::Failed] {
        cast.run(&cast.eve, cast.rival, status, 10).await;
    }
    // Three workflows of which each leads in one thing.
    cast.world
        .sql("INSERT INTO execution_endings SELECT organization_id, name, executed_by, 'Success', completed_at, duration, memory, cpu
             FROM (SELECT * FROM execution_endings WHERE status = 'Failed') AS e, (VALUES ('many', 1, 10, 10), ('many', 1, 10, 10),
                 ('many', 1, 10, 10), ('many', 1, 10, 10), ('slow', 900, 20, 20), ('large', 2, 5000000, 30), ('busy', 3, 30, 5000000))
                 AS more (name, duration, memory, cpu)")
        .await;
    refresh(&cast.world).await;

    let organizations = read(admin, "/api/metrics/organizations").await;
    let names = |list: &Value, member: &str| -> Vec<String> {
        let rows = list.as_array().expect("a list").iter();
        rows.map(|row| row[member].as_str().expect("a text").to_owned()).collect()
    };
    assert_eq!(names(&organizations["organizations"], "organization_name"), ["rival", "acme"]);
    let first = &organizations["organizations"][0];
    assert_eq!(first["organization_id"], format!("ORG:{}", cast.rival));
    assert_eq!(
        (&first["total_executions"], &first["success_count"], &first["failed_count"], &first["success_rate"]),
        (&json!(9), &json!(8), &json!(1), &json!(88.89))
    );
    let limited = read(admin, "/api/metrics/organizations?limit=1").await;
    assert_eq!(
        (limited["organizations"].as_array().map(Vec::len), &limited["total_organizations"]),
        (Some(1), &json!(2))
    );
    let own = read(&admin.in_organization(cast.acme), "/api/metrics/organizations").await;
    assert_eq!(
        (names(&own["organizations"], "organization_name"), &own["total_organizations"]),
        (vec!["acme".into()], &json!(1))
    );

    for (sort, leads) in [("executions", "many"), ("duration", "slow"), ("memory", "large"), ("cpu", "busy")]
    {
        let ranked = read(admin, &format!("/api/metrics/workflows?sort_by={sort}&limit=1&days=7")).await;
        assert_eq!(names(&ranked["workflows"], "workflow_name"), [leads], "by {sort}");
        assert_eq!(
            (&ranked["total_workflows"], &ranked["sort_by"], &ranked["days"]),
            (&json!(5), &json!(sort), &json!(7))
        );
    }
    let all = read(admin, "/api/metrics/workflows").await;
    assert_eq!((&all["sort_by"], &all["days"]), (&json!("executions"), &json!(30)));
    let busy = all["workflows"].as_array().expect("a list").iter().find(|row| row["workflow_name"] == "busy");
    assert_eq!(
        busy,
        Some(&json!({
            "workflow_name": "busy", "total_executions": 1, "success_count": 1, "failed_count": 0, "success_rate": 100.0,
            "avg_memory_bytes": 30, "avg_duration_ms": 3, "avg_cpu_seconds": 5.0, "peak_memory_bytes": 30, "max_duration_ms": 3,
        }))
    );
    let own = read(&admin.in_organization(cast.acme), "/api/metrics/workflows").await;
    assert_eq!(own["total_workflows"], 1);
    cast.world.close().await;
}
