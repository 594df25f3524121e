//! Files for forms: who may announce one, and what a signed URL takes.

use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use testkit::{Client, Reply, eventually};
use tokio::io::AsyncWriteExt;

use crate::support::World;

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
    let host = world.nobody().base().trim_start_matches("http://").to_owned();
    let mut socket = tokio::net::TcpStream::connect(&host).await.expect("connects");
    let head = format!("PUT {url} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {size}\r\n\r\n");
    socket.write_all(head.as_bytes()).await.expect("writes");
    socket.write_all(&vec![b'x'; size - 1]).await.expect("writes");
    eventually("the file is being received", || async {
        (world.count("SELECT count(*) FROM uploads WHERE receiving_since IS NOT NULL").await == 1)
            .then_some(())
    })
    .await;
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
