//! Branding: seen by anybody, changed by administrators, and harmless wherever it is opened.

use reqwest::multipart::{Form, Part};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use testkit::{Client, Reply};

use crate::support::World;

const SVG: &str =
    r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><path d="M0 0h8v8z" fill="#0a7"/></svg>"##;

async fn upload(client: &Client, kind: &str, content: impl Into<Vec<u8>>, name: &str) -> Reply {
    let file =
        Part::bytes(content.into()).file_name(name.to_owned()).mime_str("image/png").expect("is valid");
    let path = format!("/api/branding/logo/{kind}");
    client.send(client.request(Method::POST, &path).multipart(Form::new().part("file", file))).await
}

#[tokio::test]
async fn anybody_sees_what_administrators_set() {
    let world = World::start().await;
    let (admin, nobody) = (&world.admin.client, world.nobody());
    let none = json!({"square_logo_url": null, "rectangle_logo_url": null, "primary_color": null});
    assert_eq!(nobody.get("/api/branding").await.expect_status(StatusCode::OK).json(), none);
    nobody.get("/api/branding/logo/square").await.expect_status(StatusCode::NOT_FOUND);

    let colored = admin.put("/api/branding", &json!({"primary_color": "#0A7"})).await;
    assert_eq!(colored.expect_status(StatusCode::OK).json()["primary_color"], "#0a7");
    // In an organization's scope too: there is one branding.
    let acme = world.org("acme").await;
    let set = upload(&admin.in_organization(acme), "square", SVG, "logo.png").await;
    let url = set.expect_status(StatusCode::OK).text("square_logo_url");
    assert_eq!(admin.put("/api/branding", &json!({})).await.json()["square_logo_url"], json!(url));

    let shown = nobody.get(&url).await.expect_status(StatusCode::OK);
    assert_eq!((shown.body.as_str(), shown.header("content-type")), (SVG, Some("image/svg+xml")));
    assert_eq!(shown.header("x-content-type-options"), Some("nosniff"));
    let policy = shown.header("content-security-policy").expect("has one");
    assert!(policy.contains("default-src 'none'") && policy.contains("sandbox"), "{policy}");
    let known =
        nobody.request(Method::GET, &url).header("if-none-match", shown.header("etag").expect("has one"));
    assert_eq!(nobody.send(known).await.status, StatusCode::NOT_MODIFIED);

    let other = upload(admin, "square", SVG.replace("#0a7", "#700"), "x").await.text("square_logo_url");
    assert_ne!(url, other, "browsers would go on to show the old one");
    let without = admin.delete("/api/branding/logo/square").await.expect_status(StatusCode::OK).json();
    assert_eq!((&without["square_logo_url"], &without["primary_color"]), (&Value::Null, &json!("#0a7")));
    let plain = admin.delete("/api/branding/color").await.expect_status(StatusCode::OK).json();
    assert_eq!(plain, none);
    upload(admin, "rectangle", SVG, "x").await.expect_status(StatusCode::OK);
    assert_eq!(admin.delete("/api/branding").await.expect_status(StatusCode::OK).json(), none);
    nobody.get("/api/branding/logo/rectangle").await.expect_status(StatusCode::NOT_FOUND);
    world.close().await;
}

#[tokio::test]
async fn what_is_no_image_or_too_large_changes_nothing() {
    let world = World::start().await;
    let admin = &world.admin.client;
    upload(admin, "square", SVG, "x").await.expect_status(StatusCode::OK);
    let before = admin.get("/api/branding").await.json();
    for content in [
        b"just text".to_vec(),
        SVG.replace("<path", "<script>alert(1)</script><path").into_bytes(),
        vec![0; 5 * 1024 * 1024 + 1],
        vec![0; 6 * 1024 * 1024],
    ] {
        let refused =
            upload(admin, "square", content, "logo.png").await.expect_status(StatusCode::BAD_REQUEST);
        assert!(!refused.detail().is_empty(), "{}", refused.body);
    }
    upload(admin, "round", SVG, "x").await.expect_status(StatusCode::BAD_REQUEST);
    let empty =
        admin.request(Method::POST, "/api/branding/logo/square").multipart(Form::new().text("name", "x"));
    admin.send(empty).await.expect_status(StatusCode::BAD_REQUEST);
    let no_form = admin.post("/api/branding/logo/square", &json!({})).await;
    no_form.expect_status(StatusCode::BAD_REQUEST);
    for color in ["red", "#12", "#12345g", "0a7", "#0a7;}"] {
        let refused = admin.put("/api/branding", &json!({"primary_color": color})).await;
        assert_eq!(refused.expect_status(StatusCode::UNPROCESSABLE_ENTITY).pointers(), ["/primary_color"]);
    }
    assert_eq!(admin.get("/api/branding").await.json(), before);
    world.close().await;
}
