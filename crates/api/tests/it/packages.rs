//! Packages over HTTP: what is listed, what is newer, and what is asked for.

use std::time::Instant;

use domain::events::{Event, News, Progress, Topic};
use domain::id::JobId;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use testkit::{PackageIndex, Socket, Wheel};

use crate::bad_input::packages::{NAMES, VERSIONS};
use crate::support::World;

/// An environment as a build leaves it.
const ENVIRONMENT: &str = "
    WITH environment AS (
        INSERT INTO package_environments (id, lock, packages)
        VALUES (repeat('a', 32), 'alpha==1.0', '[{\"name\": \"alpha\", \"version\": \"1.0\"}, {\"name\": \"beta\", \"version\": \"2.0\"}]')
        RETURNING id
    )
    INSERT INTO package_switches (environment_id, requirements, job_id, switched_by)
    SELECT id, 'alpha==1.0', gen_random_uuid(), 'ada@acme.example' FROM environment";

async fn world(index: &PackageIndex) -> World {
    let world = World::with(|settings| settings.package_index_url = index.url().into()).await;
    world.sql(ENVIRONMENT).await;
    world
}

#[tokio::test]
async fn everybody_sees_what_is_installed_and_what_is_newer() {
    let index = PackageIndex::start().await;
    for version in ["0.9", "1.0", "1.10", "2.0rc1"] {
        index.add(&Wheel::new("alpha", version));
    }
    index.add_yanked(&Wheel::new("alpha", "1.11"));
    index.add_source("alpha", "1.12", "");
    index.add(&Wheel::new("beta", "2.0"));
    for html in [false, true] {
        index.speak_html(html);
        let world = world(&index).await;
        world.org("acme").await;
        let ada = world.person("ada@acme.example").await;
        let list = ada.client.get("/api/packages").await.expect_status(StatusCode::OK).json();
        let packages = json!([{"name": "alpha", "version": "1.0"}, {"name": "beta", "version": "2.0"}]);
        assert_eq!(list, json!({"packages": packages, "total_count": 2}));
        let updates = ada.client.get("/api/packages/updates").await.expect_status(StatusCode::OK).json();
        let newer = json!([{"name": "alpha", "current_version": "1.0", "latest_version": "1.10"}]);
        assert_eq!(updates, json!({"updates_available": newer, "total_count": 1}), "HTML: {html}");
        let asked = index.requests();
        ada.client.get("/api/packages/updates").await.expect_status(StatusCode::OK);
        assert_eq!(index.requests(), asked, "an answer is remembered");
        world.close().await;
    }
}

#[tokio::test]
async fn updates_are_empty_when_the_index_fails_or_takes_too_long() {
    let nothing = json!({"updates_available": [], "total_count": 0});
    let index = PackageIndex::start().await;
    index.add(&Wheel::new("alpha", "9.0"));
    let world = world(&index).await;
    let ask =
        async || world.admin.client.get("/api/packages/updates").await.expect_status(StatusCode::OK).json();
    index.fail(true);
    assert_eq!(ask().await, nothing);
    index.fail(false);
    index.delay(std::time::Duration::from_secs(60));
    let began = Instant::now();
    assert_eq!(ask().await, nothing);
    let took = began.elapsed();
    println!("updates: an index that does not answer is waited for {took:.1?}");
    assert!(took.as_secs() < 12, "{took:?}");
    index.delay(std::time::Duration::ZERO);
    assert_eq!(ask().await["total_count"], 1, "a failure is not remembered");
    world.close().await;
}

#[tokio::test]
async fn a_change_is_a_job_that_is_audited() {
    let index = PackageIndex::start().await;
    let world = world(&index).await;
    let admin = &world.admin.client;
    let body = json!({"package_name": "Alpha_Beta", "version": ">=1, <2"});
    let asked = admin.post("/api/packages/install", &body).await.expect_status(StatusCode::OK).json();
    assert_eq!(
        (&asked["package_name"], &asked["version"], &asked["status"]),
        (&json!("alpha-beta"), &json!(">=1, <2"), &json!("queued"))
    );
    let removed = admin.send(admin.request(Method::DELETE, "/api/packages/BETA")).await;
    let removed = removed.expect_status(StatusCode::OK).json();
    assert_eq!(removed["status"], "queued");
    let missing = admin.send(admin.request(Method::DELETE, "/api/packages/gamma")).await;
    assert_eq!(missing.expect_status(StatusCode::BAD_REQUEST).detail(), "gamma is not installed");
    let back =
        admin.post("/api/packages/rollback", &Value::Null).await.expect_status(StatusCode::BAD_REQUEST);
    assert_eq!(back.detail(), "There is no environment to go back to");

    let jobs = "SELECT count(*) FROM background_jobs WHERE kind = 'packages.install' AND organization_id IS NULL
                AND payload IN ('{\"change\": \"install\", \"name\": \"alpha-beta\", \"version\": \">=1, <2\"}',
                                '{\"change\": \"uninstall\", \"name\": \"beta\"}')";
    assert_eq!(world.count(jobs).await, 2);
    let audited = "SELECT count(*) FROM audit_log WHERE (action, resource) IN
                   (('package.install_requested', 'package/alpha-beta'), ('package.removal_requested', 'package/beta'))";
    assert_eq!(world.count(audited).await, 2);
    world.close().await;
}

#[tokio::test]
async fn no_name_and_no_version_is_an_option_an_address_or_a_command() {
    let world = World::start().await;
    let (mut accepted, mut asked) = (Vec::new(), 0);
    let names = NAMES.iter().map(|name| json!({"package_name": name}));
    let versions = VERSIONS.iter().map(|version| json!({"package_name": "requests", "version": version}));
    for body in names.chain(versions) {
        let reply = world.admin.client.post("/api/packages/install", &body).await;
        asked += 1;
        if reply.status != StatusCode::UNPROCESSABLE_ENTITY {
            accepted.push(body);
        }
    }
    let jobs = world.count("SELECT count(*) FROM background_jobs").await;
    println!("injection: {asked} hostile names and versions, accepted {}, jobs {jobs}", accepted.len());
    assert!(asked >= 40 && accepted.is_empty() && jobs == 0, "{accepted:#?}");
    world.close().await;
}

#[tokio::test]
async fn news_of_a_build_reach_who_asked_and_nobody_else() {
    let world = World::start().await;
    world.org("acme").await;
    let (ada, bob) = (world.person("ada@acme.example").await, world.person("bob@acme.example").await);
    let channel = format!("package:{}", ada.id);
    let path = format!("/ws/connect?channels={channel}&channels=git:{}", ada.id);
    let mut own = Socket::connect(&ada.client, &path).await;
    assert_eq!(own.next().await.expect("a frame")["channels"].as_array().map(Vec::len), Some(3));
    for stranger in [&bob.client, &world.admin.client] {
        let mut other = Socket::connect(stranger, &path).await;
        assert_eq!(other.next().await.expect("a frame")["channels"].as_array().map(Vec::len), Some(1));
        other.send(&json!({"type": "subscribe", "channels": [channel]})).await;
        assert_eq!(other.next().await.expect("a frame")["type"], "error");
    }
    let job_id = JobId::generate();
    let tell = |topic, user_id, news| {
        let progress = Progress { job_id, topic, user_id, news };
        world.platform().events.publish(Event::Progress(Box::new(progress)));
    };
    let log = |message: &str| News::Log { level: "info".into(), message: message.into() };
    tell(Topic::Package, bob.id, log("of somebody else"));
    tell(Topic::Package, ada.id, log("begun"));
    let result = json!({"packages": 2, "status": "forged"});
    tell(Topic::Git, ada.id, News::Complete { status: "conflict".into(), message: "decide".into(), result });
    assert_eq!(
        own.next().await.expect("a frame"),
        json!({"type": "log", "level": "info", "message": "begun", "channel": channel, "jobId": job_id})
    );
    assert_eq!(
        own.next().await.expect("a frame"),
        json!({
            "type": "complete", "status": "conflict", "message": "decide", "packages": 2,
            "channel": format!("git:{}", ada.id), "jobId": job_id,
        })
    );
    world.close().await;
}
