//! What processes cost: processor time and memory, from `/proc`, by part of the system.
//!
//! The time of a tree is that of its living processes and of all they have reaped, so that a run's process,
//! which lives for milliseconds, is counted too.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::ops::Sub;
use std::time::Duration;

use serde::Serialize;

/// Ticks of `/proc/<pid>/stat` a second: the kernel's promise to programs, whatever its own clock is.
const TICKS_PER_SECOND: u64 = 100;

/// Whose cost it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Part {
    /// `bifrost-api`.
    Api,
    /// `bifrost-jobs`.
    Jobs,
    /// `bifrost up`: both in one process.
    Bifrost,
    /// The postmaster and every backend, those that ended too.
    Postgres,
    /// The Erlang machine and its helpers.
    Rabbitmq,
    /// Redis.
    Redis,
    /// The template, and every process that ran workflow code.
    Python,
    /// This program; never part of a sum.
    Generator,
}

impl Part {
    /// The parts a run is charged to, in the order of the tables.
    pub(crate) const SYSTEM: [Self; 7] =
        [Self::Api, Self::Jobs, Self::Bifrost, Self::Postgres, Self::Rabbitmq, Self::Redis, Self::Python];

    /// Its name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Jobs => "jobs",
            Self::Bifrost => "bifrost up",
            Self::Postgres => "PostgreSQL",
            Self::Rabbitmq => "RabbitMQ",
            Self::Redis => "Redis",
            Self::Python => "Python",
            Self::Generator => "generator",
        }
    }
}

/// Which processes a part has, seen from one that was started.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reach {
    /// That process alone.
    Itself,
    /// That process and all below it.
    Tree,
    /// All below it, and what it has reaped.
    Below,
}

/// The processes of every part.
#[derive(Debug, Clone)]
pub(crate) struct Footprint(pub(crate) Vec<(Part, u32, Reach)>);

/// Processor time by part.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cpu(BTreeMap<Part, Duration>);

/// Memory by part, in MiB.
pub(crate) type Memory = BTreeMap<Part, f64>;

/// One process, as the kernel describes it.
struct Process {
    parent: u32,
    threads: u64,
    own: Duration,
    reaped: Duration,
}

/// All processes of the machine at one moment.
struct Table(HashMap<u32, Process>);

impl Footprint {
    /// Processor time so far.
    pub(crate) fn cpu(&self) -> Cpu {
        let table = Table::read();
        let mut cpu = Cpu::default();
        for (part, root, reach) in &self.0 {
            let tree = table.tree(*root);
            let time: Duration = match reach {
                Reach::Itself => table.own(*root),
                Reach::Tree => tree.iter().map(|pid| table.own(*pid) + table.reaped(*pid)).sum(),
                Reach::Below => {
                    let below: Duration =
                        tree[1..].iter().map(|pid| table.own(*pid) + table.reaped(*pid)).sum();
                    below + table.reaped(*root)
                }
            };
            *cpu.0.entry(*part).or_default() += time;
        }
        cpu
    }

    /// Memory now: what is shared within a tree is counted once.
    pub(crate) fn memory(&self) -> Memory {
        let table = Table::read();
        let mut memory = Memory::new();
        for (part, root, reach) in &self.0 {
            let tree = table.tree(*root);
            let mebibytes = match reach {
                Reach::Itself => memory_of(*root),
                Reach::Tree => tree.iter().map(|pid| memory_of(*pid)).sum(),
                Reach::Below => tree[1..].iter().map(|pid| memory_of(*pid)).sum(),
            };
            *memory.entry(*part).or_default() += mebibytes;
        }
        memory
    }
}

impl Cpu {
    /// Milliseconds of each part, divided by `count`.
    pub(crate) fn milliseconds_each(&self, count: usize) -> BTreeMap<Part, f64> {
        self.0
            .iter()
            .map(|(part, time)| (*part, time.as_secs_f64() * 1_000.0 / count.max(1) as f64))
            .collect()
    }
}

impl Sub for &Cpu {
    type Output = Cpu;

    fn sub(self, before: Self) -> Cpu {
        let since = |(part, time): (&Part, &Duration)| {
            (*part, time.saturating_sub(before.0.get(part).copied().unwrap_or_default()))
        };
        Cpu(self.0.iter().map(since).collect())
    }
}

/// The larger of each part.
pub(crate) fn keep_peak(peak: &mut Memory, seen: Memory) {
    for (part, mebibytes) in seen {
        let kept = peak.entry(part).or_default();
        *kept = kept.max(mebibytes);
    }
}

impl Table {
    fn read() -> Self {
        let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        // One that ends meanwhile is counted by whoever reaps it.
        Self(pids.filter_map(|pid| Some((pid, Process::read(pid)?))).collect())
    }

    /// The process itself first, then all below it.
    fn tree(&self, root: u32) -> Vec<u32> {
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        for (pid, process) in &self.0 {
            children.entry(process.parent).or_default().push(*pid);
        }
        let mut tree = vec![root];
        let mut next = 0;
        while next < tree.len() {
            if let Some(found) = children.get(&tree[next]) {
                tree.extend(found);
            }
            next += 1;
        }
        tree
    }

    fn own(&self, pid: u32) -> Duration {
        self.0.get(&pid).map(|process| process.own).unwrap_or_default()
    }

    fn reaped(&self, pid: u32) -> Duration {
        self.0.get(&pid).map(|process| process.reaped).unwrap_or_default()
    }
}

impl Process {
    fn read(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut process = Self::parse(&stat)?;
        // With one thread the scheduler's own account is at hand, in nanoseconds: ticks of 10 ms are too
        // coarse for dozens of database backends that each did a little.
        if process.threads == 1
            && let Ok(account) = fs::read_to_string(format!("/proc/{pid}/schedstat"))
            && let Some(nanoseconds) = account.split(' ').next().and_then(|field| field.parse().ok())
        {
            process.own = Duration::from_nanos(nanoseconds);
        }
        Some(process)
    }

    fn parse(stat: &str) -> Option<Self> {
        // The second field is the name, which may hold anything.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        let ticks = |ticks: u64| Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND);
        Some(Self {
            parent: u32::try_from(number(1)?).ok()?,
            own: ticks(number(11)? + number(12)?),
            reaped: ticks(number(13)? + number(14)?),
            threads: number(17)?,
        })
    }
}

/// The proportional share in MiB, or all that is resident where the share may not be seen.
fn memory_of(pid: u32) -> f64 {
    let line = |file: &str, name: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse::<f64>().ok()
    };
    line("smaps_rollup", "Pss:").or_else(|| line("status", "VmRSS:")).unwrap_or_default() / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_may_have_any_name() {
        let stat = "7 (a) (b c) S 3 7 7 0 -1 4194560 1 2 0 0 150 50 7 3 20 0 4 0 123 1 1";
        let process = Process::parse(stat).expect("it is a stat line");

        assert_eq!((process.parent, process.threads), (3, 4));
        assert_eq!((process.own, process.reaped), (Duration::from_secs(2), Duration::from_millis(100)));
    }

    #[test]
    fn a_tree_holds_all_below_and_nothing_beside() {
        let process = |parent| Process { parent, threads: 1, own: Duration::ZERO, reaped: Duration::ZERO };
        let table =
            Table([(2, 1), (3, 2), (4, 3), (5, 1)].map(|(pid, parent)| (pid, process(parent))).into());

        assert_eq!(table.tree(2), [2, 3, 4]);
    }
}
