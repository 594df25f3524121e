//! What the SDK asks for: answered in the execution's own scope, over the run's private socket.
//!
//! Python never sees a connection string or a key. An organization other than the run's own is for platform
//! administrators.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use domain::config::{NewValue, ValueType};
use domain::executions::RawJson;
use domain::executions::claim::Claimed;
use domain::id::{ExecutionId, OrgId};
use domain::json::{NUL_RULE, contains_nul, unfit};
use domain::workspace_files::FilePath;
use domain::{Error, OrgScope, OrgTx, Platform, config, secrets};
use futures::FutureExt as _;
use runner::{Call, Replier};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::value::to_raw_value;
use serde_json::{Map, Value, json};

use crate::known::Known;
use crate::mask::Mask;
use crate::slots::Slot;

mod executions;
mod files;
mod forms;
mod oauth;
mod organizations;
mod roles;
mod uploads;
mod workflows;

/// Longest text of a refusal, in bytes: it may quote what was asked, and must always fit into a frame.
const MAX_REFUSAL: usize = 64 * 1024;
/// What Python still reads, whose parser stops at the depth of its stack and, in whole numbers, at so many digits.
const MAX_NESTING: usize = 256;
const MAX_DIGITS: usize = 4_300;

/// Who asks: one run.
pub(crate) struct Caller {
    platform: Platform,
    scope: OrgScope,
    execution_id: ExecutionId,
    form_id: Option<uuid::Uuid>,
    slot: Slot,
    /// The files that the run is made of, once it has begun.
    workspace: OnceLock<PathBuf>,
    /// Context of the run, for what it starts.
    traceparent: Option<String>,
    /// Those of the process once there is one: a run may still hold what a run before it has read.
    known: OnceLock<Arc<Mutex<Known>>>,
    /// What it has changed of the shared files since another tree took the place of the one it is made of.
    changed_elsewhere: Arc<Mutex<BTreeSet<FilePath>>>,
}

/// A refusal, as the SDK raises it.
struct Refusal {
    kind: &'static str,
    message: String,
}

/// What a call gives. What is stored as JSON keeps its text in a type of its own: a [`Value`] nests only so deep and holds only
/// numbers of the machine.
type Answer<T = Value> = Result<T, Refusal>;

impl Caller {
    pub(crate) fn new(
        platform: Platform,
        claimed: &Claimed,
        slot: Slot,
        traceparent: Option<String>,
    ) -> Self {
        Self {
            platform,
            scope: claimed.scope(),
            execution_id: claimed.id,
            form_id: claimed.form_id,
            slot,
            workspace: OnceLock::new(),
            traceparent,
            known: OnceLock::new(),
            changed_elsewhere: Arc::default(),
        }
    }

    /// Says which files the run is made of: what it reads is of the same state as its code.
    pub(crate) fn runs_in(&self, workspace: &Path) {
        let _ = self.workspace.set(workspace.to_owned()); // a second try begins in the same
    }

    /// Says which secrets are known in the process that the run is in.
    pub(crate) fn share_known(&self, known: Arc<Mutex<Known>>) {
        let _ = self.known.set(known); // before anything is masked
    }

    /// Works with the secrets that this run, and those before it in the same process, have read so far.
    fn with_known<T>(&self, work: impl FnOnce(&mut Known) -> T) -> T {
        work(&mut self.known.get_or_init(Arc::default).lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Works with what masks them.
    pub(crate) fn with_mask<T>(&self, work: impl FnOnce(&mut Mask) -> T) -> T {
        self.with_known(|known| work(known.mask()))
    }

    /// Remembers a value that the run was handed, so that it is masked.
    pub(crate) fn remember_secret(&self, value: &str) {
        self.with_known(|known| known.add(value));
    }

    /// Whether the caller of the run sees what was not written for users.
    fn sees_everything(&self) -> bool {
        self.scope.actor().is_platform_admin
    }

    /// Where something is found by its id: as over HTTP, a platform administrator reaches it in any organization.
    fn scope_by_id(&self) -> OrgScope {
        self.scope.clone().widened()
    }

    /// The run's own scope, or another organization's for a platform administrator, with that organization: whether there is
    /// one must still be asked.
    fn wanted(&self, org_id: Option<&str>) -> Result<(OrgScope, Option<OrgId>), Refusal> {
        let Some(wanted) = org_id else { return Ok((self.scope.clone(), None)) };
        let own = self.scope.owner()?;
        let org = match wanted {
            "GLOBAL" => None,
            id => Some(parse_id::<OrgId>("org_id", id)?),
        };
        if org == own {
            return Ok((self.scope.clone(), None));
        }
        if !self.sees_everything() {
            return Err(Refusal {
                kind: "PermissionError",
                message: "only a platform admin may name another organization".into(),
            });
        }
        Ok((OrgScope::for_run(org, self.scope.actor().clone()), org))
    }

    /// The scope alone, for what begins transactions of its own.
    async fn scope(&self, org_id: Option<&str>) -> Result<OrgScope, Refusal> {
        let (scope, foreign) = self.wanted(org_id)?;
        if foreign.is_some() {
            self.begin(org_id).await?.commit().await?;
        }
        Ok(scope)
    }

    async fn begin(&self, org_id: Option<&str>) -> Result<OrgTx, Refusal> {
        let (scope, foreign) = self.wanted(org_id)?;
        let mut tx = self.platform.db.begin(&scope).await?;
        if let Some(id) = foreign {
            domain::organizations::get(&mut tx, id).await?;
        }
        Ok(tx)
    }

    async fn begin_by_id(&self) -> Result<OrgTx, Refusal> {
        Ok(self.platform.db.begin(&self.scope_by_id()).await?)
    }

    /// Over all organizations; for what only platform administrators may do.
    async fn begin_as_admin(&self, what: &str) -> Result<OrgTx, Refusal> {
        if !self.sees_everything() {
            let message = format!("only a platform admin may {what}");
            return Err(Refusal { kind: "PermissionError", message });
        }
        self.begin_by_id().await
    }
}

/// Answers a call, whatever happens: the run waits for it. One that is gone by then needs no answer.
pub(crate) async fn answer(caller: &Caller, replier: &Replier, call: Call) {
    let answered = match Box::pin(unless_it_panics(dispatch(caller, &call))).await {
        Ok(told) => match replier.reply(call.id, &told).await {
            Err(runner::Error::Frame(why)) => {
                let message = format!("the answer is too large: {why}; ask for less at once");
                refuse(replier, call.id, &Refusal::runtime(message)).await
            }
            sent => sent,
        },
        Err(refusal) => refuse(replier, call.id, &refusal).await,
    };
    if let Err(error) = answered {
        tracing::debug!(%error, method = call.method, "a run ended before it was answered");
    }
}

async fn refuse(replier: &Replier, call: u64, refusal: &Refusal) -> Result<(), runner::Error> {
    let message = &refusal.message[..refusal.message.floor_char_boundary(MAX_REFUSAL)];
    replier.refuse(call, refusal.kind, message).await
}

/// The answer to a call, and a refusal where finding it panicked.
async fn unless_it_panics(work: impl Future<Output = Answer<RawJson>>) -> Answer<RawJson> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!("a call of a run panicked");
        Err(Refusal::runtime("internal error of the platform: its log says why".into()))
    })
}

async fn dispatch(caller: &Caller, call: &Call) -> Answer<RawJson> {
    let args = call.args.get();
    check_texts(args)?;
    match call.method.as_str() {
        "config.get" => told(config_get(caller, read(args)?).await?),
        "config.set" => told(config_set(caller, read(args)?).await?),
        "config.list" => told(config_list(caller, read(args)?).await?),
        "config.delete" => told(config_delete(caller, read(args)?).await?),
        "secrets.get" => told(secrets_get(caller, read(args)?).await?),
        "secrets.set" => told(secrets_set(caller, read(args)?).await?),
        "secrets.list" => told(secrets_list(caller, read(args)?).await?),
        "secrets.delete" => told(secrets_delete(caller, read(args)?).await?),
        "workflows.list" => told(workflows::list(caller).await?),
        "workflows.execute" => told(workflows::execute(caller, read(args)?).await?),
        "workflows.get" | "executions.get" => told(executions::get(caller, read(args)?).await?),
        "executions.list" => told(executions::list(caller, read(args)?).await?),
        "oauth.get" => told(oauth::get(caller, read(args)?).await?),
        "oauth.refresh_token" => told(oauth::refresh_token(caller, read(args)?).await?),
        "oauth.set_token" => told(oauth::set_token(caller, read(args)?).await?),
        "oauth.list_providers" => told(oauth::list_providers(caller, read(args)?).await?),
        "oauth.delete_token" => told(oauth::delete_token(caller, read(args)?).await?),
        "files.read" => told(files::read(caller, read(args)?).await?),
        "files.write" => told(files::write(caller, read(args)?).await?),
        "files.list" => told(files::list(caller, read(args)?).await?),
        "files.exists" => told(files::exists(caller, read(args)?).await?),
        "files.delete" => told(files::delete(caller, read(args)?).await?),
        "forms.list" => told(forms::list(caller).await?),
        "forms.get" => told(forms::get(caller, read(args)?).await?),
        "roles.list" => told(roles::list(caller).await?),
        "roles.get" => told(roles::get(caller, read(args)?).await?),
        "roles.create" => told(roles::create(caller, read(args)?).await?),
        "roles.update" => told(roles::update(caller, read(args)?).await?),
        "roles.delete" => told(roles::delete(caller, read(args)?).await?),
        "roles.list_users" => told(roles::list_users(caller, read(args)?).await?),
        "roles.list_forms" => told(roles::list_forms(caller, read(args)?).await?),
        "roles.assign_users" => told(roles::assign_users(caller, read(args)?).await?),
        "roles.assign_forms" => told(roles::assign_forms(caller, read(args)?).await?),
        "uploads.read" => told(uploads::read(caller, read(args)?).await?),
        "uploads.exists" => told(uploads::exists(caller, read(args)?).await?),
        "uploads.list" => told(uploads::list(caller).await?),
        "organizations.get" => told(organizations::get(caller, read(args)?).await?),
        "organizations.list" => told(organizations::list(caller).await?),
        "organizations.create" => told(organizations::create(caller, read(args)?).await?),
        "organizations.update" => told(organizations::update(caller, read(args)?).await?),
        "organizations.delete" => told(organizations::delete(caller, read(args)?).await?),
        other => Err(Refusal { kind: "RuntimeError", message: format!("the worker knows no call {other}") }),
    }
}

/// An answer as the text that is sent.
fn told(answer: impl Serialize) -> Answer<RawJson> {
    let text = to_raw_value(&answer).map_err(Error::internal)?;
    if is_readable(text.get()) {
        return Ok(text);
    }
    Err(Refusal::runtime(format!(
        "the answer cannot be read by Python: it nests deeper than {MAX_NESTING} levels or holds a number of more than {MAX_DIGITS} digits"
    )))
}

/// Whether Python's parser takes it; a run that could not read its answer would wait for it on and on.
fn is_readable(json: &str) -> bool {
    let (mut depth, mut digits) = (0_usize, 0_usize);
    let (mut is_text, mut is_escaped) = (false, false);
    for byte in json.bytes() {
        if is_text {
            match byte {
                _ if is_escaped => is_escaped = false,
                b'\\' => is_escaped = true,
                b'"' => is_text = false,
                _ => {}
            }
            continue;
        }
        digits = if byte.is_ascii_digit() { digits + 1 } else { 0 };
        match byte {
            b'"' => is_text = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_NESTING || digits > MAX_DIGITS {
            return false;
        }
    }
    true
}

#[derive(Deserialize)]
struct Key {
    key: String,
    org_id: Option<String>,
}

#[derive(Deserialize)]
struct Org {
    org_id: Option<String>,
}

#[derive(Deserialize)]
struct SetConfig {
    key: String,
    value: RawJson,
    #[serde(default)]
    is_secret: bool,
    org_id: Option<String>,
}

#[derive(Deserialize)]
struct SetSecret {
    key: String,
    value: SecretString,
    org_id: Option<String>,
}

async fn config_get(caller: &Caller, args: Key) -> Answer {
    let mut tx = caller.begin(args.org_id.as_deref()).await?;
    let found = config::find(&mut tx, &caller.platform.vault, &args.key).await?;
    tx.commit().await?;
    Ok(match found {
        Some(found) => json!({ "found": true, "value": caller.shown(found) }),
        None => json!({ "found": false, "value": null }),
    })
}

async fn config_set(caller: &Caller, args: SetConfig) -> Answer {
    let (value_type, text) = config::text_of(&config::read(&args.value)?);
    let value_type = if args.is_secret { ValueType::Secret } else { value_type };
    if args.is_secret {
        caller.remember_secret(&text);
    }
    let mut tx = caller.begin(args.org_id.as_deref()).await?;
    let new = NewValue { key: &args.key, value_type, text: &text, description: None, may_keep: false };
    config::put(&mut tx, &caller.platform.vault, new).await?;
    tx.commit().await?;
    Ok(Value::Null)
}

async fn config_list(caller: &Caller, args: Org) -> Answer {
    let mut tx = caller.begin(args.org_id.as_deref()).await?;
    let values = config::list(&mut tx, &caller.platform.vault).await?;
    tx.commit().await?;
    Ok(values.into_iter().map(|(key, found)| (key, caller.shown(found))).collect::<Map<_, _>>().into())
}

async fn config_delete(caller: &Caller, args: Key) -> Answer {
    let mut tx = caller.begin(args.org_id.as_deref()).await?;
    let deleted = config::delete(&mut tx, &args.key).await?;
    tx.commit().await?;
    Ok(deleted.into())
}

async fn secrets_get(caller: &Caller, args: Key) -> Answer {
    let mut tx = caller.begin(args.org_id.as_deref()).await?;
    let found = secrets::find(&mut tx, &caller.platform.vault, &args.key).await?;
    tx.commit().await?;
    let Some(secret) = found else { return Ok(Value::Null) };
    caller.remember_secret(secret.expose_secret());
    Ok(secret.expose_secret().into())
}

async fn secrets_set(caller: &Caller, args: SetSecret) -> Answer {
    caller.remember_secret(args.value.expose_secret());
    let mut tx = caller.begin(args.org_id.as_deref()).await?;
    secrets::set(&mut tx, &caller.platform.vault, &args.key, &args.value).await?;
    tx.commit().await?;
    Ok(Value::Null)
}

async fn secrets_list(caller: &Caller, args: Org) -> Answer {
    let mut tx = caller.begin(args.org_id.as_deref()).await?;
    let names = secrets::list(&mut tx).await?;
    tx.commit().await?;
    Ok(names.into())
}

async fn secrets_delete(caller: &Caller, args: Key) -> Answer {
    let mut tx = caller.begin(args.org_id.as_deref()).await?;
    let deleted = secrets::delete(&mut tx, &args.key).await?;
    tx.commit().await?;
    Ok(deleted.into())
}

impl Caller {
    /// The value for the run; a secret is remembered, so that it can be masked.
    fn shown(&self, found: config::Effective) -> Value {
        if found.is_secret {
            self.remember_secret(found.value.as_str().unwrap_or_default());
        }
        found.value
    }
}

fn read<'a, T: Deserialize<'a>>(args: &'a str) -> Result<T, Refusal> {
    let mut json = serde_json::Deserializer::from_str(args);
    serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let (path, said) = (error.path().to_string(), error.inner().to_string());
        let (missing, text) = unfit(&said);
        let argument = match missing {
            // The path ends above what is not there; "." is the call itself.
            Some(name) if path == "." => name.to_owned(),
            Some(name) => format!("{path}.{name}"),
            None => path,
        };
        Refusal { kind: "TypeError", message: format!("{argument}: {text}") }
    })
}

/// Refuses NUL, which neither PostgreSQL nor the name of a file can hold. What a run hands to a child stays JSON, which can.
fn check_texts(args: &str) -> Result<(), Refusal> {
    // The text alone does not tell: what follows a backslash may be one that is escaped itself.
    if !args.contains("\\u0000") {
        return Ok(());
    }
    let Ok(members) = serde_json::from_str::<Map<String, Value>>(args) else { return Ok(()) };
    match members.iter().find(|(name, value)| *name != "params" && contains_nul(value)) {
        Some((name, _)) => Err(Refusal::value(&format!("{name}: {NUL_RULE}"))),
        None => Ok(()),
    }
}

fn parse_id<T: std::str::FromStr>(name: &str, text: &str) -> Result<T, Refusal> {
    text.parse().map_err(|_| Refusal::value(&format!("{name}: not an id")))
}

fn yes() -> bool {
    true
}

impl Refusal {
    fn value(message: &str) -> Self {
        Self { kind: "ValueError", message: message.into() }
    }

    fn runtime(message: String) -> Self {
        Self { kind: "RuntimeError", message }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::NotFound(_) | Error::Invalid(_) | Error::Conflict(_) | Error::Impossible(_) => {
                "ValueError"
            }
            Error::Forbidden(_) | Error::Unauthenticated => "PermissionError",
            Error::TooMany { .. } | Error::Unavailable { .. } | Error::Internal(_) => "RuntimeError",
        };
        let message = match &error {
            Error::Invalid(faults) => faults
                .iter()
                .map(|fault| format!("{}: {}", fault.pointer, fault.detail))
                .collect::<Vec<_>>()
                .join("; "),
            Error::Internal(source) => {
                tracing::error!(%source, "a call of a run failed");
                "the platform could not answer this call".into()
            }
            other => other.to_string(),
        };
        Self { kind, message }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    #[tokio::test]
    async fn a_call_that_panics_is_refused() {
        async fn broken() -> Answer<RawJson> {
            panic!("as a bug would")
        }

        let Err(refusal) = unless_it_panics(broken()).await else { panic!("must be refused") };

        assert_eq!(refusal.kind, "RuntimeError");
        assert!(refusal.message.starts_with("internal error"), "{}", refusal.message);
    }

    #[test]
    fn an_argument_that_does_not_fit_is_told_in_words_for_people() {
        #[derive(Deserialize)]
        #[expect(dead_code, reason = "only their types matter")]
        struct Args {
            id: uuid::Uuid,
            share: Option<f64>,
            rest: Option<Rest>,
        }

        #[derive(Deserialize)]
        #[expect(dead_code, reason = "only their types matter")]
        struct Rest {
            count: u16,
            names: Option<Vec<String>>,
            params: Option<Map<String, Value>>,
        }

        let id = uuid::Uuid::nil();
        for (args, message) in [
            ("{}".to_owned(), "id: is required"),
            (r#"{"id":"canary"}"#.to_owned(), "id: must be a UUID"),
            (format!(r#"{{"id":"{id}","share":"canary"}}"#), "share: must be a number"),
            (format!(r#"{{"id":"{id}","rest":"canary"}}"#), "rest: must be an object"),
            (format!(r#"{{"id":"{id}","rest":{{}}}}"#), "rest.count: is required"),
            (format!(r#"{{"id":"{id}","rest":{{"count":70000}}}}"#), "rest.count: must be a whole number"),
            (format!(r#"{{"id":"{id}","rest":{{"count":1,"names":{{}}}}}}"#), "rest.names: must be a list"),
            (
                format!(r#"{{"id":"{id}","rest":{{"count":1,"params":[]}}}}"#),
                "rest.params: must be an object",
            ),
        ] {
            let Err(refusal) = read::<Args>(&args) else { panic!("must be refused: {args}") };
            assert_eq!((refusal.kind, refusal.message.as_str()), ("TypeError", message), "{args}");
        }
    }

    #[test]
    fn what_python_cannot_read_is_refused_and_nothing_else_is() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let digits = |count: usize| format!("{{\"n\":[-{}]}}", "9".repeat(count));
        let text = format!("\"\\\"{}\"", "[{".repeat(MAX_NESTING) + &"1".repeat(MAX_DIGITS + 1));
        for json in [nested(MAX_NESTING), digits(MAX_DIGITS), text, format!("[{0},{0}]", nested(200))] {
            let raw = RawValue::from_string(json).expect("JSON");
            assert!(told(&raw).is_ok_and(|told| told.get() == raw.get()), "{raw}");
        }
        for json in [nested(MAX_NESTING + 1), digits(MAX_DIGITS + 1)] {
            let raw = RawValue::from_string(json).expect("JSON");
            let Err(refusal) = told(&raw) else { panic!("must be refused: {raw}") };
            assert!(refusal.message.contains("cannot be read"), "{}", refusal.message);
        }
    }
}
