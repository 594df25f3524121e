//! `oauth.*` in runs: fresh tokens, masked, and no other organization's.

use domain::connections::{self, NewConnection};
use domain::{OrgScope, executions::Status};
use serde_json::json;
use testkit::TokenServer;

use crate::support::{Engine, result, user_of};

const SDK: &str = r#"
from bifrost import oauth, workflow
import logging

@workflow()
async def gets(provider: str, org_id: str = ""):
    found = await oauth.get(provider, org_id=org_id or None)
    if found is None:
        return None
    logging.getLogger(__name__).info("the token is %s", found["access_token"])
    return {"kind": found["access_token"][:6], "token": found["access_token"], "secret": found["client_secret"],
            "known": sorted(found), "type": found["token_type"]}

@workflow()
async def brings_its_own(provider: str):
    before = await oauth.get(provider)
    await oauth.set_token(provider, {"access_token": "brought-by-the-run", "expires_in": 600, "scope": "x"})
    during = await oauth.get(provider)
    same = during["access_token"] == "brought-by-the-run" and during["scopes"] == "x"
    deleted = [await oauth.delete_token(provider), await oauth.delete_token(provider)]
    after = await oauth.get(provider)
    return {"same": same, "deleted": deleted, "after": after["access_token"], "before": bool(before["access_token"]),
            "names": await oauth.list_providers()}

@workflow()
async def brings_what_it_got(provider: str):
    await oauth.set_token(provider, {"access_token": "brought-by-the-run", "refresh_token": "", "scopes": "x,y"})
    got = await oauth.get(provider)
    return {"scopes": got["scopes"], "ends": bool(got["expires_at"]), "refresh_token": got["refresh_token"]}

@workflow()
async def fails(provider: str, org_id: str = ""):
    refused = []
    for call in (lambda: oauth.get(provider, org_id=org_id or None),
                 lambda: oauth.refresh_token(provider, org_id=org_id or None),
                 lambda: oauth.set_token(provider, "x", org_id=org_id or None),
                 lambda: oauth.delete_token(provider, org_id=org_id or None)):
        try:
            await call()
            refused.append(None)
        except Exception as error:
            refused.append(type(error).__name__)
    return refused
"#;

async fn connect(engine: &Engine, scope: &OrgScope, name: &str, address: &str) {
    let new = NewConnection {
        name: name.into(),
        display_name: None,
        description: None,
        flow: "client_credentials",
        client_id: "client".into(),
        client_secret: Some("a-secret-of-the-client".into()),
        authorization_url: None,
        token_url: format!("http://{address}/token"),
        scopes: String::new(),
        redirect_uri: None,
    };
    let platform = &engine.platform;
    let mut tx = platform.db.begin(scope).await.expect("begins");
    let made = connections::insert(&mut tx, &platform.vault, new).await.expect("inserts");
    tx.commit().await.expect("commits");
    platform.refresher.refresh(scope, &made).await.expect("asks");
}

#[tokio::test]
async fn a_run_gets_fresh_tokens_of_its_organization_and_they_are_masked() {
    let (server, address) = TokenServer::start().await;
    let admitted = address.clone();
    let engine =
        Engine::with_settings(&[("sdk.py", SDK)], |settings| settings.outbound_admit = admitted).await;
    let (acme, rival) = (engine.org("acme").await, engine.org("rival").await);
    // Ends within the minute that a run is promised.
    server.lifetime(30);
    connect(&engine, &user_of(acme), "own", &address).await;
    connect(&engine, &OrgScope::for_run(None, Engine::admin().actor().clone()), "shared", &address).await;
    server.lifetime(3_600);

    let before = server.refreshes();
    let run = engine.run(&user_of(acme), "gets", json!({"provider": "own"})).await;
    let got = result(&run);
    assert_eq!(got["kind"], "access", "{:?}", run.error_message);
    assert_eq!(
        (&got["token"], &got["secret"], &got["type"]),
        (&json!("***"), &json!("***"), &json!("Bearer"))
    );
    assert_eq!(server.refreshes() - before, 1);
    let line = engine.logged(run.id, "the token is").await;
    assert!(!line.message.contains("access-"), "{}", line.message);
    engine.run(&user_of(acme), "gets", json!({"provider": "own"})).await;
    assert_eq!(server.refreshes() - before, 1, "it is good for an hour now");

    let shared = engine.run(&user_of(rival), "gets", json!({"provider": "shared"})).await;
    assert_eq!(result(&shared)["kind"], "access");
    let others = engine.run(&user_of(rival), "gets", json!({"provider": "own"})).await;
    assert_eq!((result(&others), others.status), (json!(null), Status::Success));
    let named = json!({"provider": "own", "org_id": acme.to_string()});
    let refused = result(&engine.run(&user_of(rival), "fails", named).await);
    assert_eq!(refused, json!(["PermissionError", "PermissionError", "PermissionError", "PermissionError"]));
    // A global connection is read, and not written to.
    let written = result(&engine.run(&user_of(rival), "fails", json!({"provider": "shared"})).await);
    assert_eq!(written, json!([null, null, "ValueError", "ValueError"]));

    let brought = engine.run(&user_of(acme), "brings_its_own", json!({"provider": "own"})).await;
    assert_eq!(
        result(&brought),
        json!({"same": true, "deleted": [true, false], "after": null, "before": true, "names": ["own", "shared"]}),
        "{:?}",
        brought.error_message
    );
    let brought = engine.run(&user_of(acme), "brings_what_it_got", json!({"provider": "own"})).await;
    assert_eq!(
        result(&brought),
        json!({"scopes": "x y", "ends": true, "refresh_token": null}),
        "{:?}",
        brought.error_message
    );
    engine.close().await;
}
