//! Reading a large history: pages of the list by every filter, pages deep in it, and the lines of one run, as a user of an
//! organization and as an administrator.
//!
//! The history is generated, not run; what the reads answer is checked for its number of rows.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::http::Requests;
use crate::line::Line;
use crate::load::Action;
use crate::measure::{Load, Stage};
use crate::setup::sign_in;
use crate::verdicts::HISTORY;

pub(crate) const READERS: usize = 4;
/// Log lines of an execution.
const LINES: i32 = 10;
/// Lines of the one execution whose lines are read.
const MANY_LINES: i32 = 20_000;
const PAGE: usize = 25;
/// As long as a page is in the middle of the history.
const DEEP_PAGES: usize = 20;
const USER: (&str, &str) = ("reader@bench.example.com", "a password of the reader");
/// Partitions as they would have been made week by week.
const WEEKS: &str = "
    DO $$
    DECLARE
        week TIMESTAMPTZ;
    BEGIN
        DROP TABLE execution_logs_before;
        FOR week IN SELECT generate_series(date_trunc('week', now() AT TIME ZONE 'UTC') - interval '13 weeks',
                date_trunc('week', now() AT TIME ZONE 'UTC'), interval '1 week') AT TIME ZONE 'UTC' LOOP
            EXECUTE format('CREATE TABLE %I PARTITION OF execution_logs FOR VALUES FROM (%L) TO (%L)',
                'generated_' || extract(EPOCH FROM week), first_id_at(week), first_id_at(week + interval '1 week'));
        END LOOP;
    END
    $$;
    INSERT INTO organizations (id, name, created_by)
    SELECT gen_random_uuid(), 'Generated ' || n, 'bench' FROM generate_series(1, 101) AS n";

impl Stage<'_> {
    /// Fills the history and reads it.
    pub(crate) async fn read_history(&mut self) -> anyhow::Result<Vec<Line>> {
        let organization: Uuid = self.setup.requests.organization().context("it acts in one")?.parse()?;
        let user = self.reader().await?;
        let person: Uuid = sqlx::query_scalar("SELECT id FROM users WHERE email = $1")
            .bind(USER.0)
            .fetch_one(&mut self.setup.postgres)
            .await?;
        let count = self.scale.history;
        self.progress.say(format!("generating {count} executions and {} lines", count * i64::from(LINES)));
        let long = fill(&mut self.setup.postgres, organization, person, count).await?;

        let within = self.setup.requests.clone();
        let all = Requests::signed_in(within.address(), within.token().context("it is signed in")?);
        let mut lines = Vec::new();
        for (who, requests) in [("user", &user), ("administrator in it", &within), ("administrator", &all)] {
            for (what, query) in filters() {
                let path = format!("/api/executions?limit={PAGE}{query}");
                lines.push(self.read(&format!("{HISTORY}, {who}: {what}"), vec![requests.get(&path)]).await?);
            }
            let pages = self.deep_pages(requests).await?;
            lines.push(self.read(&format!("{HISTORY}, {who}: pages deep in it"), pages).await?);
            let path = "/api/executions?limit=1000";
            let (what, count) = (format!("{HISTORY}, {who}: a page of 1,000"), self.scale.history_reads / 10);
            lines.push(self.read_times(count, &what, vec![requests.get(path)]).await?);
        }
        for (who, requests) in [("user", &user), ("administrator", &all)] {
            let tail = format!("/api/executions/{long}/logs?after_sequence={}", MANY_LINES - 100);
            lines.push(
                self.read(&format!("{HISTORY}, {who}: last 100 of 20,000 lines"), vec![requests.get(&tail)])
                    .await?,
            );
        }
        Ok(lines)
    }

    async fn read(&mut self, what: &str, requests: Vec<Vec<u8>>) -> anyhow::Result<Line> {
        self.read_times(self.scale.history_reads, what, requests).await
    }

    async fn read_times(&mut self, count: usize, what: &str, requests: Vec<Vec<u8>>) -> anyhow::Result<Line> {
        let load = Load::new(what, READERS, count, Action::Read(requests.into()));
        let (line, _) = self.measure(load).await?;
        // There are many of them: what was measured is seen at once.
        self.progress.say(format!("{what}: p95 {:.1} ms", line.p95_ms));
        Ok(line)
    }

    /// Somebody of the organization, without further rights.
    async fn reader(&self) -> anyhow::Result<Requests> {
        let mut connection = self.setup.connect().await?;
        let anonymous = Requests::anonymous(self.setup.requests.address());
        let account = json!({ "email": USER.0, "password": USER.1, "name": "Reader" });
        let reply = connection.call(&anonymous.post_json("/auth/register", &account)).await?;
        ensure!(reply.status == 201, "cannot register: {}", String::from_utf8_lossy(reply.body));
        Ok(sign_in(&mut connection, &anonymous, USER.0, USER.1).await?.0)
    }

    /// Requests of pages that follow each other, from the middle of the history on.
    async fn deep_pages(&self, requests: &Requests) -> anyhow::Result<Vec<Vec<u8>>> {
        let mut connection = self.setup.connect().await?;
        let until = day(45);
        let mut path = format!("/api/executions?limit={PAGE}&endDate={until}");
        let mut pages = Vec::new();
        for _ in 0..DEEP_PAGES {
            let request = requests.get(&path);
            let reply = connection.call(&request).await?;
            let page: Value = serde_json::from_slice(reply.body)?;
            let found = page["executions"].as_array().map_or(0, Vec::len);
            ensure!(found == PAGE, "a page of {found}");
            let token = page["continuation_token"].as_str().context("there are more")?;
            path = format!("/api/executions?limit={PAGE}&endDate={until}&continuationToken={token}");
            pages.push(request);
        }
        Ok(pages)
    }
}

/// What the list can be asked for, with the query.
fn filters() -> Vec<(&'static str, String)> {
    let mut filters = vec![("newest", String::new())];
    for (what, query) in [
        ("status Success", "&status=Success"),
        ("status Failed", "&status=Failed"),
        ("status Timeout, rare", "&status=Timeout"),
        ("status Cancelled", "&status=Cancelled"),
        ("status Pending", "&status=Pending"),
        ("status Running, none", "&status=Running"),
        ("workflow, frequent", "&workflowName=workflow+0"),
        ("workflow, seldom", "&workflowName=workflow+150"),
        ("workflow, ten in all", "&workflowName=rare"),
        ("workflow, unknown", "&workflowName=unknown"),
        ("workflow and status", "&workflowName=workflow+150&status=Failed"),
    ] {
        filters.push((what, query.to_owned()));
    }
    filters.push(("one day, two months ago", format!("&startDate={}&endDate={}", day(61), day(60))));
    filters.push(("before everything", format!("&startDate={}&endDate={}", day(900), day(890))));
    filters.push((
        "workflow on one day",
        format!("&workflowName=workflow+150&startDate={}&endDate={}", day(31), day(30)),
    ));
    filters
}

fn day(ago: i64) -> String {
    (chrono::Utc::now() - chrono::TimeDelta::days(ago)).format("%Y-%m-%d").to_string()
}

/// Generates the history; returns the execution of the person that has many lines.
async fn fill(conn: &mut PgConnection, organization: Uuid, person: Uuid, count: i64) -> anyhow::Result<Uuid> {
    sqlx::raw_sql(WEEKS).execute(&mut *conn).await?;
    sqlx::query(include_str!("history.sql"))
        .bind(count)
        .bind(organization)
        .bind(person)
        .execute(&mut *conn)
        .await?;
    let long: Uuid = sqlx::query_scalar(
        "SELECT id FROM executions WHERE executed_by = $1 AND status = 'Success' ORDER BY id LIMIT 1 OFFSET 10",
    )
    .bind(person)
    .fetch_one(&mut *conn)
    .await?;
    sqlx::query(
        "INSERT INTO execution_logs (execution_id, sequence, user_sequence, organization_id, attempt, level, message, logged_at)
         SELECT e.id, s, s, e.organization_id, 1, 'INFO', 'line ' || s || ' of a run that tells what it does in a sentence', e.created_at
         FROM executions e CROSS JOIN LATERAL generate_series(1, CASE WHEN e.id = $1 THEN $2 ELSE $3 END) AS s
         WHERE e.status <> 'Pending'",
    )
    .bind(long)
    .bind(MANY_LINES)
    .bind(LINES)
    .execute(&mut *conn)
    .await?;
    sqlx::raw_sql("VACUUM ANALYZE executions").execute(&mut *conn).await?;
    sqlx::raw_sql("ANALYZE execution_logs").execute(&mut *conn).await?;
    Ok(long)
}
