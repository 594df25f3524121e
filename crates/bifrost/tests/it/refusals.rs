//! Production that would start with a secret that protects nothing does not start.

use testkit::{Ended, Launch, TestEnv};

use crate::support::WORKFLOWS;

const STRONG: &str = "k3RrN0yZ4vQx7pLw9sTd2uHf6jBm1cGa8eXo";
const OTHER: &str = "Zp8Yw2Qn5Rt7Ls1Kd4Jf9Hg3Mb6Vc0Xa_TeQ";
const SHORT: &str = "tiny-but-shiny";
const DEFAULT: &str = "change-me-change-me-change-me-change-me";
const KNOWN: &str = "your-secret-key-your-secret-key-your-key";

/// What is wrong, SECRET_KEY, SECRETS_MASTER_KEY, the variables that are named.
const ROWS: [(&str, &str, &str, &[&str]); 9] = [
    ("no signing key", "", OTHER, &["SECRET_KEY"]),
    ("no master key", STRONG, "", &["SECRETS_MASTER_KEY"]),
    ("neither", "", "", &["SECRET_KEY is", "SECRETS_MASTER_KEY"]),
    ("a short signing key", SHORT, OTHER, &["SECRET_KEY"]),
    ("a short master key", STRONG, SHORT, &["SECRETS_MASTER_KEY"]),
    ("one key for both", STRONG, STRONG, &["SECRET_KEY and SECRETS_MASTER_KEY"]),
    ("a default signing key", DEFAULT, OTHER, &["SECRET_KEY"]),
    ("a default master key", STRONG, DEFAULT, &["SECRETS_MASTER_KEY"]),
    ("a well-known signing key", KNOWN, OTHER, &["SECRET_KEY"]),
];

/// Binary, its arguments, and whether it makes keys that are missing itself.
const PROGRAMS: [(&str, &[&str], bool); 5] = [
    ("bifrost-api", &[], false),
    ("bifrost-jobs", &[], false),
    ("bifrost", &["api"], false),
    ("bifrost", &["jobs"], false),
    ("bifrost", &["up"], true),
];

#[tokio::test]
async fn production_refuses_weak_secrets_naming_the_variable_and_not_its_value() {
    let env = TestEnv::with_files(&[("workflows.py", WORKFLOWS)]).await;
    let (mut refused, mut expected) = (0, 0);
    for (binary, arguments, makes_keys) in PROGRAMS {
        for (what, signing, master, named) in ROWS {
            if makes_keys && (signing.is_empty() || master.is_empty()) {
                continue;
            }
            // Not to say where one runs is to run in production.
            for environment in ["production", ""] {
                if makes_keys && environment.is_empty() {
                    continue; // `bifrost up` says that it takes itself to be for development
                }
                let case = format!("{binary} {arguments:?} in {environment:?} with {what}");
                let launch = Launch::new(binary, env.folder()).args(arguments).in_env(&env);
                let launch = launch.env("BIFROST_STATE_DIR", env.folder().join("state"));
                let launch = launch.env("ENVIRONMENT", environment).env("LISTEN", "127.0.0.1:0");
                let ended =
                    launch.env("SECRET_KEY", signing).env("SECRETS_MASTER_KEY", master).finish().await;
                expected += 1;
                refused += usize::from(is_refusal(&case, &ended, named));
            }
        }
    }
    println!("refusals: {refused}/{expected}");
    assert_eq!(refused, expected);
    env.close().await;
}

fn is_refusal(case: &str, ended: &Ended, named: &[&str]) -> bool {
    let said = ended.all();
    let refuses = ended.code.is_some_and(|code| code != 0)
        && named.iter().all(|variable| said.contains(variable))
        && ![STRONG, OTHER, SHORT, DEFAULT, KNOWN].iter().any(|secret| said.contains(secret));
    if !refuses {
        println!("{case}: ended with {:?}\n{said}", ended.code);
    }
    refuses
}
