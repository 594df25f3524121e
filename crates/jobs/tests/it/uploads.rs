//! Uploaded files in runs: those of the run's own form and organization, and no others.

use bytes::Bytes;
use domain::executions::submit::{NewExecution, Work};
use domain::forms::{AccessLevel, Form};
use domain::id::FormId;
use domain::uploads::{self, NewUpload, Received, Upload};
use domain::{OrgScope, workflows};
use serde_json::{Value, json};

use crate::support::{Engine, actor, result, user_of};

const FILE: &str = r#"
from bifrost import files, workflow

@workflow()
async def reads(paths: list, folder: str = ""):
    out = {}
    for path in paths:
        try:
            content = files.read_bytes(path, location="uploads")
            out[path] = [len(content), content[:5].decode(), bool(await files.exists(path, location="uploads"))]
        except Exception as error:
            out[path] = [type(error).__name__, bool(files.exists(path, location="uploads")) if ".." not in path else None]
    names = await files.list("", location="uploads")
    return {"out": out, "names": [len(names), all(n.endswith("/") for n in names)]}
"#;

async fn upload(engine: &Engine, scope: &OrgScope, form: &Form, content: &[u8]) -> Upload {
    let platform = &engine.platform;
    let mut tx = platform.db.begin(scope).await.expect("begins");
    let size = i64::try_from(content.len()).expect("fits");
    let new = NewUpload { file_name: "data.bin".into(), content_type: "a/b".into(), file_size: size };
    let upload = uploads::insert(&mut tx, &platform.uploads, form, new).await.expect("is announced");
    tx.commit().await.expect("commits");
    let pieces: Vec<Result<Bytes, std::io::Error>> =
        content.chunks(1_000_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let body = futures::stream::iter(pieces);
    let received =
        uploads::receive(&platform.db, &platform.uploads, upload.id, body).await.expect("is received");
    assert_eq!(received, Received::Stored(content.len() as u64));
    upload
}

async fn read(engine: &Engine, scope: &OrgScope, form: Option<FormId>, paths: &[String]) -> Value {
    let workflow =
        engine.platform.catalog.get(&engine.platform.db, scope, "reads").await.expect("is indexed");
    let input = json!({"paths": paths}).as_object().expect("an object").clone();
    let input = workflows::check_parameters(&workflow.parameters, input).expect("fits");
    let raw = serde_json::value::to_raw_value(&input).expect("JSON");
    let new =
        NewExecution { form_id: form.map(|form| form.0), ..NewExecution::new(Work::Workflow(workflow), raw) };
    let id = engine.platform.submitter.submit(scope, new).await.expect("accepted").id;
    let ended = engine.ended(id).await;
    assert_eq!(ended.error_message, None);
    result(&ended)
}

#[tokio::test]
async fn a_run_reads_the_files_of_its_own_form_and_organization_only() {
    let engine = Engine::on_files(&[("reads.py", FILE)]).await;
    let (acme, rival) = (engine.org("acme").await, engine.org("rival").await);
    let (ada, eve) = (user_of(acme), user_of(rival));
    let admin = OrgScope::for_run(None, actor("admin", true));
    // One form for everybody, so that only the organization tells the files apart.
    let shared = engine.form(&admin, "Shared", AccessLevel::Authenticated).await;
    let other = engine.form(&ada, "Other", AccessLevel::Authenticated).await;
    let large = vec![b'a'; 10_000_000];
    let own = upload(&engine, &ada, &shared, &large).await;
    let foreign = upload(&engine, &eve, &shared, b"eve's").await;
    let of_other_form = upload(&engine, &ada, &other, b"other").await;
    let hidden = format!("{}/x", own.path.rsplit_once('/').expect("a folder").0);
    let paths = [
        own.path.clone(),
        format!("uploads/{}", own.path),
        foreign.path.clone(),
        of_other_form.path.clone(),
        hidden,
        "../reads.py".to_owned(),
        "/etc/passwd".to_owned(),
        format!("{acme}/{}", own.path),
        format!("../{rival}/{}", foreign.path),
    ];

    let answer = read(&engine, &ada, Some(shared.id), &paths).await;
    let whole = json!([large.len(), "aaaaa", true]);
    let nothing = json!(["FileNotFoundError", false]);
    let mut reached = 0;
    for (index, path) in paths.iter().enumerate() {
        let expected = match index {
            0 | 1 => &whole,
            5 | 8 => &json!(["ValueError", null]),
            _ => &nothing,
        };
        assert_eq!(&answer["out"][path], expected, "{path}");
        reached += usize::from(index > 1 && answer["out"][path][0].is_number());
    }
    assert_eq!(answer["names"], json!([1, true]));
    println!("uploads in runs: {} foreign or odd paths, read {reached}", paths.len() - 2);
    for (scope, form) in [(&ada, None), (&eve, Some(other.id))] {
        let answer = read(&engine, scope, form, &paths[..4]).await;
        assert!(paths[..4].iter().all(|path| answer["out"][path] == nothing), "{answer}");
    }
    let answer = read(&engine, &eve, Some(shared.id), &paths[..3]).await;
    assert_eq!((&answer["out"][&own.path], &answer["out"][&foreign.path][1]), (&nothing, &json!("eve's")));
    engine.close().await;
}
