//! The load: people of several organizations submit, cancel, read and follow, over whatever replica answers.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chrono::{SecondsFormat, SubsecRound, TimeDelta, Utc};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::follow;
use crate::history::{Followed, History, Kind, Reach, Seen, Submission, lock};
use crate::http::{Ask, Caller, Reply};
use crate::patience::Patience;
use crate::plan::{ORGANIZATIONS, Order, Plan, Sending};

const PASSWORD: &str = "a long enough password";
/// Requests under way at once.
const WINDOW: usize = 48;
const PAUSE: Duration = Duration::from_millis(200);
const POLL_PERIOD: Duration = Duration::from_millis(40);
const SETUP_PATIENCE: Duration = Duration::from_secs(60);
/// Executions of others that each user asks for.
const FOREIGN: usize = 40;
const PAGES: usize = 200;

/// A user of one organization, who may run workflows in it.
#[derive(Debug, Clone)]
pub(crate) struct Person {
    pub(crate) organization: Uuid,
    pub(crate) caller: Caller,
}

/// Everybody who uses the installation, and what they remember.
#[derive(Debug)]
pub(crate) struct Load {
    people: Vec<Person>,
    window: Semaphore,
    submissions: Mutex<Vec<Submission>>,
    seen: Mutex<Vec<Seen>>,
    followed: Mutex<Vec<Followed>>,
    /// What is not accepted by its end is given up.
    patience: Patience,
}

impl Load {
    /// Makes an administrator, organizations and a user in each, and waits until all workflows can be run.
    pub(crate) async fn prepare(nobody: &Caller) -> anyhow::Result<Self> {
        let admin = sign_in(nobody, "admin@platform.example").await?;
        let mut people = Vec::new();
        for number in 0..ORGANIZATIONS {
            people.push(person(nobody, &admin, number).await?);
        }
        let began = Instant::now();
        loop {
            let reply = admin.ask(0, Ask::get("list workflows", "/api/workflows")).await;
            let listed = reply.map(|reply| reply.body.to_string()).unwrap_or_default();
            let is_there = |kind: &Kind| listed.contains(&format!("\"{}\"", kind.workflow()));
            if Kind::SUBMITTED.iter().all(is_there) {
                break;
            }
            ensure!(began.elapsed() < SETUP_PATIENCE, "the workflows are not listed: {listed}");
            tokio::time::sleep(PAUSE).await;
        }
        Ok(Self {
            people,
            window: Semaphore::new(WINDOW),
            submissions: Mutex::default(),
            seen: Mutex::default(),
            followed: Mutex::default(),
            patience: Patience::default(),
        })
    }

    /// Does everything the plan says, each in its time.
    pub(crate) async fn run(self: &Arc<Self>, plan: &Plan, began: Instant) {
        let mut tasks = tokio::task::JoinSet::new();
        for (number, order) in plan.orders.iter().cloned().enumerate() {
            let load = self.clone();
            tasks.spawn(async move {
                tokio::time::sleep((began + order.at).saturating_duration_since(Instant::now())).await;
                load.carry_out(number, order).await;
            });
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Looks at random executions until it is dropped.
    pub(crate) async fn poll(self: Arc<Self>, seed: u64) {
        let mut random = crate::plan::Random::new(seed ^ 0xdead);
        loop {
            tokio::time::sleep(POLL_PERIOD).await;
            let known = self.known();
            if known.is_empty() {
                continue;
            }
            let (organization, id) = known[random.below(known.len())];
            let Some(person) = self.people.iter().find(|person| person.organization == organization) else {
                continue;
            };
            let path = format!("/api/executions/{id}");
            let replica = random.below(2);
            let load = self.clone();
            let caller = person.caller.clone();
            tokio::spawn(async move {
                if let Some(reply) = caller.ask(replica, Ask::get("read", &path)).await
                    && let Some(status) = reply.text("status")
                {
                    lock(&load.seen).push(Seen { execution: id, status });
                }
            });
        }
    }

    /// From now on what cannot be done within this is given up.
    pub(crate) fn give_up_after(&self, patience: Duration) {
        self.patience.ends_after(patience);
    }

    /// Executions that were accepted, with their organizations.
    pub(crate) fn known(&self) -> Vec<(Uuid, Uuid)> {
        let submissions = lock(&self.submissions);
        submissions.iter().filter_map(|one| Some((one.organization, *one.ids.first()?))).collect()
    }

    /// Runs limited workflows once more when all is quiet: whether a slot leaked shows now.
    pub(crate) async fn probe(&self, into: &mut History) {
        // Each replica must accept again, too.
        let probes = [("lone", 0), ("lone", 1), ("keyed", 0), ("keyed", 1), ("quick", 0), ("quick", 1)];
        let probes = probes.map(async |(workflow, replica)| {
            let began = Instant::now();
            let person = &self.people[0];
            let token = format!("probe-{}", Uuid::now_v7().simple());
            let body = json!({"workflow_id": workflow, "input_data": {"token": token}});
            let reply =
                person.caller.ask(replica, Ask::post("submit", "/api/workflows/execute", &body)).await;
            let id = reply.and_then(|reply| reply.text("execution_id"))?.parse().ok()?;
            let kind = Kind::of_workflow(workflow)?;
            self.note(|all| {
                all.push(Submission {
                    token,
                    organization: person.organization,
                    kind,
                    ids: vec![id],
                    cancelled: false,
                    run_at: None,
                });
            });
            while began.elapsed() < Duration::from_secs(20) {
                let path = format!("/api/executions/{id}");
                let reply = person.caller.ask(1, Ask::get("read", &path)).await;
                if reply.is_some_and(|reply| reply.text("status").as_deref() == Some("Success")) {
                    return Some((workflow.to_owned(), Some(began.elapsed().as_secs_f64())));
                }
                tokio::time::sleep(POLL_PERIOD).await;
            }
            Some((workflow.to_owned(), None))
        });
        let probed = futures::future::join_all(probes).await;
        into.probes =
            probed.into_iter().map(|probe| probe.unwrap_or(("a submission".into(), None))).collect();
    }

    /// Lists and asks for executions as each organization's own user.
    pub(crate) async fn reach(&self, into: &mut History) -> anyhow::Result<()> {
        let known = self.known();
        for person in &self.people {
            let mut reach =
                Reach { organization: person.organization, listed: Vec::new(), foreign: Vec::new() };
            let mut path = "/api/executions?limit=100".to_owned();
            for _ in 0..PAGES {
                let reply = person.caller.ask(0, Ask::get("list", &path)).await.context("no list")?;
                ensure!(reply.is_ok(), "the list of executions: {}", reply.status);
                let ids = reply.body["executions"].as_array().into_iter().flatten();
                reach.listed.extend(ids.filter_map(|one| one["execution_id"].as_str()?.parse::<Uuid>().ok()));
                match reply.text("continuation_token") {
                    Some(token) => path = format!("/api/executions?limit=100&continuationToken={token}"),
                    None => break,
                }
            }
            let others = known.iter().filter(|(organization, _)| *organization != person.organization);
            for (_, id) in others.take(FOREIGN) {
                let path = format!("/api/executions/{id}");
                let reply =
                    person.caller.ask(1, Ask::get("read of another's", &path)).await.context("no answer")?;
                reach.foreign.push((*id, reply.status));
            }
            into.reach.push(reach);
        }
        Ok(())
    }

    /// Hands over what everybody remembers.
    pub(crate) fn remembered(&self, into: &mut History) {
        into.submissions = std::mem::take(&mut *lock(&self.submissions));
        into.seen = std::mem::take(&mut *lock(&self.seen));
        into.followed = std::mem::take(&mut *lock(&self.followed));
    }

    async fn carry_out(self: Arc<Self>, number: usize, order: Order) {
        let person = self.people[order.organization].clone();
        let run_at = (order.kind == Kind::Delayed)
            .then(|| Utc::now() + TimeDelta::from_std(order.pause).unwrap_or_default())
            // As it goes over the wire.
            .map(|at| at.trunc_subsecs(3));
        let ids = self.submit(&person.caller, number, &order, run_at).await;
        let first = ids.first().copied();
        self.note(|all| {
            all.push(Submission {
                token: order.token.clone(),
                organization: person.organization,
                kind: order.kind,
                ids,
                cancelled: false,
                run_at,
            });
        });
        let Some(id) = first else { return };
        let following =
            order.following.map(|how| follow::follow(&person.caller, id, how, number, &self.patience));
        let cancelling = async {
            if order.kind == Kind::Cancelled {
                tokio::time::sleep(order.pause).await;
                self.cancel(&person.caller, number, id, &order.token).await;
            }
        };
        let (followed, ()) =
            futures::future::join(futures::future::OptionFuture::from(following), cancelling).await;
        lock(&self.followed).extend(followed);
    }

    /// Every id that was answered.
    async fn submit(
        &self,
        caller: &Caller,
        number: usize,
        order: &Order,
        run_at: Option<crate::history::Time>,
    ) -> Vec<Uuid> {
        let site = if number.is_multiple_of(2) { "a" } else { "b" };
        let mut input = json!({"token": order.token});
        if order.kind == Kind::Keyed {
            input["site"] = site.into();
        }
        let mut body = json!({
            "workflow_id": order.kind.workflow(), "input_data": input, "priority": order.priority,
        });
        if let Some(run_at) = run_at {
            body["run_at"] = run_at.to_rfc3339_opts(SecondsFormat::Millis, true).into();
        }
        let key = (order.sending != Sending::Once).then_some(order.token.as_str());
        let send = async |replica: usize, patience: Option<Duration>| {
            let _seat = self.window.acquire().await;
            let mut ask = Ask { key, ..Ask::post("submit", "/api/workflows/execute", &body) };
            ask.patience = patience.unwrap_or(ask.patience);
            caller.ask(replica, ask).await.filter(Reply::is_ok)?.text("execution_id")?.parse::<Uuid>().ok()
        };
        let mut ids = Vec::new();
        match order.sending {
            Sending::Once => {
                ids.extend(send(number, None).await);
                return ids;
            }
            Sending::Keyed => ids.extend(send(number, None).await),
            Sending::LostAnswer => {
                let impatient = Duration::from_millis(1 + (number % 40) as u64);
                ids.extend(send(number, Some(impatient)).await);
                ids.extend(send(number + 1, None).await);
            }
            Sending::Twice => {
                let (one, other) = futures::future::join(send(number, None), send(number + 1, None)).await;
                ids.extend([one, other].into_iter().flatten());
            }
        }
        let mut replica = number;
        while ids.is_empty() && !self.patience.is_over() {
            tokio::time::sleep(PAUSE).await;
            replica += 1;
            ids.extend(send(replica, None).await);
        }
        ids
    }

    async fn cancel(&self, caller: &Caller, number: usize, id: Uuid, token: &str) {
        let path = format!("/api/executions/{id}/cancel");
        let mut replica = number;
        while !self.patience.is_over() {
            match caller.ask(replica, Ask::post("cancel", &path, &Value::Null)).await {
                Some(reply) if reply.is_ok() => {
                    return self.note(|all| {
                        all.iter_mut().filter(|one| one.token == token).for_each(|one| one.cancelled = true);
                    });
                }
                Some(reply) if reply.status < 500 => return,
                _ => {}
            }
            replica += 1;
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn note(&self, change: impl FnOnce(&mut Vec<Submission>)) {
        change(&mut lock(&self.submissions));
    }
}

async fn person(nobody: &Caller, admin: &Caller, number: usize) -> anyhow::Result<Person> {
    let domain = format!("customer{number}.example");
    let body = json!({"name": format!("Customer {number}"), "domain": domain});
    let organization = told(admin, "/api/organizations", &body, "id").await?;
    let email = format!("user@{domain}");
    let caller = sign_in(nobody, &email).await?;
    let role = json!({
        "name": "Operators", "organization_id": organization,
        "permissions": ["workflows.execute", "executions.read", "executions.cancel"],
    });
    let role = told(admin, "/api/roles", &role, "id").await?;
    let users = json!({"user_ids": [email]});
    let path = format!("/api/roles/{role}/users");
    let reply = admin.ask(0, Ask::post("set up", &path, &users)).await.context("no answer")?;
    ensure!(reply.is_ok(), "cannot give the role: {} {}", reply.status, reply.body);
    Ok(Person { organization: organization.parse()?, caller })
}

async fn sign_in(nobody: &Caller, email: &str) -> anyhow::Result<Caller> {
    let body = json!({"email": email, "password": PASSWORD, "name": email});
    told(nobody, "/auth/register", &body, "id").await?;
    let request = nobody.request(0, reqwest::Method::POST, "/auth/login");
    let answer = request.form(&[("username", email), ("password", PASSWORD)]).send().await?;
    ensure!(answer.status().is_success(), "cannot sign in: {}", answer.status());
    let tokens: Value = answer.json().await?;
    Ok(nobody.with_bearer(tokens["access_token"].as_str().context("no token")?.to_owned()))
}

async fn told(caller: &Caller, path: &str, body: &Value, member: &str) -> anyhow::Result<String> {
    let reply = caller.ask(0, Ask::post("set up", path, body)).await.context("no answer")?;
    ensure!(reply.is_ok(), "{path}: {} {}", reply.status, reply.body);
    reply.text(member).with_context(|| format!("{path} tells no {member}: {}", reply.body))
}
