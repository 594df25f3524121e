//! Control groups (version 2): the place below the worker's own group where each process of a run gets one.
//!
//! The groups of processes are made and removed by the template (`platform/bifrost/_host/cgroups.py`). The invariant: a
//! place that is in use is locked, and what is not locked belongs to nobody and is removed, with whoever is in it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

/// Where runs are; followed by the worker's process id and a number.
const PREFIX: &str = "bifrost.runs.";
/// Where workers are: a group that hands controllers on may hold no process itself.
const WORKERS: &str = "bifrost.workers";
const NEEDED: [&str; 2] = ["memory", "pids"];
/// Under load workers come before all runs together, of which each has the same share.
const WORKERS_CPU_WEIGHT: &str = "1000";
/// How long the kernel may take to end what was killed.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(5);
const TRIES: usize = 5;

static NEXT: AtomicU32 = AtomicU32::new(1);

/// Why runs cannot have control groups here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Missing(String);

/// Where the groups of runs can be made; nothing is made yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The group that holds workers and runs.
    folder: PathBuf,
    /// It is all that this control group namespace shows: whoever is in it came with us.
    is_whole_namespace: bool,
}

/// The place of one worker.
#[derive(Debug)]
pub struct Cgroups {
    path: PathBuf,
    /// Holds the lock.
    _handle: File,
}

impl Place {
    /// The group below which runs would be.
    pub fn path(&self) -> &Path {
        &self.folder
    }
}

/// Looks whether control groups can be made here. Changes nothing that stays.
///
/// # Errors
/// [`Missing`], which says what is.
pub fn find() -> Result<Place, Missing> {
    let read = |path: &str| fs::read_to_string(path).map_err(|error| missing(format!("{path}: {error}")));
    let place = locate(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?)?;
    let shown = place.folder.display();
    let controllers = fs::read_to_string(place.folder.join("cgroup.controllers"))
        .map_err(|error| missing(format!("{shown} cannot be read: {error}")))?;
    lacks(&controllers).map_or(Ok(()), |lacking| {
        Err(missing(format!("{shown} has no controller for {lacking} (it has: {})", controllers.trim())))
    })?;
    let trial = place.folder.join(format!("bifrost.trial.{}", std::process::id()));
    match fs::create_dir(&trial) {
        Ok(()) => {
            let _ = fs::remove_dir(&trial);
            Ok(place)
        }
        // Somebody of this very process looks as well.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(place),
        Err(error) => Err(missing(format!("no group can be made in {shown}: {error}"))),
    }
}

impl Cgroups {
    /// Makes the place of a worker, removes what killed workers have left beside it, and moves this process out of the
    /// way. Blocks for as long as the kernel needs.
    ///
    /// # Errors
    /// [`Missing`], which says what is.
    pub fn create() -> Result<Self, Missing> {
        let place = find()?;
        let folder = &place.folder;
        remove_left_over(folder).map_err(|error| failed(folder, &error))?;
        // The group of the whole machine alone may hold both processes and groups with controllers.
        if folder.join("cgroup.type").exists() {
            make_way(&place).map_err(|error| failed(folder, &error))?;
        }
        hand_on(folder)?;
        let workers = folder.join(WORKERS);
        if workers.join("cpu.weight").exists() {
            fs::write(workers.join("cpu.weight"), WORKERS_CPU_WEIGHT)
                .map_err(|error| failed(&workers, &error))?;
        }
        let made = Self::lock_new(folder).map_err(|error| failed(folder, &error))?;
        hand_on(&made.path)?;
        Ok(made)
    }

    /// The folder in which each process gets its group.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ends whoever is in it and removes it; blocks until the kernel has done so.
    ///
    /// # Errors
    /// When something stays.
    pub fn remove(&self) -> io::Result<()> {
        remove_tree(&self.path)
    }

    fn lock_new(folder: &Path) -> io::Result<Self> {
        for _ in 0..TRIES {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = folder.join(format!("{PREFIX}{}.{number}", std::process::id()));
            match fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made?,
            }
            let handle = File::open(&path)?;
            let is_ours = flock(&handle, FlockOperation::NonBlockingLockExclusive).is_ok();
            // Another worker that looks for what is left may have been between the two.
            let inode = handle.metadata()?.ino();
            if is_ours && fs::metadata(&path).is_ok_and(|found| found.ino() == inode) {
                return Ok(Self { path, _handle: handle });
            }
        }
        Err(io::Error::other("other workers are in the way"))
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        // Whoever removed it before leaves nothing to do; a process still dying is left to the next start.
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
        let _ = remove_empty(&self.path);
    }
}

/// Finds our own group in what `/proc/self/mountinfo` and `/proc/self/cgroup` say.
fn locate(mounts: &str, groups: &str) -> Result<Place, Missing> {
    let own = groups
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .ok_or_else(|| missing("this system has no control groups of version 2"))?;
    let (root, mounted) = mounts
        .lines()
        .find_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let mut fields = before.split(' ').skip(3);
            after.starts_with("cgroup2 ").then(|| Some((fields.next()?, fields.next()?)))?
        })
        .ok_or_else(|| missing("no file system of control groups (cgroup2) is mounted"))?;
    let below = Path::new(own)
        .strip_prefix(root)
        .map_err(|_| missing("the worker's own control group is not among the mounted ones"))?;
    let mut folder = Path::new(mounted).join(below);
    let mut is_whole_namespace = below.as_os_str().is_empty();
    // Started by somebody whom another worker moved.
    if below.file_name().is_some_and(|name| name == WORKERS) {
        folder.pop();
        is_whole_namespace = below.components().count() == 1;
    }
    Ok(Place { folder, is_whole_namespace })
}

fn lacks(controllers: &str) -> Option<&'static str> {
    NEEDED.into_iter().find(|needed| !controllers.split_whitespace().any(|found| found == *needed))
}

/// Moves ourselves, what we have started, and in a namespace of our own all others to the group for workers.
fn make_way(place: &Place) -> io::Result<()> {
    let workers = place.folder.join(WORKERS);
    match fs::create_dir(&workers) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    for pid in fs::read_to_string(place.folder.join("cgroup.procs"))?.lines() {
        if place.is_whole_namespace || is_below_us(pid) {
            // One that has ended need not be moved.
            let _ = fs::write(workers.join("cgroup.procs"), pid);
        }
    }
    Ok(())
}

fn is_below_us(pid: &str) -> bool {
    let own = std::process::id().to_string();
    let mut pid = pid.to_owned();
    while pid != own {
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
        match parent {
            Some("0" | "1") | None => return own == "1" && parent == Some("1"),
            Some(parent) => pid = parent.to_owned(),
        }
    }
    true
}

/// Lets groups below `folder` have the controllers; that of processor time if it is there.
fn hand_on(folder: &Path) -> Result<(), Missing> {
    let control = folder.join("cgroup.subtree_control");
    let _ = fs::write(&control, "+cpu");
    fs::write(&control, NEEDED.map(|name| format!("+{name}")).join(" ")).map_err(|error| {
        if error.kind() == io::ErrorKind::ResourceBusy {
            return missing(format!(
                "other processes are in the worker's control group {}: give it one of its own, as a service with \
                 Delegate=yes has",
                folder.display()
            ));
        }
        failed(folder, &error)
    })
}

/// Removes what nobody holds.
fn remove_left_over(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        if !entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        let Ok(handle) = File::open(entry.path()) else { continue };
        if flock(&handle, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        match remove_tree(&entry.path()) {
            Ok(()) => tracing::info!(group = ?entry.file_name(), "removed control groups of a killed worker"),
            Err(error) => {
                tracing::warn!(%error, group = ?entry.file_name(), "control groups of a killed worker stay")
            }
        }
    }
    Ok(())
}

fn remove_tree(path: &Path) -> io::Result<()> {
    let began = Instant::now();
    loop {
        match fs::write(path.join("cgroup.kill"), "1").and_then(|()| remove_empty(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if began.elapsed() > PATIENCE => return Err(error),
            Err(_) => thread::sleep(PAUSE),
            Ok(()) => return Ok(()),
        }
    }
}

/// Removes a group and the ones in it; the files in them are the kernel's and go with them.
fn remove_empty(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // Its template may have removed it first.
            let _ = fs::remove_dir(entry.path());
        }
    }
    fs::remove_dir(path)
}

fn missing(why: impl Into<String>) -> Missing {
    Missing(why.into())
}

fn failed(folder: &Path, error: &io::Error) -> Missing {
    missing(format!("{} cannot be used: {error}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIFIED: &str = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
    const HYBRID: &str = "34 30 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                          42 30 0:33 / /sys/fs/cgroup/unified rw - cgroup2 none rw\n";

    fn located(mounts: &str, groups: &str) -> Result<(String, bool), String> {
        let place = locate(mounts, groups).map_err(|missing| missing.to_string())?;
        Ok((place.folder.display().to_string(), place.is_whole_namespace))
    }

    #[test]
    fn the_own_group_is_found_below_the_mount() {
        let service = "/sys/fs/cgroup/system.slice/bifrost.service".to_owned();
        assert_eq!(located(UNIFIED, "0::/system.slice/bifrost.service\n"), Ok((service.clone(), false)));
        let moved = "0::/system.slice/bifrost.service/bifrost.workers\n";
        assert_eq!(located(UNIFIED, moved), Ok((service, false)));
        assert_eq!(located(UNIFIED, "0::/\n"), Ok(("/sys/fs/cgroup/".into(), true)));
        assert_eq!(located(UNIFIED, "0::/bifrost.workers\n"), Ok(("/sys/fs/cgroup".into(), true)));
        assert_eq!(
            located(HYBRID, "4:memory:/somewhere\n0::/\n"),
            Ok(("/sys/fs/cgroup/unified/".into(), true))
        );
    }

    #[test]
    fn what_is_not_there_is_named() {
        assert!(located(UNIFIED, "4:memory:/\n").expect_err("is old").contains("version 2"));
        assert!(located("", "0::/\n").expect_err("is not mounted").contains("mounted"));
        let part = UNIFIED.replace(" / ", " /docker/7 ");
        assert!(located(&part, "0::/other\n").expect_err("is elsewhere").contains("own control group"));
        assert_eq!(lacks("cpuset cpu io memory pids"), None);
        assert_eq!(lacks("hugetlb\n"), Some("memory"));
    }

    #[test]
    fn whoever_is_below_us_is_told_from_others() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("starts");
        assert!(is_below_us(&child.id().to_string()));
        assert!(is_below_us(&std::process::id().to_string()));
        assert!(!is_below_us(&rustix::process::getppid().expect("has one").as_raw_nonzero().to_string()));
        child.kill().expect("ends");
        child.wait().expect("ends");
    }
}
