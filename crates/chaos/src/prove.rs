//! The proof that the judgement is worth something: each fault that is built into the sabotaged binaries turns a run red,
//! by the promise that it breaks, and without one the same binaries stay clean.

use std::time::Duration;

use crate::history::{Kind, Service};
use crate::plan::{Blow, Fault, Node, Order, Plan, Sending};
use crate::run::{self, Settings};

/// A fault, and how it is brought to light.
struct Proof {
    /// Its name in `BIFROST_SABOTAGE`; none: the control.
    sabotage: &'static str,
    /// What is expected to break, as the verdict says it.
    breaks: &'static str,
    plan: Plan,
}

/// Milliseconds after which what happens at once is under way.
const LATER: u64 = 1_500;
const ENDS: &str = "every accepted execution ends";

/// Runs every proof; how many failed.
pub(crate) async fn prove(settings: &Settings, only: Option<&str>) -> anyhow::Result<usize> {
    let (mut found, mut wanted, mut failed) = (0, 0, 0);
    for proof in proofs() {
        if only.is_some_and(|only| only != proof.sabotage) {
            continue;
        }
        let mut settings = settings.clone();
        settings.cluster.suffix = "-sabotaged";
        settings.cluster.workers = 2;
        settings.cluster.variables.push(("BIFROST_SABOTAGE", proof.sabotage.to_owned()));
        settings.logs.push(proof.sabotage);
        let report = run::run(&proof.plan, &settings).await?;
        let red: Vec<_> = report.verdicts.iter().filter(|one| one.violations > 0).collect();
        let names: Vec<_> = red.iter().map(|one| one.what).collect();
        let is_right = if proof.sabotage == "none" {
            red.is_empty()
        } else {
            wanted += 1;
            names.contains(&proof.breaks)
        };
        found += usize::from(is_right && proof.sabotage != "none");
        failed += usize::from(!is_right);
        let told = red.iter().find(|one| one.what == proof.breaks).and_then(|one| one.told.first());
        println!(
            "{:<6} {:<22} {:>4.0} s  broken: {}{}",
            if is_right { "ok" } else { "WRONG" },
            proof.sabotage,
            report.took.as_secs_f64(),
            if names.is_empty() { "nothing".to_owned() } else { names.join("; ") },
            told.map(|told| format!(" ({told})")).unwrap_or_default()
        );
    }
    println!("proof: built-in faults found {found}/{wanted}");
    Ok(failed)
}

fn proofs() -> [Proof; 6] {
    let frozen = [fault(3, 14, Blow::Stop(Node::Worker(0)))];
    let killed = [fault(3, 1, Blow::Kill(Node::Worker(0)))];
    let slow = [0, 1].map(|api| fault(0, 8, Blow::Slow(Node::Api(api), Service::Postgres)));
    let mixed =
        [orders(Kind::Long, 8, 0), orders(Kind::Undefined, 2, 0), orders(Kind::Quick, 40, LATER)].concat();
    // Sent again, one would wake a worker for all that were woken too early.
    let once = orders(Kind::Quick, 120, LATER)
        .into_iter()
        .map(|order| Order { sending: Sending::Once, ..order })
        .collect();
    let control = [frozen[0], fault(4, 1, Blow::Kill(Node::Api(0)))];
    [
        proof("none", "", mixed, &control),
        proof("ack-before-claim", ENDS, orders(Kind::Sleeping, 120, LATER), &killed),
        proof("no-fence", "nothing of a stale attempt counts", orders(Kind::Long, 8, 0), &frozen),
        proof("publish-before-commit", ENDS, once, &slow),
        proof("no-reaper", ENDS, orders(Kind::Long, 8, 0), &killed),
        proof("unknown-status", "each ends as it must", orders(Kind::Undefined, 4, 0), &[]),
    ]
}

fn proof(sabotage: &'static str, breaks: &'static str, orders: Vec<Order>, faults: &[Fault]) -> Proof {
    Proof { sabotage, breaks, plan: Plan { seed: 0, orders, faults: faults.to_vec() } }
}

fn fault(at: u64, lasts: u64, blow: Blow) -> Fault {
    Fault { at: Duration::from_secs(at), lasts: Duration::from_secs(lasts), blow }
}

/// So many of a kind, one after the other, from this many milliseconds on.
fn orders(kind: Kind, count: usize, from: u64) -> Vec<Order> {
    let order = |number: usize| Order {
        at: Duration::from_millis(from + 30 * number as u64),
        token: format!("{}-{number}", kind.workflow()),
        organization: number % 3,
        kind,
        priority: 5,
        sending: Sending::Keyed,
        following: None,
        pause: Duration::ZERO,
    };
    (0..count).map(order).collect()
}
