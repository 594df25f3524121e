//! Files for forms: who may announce one, and what a signed URL takes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::IntoResponse;
use domain::{OrgScope, uploads};
use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use testkit::{Client, Reply, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::World;

/// A bucket of a store that speaks S3, as far as uploads need it.
#[derive(Clone, Default)]
struct Bucket(Arc<Mutex<Contents>>);

#[derive(Default)]
struct Contents {
    objects: BTreeMap<String, Vec<u8>>,
    /// By upload id, then number.
    parts: BTreeMap<String, BTreeMap<u32, Vec<u8>>>,
    unsigned: usize,
}

impl Bucket {
    async fn serve(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let app = axum::Router::new()
            .fallback(answer)
            .layer(axum::extract::DefaultBodyLimit::disable())
            .with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        format!("http://{address}")
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().expect("no test panics while it holds this")
    }
}

async fn answer(
    State(bucket): State<Bucket>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: bytes::Bytes,
) -> axum::response::Response {
    let mut contents = bucket.contents();
    let credential = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !credential.starts_with("AWS4-HMAC-SHA256 Credential=test-id/") {
        contents.unsigned += 1;
    }
    let query: BTreeMap<String, String> =
        url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let key = uri.path().to_owned();
    let upload = query.get("uploadId").cloned();
    let etag = [("etag", "\"e\"")];
    match (method.as_str(), upload) {
        ("POST", None) if query.contains_key("uploads") => {
            let id = format!("upload-{}", contents.parts.len());
            contents.parts.insert(id.clone(), BTreeMap::new());
            let xml = format!(
                "<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>k</Key><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
            );
            xml.into_response()
        }
        ("PUT", Some(id)) => {
            let number = query["partNumber"].parse().expect("a number");
            // A part that was under way while the upload was given up.
            let Some(parts) = contents.parts.get_mut(&id) else {
                return StatusCode::NOT_FOUND.into_response();
            };
            parts.insert(number, body.to_vec());
            etag.into_response()
        }
        ("POST", Some(id)) => {
            let whole = contents.parts.remove(&id).expect("begun").into_values().flatten().collect();
            contents.objects.insert(key, whole);
            "<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>".into_response()
        }
        ("DELETE", Some(id)) => {
            contents.parts.remove(&id);
            StatusCode::NO_CONTENT.into_response()
        }
        ("PUT", None) => {
            contents.objects.insert(key, body.to_vec());
            etag.into_response()
        }
        ("GET", None) => {
            let Some(object) = contents.objects.get(&key) else {
                return StatusCode::NOT_FOUND.into_response();
            };
            let range = headers["range"].to_str().expect("text").trim_start_matches("bytes=").to_owned();
            let (start, end) = range.split_once('-').expect("a range");
            let (start, end): (usize, usize) =
                (start.parse().expect("a number"), end.parse().expect("a number"));
            let of = format!("bytes {start}-{end}/{}", object.len());
            let headers = [
                ("etag", "\"e\""),
                ("content-range", of.as_str()),
                ("last-modified", "Thu, 26 Nov 2026 00:00:00 GMT"),
            ];
            (StatusCode::PARTIAL_CONTENT, headers, object[start..=end].to_vec()).into_response()
        }
        other => panic!("no S3 operation that uploads need: {other:?} {uri}"),
    }
}

/// A form for everybody with these fields; gives the path that announces files.
async fn form(world: &World, fields: Value) -> String {
    let body = json!({"name": "Files", "access_level": "authenticated", "form_schema": {"fields": fields}});
    let form = world.admin.client.post("/api/forms", &body).await.expect_status(StatusCode::CREATED);
    format!("/api/forms/{}/upload", form.text("id"))
}

fn file(name: &str, content_type: &str, size: i64) -> Value {
    json!({"file_name": name, "content_type": content_type, "file_size": size})
}

/// The path of the URL to send to.
fn target(announced: &Reply) -> String {
    let url = announced.text("upload_url");
    url[url.find("/api/").expect("a path")..].to_owned()
}

async fn send(client: &Client, path: &str, body: impl Into<reqwest::Body>) -> Reply {
    client.send(client.request(Method::PUT, path).body(body)).await
}

/// A file of this size that is announced, and where it goes.
async fn announced(size: i64) -> (World, String) {
    let world = World::start().await;
    world.org("acme").await;
    let ada = world.person("ada@acme.example").await;
    let path = form(&world, json!([])).await;
    let announced = ada.client.post(&path, &file("a.txt", "text/plain", size)).await;
    let url = target(&announced.expect_status(StatusCode::OK));
    (world, url)
}

/// Sends a part of a body of this size, and waits until it is being received.
async fn begin(world: &World, url: &str, size: usize, part: &[u8]) -> TcpStream {
    let host = world.nobody().base().trim_start_matches("http://").to_owned();
    let mut socket = TcpStream::connect(&host).await.expect("connects");
    let head =
        format!("PUT {url} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {size}\r\nconnection: close\r\n\r\n");
    socket.write_all(head.as_bytes()).await.expect("writes");
    socket.write_all(part).await.expect("writes");
    eventually("the file is being received", || async {
        (world.count("SELECT count(*) FROM uploads WHERE receiving_since IS NOT NULL").await == 1)
            .then_some(())
    })
    .await;
    socket
}

/// Every file of the store, with its content.
fn stored(world: &World) -> Vec<(String, Vec<u8>)> {
    fn read(folder: &std::path::Path, into: &mut Vec<(String, Vec<u8>)>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                read(&entry.path(), into);
            } else {
                into.push((entry.path().display().to_string(), std::fs::read(entry.path()).expect("reads")));
            }
        }
    }
    let mut found = Vec::new();
    read(&world.platform().settings.uploads_path, &mut found);
    found
}

#[tokio::test]
async fn a_signed_url_takes_what_was_announced_once() {
    let world = World::start().await;
    world.org("acme").await;
    let ada = world.person("ada@acme.example").await;
    let path = form(&world, json!([])).await;
    let announced = ada.client.post(&path, &file("../Q1 report.pdf", "Application/PDF; x=1", 10)).await;
    let announced = announced.expect_status(StatusCode::OK);
    assert_eq!(announced.header("cache-control"), Some("no-store"), "its URL is a credential");
    let body = announced.json();
    let metadata = &body["file_metadata"];
    assert_eq!(
        (&metadata["name"], &metadata["content_type"]),
        (&json!("Q1 report.pdf"), &json!("application/pdf"))
    );
    assert_eq!((&metadata["container"], &metadata["size"]), (&json!("uploads"), &json!(10)));
    let stored_at = metadata["path"].as_str().expect("a path");
    assert!(stored_at.ends_with("/Q1_report.pdf"), "{stored_at}");
    assert_eq!(body["blob_uri"], format!("uploads/{stored_at}"));
    let url = target(&announced);
    let nobody = world.nobody();

    // Too long, announced or streamed: nothing is kept, and the URL stays good.
    for length in [11, 3_000_000] {
        send(nobody, &url, vec![b'x'; length]).await.expect_status(StatusCode::PAYLOAD_TOO_LARGE);
    }
    assert_eq!(stored(&world), []);
    let racers = (0..8).map(|n| send(nobody, &url, format!("racer {n:>3}!")));
    let statuses: Vec<u16> = join_all(racers).await.iter().map(|reply| reply.status.as_u16()).collect();
    let (won, lost) =
        (statuses.iter().filter(|s| **s == 200).count(), statuses.iter().filter(|s| **s == 403).count());
    println!("signed upload URL: of {} racers {won} stored, {lost} refused", statuses.len());
    assert_eq!((won, lost), (1, 7), "{statuses:?}");
    send(nobody, &url, "late").await.expect_status(StatusCode::FORBIDDEN);
    let files = stored(&world);
    assert!(files.len() == 1 && files[0].1.starts_with(b"racer"), "{files:?}");
    assert_eq!(
        world
            .count("SELECT count(*) FROM audit_log WHERE action IN ('upload.announced', 'upload.received')")
            .await,
        2
    );

    let ended = ada.client.post(&path, &file("a", "text/plain", 5)).await.expect_status(StatusCode::OK);
    world.sql("UPDATE uploads SET expires_at = now() - interval '1 second' WHERE received_at IS NULL").await;
    send(nobody, &target(&ended), "hello").await.expect_status(StatusCode::FORBIDDEN);
    for forged in ["x", "AAAA", &"A".repeat(75), "..%2f..%2fetc"] {
        send(nobody, &format!("/api/uploads/{forged}"), "x").await.expect_status(StatusCode::FORBIDDEN);
    }
    // A session is no substitute for the URL, and the URL none for a session.
    send(&ada.client, "/api/uploads/AAAA", "x").await.expect_status(StatusCode::FORBIDDEN);
    let token = url.rsplit('/').next().expect("a token");
    nobody.with_bearer(token).get("/api/forms").await.expect_status(StatusCode::UNAUTHORIZED);
    world.close().await;
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing_and_may_be_sent_again() {
    let world = World::start().await;
    world.org("acme").await;
    let ada = world.person("ada@acme.example").await;
    let path = form(&world, json!([])).await;
    let size = 12_000_000_usize;
    let announced = ada.client.post(&path, &file("large.bin", "application/octet-stream", 12_000_000)).await;
    let url = target(&announced.expect_status(StatusCode::OK));
    let socket = begin(&world, &url, size, &vec![b'x'; size - 1]).await;
    send(world.nobody(), &url, "meanwhile").await.expect_status(StatusCode::FORBIDDEN);
    drop(socket);
    eventually("the broken upload is let go", || async {
        (world.count("SELECT count(*) FROM uploads WHERE receiving_since IS NOT NULL").await == 0)
            .then_some(())
    })
    .await;
    assert_eq!(stored(&world), []);
    let whole = vec![b'y'; size];
    let reply = send(world.nobody(), &url, whole.clone()).await.expect_status(StatusCode::OK);
    assert_eq!(reply.json()["size"], json!(size));
    assert!(stored(&world)[0].1 == whole);
    world.close().await;
}

#[tokio::test]
async fn an_upload_whose_receiver_is_gone_may_be_sent_again() {
    let (world, url) = announced(5).await;
    // As a process leaves the row that was killed, or that could not reach PostgreSQL at the end.
    world.sql("UPDATE uploads SET receiving_since = now() - interval '10 seconds'").await;
    send(world.nobody(), &url, "early").await.expect_status(StatusCode::FORBIDDEN);
    world.sql("UPDATE uploads SET receiving_since = now() - interval '31 seconds'").await;
    let racers = (0..8).map(|_| send(world.nobody(), &url, "again"));
    let statuses: Vec<u16> = join_all(racers).await.iter().map(|reply| reply.status.as_u16()).collect();
    let won = statuses.iter().filter(|status| **status == 200).count();
    println!("an abandoned upload URL: of {} racers {won} stored", statuses.len());
    assert_eq!(won, 1, "{statuses:?}");
    assert_eq!(stored(&world).into_iter().map(|(_, content)| content).collect::<Vec<_>>(), [b"again"]);
    send(world.nobody(), &url, "later").await.expect_status(StatusCode::FORBIDDEN);
    world.close().await;
}

#[tokio::test]
async fn whoever_has_lost_an_upload_to_another_stores_nothing() {
    let (world, url) = announced(6).await;
    let mut late = begin(&world, &url, 6, b"late").await;
    // Nobody has heard of the first receiver for a while, and it does not know.
    world.sql("UPDATE uploads SET receiving_since = now() - interval '1 minute'").await;
    send(world.nobody(), &url, "second").await.expect_status(StatusCode::OK);
    // It may have noticed and hung up already.
    let _ = late.write_all(b"r.").await;
    let mut answer = String::new();
    late.read_to_string(&mut answer).await.expect("answers");
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert_eq!(stored(&world).into_iter().map(|(_, content)| content).collect::<Vec<_>>(), [b"second"]);
    let received = "SELECT count(*) FROM audit_log WHERE action = 'upload.received'";
    assert_eq!(world.count(received).await, 1);
    world.close().await;
}

#[tokio::test]
async fn an_upload_that_takes_long_keeps_its_url() {
    let (world, url) = announced(6).await;
    let mut slow = begin(&world, &url, 6, b"slow").await;
    let heard = "SELECT receiving_since::text FROM uploads";
    let before = world.text(heard).await;
    eventually("a sign of life", || async { (world.text(heard).await != before).then_some(()) }).await;
    send(world.nobody(), &url, "theirs").await.expect_status(StatusCode::FORBIDDEN);
    slow.write_all(b"ly").await.expect("writes");
    let mut answer = String::new();
    slow.read_to_string(&mut answer).await.expect("answers");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(stored(&world).into_iter().map(|(_, content)| content).collect::<Vec<_>>(), [b"slowly"]);
    world.close().await;
}

#[tokio::test]
async fn type_and_size_must_fit_a_file_field_of_the_form() {
    let world = World::with(|settings| settings.max_upload_mb = 3).await;
    world.org("acme").await;
    let ada = world.person("ada@acme.example").await;
    let field = |name: &str, more: Value| {
        let mut field = json!({"type": "file", "name": name, "label": name});
        field.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        field
    };
    let path = form(
        &world,
        json!([
            field("photo", json!({"allowed_types": ["image/*"], "max_size_mb": 1})),
            field("scan", json!({"allowed_types": [".pdf", "image/tiff"], "max_size_mb": 2})),
            {"type": "text", "name": "t", "label": "T"},
        ]),
    )
    .await;
    let (mb, mut refused) = (1024 * 1024, 0);
    for (body, pointer) in [
        (file("a.png", "image/png", mb), None),
        (file("a.tiff", "image/tiff", 2 * mb), None),
        (file("a.PDF", "application/octet-stream", 2 * mb), None),
        (file("a.png", "image/png", mb + 1), Some("/file_size")),
        (file("a.pdf", "application/pdf", 3 * mb), Some("/file_size")),
        (file("a.txt", "text/plain", 1), Some("/content_type")),
        (file("a.pdf.exe", "application/pdf", 1), Some("/content_type")),
        (file("a.png", "image/png", 3 * mb + 1), Some("/file_size")),
        (file("a.png", "image/png", -1), Some("/file_size")),
        (file("", "image/png", 1), Some("/file_name")),
        (file("a/", "image/png", 1), Some("/file_name")),
        (file("a\u{7}.png", "image/png", 1), Some("/file_name")),
        (file("a\0.png", "image/png", 1), Some("/file_name")),
        (file(&"x".repeat(300), "image/png", 1), Some("/file_name")),
        (file("a.png", "png", 1), Some("/content_type")),
        (file("a.png", "image/p ng", 1), Some("/content_type")),
        (file("a.png", "image/png\r\nx: y", 1), Some("/content_type")),
        (json!({"file_name": "a.png", "content_type": "image/png"}), Some("/file_size")),
        (json!({"file_name": "a.png", "content_type": "image/png", "file_size": "1"}), Some("/file_size")),
    ] {
        let reply = ada.client.post(&path, &body).await;
        match pointer {
            None => drop(reply.expect_status(StatusCode::OK)),
            Some(pointer) => {
                let reply = reply.expect_status(StatusCode::UNPROCESSABLE_ENTITY);
                assert_eq!(reply.pointers(), [pointer], "{body}");
                refused += 1;
            }
        }
    }
    println!("uploads: {refused} of {refused} unfit files refused with their pointers");
    assert_eq!(world.count("SELECT count(*) FROM uploads").await, 3);
    let any = form(&world, json!([{"type": "text", "name": "t", "label": "T"}])).await;
    ada.client.post(&any, &file("any.thing", "x/y", 3 * mb)).await.expect_status(StatusCode::OK);
    world.close().await;
}

#[tokio::test]
async fn a_bucket_takes_uploads_of_every_size_and_gives_them_back() {
    let bucket = Bucket::default();
    let endpoint = bucket.serve().await;
    let world = World::with(|settings| {
        settings.s3_bucket = Some("files".into());
        settings.s3_endpoint = Some(endpoint);
        settings.s3_access_key_id = Some("test-id".into());
        settings.s3_secret_access_key = Some("test-secret".into());
    })
    .await;
    let acme = world.org("acme").await;
    let ada = world.person("ada@acme.example").await;
    let path = form(&world, json!([])).await;
    let small = b"small".to_vec();
    let large: Vec<u8> = (0..25_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    for content in [small, large, Vec::new()] {
        let size = i64::try_from(content.len()).expect("fits");
        let announced =
            ada.client.post(&path, &file("data.bin", "a/b", size)).await.expect_status(StatusCode::OK);
        let url = target(&announced);
        let mut longer = content.clone();
        longer.push(0);
        send(world.nobody(), &url, longer).await.expect_status(StatusCode::PAYLOAD_TOO_LARGE);
        assert!(bucket.contents().parts.is_empty(), "what is given up is aborted");
        send(world.nobody(), &url, content.clone()).await.expect_status(StatusCode::OK);

        let stored_at = announced.json()["file_metadata"]["path"].as_str().expect("a path").to_owned();
        let key = format!("/files/{acme}/{stored_at}");
        let found = bucket.contents().objects.get(&key).cloned();
        assert!(found == Some(content.clone()), "{:?}", found.map(|found| found.len()));
        let form_id = stored_at.split('/').next().expect("a form").parse().expect("an id");
        let actor = domain::Actor {
            id: ada.id,
            name: String::new(),
            email: ada.email.clone(),
            is_platform_admin: false,
        };
        let mut tx = world.platform().db.begin(&OrgScope::for_run(Some(acme), actor)).await.expect("begins");
        let upload = uploads::get(&mut tx, form_id, &stored_at).await.expect("is received");
        tx.commit().await.expect("commits");
        let mut read = Vec::new();
        loop {
            let piece = world.platform().uploads.read(&upload, read.len() as u64).await.expect("reads");
            if piece.is_empty() {
                break;
            }
            read.extend(piece);
        }
        assert!(read == content, "{} bytes instead of {}", read.len(), content.len());
    }
    let contents = std::mem::take(&mut *bucket.contents());
    assert_eq!((contents.objects.len(), contents.unsigned), (3, 0));
    world.close().await;
}
