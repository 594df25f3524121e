//! The plan: what is submitted and what breaks when, all of it derived from a seed.
//!
//! Nothing here looks at a clock or at the machine, so the same arguments give the same plan everywhere. What the processes
//! make of it differs from run to run, of course: that is what the history is for.

use std::time::Duration;

use crate::history::{Kind, Service};

/// Nodes of the cluster.
pub(crate) const APIS: usize = 2;
/// Workers of the cluster; at least one of them is never touched at any moment.
pub(crate) const WORKERS: usize = 3;
/// Customers of the installation.
pub(crate) const ORGANIZATIONS: usize = 3;
/// Submissions a second, over the whole span: what they ask for leaves room for the workers that are hurt.
const RATE: f64 = 16.0;
/// Between two faults, at least.
const LEAST_GAP: Duration = Duration::from_millis(2_000);
/// Faults begin after this, when there is something to break.
const LEAD: Duration = Duration::from_secs(1);
/// Longer than a lease and the reaper's tick together.
const BEYOND_LEASE: Duration = Duration::from_secs(14);

/// A process of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node {
    /// A replica of the api.
    Api(usize),
    /// A worker.
    Worker(usize),
}

/// What happens to a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blow {
    /// `kill -9`, and started again after a while.
    Kill(Node),
    /// SIGSTOP, and SIGCONT after a while.
    Stop(Node),
    /// SIGTERM, and started again when it has drained.
    Terminate(Node),
    /// `kill -9` of a whole service, and started again on its data.
    KillService(Service),
    /// Everything in Redis is forgotten.
    FlushRedis,
    /// Every wake-up that waits is forgotten.
    PurgeQueue,
    /// Wake-ups of known executions are published again, each several times.
    DuplicateMessages,
    /// Messages that nobody sent: unknown executions, broken JSON, other versions, too long.
    InventMessages,
    /// The connections of a node to a service are ended.
    Cut(Node, Service),
    /// They carry nothing for a while, then what was held back.
    Silence(Node, Service),
    /// They are slow for a while.
    Slow(Node, Service),
    /// They carry nothing ever again and stay open; new ones are well.
    HalfOpen(Node, Service),
}

/// A blow in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    /// After the begin of the load.
    pub(crate) at: Duration,
    /// Until it is undone.
    pub(crate) lasts: Duration,
    pub(crate) blow: Blow,
}

/// How a submission is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sending {
    /// Once, without a key: what is not answered may or may not be there.
    Once,
    /// With a key, again and again until it is accepted.
    Keyed,
    /// With a key; the first answer is not waited for.
    LostAnswer,
    /// With a key, at two replicas at once.
    Twice,
}

/// How an execution is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Following {
    Events,
    Socket,
}

/// A submission in time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Order {
    pub(crate) at: Duration,
    /// Names it for ever: it goes through the parameters into the result.
    pub(crate) token: String,
    pub(crate) organization: usize,
    pub(crate) kind: Kind,
    pub(crate) priority: i64,
    pub(crate) sending: Sending,
    pub(crate) following: Option<Following>,
    /// For what is cancelled or delayed.
    pub(crate) pause: Duration,
}

/// Everything that is going to be done.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) orders: Vec<Order>,
    pub(crate) faults: Vec<Fault>,
}

/// SplitMix64: small, and the same for ever, which generators of libraries do not promise.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % (end.max(1) as u64)).unwrap_or_default()
    }

    /// Whether something happens that happens in so many of a hundred cases.
    pub(crate) fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let range = u64::try_from((most - least).as_millis()).unwrap_or_default();
        least + Duration::from_millis(self.next() % (range + 1))
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

impl Plan {
    /// The plan of a seed.
    pub(crate) fn new(seed: u64, executions: usize, faults: usize) -> Self {
        let mut random = Random::new(seed);
        let by_rate = Duration::from_secs_f64(executions as f64 / RATE);
        let span = by_rate.max(LEAD + LEAST_GAP * u32::try_from(faults).unwrap_or(u32::MAX));
        Self {
            seed,
            orders: (0..executions)
                .map(|number| order(&mut random, seed, number, executions, span))
                .collect(),
            faults: schedule(&mut random, faults, span),
        }
    }

    /// Until the last thing is begun.
    pub(crate) fn span(&self) -> Duration {
        let orders = self.orders.iter().map(|order| order.at);
        let faults = self.faults.iter().map(|fault| fault.at + fault.lasts);
        orders.chain(faults).max().unwrap_or_default()
    }
}

/// How often each kind is submitted, in a hundred times.
const KINDS: [(Kind, usize); 11] = [
    (Kind::Quick, 38),
    (Kind::Chatty, 14),
    (Kind::Sleeping, 12),
    (Kind::Failing, 6),
    (Kind::Retried, 6),
    (Kind::Lone, 6),
    (Kind::Keyed, 6),
    (Kind::Delayed, 5),
    (Kind::Cancelled, 4),
    (Kind::Long, 2),
    (Kind::Undefined, 1),
];

fn order(random: &mut Random, seed: u64, number: usize, executions: usize, span: Duration) -> Order {
    let kind = weighted(random, &KINDS);
    let sending = weighted(
        random,
        &[(Sending::Once, 30), (Sending::Keyed, 40), (Sending::LostAnswer, 20), (Sending::Twice, 10)],
    );
    let follows = if matches!(kind, Kind::Chatty | Kind::Long) { 60 } else { 3 };
    let following = random
        .percent(follows)
        .then(|| if random.percent(50) { Following::Events } else { Following::Socket });
    Order {
        at: span.mul_f64(number as f64 / executions.max(1) as f64),
        token: format!("{seed}-{number}"),
        organization: random.below(ORGANIZATIONS),
        kind,
        priority: i64::try_from(1 + random.below(10)).unwrap_or(5),
        sending,
        following,
        pause: random.between(Duration::from_millis(200), Duration::from_secs(4)),
    }
}

fn weighted<T: Copy>(random: &mut Random, choices: &[(T, usize)]) -> T {
    let mut left = random.below(choices.iter().map(|(_, weight)| weight).sum());
    for (choice, weight) in choices {
        if left < *weight {
            return *choice;
        }
        left -= weight;
    }
    choices[0].0
}

/// Every sort of fault once, in a new order each time the deck is through.
fn schedule(random: &mut Random, count: usize, span: Duration) -> Vec<Fault> {
    let mut faults = Vec::with_capacity(count);
    let mut deck = Vec::new();
    let mut spared = Spared::default();
    let gap = span.saturating_sub(LEAD).div_f64(count.max(1) as f64);
    for number in 0..count {
        let at = LEAD + gap.mul_f64(number as f64) + random.between(Duration::ZERO, gap / 3);
        if deck.is_empty() {
            deck = SORTS.to_vec();
            random.shuffle(&mut deck);
        }
        // What would leave nobody whole just now is left for later.
        let fit = (0..deck.len()).rev().find_map(|card| {
            let mut tried = spared.clone();
            let fault = fault(random, deck[card], at, &mut tried)?;
            spared = tried;
            Some((card, fault))
        });
        if let Some((card, fault)) = fit {
            deck.remove(card);
            faults.push(fault);
        } else {
            faults.push(Fault { at, lasts: Duration::ZERO, blow: Blow::PurgeQueue });
        }
    }
    faults
}

#[derive(Debug, Clone, Copy)]
enum Sort {
    KillWorker,
    StopWorker,
    PauseWorker,
    TerminateWorker,
    KillApi,
    StopApi,
    TerminateApi,
    KillBroker,
    KillDatabase,
    KillRedis,
    Flush,
    Purge,
    Duplicate,
    Invent,
    Cut,
    Silence,
    Slow,
    HalfOpen,
}

/// The deadliest ones twice.
const SORTS: [Sort; 22] = [
    Sort::KillWorker,
    Sort::KillWorker,
    Sort::StopWorker,
    Sort::PauseWorker,
    Sort::TerminateWorker,
    Sort::KillApi,
    Sort::StopApi,
    Sort::TerminateApi,
    Sort::KillBroker,
    Sort::KillDatabase,
    Sort::KillRedis,
    Sort::Flush,
    Sort::Purge,
    Sort::Duplicate,
    Sort::Invent,
    Sort::Cut,
    Sort::Cut,
    Sort::Silence,
    Sort::Silence,
    Sort::Slow,
    Sort::HalfOpen,
    Sort::HalfOpen,
];

/// Until when each node is hurt: one of each sort must be whole at any moment, else nothing could be promised.
#[derive(Debug, Clone, Default)]
struct Spared {
    workers: [Duration; WORKERS],
    apis: [Duration; APIS],
}

impl Spared {
    /// A worker that may be hurt now, while another one is whole.
    fn worker(&mut self, random: &mut Random, at: Duration, lasts: Duration) -> Option<Node> {
        let whole: Vec<usize> = (0..WORKERS).filter(|worker| self.workers[*worker] <= at).collect();
        let chosen = (whole.len() > 1).then(|| whole[random.below(whole.len())])?;
        self.workers[chosen] = at + lasts;
        Some(Node::Worker(chosen))
    }

    fn api(&mut self, random: &mut Random, at: Duration, lasts: Duration) -> Option<Node> {
        let whole: Vec<usize> = (0..APIS).filter(|api| self.apis[*api] <= at).collect();
        let chosen = (whole.len() > 1).then(|| whole[random.below(whole.len())])?;
        self.apis[chosen] = at + lasts;
        Some(Node::Api(chosen))
    }

    fn any(&mut self, random: &mut Random, at: Duration, lasts: Duration) -> Option<Node> {
        if random.percent(70) { self.worker(random, at, lasts) } else { self.api(random, at, lasts) }
    }
}

fn fault(random: &mut Random, sort: Sort, at: Duration, spared: &mut Spared) -> Option<Fault> {
    /// A process that starts again, or connections that come back, need a moment to be whole.
    const CONVALESCENCE: Duration = Duration::from_secs(6);
    let seconds = |random: &mut Random, least: f64, most: f64| {
        random.between(Duration::from_secs_f64(least), Duration::from_secs_f64(most))
    };
    let service = |random: &mut Random| Service::ALL[random.below(3)];
    let lasts = match sort {
        Sort::StopWorker => BEYOND_LEASE,
        Sort::PauseWorker | Sort::StopApi => seconds(random, 1.0, 4.0),
        Sort::KillBroker | Sort::KillDatabase | Sort::KillRedis => seconds(random, 0.2, 2.0),
        Sort::KillWorker | Sort::KillApi => seconds(random, 0.0, 3.0),
        Sort::Silence | Sort::Slow => seconds(random, 2.0, 12.0),
        _ => Duration::ZERO,
    };
    let hurt = lasts + CONVALESCENCE;
    let blow = match sort {
        Sort::KillWorker => spared.worker(random, at, hurt).map(Blow::Kill),
        Sort::StopWorker | Sort::PauseWorker => spared.worker(random, at, hurt).map(Blow::Stop),
        // Draining lets runs end.
        Sort::TerminateWorker => spared.worker(random, at, hurt * 3).map(Blow::Terminate),
        Sort::KillApi => spared.api(random, at, hurt).map(Blow::Kill),
        Sort::StopApi => spared.api(random, at, hurt).map(Blow::Stop),
        Sort::TerminateApi => spared.api(random, at, hurt).map(Blow::Terminate),
        Sort::KillBroker => Some(Blow::KillService(Service::Rabbitmq)),
        Sort::KillDatabase => Some(Blow::KillService(Service::Postgres)),
        Sort::KillRedis => Some(Blow::KillService(Service::Redis)),
        Sort::Flush => Some(Blow::FlushRedis),
        Sort::Purge => Some(Blow::PurgeQueue),
        Sort::Duplicate => Some(Blow::DuplicateMessages),
        Sort::Invent => Some(Blow::InventMessages),
        Sort::Cut => {
            let service = service(random);
            spared.any(random, at, hurt).map(|node| Blow::Cut(node, service))
        }
        Sort::Silence => {
            let service = service(random);
            spared.any(random, at, hurt).map(|node| Blow::Silence(node, service))
        }
        Sort::Slow => {
            let service = service(random);
            spared.any(random, at, hurt).map(|node| Blow::Slow(node, service))
        }
        Sort::HalfOpen => {
            let service = service(random);
            spared.any(random, at, hurt * 3).map(|node| Blow::HalfOpen(node, service))
        }
    };
    blow.map(|blow| Fault { at, lasts, blow })
}

impl std::fmt::Display for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Api(number) => write!(f, "api {number}"),
            Self::Worker(number) => write!(f, "worker {number}"),
        }
    }
}

impl std::fmt::Display for Blow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Kill(node) => write!(f, "kill -9 {node}"),
            Self::Stop(node) => write!(f, "stop {node}"),
            Self::Terminate(node) => write!(f, "terminate {node}"),
            Self::KillService(service) => write!(f, "kill -9 {service}"),
            Self::FlushRedis => f.write_str("flush Redis"),
            Self::PurgeQueue => f.write_str("purge the queue"),
            Self::DuplicateMessages => f.write_str("duplicate wake-ups"),
            Self::InventMessages => f.write_str("invent messages"),
            Self::Cut(node, service) => write!(f, "cut {node} – {service}"),
            Self::Silence(node, service) => write!(f, "silence {node} – {service}"),
            Self::Slow(node, service) => write!(f, "slow {node} – {service}"),
            Self::HalfOpen(node, service) => write!(f, "half-open {node} – {service}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Blow {
        /// The node that is hurt, if it is one alone.
        fn node(self) -> Option<Node> {
            match self {
                Self::Kill(node) | Self::Stop(node) | Self::Terminate(node) => Some(node),
                Self::Cut(node, _)
                | Self::Silence(node, _)
                | Self::Slow(node, _)
                | Self::HalfOpen(node, _) => Some(node),
                _ => None,
            }
        }
    }

    #[test]
    fn a_seed_gives_the_same_plan_and_another_seed_another() {
        assert_eq!(Plan::new(7, 300, 14), Plan::new(7, 300, 14));
        assert_ne!(Plan::new(7, 300, 14), Plan::new(8, 300, 14));
        let first = Random::new(0).next();
        assert_eq!(first, 0xe220_a839_7b1d_cdaf, "as published for SplitMix64");
    }

    #[test]
    fn a_long_plan_has_every_sort_of_fault_and_order() {
        let plan = Plan::new(1, 10_000, 60);
        assert_eq!((plan.orders.len(), plan.faults.len()), (10_000, 60));
        let names: std::collections::BTreeSet<String> = plan
            .faults
            .iter()
            .map(|fault| format!("{:?}", fault.blow).chars().take_while(|c| c.is_alphabetic()).collect())
            .collect();
        assert_eq!(names.len(), 12, "{names:?}");
        for kind in Kind::SUBMITTED {
            assert!(plan.orders.iter().any(|order| order.kind == kind), "{kind:?}");
        }
    }

    /// A plan that asks for more than there is shows nothing but a queue.
    #[test]
    fn two_workers_can_do_what_is_asked_for() {
        let seconds = |kind: Kind| match kind {
            Kind::Sleeping => 1.0,
            Kind::Chatty => 0.5,
            Kind::Cancelled => 2.1,
            Kind::Long => 12.0,
            _ => 0.1,
        };
        let asked: f64 = KINDS.iter().map(|(kind, weight)| seconds(*kind) * *weight as f64 / 100.0).sum();
        let most = 2.0 * crate::cluster::SLOTS as f64;
        assert!(RATE * asked <= 0.8 * most, "{:.1} of {most} slots", RATE * asked);
    }

    #[test]
    fn one_worker_and_one_api_are_whole_at_any_moment() {
        for seed in 0..50 {
            let plan = Plan::new(seed, 2_000, 60);
            for fault in &plan.faults {
                let hurt = |count: usize, node: fn(usize) -> Node| {
                    (0..count)
                        .filter(|number| {
                            plan.faults.iter().any(|other| {
                                other.at <= fault.at
                                    && fault.at <= other.at + other.lasts
                                    && other.blow.node() == Some(node(*number))
                            })
                        })
                        .count()
                };
                assert!(hurt(WORKERS, Node::Worker) < WORKERS);
                assert!(hurt(APIS, Node::Api) < APIS);
            }
        }
    }
}
