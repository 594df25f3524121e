//! Jobs of real rows and queues, with handlers made for the test.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use domain::background_jobs::{self, Job, NewJob};
use domain::events::Notice;
use domain::notifications::{self, Category, Notification};
use domain::settings::Settings;
use domain::wakeup::queue::Queue;
use domain::{Actor, OrgScope};
use serde_json::{Value, json};
use testkit::{Line, TestEnv, eventually};
use tokio::task::JoinHandle;

use super::*;

/// How many handlers of a test are at work, and how many ever were at once.
static AT_WORK: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);
static BEGUN: Mutex<Vec<JobId>> = Mutex::new(Vec::new());

/// Does what its payload says.
fn obey(running: Arc<Running>) -> Work {
    Box::pin(async move {
        running.log("info", "begun");
        match running.job.payload["do"].as_str() {
            Some("count") => {
                let now = AT_WORK.fetch_add(1, Ordering::SeqCst) + 1;
                MOST.fetch_max(now, Ordering::SeqCst);
                BEGUN.lock().expect("no panic").push(running.job.id);
                tokio::task::yield_now().await;
                tokio::time::sleep(Duration::from_millis(30)).await;
                AT_WORK.fetch_sub(1, Ordering::SeqCst);
                Ok(Outcome::success("counted", json!({"number": running.job.payload["number"]})))
            }
            Some("report") => {
                running.report(Some(50.0), "halfway");
                Ok(Outcome::success("reported", json!({"version": "2.0"})))
            }
            Some("panic") => panic!("as asked"),
            Some("fail") => anyhow::bail!("a path that nobody may see: /etc/secret"),
            Some("refuse") => Ok(Outcome::failure("no such thing")),
            Some("hang-once") if running.job.attempt == 1 => std::future::pending().await,
            Some("hang") => std::future::pending().await,
            _ => Ok(Outcome::conflict("decide", json!({"files": ["a"]}))),
        }
    })
}

const OBEY: &[(Kind, Handler)] = &[(Kind::GitSync, obey), (Kind::PackagesInstall, obey)];

struct Fixture {
    test: TestEnv,
    platform: Platform,
    scope: OrgScope,
}

impl Fixture {
    async fn start(test: TestEnv, distributed: bool) -> Self {
        let settings = if distributed { test.settings() } else { test.settings_in_process() };
        Self::on(test, settings)
    }

    fn on(test: TestEnv, mut settings: Settings) -> Self {
        settings.shutdown_grace_seconds = 1;
        let platform = Platform::open(settings).expect("opens");
        let actor = Actor {
            id: UserId::generate(),
            name: "ada".into(),
            email: "ada@example.com".into(),
            is_platform_admin: true,
        };
        Self { test, platform, scope: OrgScope::for_run(None, actor) }
    }

    async fn submit(&self, kind: Kind, payload: Value) -> JobId {
        self.submit_within(Duration::from_secs(60), kind, payload).await
    }

    async fn submit_within(&self, timeout: Duration, kind: Kind, payload: Value) -> JobId {
        let mut tx = self.platform.db.begin(&self.scope).await.expect("begins");
        let new = NewJob { kind, payload, title: "A job".into(), timeout, traceparent: None };
        let submitted = background_jobs::submit(&mut tx, new).await.expect("submits");
        tx.commit().await.expect("commits");
        let id = submitted.id;
        submitted.announce(&self.platform);
        id
    }

    async fn get(&self, id: JobId) -> Job {
        let mut tx = self.platform.db.begin(&self.scope).await.expect("begins");
        background_jobs::get(&mut tx, id).await.expect("is there")
    }

    async fn ended(&self, id: JobId) -> Job {
        let ask = || async {
            let job = self.get(id).await;
            job.status.is_terminal().then_some(job)
        };
        eventually("the end of a job", ask).await
    }

    fn work(&self, stop: &CancellationToken) -> JoinHandle<()> {
        tokio::spawn(run(self.platform.clone(), OBEY, stop.clone()))
    }

    async fn close(self) {
        self.platform.close().await;
        self.test.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_both_queues_run_one_at_a_time_on_two_workers_in_order() {
    let fixture = Fixture::start(TestEnv::with_files(&[]).await, true).await;
    let stop = CancellationToken::new();
    let workers = [fixture.work(&stop), fixture.work(&stop)];
    let mut ids = Vec::new();
    for number in 0..20 {
        let kind = if number % 2 == 0 { Kind::GitSync } else { Kind::PackagesInstall };
        ids.push(fixture.submit(kind, json!({"do": "count", "number": number})).await);
    }
    for (number, id) in ids.iter().enumerate() {
        let job = fixture.ended(*id).await;
        assert_eq!((job.status, job.attempt), (Status::Success, 1));
        assert_eq!(job.result, Some(json!({"number": number})));
    }
    let (most, begun) = (MOST.load(Ordering::SeqCst), BEGUN.lock().expect("no panic").clone());
    println!("background jobs: 20 of two queues on two workers, most at once {most}");
    assert_eq!(most, 1);
    assert_eq!(begun, ids, "the oldest first");
    stop.cancel();
    for worker in workers {
        worker.await.expect("ends");
    }
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_end_is_told_and_no_fault_of_ours_shows_its_words() {
    let fixture = Fixture::start(TestEnv::with_files(&[]).await, false).await;
    let stop = CancellationToken::new();
    let worker = fixture.work(&stop);
    for (wish, status, told, message) in [
        ("panic", Status::Failed, "error", BROKEN),
        ("fail", Status::Failed, "error", BROKEN),
        ("refuse", Status::Failed, "error", "no such thing"),
        ("conflict", Status::Conflict, "conflict", "decide"),
    ] {
        let mut events = fixture.platform.events.everything();
        let id = fixture.submit(Kind::GitSync, json!({"do": wish})).await;
        let mut news = Vec::new();
        while news.len() < 2 {
            if let Event::Progress(progress) = &*events.recv().await.expect("is told")
                && progress.job_id == id
            {
                assert_eq!(progress.user_id, fixture.scope.actor().id);
                news.push(progress.news.clone());
            }
        }
        assert!(matches!(&news[0], News::Log { message, .. } if message == "begun"));
        let News::Complete { status: said, message: words, .. } = &news[1] else { panic!("{news:?}") };
        assert_eq!((said.as_str(), words.as_str()), (told, message), "{wish}");
        assert_eq!(fixture.get(id).await.status, status, "{wish}");
    }
    let endless = fixture.submit_within(Duration::from_secs(1), Kind::GitSync, json!({"do": "hang"})).await;
    let job = fixture.ended(endless).await;
    assert_eq!(job.status, Status::Failed);
    assert!(job.message.expect("says why").contains("did not end within 1 s"));
    stop.cancel();
    worker.await.expect("ends");
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_a_lost_worker_is_taken_back_and_the_late_end_does_not_count() {
    let fixture = Fixture::start(TestEnv::with_files(&[]).await, false).await;
    let db = &fixture.platform.db;
    let id = fixture.submit(Kind::GitSync, json!({"do": "count"})).await;
    let lost = work::claim(db, WorkerId::generate(), &[Kind::GitSync]).await.expect("asks").expect("waits");
    assert!(work::claim(db, WorkerId::generate(), &[Kind::GitSync]).await.expect("asks").is_none());
    let mut conn = fixture.test.db.connect().await;
    let expire = "UPDATE background_jobs SET lease_expires_at = now() - interval '1 second'";
    sqlx::query(expire).execute(&mut conn).await.expect("writes");
    reap(&fixture.platform).await.expect("reaps");
    assert_eq!(fixture.get(id).await.status, Status::Pending);

    assert!(!work::heartbeat(db, &lost).await.expect("asks"));
    let late = Outcome::success("late", Value::Null);
    assert!(!work::finish(&fixture.platform, &lost, &late).await.expect("asks"), "fenced");
    for attempt in 2..=3 {
        let again =
            work::claim(db, WorkerId::generate(), &[Kind::GitSync]).await.expect("asks").expect("waits");
        assert_eq!((again.id, again.attempt), (id, attempt));
        sqlx::query(expire).execute(&mut conn).await.expect("writes");
        reap(&fixture.platform).await.expect("reaps");
    }
    let job = fixture.get(id).await;
    assert_eq!((job.status, job.attempt), (Status::Failed, 3));
    assert!(job.message.expect("says why").contains("3 times"));
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_worker_hands_back_what_the_next_one_ends() {
    let fixture = Fixture::start(TestEnv::with_files(&[]).await, true).await;
    let id = fixture.submit(Kind::PackagesInstall, json!({"do": "hang-once"})).await;
    let first = CancellationToken::new();
    let worker = fixture.work(&first);
    let runs = || async { (fixture.get(id).await.status == Status::Running).then_some(()) };
    eventually("the job to begin", runs).await;
    first.cancel();
    worker.await.expect("ends");
    assert_eq!(fixture.get(id).await.status, Status::Pending, "handed back");

    let second = CancellationToken::new();
    let worker = fixture.work(&second);
    let job = fixture.ended(id).await;
    assert_eq!((job.status, job.attempt), (Status::Conflict, 2));
    second.cancel();
    worker.await.expect("ends");
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_wakeup_is_repeated_and_poison_goes_to_the_dead_letters() {
    let fixture = Fixture::start(TestEnv::with_files(&[]).await, true).await;
    let wakeups = &fixture.platform.wakeups;
    let poison: &[u8] = br#"{"v": 7, "job_id": "x"}"#;
    wakeups.publish_raw_to(Queue::PackagesInstall, poison.to_vec()).await.expect("confirmed");
    let mut tx = fixture.platform.db.begin(&fixture.scope).await.expect("begins");
    let new = NewJob {
        kind: Kind::PackagesInstall,
        payload: json!({}),
        title: "A job".into(),
        timeout: Duration::from_secs(60),
        traceparent: None,
    };
    let forgotten = background_jobs::submit(&mut tx, new).await.expect("submits");
    tx.commit().await.expect("commits");
    assert_eq!(upkeep::sweep(&fixture.platform.db, wakeups).await.expect("sweeps"), 0, "still fresh");
    let mut conn = fixture.test.db.connect().await;
    let age = "UPDATE background_jobs SET woken_at = now() - interval '6 seconds'";
    sqlx::query(age).execute(&mut conn).await.expect("writes");
    assert_eq!(upkeep::sweep(&fixture.platform.db, wakeups).await.expect("sweeps"), 1);
    assert_eq!(upkeep::sweep(&fixture.platform.db, wakeups).await.expect("sweeps"), 0, "woken a moment ago");

    let stop = CancellationToken::new();
    let worker = fixture.work(&stop);
    assert_eq!(fixture.ended(forgotten.id).await.status, Status::Conflict);
    let ask = || async {
        let letters = wakeups.dead_letters(&[Queue::PackagesInstall], 10).await.expect("reads");
        letters.into_iter().next()
    };
    let letter = eventually("the dead letter", ask).await;
    assert_eq!(letter.payload, poison);
    assert!(letter.reason.starts_with("rejected: "), "{}", letter.reason);
    stop.cancel();
    worker.await.expect("ends");
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_ends_in_its_time_when_postgresql_does_not_answer() {
    let test = TestEnv::with_files(&[]).await;
    let (line, url) = Line::beside(&test.db.url()).await;
    let settings = Settings { database_url: Some(url), ..test.settings_in_process() };
    let fixture = Fixture::on(test, settings);
    fixture.submit(Kind::GitSync, json!({"do": "hang"})).await;
    let asked = Instant::now();
    let claimed = work::claim(&fixture.platform.db, WorkerId::generate(), &[Kind::GitSync]).await;
    let job = claimed.expect("asks").expect("waits");
    line.silence(true);
    let kept = async {
        keep_lease(&fixture.platform, &job, asked).await;
        asked.elapsed()
    };
    let outcome = Outcome::success("late", Value::Null);
    let both = async { tokio::join!(kept, record(&fixture.platform, &job, &outcome)) };
    let (kept, is_written) =
        tokio::time::timeout(2 * LEASE, both).await.expect("neither waits until somebody answers");
    println!("background job without PostgreSQL: its work stopped after {kept:.1?}");
    assert!((LEASE..LEASE + HEARTBEAT).contains(&kept), "{kept:?}");
    assert!(!is_written);
    line.silence(false);
    fixture.close().await;
}

/// A job, with its notification.
async fn submit_notified(fixture: &Fixture, payload: Value) -> (JobId, Notification) {
    let mut tx = fixture.platform.db.begin(&fixture.scope).await.expect("begins");
    let new = NewJob {
        kind: Kind::PackagesInstall,
        payload,
        title: "Installing requests".into(),
        timeout: Duration::from_secs(60),
        traceparent: None,
    };
    let submitted = background_jobs::submit(&mut tx, new).await.expect("submits");
    tx.commit().await.expect("commits");
    let (id, notification) = (submitted.id, submitted.notification.clone());
    assert_eq!(
        (&*notification.title, notification.category),
        ("Installing requests", Category::PackageInstall)
    );
    submitted.announce(&fixture.platform);
    (id, notification)
}

async fn seen(fixture: &Fixture, id: domain::id::NotificationId) -> Notification {
    let mut tx = fixture.platform.db.begin(&fixture.scope).await.expect("begins");
    notifications::get(&mut tx, id).await.expect("is there")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_notification_of_a_job_ends_with_it_whatever_becomes_of_its_worker() {
    let fixture = Fixture::start(TestEnv::with_files(&[]).await, false).await;
    let mut conn = fixture.test.db.connect().await;
    let mut notices = fixture.platform.events.notices();
    let stop = CancellationToken::new();
    let worker = fixture.work(&stop);
    let mut ended = Vec::new();
    for wish in ["report", "refuse", "conflict", "panic"] {
        let (id, made) = submit_notified(&fixture, json!({"do": wish})).await;
        fixture.ended(id).await;
        let now = seen(&fixture, made.id).await;
        assert!(now.status.is_terminal(), "{wish}: in the transaction of the job's end");
        // Why it failed; what it was doing last may be told as well, or come too late.
        ended.push((now.status.as_str(), now.error.or(now.description).unwrap_or_default()));
        if wish == "report" {
            assert_eq!((now.percent, now.result), (Some(100.0), Some(json!({"version": "2.0"}))));
        }
        let mut told = Vec::new();
        while told.last().is_none_or(|status: &notifications::Status| !status.is_terminal()) {
            let notice = notices.recv().await.expect("is told");
            if let Event::Notice(notice) = &*notice
                && let Notice::Created(news) | Notice::Updated(news) = notice
            {
                assert_eq!(news.id, made.id);
                told.push(news.status);
            }
        }
        assert_eq!(told.first(), Some(&notifications::Status::Pending));
    }
    stop.cancel();
    worker.await.expect("ends");
    println!("notifications of jobs: {ended:?}");
    let failed = |text: &str| ("failed", text.to_owned());
    let expected =
        [("completed", "reported".to_owned()), failed("no such thing"), failed("decide"), failed(BROKEN)];
    assert_eq!(ended, expected);

    let (_, lost) = submit_notified(&fixture, json!({"do": "count"})).await;
    let expire =
        "UPDATE background_jobs SET lease_expires_at = now() - interval '1 second' WHERE status = 'Running'";
    for attempt in 1..=3 {
        assert!(!seen(&fixture, lost.id).await.status.is_terminal(), "another attempt follows");
        let claimed = work::claim(&fixture.platform.db, WorkerId::generate(), &[Kind::PackagesInstall]).await;
        assert_eq!(claimed.expect("asks").expect("waits").attempt, attempt);
        sqlx::query(expire).execute(&mut conn).await.expect("writes");
        reap(&fixture.platform).await.expect("reaps");
    }
    let now = seen(&fixture, lost.id).await;
    assert_eq!(now.status, notifications::Status::Failed);
    assert!(now.error.expect("says why").contains("3 times"));
    fixture.close().await;
}
