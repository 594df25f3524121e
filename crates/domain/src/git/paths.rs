//! How the paths of files lie to each other: where one side has a file, the other may have a folder.

use std::collections::BTreeSet;

/// Paths of files.
#[derive(Debug, Clone, Default)]
pub(super) struct Paths(BTreeSet<String>);

impl Paths {
    pub(super) fn has(&self, path: &str) -> bool {
        self.0.contains(path)
    }

    /// Those in a folder.
    pub(super) fn inside(&self, folder: &str) -> impl Iterator<Item = &String> {
        let prefix = format!("{folder}/");
        self.0.range(prefix.clone()..).take_while(move |path| path.starts_with(&prefix))
    }

    /// Whether one of them is at `path`, or only one of both can be there: the one would be a folder of the other.
    pub(super) fn meet(&self, path: &str) -> bool {
        upwards(path).any(|path| self.has(path)) || self.inside(path).next().is_some()
    }
}

impl FromIterator<String> for Paths {
    fn from_iter<T: IntoIterator<Item = String>>(paths: T) -> Self {
        Self(paths.into_iter().collect())
    }
}

/// A path, and the folders it is in, the innermost first.
pub(super) fn upwards(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| path.rsplit_once('/').map(|(folder, _)| folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_meets_what_cannot_be_there_besides() {
        let paths: Paths = ["a/b.txt", "a-b", "c"].map(ToOwned::to_owned).into_iter().collect();
        for met in ["a/b.txt", "a", "a/b.txt/deep", "c", "c/in/it"] {
            assert!(paths.meet(met), "{met}");
        }
        for free in ["a/c.txt", "b.txt", "a-", "a-b.txt", "cc", ""] {
            assert!(!paths.meet(free), "{free}");
        }
        assert_eq!(paths.inside("a").collect::<Vec<_>>(), ["a/b.txt"]);
        assert_eq!(upwards("a/b/c").collect::<Vec<_>>(), ["a/b/c", "a/b", "a"]);
    }
}
