//! How long it takes to find out who a request comes from, once the session is remembered: parsing the header,
//! verifying the signature, looking up the session. `cargo bench -p api --bench token_check` on the services of
//! `scripts/services`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use api::AppState;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderValue};
use domain::Platform;
use testkit::{Client, TestEnv};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const ASKED: Duration = Duration::from_micros(50);
const CHECKS: usize = 100_000;

#[tokio::main]
async fn main() -> ExitCode {
    let test = TestEnv::create().await;
    let platform = Platform::open(test.settings_in_process()).expect("opens");
    let state = AppState::new(platform.clone()).expect("there is a key");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let nobody = Client::new(format!("http://{}", listener.local_addr().expect("bound")));
    let stop = CancellationToken::new();
    let serving = tokio::spawn(api::serve(listener, state.clone(), stop.clone()));
    let admin = nobody.register("admin@platform.example", "a long enough password").await;

    let bearer = format!("Bearer {}", admin.bearer().expect("signed in"));
    let headers: HeaderMap =
        [(AUTHORIZATION, HeaderValue::from_str(&bearer).expect("a token is ASCII"))].into_iter().collect();
    let mut took = Vec::with_capacity(CHECKS);
    for _ in 0..CHECKS {
        let began = Instant::now();
        state.authenticate(&headers).await.expect("is signed in");
        took.push(began.elapsed());
    }
    let mean = took.iter().sum::<Duration>() / u32::try_from(CHECKS).expect("is few");
    took.sort_unstable();
    let percentile = |percent: usize| took[CHECKS * percent / 100 - 1];
    let holds = mean <= ASKED && percentile(99) <= ASKED;
    println!(
        "token check, warm: mean {mean:?}, p50 {:?}, p99 {:?} of {CHECKS}; asked at most {ASKED:?}: {}",
        percentile(50),
        percentile(99),
        if holds { "holds" } else { "DOES NOT HOLD" }
    );
    serving.abort();
    platform.db.close().await;
    test.close().await;
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
