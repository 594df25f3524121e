//! Lines: stored without a gap, and told without a gap, up to the end.

use std::collections::HashSet;

use super::{Facts, Verdict, verdict};

/// Sequences are 1, 2, 3 …, for those who see everything and for those who do not.
pub(super) fn lines(facts: &Facts<'_>) -> Verdict {
    let mut told = Vec::new();
    for (id, lines) in &facts.lines {
        let all = lines.iter().map(|line| line.sequence);
        let own = lines.iter().filter_map(|line| line.user_sequence);
        if !is_counting(all) {
            told.push(format!("the lines of {id} have a gap"));
        }
        if !is_counting(own) {
            told.push(format!("the lines of {id} that users see have a gap"));
        }
    }
    let figure = format!("gaps {} in {} lines", told.len(), facts.history.lines.len());
    verdict("R21", "stored lines have no gap", facts.lines.len(), figure, told)
}

/// R21: a follower misses nothing, over however many connections, and hears the end last.
pub(super) fn followers(facts: &Facts<'_>) -> Verdict {
    let mut told = Vec::new();
    let (mut connections, mut heard) = (0, 0);
    for followed in &facts.history.followed {
        connections += followed.connections;
        heard += followed.lines.len();
        let id = followed.execution;
        let stored = facts.lines.get(&id).map_or(&[][..], Vec::as_slice);
        // By attempt: a line of a lost one is no substitute for what the next gave its number.
        let told_of: HashSet<(i64, i64)> = followed.lines.iter().copied().collect();
        let own = stored.iter().filter_map(|line| Some((i64::from(line.attempt), line.user_sequence?)));
        let missing: Vec<(i64, i64)> = own.filter(|line| !told_of.contains(line)).collect();
        let end = facts.rows.get(&id).map(|row| row.status.as_str());
        if followed.terminal.as_deref() != end {
            told.push(format!("a follower of {id} heard the end {:?}, which is {end:?}", followed.terminal));
        }
        if !missing.is_empty() {
            told.push(format!("a follower of {id} missed {} of {} lines", missing.len(), stored.len()));
        }
        if !is_gapless(&followed.lines) {
            told.push(format!("a follower of {id} heard {:?}", followed.lines));
        }
        if followed.lines_after_end > 0 {
            told.push(format!("a follower of {id} heard lines after the end"));
        }
    }
    let figure = format!("missing {} of {heard} lines, {connections} connections", told.len());
    verdict("R21", "followers miss nothing", facts.history.followed.len(), figure, told)
}

fn is_counting(mut numbers: impl Iterator<Item = i64>) -> bool {
    let mut next = 1;
    numbers.all(|number| {
        let is_next = number == next;
        next += 1;
        is_next
    })
}

/// Whether the lines count up, but for the first of a later attempt, which counts on from what was stored of those before.
fn is_gapless(lines: &[(i64, i64)]) -> bool {
    let (mut attempt, mut last) = (0, 0);
    lines.iter().all(|&(its_attempt, sequence)| {
        let follows = sequence == last + 1;
        let counts_on = its_attempt > attempt && (1..=last).contains(&sequence);
        (attempt, last) = (its_attempt.max(attempt), sequence);
        follows || counts_on
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_later_attempt_gives_numbers_anew() {
        assert!(is_gapless(&[(1, 1), (1, 2), (1, 3), (2, 2), (2, 3)]));
        assert!(is_gapless(&[(1, 1), (2, 2), (2, 3)]));
        for broken in [[(1, 1), (1, 1)], [(1, 1), (1, 3)], [(1, 2), (1, 3)], [(1, 1), (2, 3)]] {
            assert!(!is_gapless(&broken), "{broken:?}");
        }
        assert!(!is_gapless(&[(1, 1), (1, 2), (2, 1), (2, 1)]), "once for each attempt");
    }
}
