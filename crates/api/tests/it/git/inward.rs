//! A server that may be called and sends git, or what asks GitHub, on to an address that may not; and names for such addresses.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use domain::Platform;
use domain::git::github::{self, NewRepository};
use domain::settings::Settings;
use reqwest::StatusCode;
use secrecy::SecretString;
use serde_json::json;
use testkit::{Client, GithubServer, Origin, TestEnv, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::{failed, init, post, save, succeeded};
use crate::support::World;

const TOKEN: &str = "github_pat_11ABCDEFG0123456789";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Listens on this machine and counts who comes; nobody may.
struct Canary {
    port: u16,
    hits: Arc<AtomicUsize>,
    listening: JoinHandle<()>,
}

impl Canary {
    async fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let hits = Arc::new(AtomicUsize::new(0));
        let listening = tokio::spawn({
            let hits = hits.clone();
            async move {
                while listener.accept().await.is_ok() {
                    hits.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        Self { port, hits, listening }
    }

    fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }

    /// Addresses of it, as a server could write them into a redirect.
    fn spellings(&self) -> Vec<String> {
        let hosts =
            ["http://127.0.0.1", "https://127.0.0.1", "http://localhost", "//127.0.0.1", "http://127.1"];
        hosts.iter().map(|host| format!("{host}:{}", self.port)).collect()
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// A server whose repositories all lead to the canary, each in its way; it may be called.
struct Hostile {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
    serving: JoinHandle<()>,
}

impl Hostile {
    async fn start(canary: &Canary) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let spellings = canary.spellings();
        let serving = tokio::spawn({
            let asked = asked.clone();
            async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let mut request = vec![0; 16_384];
                    let length = stream.read(&mut request).await.unwrap_or_default();
                    let text = String::from_utf8_lossy(&request[..length]).into_owned();
                    let target = text.split(' ').nth(1).unwrap_or_default().to_owned();
                    let answer = answer(&target, &spellings);
                    asked.lock().expect("no panic").push(target);
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            }
        });
        Self { address, asked, serving }
    }

    /// How often it was asked for something that contains this.
    fn asked(&self, part: &str) -> usize {
        self.asked.lock().expect("no panic").iter().filter(|target| target.contains(part)).count()
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// `/redirect/STATUS/SPELLING/…` goes elsewhere at once, `/late/…` for the objects, `/dumb/…` names a place for more of them.
fn answer(target: &str, spellings: &[String]) -> String {
    let path = target.split('?').next().unwrap_or_default();
    let respond = |status: &str, headers: &str, body: &str| {
        let length = body.len();
        format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}")
    };
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    match parts.as_slice() {
        ["redirect", status, spelling, rest @ ..] => {
            let base =
                spelling.parse::<usize>().ok().and_then(|number| spellings.get(number)).expect("a spelling");
            respond(&format!("{status} Moved"), &format!("location: {base}/{}\r\n", rest.join("/")), "")
        }
        ["late", .., "info", "refs"] => {
            let line = |text: &str| format!("{:04x}{text}", text.len() + 4);
            let refs = line(&format!("{COMMIT} refs/heads/main\0 side-band-64k\n"));
            let body = format!("{}0000{refs}0000", line("# service=git-upload-pack\n"));
            respond("200 OK", "content-type: application/x-git-upload-pack-advertisement\r\n", &body)
        }
        ["late", ..] => respond("307 Moved", &format!("location: {}/x\r\n", spellings[0]), ""),
        ["dumb", .., "info", "refs"] => {
            respond("200 OK", "content-type: text/plain\r\n", &format!("{COMMIT}\trefs/heads/main\n"))
        }
        ["dumb", .., "HEAD"] => respond("200 OK", "", "ref: refs/heads/main\n"),
        ["dumb", .., "http-alternates" | "alternates"] => {
            let more: String = spellings.iter().map(|base| format!("{base}/y/objects\n")).collect();
            respond("200 OK", "content-type: text/plain\r\n", &more)
        }
        _ => respond("404 Not Found", "", ""),
    }
}

async fn tries(admin: &Client, address: &str) {
    let answer = init(admin, address).await;
    assert_eq!(answer["success"], json!(false), "{address}: {answer}");
    let body = json!({"repo_url": address, "auth_token": "", "branch": "main"});
    admin.post("/api/github/analyze-workspace", &body).await;
}

#[tokio::test]
async fn no_redirect_and_no_alternate_of_a_server_leads_git_inward() {
    let canary = Canary::listen().await;
    let hostile = Hostile::start(&canary).await;
    let test = TestEnv::with_files(&[("own.txt", "own\n")]).await;
    let settings = Settings { outbound_admit: hostile.address.clone(), ..test.settings_in_process() };
    let world = World::on(test, settings).await;
    let admin = &world.admin.client;
    let mut ways = 0;
    for status in [301, 302, 303, 307, 308] {
        for spelling in 0..canary.spellings().len() {
            tries(admin, &format!("http://{}/redirect/{status}/{spelling}/x.git", hostile.address)).await;
            ways += 1;
        }
    }
    for kind in ["late", "dumb"] {
        tries(admin, &format!("http://{}/{kind}/x.git", hostile.address)).await;
        ways += 1;
    }
    println!(
        "git: {ways} repositories of a server that may be called lead inward, canary hits {}; alternates asked for {}",
        canary.hits(),
        hostile.asked("alternates"),
    );
    assert_eq!(canary.hits(), 0);
    assert!(hostile.asked("/redirect/") >= 25 && hostile.asked("/late/x.git/git-upload-pack") >= 1);
    assert!(hostile.asked("/dumb/x.git/objects/01/") >= 1, "it took the repository for a dumb one");
    world.close().await;
}

#[tokio::test]
async fn a_repository_that_was_good_when_it_was_connected_cannot_lead_git_inward() {
    let canary = Canary::listen().await;
    let origin = Origin::with(&[("a.txt", "1\n")]);
    let server = GithubServer::start(TOKEN, origin.root()).await;
    let test = TestEnv::with_files(&[("own.txt", "own\n")]).await;
    let mut settings = test.settings_in_process();
    server.configure(&mut settings);
    let world = World::on(test, settings).await;
    let admin = &world.admin.client;
    post(admin, "validate", json!({"token": TOKEN})).await;
    succeeded(
        &post(admin, "init", json!({"repo_url": "acme/flows", "auth_token": "", "branch": "main"})).await,
    );
    save(admin, "a.txt", "2\n").await;
    let mut refused = 0;
    for spelling in canary.spellings() {
        server.move_to(Some(spelling));
        for (operation, body) in [("pull", json!({})), ("push", json!({"message": "moved"}))] {
            let answer = post(admin, operation, body).await;
            assert_eq!(answer["success"], json!(false), "{answer}");
            refused += 1;
        }
        admin.post("/api/github/refresh", &json!({})).await;
    }
    println!(
        "git: {refused} pulls and pushes of a repository that moved inward, canary hits {}",
        canary.hits()
    );
    assert_eq!(canary.hits(), 0);
    server.move_to(None);
    succeeded(&post(admin, "push", json!({"message": "back again"})).await);
    world.close().await;
}

#[tokio::test]
async fn a_saved_token_goes_to_no_server_but_the_one_it_was_given_for() {
    let canary = Canary::listen().await;
    let origin = Origin::with(&[("a.txt", "1\n")]);
    let github = GithubServer::start(TOKEN, origin.root()).await;
    let other = GithubServer::start("token-of-another", origin.root()).await;
    let test = TestEnv::with_files(&[("own.txt", "own\n")]).await;
    let mut settings = test.settings_in_process();
    other.configure(&mut settings);
    let other_server = settings.outbound_admit.clone();
    github.configure(&mut settings);
    let github_server = settings.outbound_admit.clone();
    let canary_server = format!("127.0.0.1:{}", canary.port);
    settings.outbound_admit = format!("{github_server},{other_server},{canary_server}");
    let world = World::on(test, settings).await;
    let admin = &world.admin.client;
    let only_for = |server: &str| format!("give the token again: the saved one is for {server}");

    post(admin, "validate", json!({"token": TOKEN})).await;
    let elsewhere = format!("http://{canary_server}/acme/flows.git");
    failed(&init(admin, &elsewhere).await, &only_for(&github_server));
    let body = json!({"repo_url": elsewhere, "auth_token": "", "branch": "main"});
    let refused = admin.post("/api/github/configure", &body).await.expect_status(StatusCode::BAD_REQUEST);
    assert_eq!(refused.detail(), only_for(&github_server));
    assert_eq!(canary.hits(), 0);

    let address = format!("http://{other_server}/acme/flows.git");
    let given = json!({"repo_url": address, "auth_token": "token-of-another", "branch": "main"});
    succeeded(&post(admin, "init", given).await);
    succeeded(&post(admin, "pull", json!({})).await);
    succeeded(&init(admin, &address).await);
    for path in ["repositories", "branches?repo=acme/flows"] {
        let refused = admin.get(&format!("/api/github/{path}")).await.expect_status(StatusCode::BAD_REQUEST);
        assert_eq!(refused.detail(), only_for(&other_server), "{path}");
    }
    failed(&init(admin, "acme/flows").await, &only_for(&other_server));

    // The token of GitHub took the place of the other one, and does not go where the repository is.
    post(admin, "validate", json!({"token": TOKEN})).await;
    save(admin, "a.txt", "2\n").await;
    failed(&post(admin, "push", json!({"message": "not sent"})).await, &only_for(&github_server));
    assert_eq!(origin.read("a.txt"), "1");
    save(admin, "a.txt", "3\n").await;
    succeeded(&post(admin, "commit", json!({"message": "asks no server"})).await);
    succeeded(&init(admin, "acme/flows").await);
    world.close().await;
}

#[tokio::test]
async fn no_answer_of_github_and_no_name_leads_its_token_inward() {
    let canary = Canary::listen().await;
    let hostile = Hostile::start(&canary).await;
    // The names that this machine has for itself are names that resolve to a private address.
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let loopback = hosts.lines().filter(|line| line.starts_with("127."));
    let mut names: Vec<&str> = loopback.flat_map(|line| line.split_whitespace().skip(1)).collect();
    names.extend(["localhost", "LOCALHOST", "localhost."]);
    let mut interfaces: Vec<(String, &str)> =
        names.iter().map(|name| (format!("https://{name}:{}/api", canary.port), "")).collect();
    for status in [301, 302, 307, 308] {
        for spelling in 0..canary.spellings().len() {
            let base = format!("http://{}/redirect/{status}/{spelling}", hostile.address);
            interfaces.push((base, &hostile.address));
        }
    }
    let test = TestEnv::create().await;
    let (token, mut calls) = (SecretString::from(TOKEN), 0);
    for (github_api_url, admitted) in &interfaces {
        let (github_api_url, outbound_admit) = (github_api_url.clone(), (*admitted).to_owned());
        let settings = Settings { github_api_url, outbound_admit, ..test.settings_in_process() };
        let platform = Platform::open(settings).expect("opens");
        let new = NewRepository { name: "flows".into(), description: None, private: true };
        github::repositories(&platform, &token).await.expect_err("leads inward");
        github::branches(&platform, &token, "acme/flows").await.expect_err("leads inward");
        github::create(&platform, &token, &new, None).await.expect_err("leads inward");
        calls += 3;
    }
    println!(
        "GitHub's interface: {} names and {} redirects, {calls} calls with a token, canary hits {}",
        names.len(),
        interfaces.len() - names.len(),
        canary.hits(),
    );
    assert_eq!((canary.hits(), hostile.asked("/redirect/")), (0, calls - 3 * names.len()));

    // The canary would have sung.
    let outbound_admit = format!("127.0.0.1:{}", canary.port);
    let github_api_url = format!("http://{outbound_admit}");
    let settings = Settings { github_api_url, outbound_admit, ..test.settings_in_process() };
    let platform = Platform::open(settings).expect("opens");
    let asking = github::repositories(&platform, &token);
    let heard = eventually("a hit", || async { (canary.hits() > 0).then_some(()) });
    tokio::select! { _ = asking => {}, () = heard => {} }
    assert_eq!(canary.hits(), 1);
    test.close().await;
}
