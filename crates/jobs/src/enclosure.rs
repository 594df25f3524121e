//! Who runs are, and what they are enclosed in.

use std::sync::Arc;

use domain::python::Interpreter;
use domain::settings::Settings;
use runner::cgroups::{self, Cgroups};
use runner::{Enclosure, Piece, RunAs, Together};

/// Who runs are when we are root: a user per process, in a range that distributions and containers leave alone.
const OWN_USERS: RunAs = RunAs { first: 2_000_000_000, count: 65_536 };
const NOBODY: u32 = 65_534;
/// What a control group may hold beyond `RUN_MEMORY_MB`, so that a process that is alone in it meets its own limit first
/// and can clean up: a sixteenth, and this much for what it had before it began.
const HEADROOM: u64 = 16 * 1024 * 1024;
/// Processes and threads of a run.
pub(crate) const MAX_PROCESSES: u64 = 512;
const CONTROL_GROUP: &str = "control group";

/// The pieces of the isolation of runs, and which of them can be had here.
///
/// # Errors
/// When the interpreter cannot say.
pub async fn isolation(settings: &Settings) -> anyhow::Result<Vec<Piece>> {
    let interpreter = Interpreter::choose(settings);
    let platform = std::path::absolute(&settings.platform_path)?;
    let enclosure = enclosure(&interpreter, settings, None);
    let mut pieces = runner::probe(&interpreter.path, &platform, &enclosure).await?;
    pieces.push(control_group(settings));
    Ok(pieces)
}

/// Whether runs of a worker that is where we are would have a control group each.
fn control_group(settings: &Settings) -> Piece {
    let found = cgroups::find();
    let available = found.is_ok();
    Piece {
        name: CONTROL_GROUP.into(),
        available,
        used: available && settings.run_cgroups != "off",
        needed: settings.run_cgroups == "required",
        detail: found.map_or_else(
            |missing| format!("a run is not limited as a whole: {missing}"),
            |place| format!("each run is limited as a whole, below {}", place.path().display()),
        ),
    }
}

/// Makes the place for the control groups of a worker's runs, and removes what killed ones have left; `None` where it
/// cannot be had and need not be.
///
/// # Errors
/// Where `RUN_CGROUPS` is `required`, with what is missing.
pub(crate) async fn control_groups(settings: &Settings) -> anyhow::Result<Option<Arc<Cgroups>>> {
    if settings.run_cgroups == "off" {
        return Ok(None);
    }
    match tokio::task::spawn_blocking(Cgroups::create).await? {
        Ok(cgroups) => {
            tracing::info!(folder = %cgroups.path().display(), "each run has a control group");
            Ok(Some(Arc::new(cgroups)))
        }
        Err(missing) if settings.run_cgroups == "required" => {
            anyhow::bail!(
                "RUN_CGROUPS is required, and this worker cannot give runs control groups: {missing}"
            )
        }
        Err(missing) => {
            tracing::info!(%missing, "runs have no control group: each of their processes is limited, not all together");
            Ok(None)
        }
    }
}

/// Refuses to go on where `ISOLATION` is `required` and a piece of it cannot be had.
///
/// # Errors
/// One line that names every such piece, and why.
pub(crate) async fn require_isolation(settings: &Settings) -> anyhow::Result<()> {
    if settings.isolation != "required" {
        return Ok(());
    }
    let pieces = isolation(settings).await?;
    let missing: Vec<String> = pieces
        .iter()
        .filter(|piece| piece.needed && !piece.available)
        .map(|piece| format!("{}: {}", piece.name, piece.detail))
        .collect();
    anyhow::ensure!(
        missing.is_empty(),
        "ISOLATION is required, and this worker cannot give it. {}",
        missing.join("; ")
    );
    Ok(())
}

/// What runs of the interpreter are enclosed in.
pub(crate) fn enclosure(
    interpreter: &Interpreter,
    settings: &Settings,
    cgroups: Option<Arc<Cgroups>>,
) -> Enclosure {
    let memory_bytes = settings.run_memory_mb * 1024 * 1024;
    let together =
        Together { memory_bytes: memory_bytes + memory_bytes / 16 + HEADROOM, processes: MAX_PROCESSES };
    Enclosure {
        mode: settings.isolation.clone(),
        network: settings.run_network.clone(),
        readable: settings.readable_paths(),
        run_as: interpreter.as_another.then(own_users),
        cgroup: cgroups.map(|cgroups| (cgroups, together)),
    }
}

/// A range of users that this user namespace has and that nothing else uses, else the one that stands for nobody.
fn own_users() -> RunAs {
    let has_range = |map: &str| std::fs::read_to_string(map).is_ok_and(|map| covers(&map, OWN_USERS));
    if has_range("/proc/self/uid_map") && has_range("/proc/self/gid_map") {
        OWN_USERS
    } else {
        RunAs { first: NOBODY, count: 1 }
    }
}

/// Whether one line of a map (`inside outside count`) holds the whole range.
fn covers(map: &str, users: RunAs) -> bool {
    map.lines().any(|line| {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        let wanted = u64::from(users.first)..u64::from(users.first) + u64::from(users.count);
        matches!(numbers[..], [inside, _, count] if inside <= wanted.start && wanted.end <= inside + count)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_taken_from_a_range_that_the_namespace_has() {
        let whole = "         0          0 4294967295\n";
        let container = "         0     100000      65536\n";
        assert!(covers(whole, OWN_USERS));
        assert!(!covers(container, OWN_USERS));
        assert!(covers(container, RunAs { first: NOBODY, count: 1 }));
        assert!(!covers("", OWN_USERS));
    }
}
