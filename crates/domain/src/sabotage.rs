//! Faults that are built in on purpose, so that the chaos program can show that it finds each of them (ADR 48).
//!
//! Only the feature `sabotage` can switch one on, and nothing that is shipped is built with it: without the feature every
//! answer here is a constant no.

/// A promise that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A wake-up is acknowledged when it comes, and then forgotten if there is no room for it.
    AckBeforeClaim,
    /// Outcomes and lines are taken whatever attempt they are of.
    NoFence,
    /// Wake-ups are published before there is anything to wake up for.
    PublishBeforeCommit,
    /// Nobody looks for what a lost worker ran.
    NoReaper,
    /// An outcome that nobody has defined counts as a success.
    UnknownStatus,
}

/// Whether this fault is built in and switched on, by `BIFROST_SABOTAGE`.
#[cfg(feature = "sabotage")]
pub fn is(fault: Fault) -> bool {
    static CHOSEN: std::sync::LazyLock<String> =
        std::sync::LazyLock::new(|| std::env::var("BIFROST_SABOTAGE").unwrap_or_default());
    let name = match fault {
        Fault::AckBeforeClaim => "ack-before-claim",
        Fault::NoFence => "no-fence",
        Fault::PublishBeforeCommit => "publish-before-commit",
        Fault::NoReaper => "no-reaper",
        Fault::UnknownStatus => "unknown-status",
    };
    *CHOSEN == name
}

/// Never, in whatever is shipped.
#[cfg(not(feature = "sabotage"))]
pub const fn is(_: Fault) -> bool {
    false
}

/// Whether lost wake-ups stay lost: what loses them is otherwise made good by the sweeper, which is another promise.
#[must_use]
pub fn is_without_sweeper() -> bool {
    is(Fault::AckBeforeClaim) || is(Fault::PublishBeforeCommit)
}

/// Gives the fence to whoever comes: the rows become what these attempts take them for.
#[cfg(feature = "sabotage")]
pub(crate) async fn lift_fence(
    conn: &mut sqlx::PgConnection,
    ids: &[uuid::Uuid],
    attempts: &[i32],
) -> crate::Result<()> {
    if is(Fault::NoFence) {
        sqlx::query(
            "UPDATE executions e SET status = 'Running', attempt = o.attempt
             FROM UNNEST($1::uuid[], $2::int[]) AS o (id, attempt)
             WHERE e.id = o.id AND (e.attempt <> o.attempt OR e.status NOT IN ('Running', 'Cancelling'))",
        )
        .bind(ids)
        .bind(attempts)
        .execute(conn)
        .await?;
    }
    Ok(())
}
