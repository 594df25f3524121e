//! `files.*`, `roles.*` and `forms.*` of runs: what the caller may see and change, and nothing of others.

use domain::executions::Status;
use domain::forms::AccessLevel;
use domain::id::{FormId, OrgId};
use domain::{Actor, OrgScope};
use serde_json::{Value, json};
use sqlx::PgConnection;

use crate::support::{Engine, actor, result, user_of};

const FLOWS: &str = r#"
from bifrost import executions, files, forms, roles, workflow

def attempt(call):
    try:
        value = call()
        return value if value is None or isinstance(value, (str, bool, list)) else bool(value)
    except Exception as error:
        return type(error).__name__

@workflow()
async def uses_files():
    first = files.read("data/a.txt")
    await files.write("data/a.txt", "private")
    files.write_bytes("/workspace/data/deep/b.bin", bytes(range(256)) * 30_000)
    files.write("a.txt", "t", location="temp")
    seen = {
        "first": first, "then": files.read("data/a.txt"), "listed": list(files.list("data")), "root": list(await files.list()),
        "large": len(files.read_bytes("data/deep/b.bin")), "exists": [bool(files.exists("data")), bool(files.exists("none"))],
        "temp": [files.read("a.txt", location="temp"), list(files.list(location="temp"))],
    }
    files.delete("data/a.txt")
    seen["after"] = files.read("data/a.txt")
    seen["gone"] = attempt(lambda: files.delete("data/a.txt"))
    return seen

@workflow()
def strays(other: str):
    ways = ["../x", "/etc/passwd", ".overlays/%s/data/a.txt" % other, "data/../.overlays/%s/data/a.txt" % other, ".uploads/x",
            ".git/config", "data/../../x", "a\0b", "", "x" * 2000]
    tried = [attempt(lambda: files.read("link/passwd")), attempt(lambda: files.list("link"))]
    for way in ways:
        tried += [attempt(lambda: files.read(way)), attempt(lambda: files.write(way, "x")), attempt(lambda: files.delete(way))]
    return tried

@workflow()
def reads_forms(ways: list):
    tried = [[attempt(lambda: files.read(way)), bool(files.exists(way)), attempt(lambda: files.list(way))] for way in ways]
    return {"tried": tried, "listed": list(files.list("forms")), "notes": files.read("forms/notes.txt")}

@workflow()
def changes_code():
    return [attempt(lambda: files.write(name, "x = 1")) for name in
            ("sub/new.py", "new.form.json", "form.json", "requirements.txt", "odd.py/.", "odd.py/", "plain.txt")]

@workflow()
def writes_too_much():
    return attempt(lambda: files.write_bytes("large.bin", bytes((10 << 20) + 1)))

@workflow()
def hides_names():
    files.write("plain/x.txt", "a folder where a shared file is")
    files.write("data", "a file where a shared folder is")
    return list(files.list())

@workflow()
async def prepares(email: str, form: str):
    made = await roles.create("Leads")
    await roles.assign_users(made.id, [email])
    await roles.assign_forms(made.id, [form])
    return made.id

@workflow()
async def finds_by_id(role: str, form: str, execution: str):
    async def found(call):
        try:
            return await call
        except (PermissionError, ValueError) as error:
            return type(error).__name__
    seen = [await found(roles.get(role)), await found(forms.get(form)), await found(executions.get(execution))]
    seen = [one if isinstance(one, str) else one["workflow_name"] if isinstance(one, dict) else one.name for one in seen]
    several = [await found(roles.list_users(role)), await found(roles.list_forms(role))]
    return seen + [one if isinstance(one, str) else len(one) for one in several] + [[r.name for r in await roles.list()]]

@workflow()
async def manages_roles(email: str, form: str):
    made = await roles.create("Team leads", description="May see the reports")
    renamed = await roles.update(made.id, name="Leads")
    await roles.assign_users(made.id, [email])
    await roles.assign_forms(made.id, [form])
    seen = {"name": made.name, "renamed": renamed.name, "described": renamed.description, "users": len(await roles.list_users(made.id)),
            "forms": await roles.list_forms(made.id), "listed": [r.name for r in await roles.list()], "got": (await roles.get(made.id)).name}
    seen["deleted"] = await roles.delete(made.id)
    seen["active"] = (await roles.get(made.id)).is_active
    return seen

@workflow()
async def looks(form: str, role: str):
    async def refused(call):
        try:
            await call
        except Exception as error:
            return type(error).__name__
    writes = [roles.create("x"), roles.update(role, name="x"), roles.delete(role), roles.assign_users(role, ["a@b.example"]),
              roles.assign_forms(role, [form])]
    seen = {"refused": [await refused(call) for call in writes], "roles": [r.name for r in await roles.list()]}
    seen["forms"] = [f.name for f in await forms.list()]
    seen["form"] = await refused(forms.get(form))
    seen["missing"] = [await refused(forms.get("0190aaaa-0000-7000-8000-00000000ffff")), await refused(forms.get("no id")),
                       await refused(roles.get("0190aaaa-0000-7000-8000-00000000ffff"))]
    return seen
"#;

async fn engine() -> Engine {
    Engine::on_files(&[("flows.py", FLOWS), ("data/a.txt", "shared")]).await
}

fn admin_in(org: OrgId) -> OrgScope {
    OrgScope::for_run(Some(org), actor("admin", true))
}

async fn run(engine: &Engine, scope: &OrgScope, workflow: &str, parameters: Value) -> Value {
    let run = engine.run(scope, workflow, parameters).await;
    assert_eq!(run.status, Status::Success, "{workflow}: {:?}", run.error_message);
    result(&run)
}

/// A user of the organization, and a connection that sees every row.
async fn member(engine: &Engine, org: OrgId) -> (Actor, PgConnection) {
    let member = actor("member", false);
    let mut owner = engine.test.db.connect().await;
    sqlx::query(
        "INSERT INTO users (id, email, name, organization_id, user_type) VALUES ($1, $2, $3, $4, 'ORG')",
    )
    .bind(member.id.0)
    .bind(&member.email)
    .bind(&member.name)
    .bind(org.0)
    .execute(&mut owner)
    .await
    .expect("inserts");
    (member, owner)
}

#[tokio::test]
async fn an_organization_reads_its_overlay_first_and_writes_only_there() {
    let engine = engine().await;
    let (acme, rival) = (engine.org("acme").await, engine.org("rival").await);

    let seen = run(&engine, &user_of(acme), "uses_files", json!({})).await;

    let expected = json!({
        "first": "shared", "then": "private", "listed": ["a.txt", "deep/"], "root": ["data/", "flows.py"],
        "large": 7_680_000, "exists": [true, false], "temp": ["t", ["a.txt"]], "after": "shared", "gone": "FileNotFoundError",
    });
    assert_eq!(seen, expected);
    assert_eq!(std::fs::read_to_string(engine.workspace.join("data/a.txt")).expect("reads"), "shared");
    let own = engine.workspace.join(".overlays").join(acme.to_string()).join("data/deep/b.bin");
    assert_eq!(std::fs::metadata(own).expect("is there").len(), 7_680_000);
    std::os::unix::fs::symlink("/etc", engine.workspace.join("link")).expect("links");
    let strayed = run(&engine, &user_of(rival), "strays", json!({ "other": acme.to_string() })).await;
    let outcomes: Vec<&str> =
        strayed.as_array().into_iter().flatten().map(|outcome| outcome.as_str().unwrap_or("done")).collect();
    let allowed = outcomes.iter().filter(|name| !["ValueError", "FileNotFoundError"].contains(name)).count();
    println!("ways outside: {} tried, {allowed} allowed", outcomes.len());
    assert_eq!((outcomes.len(), allowed), (32, 0), "{strayed}");
    let large = run(&engine, &user_of(acme), "writes_too_much", json!({})).await;
    assert_eq!(large, "ValueError");
    engine.close().await;
}

#[tokio::test]
async fn a_name_is_listed_once_as_the_overlay_has_it() {
    let engine =
        Engine::on_files(&[("flows.py", FLOWS), ("data/a.txt", "shared"), ("plain", "shared")]).await;
    let acme = engine.org("acme").await;

    let listed = run(&engine, &user_of(acme), "hides_names", json!({})).await;

    assert_eq!(listed, json!(["data", "flows.py", "plain/"]));
    engine.close().await;
}

#[tokio::test]
async fn a_platform_administrator_finds_by_id_what_any_organization_has() {
    let engine = engine().await;
    let (acme, rival) = (engine.org("acme").await, engine.org("rival").await);
    let form = engine.form(&admin_in(acme), "closed", AccessLevel::RoleBased).await.id;
    let (member, _) = member(&engine, acme).await;
    let given = json!({ "email": member.email, "form": form.to_string() });
    let prepared = engine.run(&admin_in(acme), "prepares", given).await;
    let given = json!({
        "role": result(&prepared), "form": form.to_string(), "execution": prepared.id.to_string(),
    });

    for administrator in [Engine::admin(), admin_in(rival)] {
        let found = run(&engine, &administrator, "finds_by_id", given.clone()).await;
        assert_eq!(found, json!(["Leads", "closed", "prepares", 1, 1, []]), "lists stay in the run's scope");
    }
    let found = run(&engine, &user_of(rival), "finds_by_id", given).await;
    let none = "ValueError";
    assert_eq!(found, json!([none, none, none, none, none, []]));
    engine.close().await;
}

#[tokio::test]
async fn a_run_of_an_organization_finds_no_file_of_a_form_in_the_shared_workspace() {
    let theirs = "what another organization asks for";
    let engine = Engine::on_files(&[
        ("flows.py", FLOWS),
        ("forms/theirs.form.json", theirs),
        ("forms/notes.txt", "shared"),
        ("data/form.json", theirs),
    ])
    .await;
    for (link, target) in [("alias.txt", "forms/theirs.form.json"), ("other", "forms")] {
        std::os::unix::fs::symlink(target, engine.workspace.join(link)).expect("links");
    }
    let ways = ["forms/theirs.form.json", "data/form.json", "alias.txt", "other/theirs.form.json"];
    let acme = engine.org("acme").await;

    let seen = run(&engine, &user_of(acme), "reads_forms", json!({ "ways": ways })).await;
    let shown = run(&engine, &Engine::admin(), "reads_forms", json!({ "ways": ways })).await;

    let none = json!(["FileNotFoundError", false, "FileNotFoundError"]);
    assert_eq!(seen, json!({ "tried": vec![none; 4], "listed": ["notes.txt"], "notes": "shared" }));
    // Who administers the platform reads them all.
    let all = json!([theirs, true, "ValueError"]);
    let listed = json!(["notes.txt", "theirs.form.json"]);
    assert_eq!(shown, json!({ "tried": vec![all; 4], "listed": listed, "notes": "shared" }));
    engine.close().await;
}

#[tokio::test]
async fn shared_code_is_changed_by_platform_administrators_alone() {
    let engine = engine().await;
    let nobody = OrgScope::for_run(None, actor("user", false));
    let refused = run(&engine, &nobody, "changes_code", json!({})).await;
    let mut outcomes = vec![json!("PermissionError"); 6];
    outcomes.push(json!(false));
    assert_eq!(refused, json!(outcomes));
    assert!(!engine.workspace.join("odd.py").exists());
    let done = run(&engine, &Engine::admin(), "changes_code", json!({})).await;
    assert_eq!(done, json!(vec![false; 7]));
    assert!(engine.workspace.join("sub/new.py").exists());
    // In an organization it is its own file, which is no code of the platform.
    let acme = engine.org("acme").await;
    assert_eq!(run(&engine, &user_of(acme), "changes_code", json!({})).await, json!(vec![false; 7]));
    engine.close().await;
}

#[tokio::test]
async fn roles_and_forms_are_what_the_caller_may_see_and_change() {
    let engine = engine().await;
    let (acme, rival) = (engine.org("acme").await, engine.org("rival").await);
    let open = engine.form(&admin_in(acme), "open", AccessLevel::Authenticated).await.id;
    let closed = engine.form(&admin_in(acme), "closed", AccessLevel::RoleBased).await.id;
    engine.form(&admin_in(rival), "theirs", AccessLevel::Authenticated).await;
    let (member, mut owner) = member(&engine, acme).await;

    let parameters = json!({ "email": member.email, "form": closed.to_string() });
    let managed = run(&engine, &admin_in(acme), "manages_roles", parameters).await;
    let expected = json!({
        "name": "Team leads", "renamed": "Leads", "described": "May see the reports", "users": 1, "forms": [closed],
        "listed": ["Leads"], "got": "Leads", "deleted": true, "active": false,
    });
    assert_eq!(managed, expected);
    let recorded: Vec<String> = sqlx::query_scalar(
        "SELECT action FROM audit_log
         WHERE organization_id = $1 AND (action LIKE 'role.%' OR action = 'form.assigned')
         ORDER BY id",
    )
    .bind(acme.0)
    .fetch_all(&mut owner)
    .await
    .expect("reads");
    let expected = ["role.created", "role.updated", "role.assigned", "form.assigned", "role.deleted"];
    println!(
        "roles of a run: {} changes, {} in the chain of their organization",
        expected.len(),
        recorded.len()
    );
    assert_eq!(recorded, expected);
    let role = uuid::Uuid::now_v7();
    let looked = |form: FormId| json!({ "form": form.to_string(), "role": role.to_string() });
    let seen = run(&engine, &user_of(acme), "looks", looked(open)).await;
    let expected = json!({
        "refused": vec!["PermissionError"; 5], "roles": [], "forms": ["open"], "form": null,
        "missing": ["ValueError", "ValueError", "ValueError"],
    });
    assert_eq!(seen, expected);
    assert_eq!(run(&engine, &user_of(acme), "looks", looked(closed)).await["form"], "PermissionError");
    let other = run(&engine, &user_of(rival), "looks", looked(open)).await;
    assert_eq!((&other["forms"], &other["form"]), (&json!(["theirs"]), &json!("ValueError")));
    engine.close().await;
}
