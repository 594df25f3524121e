//! What people may ask for: names, versions, and the lines of `requirements.txt`.
//!
//! The invariant: what comes out of here is a name with versions, extras and markers, written anew from what was
//! understood. No option, address or path of the text gets any further.

use std::str::FromStr;

use pep440_rs::VersionSpecifiers;
use pep508_rs::{PackageName, Requirement, VersionOrUrl};
use serde::{Deserialize, Serialize};
use url::Url;

use super::Package;

const MAX_NAME: usize = 100;
const MAX_VERSION: usize = 200;
const MAX_LINE: usize = 1_000;
/// Requirements of one file.
const MAX_REQUIREMENTS: usize = 500;

/// The normalized name of a package.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(PackageName);

/// Which versions are wanted: at least one PEP 440 specifier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version(VersionSpecifiers);

/// A `requirements.txt`: what was asked for, with its comments.
#[derive(Debug, Clone, Default)]
pub struct Requirements {
    lines: Vec<Line>,
}

#[derive(Debug, Clone)]
enum Line {
    /// A comment, or an empty line.
    Other(String),
    Wanted(Box<Requirement<Url>>),
}

impl Name {
    /// The normalized name.
    pub fn as_str(&self) -> &str {
        self.0.as_ref()
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "must be the name of a package: letters, digits, `.`, `_` and `-`";
        if text.len() > MAX_NAME {
            return Err(format!("must have at most {MAX_NAME} characters"));
        }
        match PackageName::from_str(text) {
            Ok(name) if !text.is_empty() => Ok(Self(name)),
            _ => Err(expected.to_owned()),
        }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.as_str().to_owned()
    }
}

impl FromStr for Version {
    type Err = String;

    /// Reads specifiers (`>=2,<3`), or a version, which means exactly that one.
    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "must be a version such as 2.31.0, or specifiers such as >=2,<3";
        if text.len() > MAX_VERSION {
            return Err(format!("must have at most {MAX_VERSION} characters"));
        }
        if text.chars().any(char::is_control) {
            return Err(expected.to_owned());
        }
        let specifiers = match pep440_rs::Version::from_str(text.trim()) {
            Ok(version) => VersionSpecifiers::from_str(&format!("=={version}")),
            Err(_) => VersionSpecifiers::from_str(text),
        };
        match specifiers {
            Ok(specifiers) if !specifiers.is_empty() => Ok(Self(specifiers)),
            _ => Err(expected.to_owned()),
        }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for Version {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

impl Requirements {
    /// Reads a file.
    ///
    /// # Errors
    /// The first line that is more than a name with versions, in words for who wrote it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lines = text.lines().enumerate().map(|(at, line)| {
            Line::parse(line).map_err(|fault| format!("{}, line {}: {fault}", super::FILE, at + 1))
        });
        let lines: Vec<Line> = lines.collect::<Result<_, _>>()?;
        let wanted = lines.iter().filter(|line| matches!(line, Line::Wanted(_))).count();
        if wanted > MAX_REQUIREMENTS {
            return Err(format!("{} names more than {MAX_REQUIREMENTS} packages", super::FILE));
        }
        Ok(Self { lines })
    }

    /// Asks for a package: its line is replaced, or added. Extras and markers of the line stay.
    pub fn install(&mut self, name: &Name, version: Option<&Version>) {
        let version_or_url = version.map(|version| VersionOrUrl::VersionSpecifier(version.0.clone()));
        let mut is_there = false;
        for requirement in self.wanted_mut().filter(|requirement| requirement.name == name.0) {
            requirement.version_or_url.clone_from(&version_or_url);
            is_there = true;
        }
        if !is_there {
            self.lines.push(Line::Wanted(Box::new(Requirement {
                name: name.0.clone(),
                extras: Vec::new(),
                version_or_url,
                marker: pep508_rs::MarkerTree::TRUE,
                origin: None,
            })));
        }
    }

    /// Asks for a package no longer; `false` if nobody had.
    pub fn uninstall(&mut self, name: &Name) -> bool {
        let before = self.lines.len();
        self.lines.retain(|line| !matches!(line, Line::Wanted(requirement) if requirement.name == name.0));
        self.lines.len() < before
    }

    /// Fixes a package that was asked for in any version at the one that was found.
    pub fn pin(&mut self, name: &Name, packages: &[Package]) {
        let Some(found) = packages.iter().find(|package| package.name == name.as_str()) else { return };
        let Ok(version) = found.version.parse::<Version>() else { return };
        for requirement in self.wanted_mut() {
            if requirement.name == name.0 && requirement.version_or_url.is_none() {
                requirement.version_or_url = Some(VersionOrUrl::VersionSpecifier(version.0.clone()));
            }
        }
    }

    /// Whether it asks for anything.
    pub fn is_empty(&self) -> bool {
        !self.lines.iter().any(|line| matches!(line, Line::Wanted(_)))
    }

    /// What an installer reads: one requirement a line, and nothing else.
    pub fn for_installer(&self) -> String {
        let wanted = self.lines.iter().filter_map(|line| match line {
            Line::Wanted(requirement) => Some(format!("{requirement}\n")),
            Line::Other(_) => None,
        });
        wanted.collect()
    }

    fn wanted_mut(&mut self) -> impl Iterator<Item = &mut Requirement<Url>> {
        self.lines.iter_mut().filter_map(|line| match line {
            Line::Wanted(requirement) => Some(&mut **requirement),
            Line::Other(_) => None,
        })
    }
}

impl std::fmt::Display for Requirements {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for line in &self.lines {
            match line {
                Line::Other(text) => writeln!(f, "{text}")?,
                Line::Wanted(requirement) => writeln!(f, "{requirement}")?,
            }
        }
        Ok(())
    }
}

impl Line {
    fn parse(line: &str) -> Result<Self, String> {
        const EXPECTED: &str = "only names with versions can be used here, such as `requests>=2,<3`; no options, addresses or files";
        let text = line.trim();
        if text.is_empty() || text.starts_with('#') {
            return Ok(Self::Other(line.trim_end().to_owned()));
        }
        if text.len() > MAX_LINE {
            return Err(format!("is longer than {MAX_LINE} characters"));
        }
        // As pip reads it, a comment begins after a blank.
        let text = text.split_once(" #").map_or(text, |(text, _)| text.trim_end());
        let requirement = Requirement::<Url>::from_str(text).map_err(|_| EXPECTED.to_owned())?;
        if matches!(requirement.version_or_url, Some(VersionOrUrl::Url(_))) {
            return Err(EXPECTED.to_owned());
        }
        Ok(Self::Wanted(Box::new(requirement)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_versions_are_what_the_standards_say() {
        for (text, normalized) in
            [("Requests", "requests"), ("zope.interface", "zope-interface"), ("A_b--c", "a-b-c")]
        {
            assert_eq!(text.parse::<Name>().expect("a name").as_str(), normalized);
        }
        for (text, canonical) in [
            ("2.31.0", "==2.31.0"),
            (" 1.0 ", "==1.0"),
            (">=2, <3", ">=2, <3"),
            ("~=1.4", "~=1.4"),
            ("==1.*", "==1.*"),
        ] {
            assert_eq!(text.parse::<Version>().expect("a version").to_string(), canonical);
        }
        assert!("".parse::<Name>().is_err());
        for wrong in ["", " ", "latest", "1.0; os_name == 'x'", "@ https://x", "==1.0\n--index-url=x", "1 2"]
        {
            assert!(wrong.parse::<Version>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_file_keeps_its_comments_and_changes_one_line() {
        let text = "# ours\nrequests>=2\n\nRich[jupyter]==13.0 ; python_version >= '3.8'  # tables\n";
        let mut file = Requirements::parse(text).expect("reads");
        file.install(&"requests".parse().expect("a name"), Some(&"3.0".parse().expect("a version")));
        file.install(&"httpx".parse().expect("a name"), None);
        file.pin(
            &"httpx".parse().expect("a name"),
            &[Package { name: "httpx".into(), version: "0.28".into() }],
        );
        let written = file.to_string();
        assert!(written.starts_with("# ours\nrequests==3.0\n\nrich[jupyter]==13.0"), "{written}");
        assert!(written.ends_with("httpx==0.28\n"), "{written}");
        assert!(!file.for_installer().contains('#'));
        assert!(file.uninstall(&"RICH".parse().expect("a name")));
        assert!(!file.uninstall(&"rich".parse().expect("a name")));
    }

    #[test]
    fn no_line_of_a_file_is_more_than_names_and_versions() {
        for line in [
            "--index-url https://evil.example/simple",
            "-r other.txt",
            "-e .",
            "./local",
            "../x.whl",
            "/tmp/x.whl",
            "file:///tmp/x.whl",
            "https://evil.example/x.whl",
            "git+https://evil.example/x",
            "x @ https://evil.example/x.whl",
            "x @ file:///tmp/x.whl",
            "requests --global-option=x",
            "requests --hash=sha256:00",
            "requests \\",
            "$(touch canary)",
            "a b",
        ] {
            let fault = Requirements::parse(&format!("ok==1\n{line}\n")).expect_err(line);
            assert!(fault.starts_with("requirements.txt, line 2: "), "{fault}");
        }
    }
}
