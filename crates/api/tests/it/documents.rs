//! The OpenAPI document and the page that shows it.

use std::collections::BTreeSet;

use api::AppState;
use domain::Platform;
use domain::settings::Environment;
use reqwest::StatusCode;
use serde_json::Value;
use testkit::TestEnv;

use crate::support::World;

/// Every path that a router knows, as its `Debug` shows them: axum has no other way to ask.
fn paths_of(router: &axum::Router) -> BTreeSet<String> {
    let shown = format!("{router:?}");
    let (_, paths) = shown.split_once("paths: {").expect("the router shows its paths");
    let quoted = inside_braces(paths).split('"').skip(1).step_by(2);
    quoted.filter(|path| path.starts_with('/')).map(ToOwned::to_owned).collect()
}

/// The text up to the brace that closes it; the braces of path parameters are balanced.
fn inside_braces(text: &str) -> &str {
    let mut depth = 1;
    let closing = text.find(|letter| {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        depth == 0
    });
    &text[..closing.expect("the map is closed")]
}

#[tokio::test]
async fn every_route_is_in_the_document() {
    let test = TestEnv::create().await;
    let platform = Platform::open(test.settings_in_process()).expect("opens");
    let routes = paths_of(&api::router(AppState::new(platform).expect("there is a key")));
    let document: Value = serde_json::from_str(&api::openapi_json()).expect("JSON");
    let documented: BTreeSet<String> =
        document["paths"].as_object().expect("paths").keys().cloned().collect();

    // The page itself, the sockets (OpenAPI cannot say them), and the alias of what is documented.
    let apart = |path: &str| {
        let alias = path.strip_prefix("/api").is_some_and(|rest| rest.starts_with("/auth/"));
        path.starts_with("/docs") || path.starts_with("/ws/") || alias
    };
    let undocumented: Vec<_> =
        routes.iter().filter(|path| !apart(path) && !documented.contains(*path)).collect();
    let unserved: Vec<_> = documented.difference(&routes).collect();
    println!("document: {} routes, undocumented {}", routes.len(), undocumented.len());
    assert!(undocumented.is_empty() && unserved.is_empty(), "{undocumented:?} {unserved:?}");
    for path in documented.iter().filter(|path| path.starts_with("/auth/")) {
        assert!(routes.contains(&format!("/api{path}")), "{path} has no alias");
    }
    test.close().await;
}

#[tokio::test]
async fn the_document_describes_security_and_problems() {
    let world = World::start().await;
    let served = world.nobody().get("/openapi.json").await.expect_status(StatusCode::OK);
    assert_eq!(served.json(), serde_json::from_str::<Value>(&api::openapi_json()).expect("JSON"));
    let document = served.json();
    assert_eq!(document["components"]["securitySchemes"]["BifrostApiKey"]["name"], "X-Bifrost-Key");
    assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
    let problem = &document["components"]["schemas"]["Problem"]["properties"];
    for member in ["type", "title", "status", "detail", "code", "message", "request_id", "errors"] {
        assert!(problem[member].is_object(), "{member}");
    }
    world.close().await;
}

#[test]
fn the_document_says_what_is_taken_and_sent() {
    let document: Value = serde_json::from_str(&api::openapi_json()).expect("JSON");
    let deleted = &document["paths"]["/api/sdk/config/delete"]["post"]["responses"]["200"]["content"];
    assert!(deleted["application/json"]["schema"].is_object(), "{deleted}");
}

#[tokio::test]
async fn the_page_needs_nothing_from_elsewhere() {
    let world = World::start().await;
    let nobody = world.nobody();
    let page = nobody.get("/docs/").await.expect_status(StatusCode::OK);
    assert!(page.header("content-type").is_some_and(|kind| kind.starts_with("text/html")));
    let attributes = page.body.split(['"', '\'']).collect::<Vec<_>>();
    let references: Vec<&str> = attributes
        .windows(2)
        .filter(|pair| pair[0].ends_with("src=") || pair[0].ends_with("href="))
        .map(|pair| pair[1])
        .collect();
    assert!(references.len() >= 3, "{}", page.body);
    let mut external: Vec<String> = Vec::new();
    for reference in references {
        if reference.contains("//") {
            external.push(reference.to_owned());
            continue;
        }
        let file = nobody.get(&format!("/docs/{}", reference.trim_start_matches("./"))).await;
        let file = file.expect_status(StatusCode::OK);
        if file.header("content-type").is_some_and(|kind| kind.contains("css")) {
            external.extend(
                file.body.split("url(").skip(1).filter(|url| url.starts_with("http")).map(Into::into),
            );
        }
    }
    let script = nobody.get("/docs/swagger-initializer.js").await.expect_status(StatusCode::OK).body;
    assert!(script.contains("/openapi.json"), "{script}");
    // Unless it is told not to, the page sends the address of the document to a validator on the internet.
    let validator = script.split("\"validatorUrl\"").nth(1).expect("the validator is set");
    assert!(validator.trim_start_matches([':', ' ']).starts_with("\"none\""), "{script}");
    external.extend(script.split(['"', '\'']).filter(|text| text.starts_with("http")).map(Into::into));
    println!("docs: external addresses {}", external.len());
    assert!(external.is_empty(), "{external:?}");
    world.close().await;
}

#[tokio::test]
async fn production_shows_the_document_to_signed_in_users_only() {
    let world = World::with(|settings| settings.environment = Environment::Production).await;
    for path in ["/openapi.json", "/docs/", "/docs/swagger-ui-bundle.js", "/docs/index.html"] {
        world.nobody().get(path).await.expect_status(StatusCode::UNAUTHORIZED);
        world.admin.client.get(path).await.expect_status(StatusCode::OK);
    }
    world.close().await;
}
