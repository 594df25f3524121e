//! Searching the text files of the workspace, line by line, with the searcher of ripgrep: patterns are matched in linear
//! time, so no pattern can hang it.

use std::time::{Duration, Instant};

use grep_matcher::Matcher;
use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use grep_searcher::{BinaryDetection, Searcher, SearcherBuilder, Sink, SinkMatch};
use ignore::overrides::{Override, OverrideBuilder};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{MAX_FILE, on_disk};
use crate::workspace_files::Files;
use crate::{Error, Platform, Result};

const MAX_QUERY: usize = 1_000;
/// Longest part of a line that is shown.
const MAX_LINE: usize = 1_000;
/// Longest search; what was found until then is given.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a search waits for its turn.
const TURN: Duration = Duration::from_secs(10);
/// The longest that whoever searches may wait.
pub const SEARCH_PATIENCE: Duration = TURN.saturating_add(PATIENCE);
/// Searches at one time in this process; others wait.
static AT_ONCE: Semaphore = Semaphore::const_new(2);

/// What to look for.
#[derive(Debug)]
pub struct Query {
    /// Text, or a pattern.
    pub text: String,
    /// Whether capitals matter.
    pub case_sensitive: bool,
    /// Whether `text` is a pattern.
    pub is_regex: bool,
    /// Which files, as in `.gitignore`.
    pub include: String,
    /// Matches that are given at most.
    pub max_results: usize,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// Where, by path, line and column.
    pub matches: Vec<Match>,
    /// Files that were looked through.
    pub files_searched: usize,
    /// Whether there is more.
    pub truncated: bool,
    /// How long it took.
    pub took: Duration,
}

/// One match.
#[derive(Debug, PartialEq, Eq)]
pub struct Match {
    /// Path relative to the workspace.
    pub path: String,
    /// Line, from 1.
    pub line: u64,
    /// Characters in front of it in its line.
    pub column: usize,
    /// The line.
    pub text: String,
    /// The line before.
    pub before: Option<String>,
    /// The line after.
    pub after: Option<String>,
}

/// Searches text files of at most ten MiB, hidden ones aside.
///
/// # Errors
/// [`Error::Impossible`] for a pattern that is none; [`Error::Unavailable`] when others search for too long.
pub async fn search(platform: &Platform, query: Query) -> Result<Found> {
    if query.text.chars().count() > MAX_QUERY || query.include.len() > MAX_QUERY {
        return Err(Error::Impossible(format!("a pattern may have at most {MAX_QUERY} characters")));
    }
    let matcher = RegexMatcherBuilder::new()
        .case_insensitive(!query.case_sensitive)
        .fixed_strings(!query.is_regex)
        // `$` is in front of `\r\n` too, as lines are shown; `\n` alone is what no pattern may hold.
        .multi_line(true)
        .crlf(true)
        .line_terminator(Some(b'\n'))
        .build(&query.text)
        .map_err(|error| Error::Impossible(format!("the pattern cannot be read: {error}")))?;
    let included = || OverrideBuilder::new("").add(&query.include)?.build();
    let included =
        included().map_err(|error| Error::Impossible(format!("include_pattern cannot be read: {error}")))?;
    let turn = turn(TURN).await?;
    // What waiting took is not the search's.
    let began = Instant::now();
    let most = query.max_results;
    let found = on_disk(&platform.settings.workspace_path, move |files| {
        // Held by the search itself, which goes on when whoever asked has left.
        let _turn = turn;
        look(files, &matcher, &included, most, began)
    })
    .await?;
    Ok(Found { took: began.elapsed(), ..found })
}

/// The right to search, as soon as there are not too many who do.
async fn turn(patience: Duration) -> Result<SemaphorePermit<'static>> {
    match tokio::time::timeout(patience, AT_ONCE.acquire()).await {
        Ok(turn) => turn.map_err(Error::internal),
        Err(late) => Err(Error::Unavailable { service: "the search", source: late.into() }),
    }
}

fn look(
    files: &Files,
    matcher: &RegexMatcher,
    included: &Override,
    most: usize,
    began: Instant,
) -> Result<Found> {
    let mut searcher =
        SearcherBuilder::new().binary_detection(BinaryDetection::quit(0)).line_number(true).build();
    let mut found = Found::default();
    for entry in files.find(|name| !name.starts_with('.'))? {
        if !included.matched(entry.path.as_str(), false).is_whitelist() || entry.size > MAX_FILE {
            continue;
        }
        if began.elapsed() > PATIENCE {
            found.truncated = true;
            break;
        }
        // A file that is gone by now, or is none that may be read, has nothing to find.
        let Ok(content) = files.read(&entry.path, MAX_FILE) else { continue };
        found.files_searched += 1;
        look_into(&mut searcher, matcher, entry.path.as_str(), &content.bytes, most, &mut found)?;
        if found.truncated {
            break;
        }
    }
    Ok(found)
}

fn look_into(
    searcher: &mut Searcher,
    matcher: &RegexMatcher,
    path: &str,
    bytes: &[u8],
    most: usize,
    found: &mut Found,
) -> Result<()> {
    let first = found.matches.len();
    let sink = Collect { matcher, path, bytes, most, found };
    searcher.search_slice(matcher, bytes, sink).map_err(Error::internal)?;
    // What turned out not to be text after some lines is no text file.
    if bytes.contains(&0) {
        found.matches.truncate(first);
        found.truncated = false;
    }
    Ok(())
}

struct Collect<'a> {
    matcher: &'a RegexMatcher,
    path: &'a str,
    bytes: &'a [u8],
    most: usize,
    found: &'a mut Found,
}

impl Sink for Collect<'_> {
    type Error = std::io::Error;

    fn matched(&mut self, _: &Searcher, lines: &SinkMatch<'_>) -> Result<bool, Self::Error> {
        let line = without_end(lines.bytes());
        let start = usize::try_from(lines.absolute_byte_offset()).unwrap_or(usize::MAX);
        let (before, after) = around(self.bytes, start, lines.bytes().len());
        let mut columns = Vec::new();
        let room = self.most + 1 - self.found.matches.len();
        self.matcher
            .find_iter(line, |found| {
                columns.push(String::from_utf8_lossy(&line[..found.start()]).chars().count());
                columns.len() < room
            })
            .map_err(std::io::Error::other)?;
        for column in columns {
            if self.found.matches.len() == self.most {
                self.found.truncated = true;
                return Ok(false);
            }
            self.found.matches.push(Match {
                path: self.path.to_owned(),
                line: lines.line_number().unwrap_or_default(),
                column,
                text: shown(line),
                before: before.map(shown),
                after: after.map(shown),
            });
        }
        Ok(true)
    }
}

/// The lines before and after the one that begins at `start`.
fn around(bytes: &[u8], start: usize, length: usize) -> (Option<&[u8]>, Option<&[u8]>) {
    let before = (start > 0).then(|| without_end(&bytes[..start])).map(|text| {
        let begin = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        &text[begin..]
    });
    let rest = bytes.get(start + length..).filter(|rest| !rest.is_empty());
    let after = rest.and_then(|rest| rest.split(|byte| *byte == b'\n').next()).map(without_end);
    (before, after)
}

fn without_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn shown(line: &[u8]) -> String {
    String::from_utf8_lossy(line).chars().take(MAX_LINE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_waits_for_a_turn_without_end() {
        let first = turn(Duration::ZERO).await.expect("nobody searches");
        let _second = turn(Duration::ZERO).await.expect("two may");
        let late = turn(Duration::ZERO).await.expect_err("a third may not");
        assert!(late.is_unavailable(), "{late}");
        drop(first);
        let _again = turn(Duration::ZERO).await.expect("a turn is free again");
    }
}
