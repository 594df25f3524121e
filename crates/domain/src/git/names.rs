//! Names that people give: branches, commits, repositories. What passes here can be nothing else to any program.

use url::Url;

use crate::settings::Settings;
use crate::{Error, Result};

const MAX_BRANCH: usize = 200;
const MAX_URL: usize = 1_024;
const MAX_REPOSITORY: usize = 100;

/// The name of a branch, by the rules of git and a little stricter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branch(String);

/// The name of a commit: hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitName(String);

/// The address of a repository: https, or what the settings allow for development and tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address(Url);

/// A server: its host, with its port unless that is 443.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server(String);

impl Branch {
    /// Reads a name.
    ///
    /// # Errors
    /// [`Error::Invalid`] at `pointer`.
    pub fn parse(pointer: &str, text: &str) -> Result<Self> {
        let is_plain =
            |c: char| !c.is_control() && !c.is_whitespace() && !" ~^:?*[\\\"'`$;&|<>(){}!".contains(c);
        let is_part = |part: &str| {
            !part.is_empty()
                && !part.starts_with(['.', '-'])
                && !part.ends_with('.')
                && !part.to_ascii_lowercase().ends_with(".lock")
        };
        let fits = text.len() <= MAX_BRANCH
            && text.chars().all(is_plain)
            && text.split('/').all(is_part)
            && !text.contains("..")
            && !text.contains("@{")
            && !matches!(text, "@" | "HEAD")
            && !text.starts_with("refs/");
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::invalid(pointer, "must be the name of a branch"))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where a repository keeps it.
    pub(super) fn local(&self) -> String {
        format!("refs/heads/{}", self.0)
    }

    /// Where we keep what the server had at the last look.
    pub(super) fn tracking(&self) -> String {
        format!("refs/remotes/origin/{}", self.0)
    }
}

impl CommitName {
    /// Reads a name, whole or shortened.
    ///
    /// # Errors
    /// [`Error::Invalid`] at `pointer`.
    pub fn parse(pointer: &str, text: &str) -> Result<Self> {
        let fits = (4..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if fits {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(Error::invalid(pointer, "must be 4 to 64 hexadecimal digits"))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Address {
    /// Reads an address, or `owner/name` of a repository on GitHub.
    ///
    /// # Errors
    /// [`Error::Invalid`] at `pointer`.
    pub fn parse(pointer: &str, text: &str, settings: &Settings) -> Result<Self> {
        let invalid = |detail: &str| Err(Error::invalid(pointer, detail));
        let text = text.trim();
        if text.len() > MAX_URL || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return invalid("must be an address without spaces");
        }
        let url = if let Some((owner, name)) = full_name(text) {
            Url::parse(&format!("{}/{owner}/{name}.git", settings.github_url.trim_end_matches('/')))
        } else if settings.git_local_remotes && text.starts_with('/') {
            Url::from_file_path(text).map_err(|()| url::ParseError::EmptyHost)
        } else {
            Url::parse(text)
        };
        let Ok(url) = url else { return invalid("must begin with https://") };
        if !url.username().is_empty() || url.password().is_some() {
            return invalid("must not hold a user name, password or token");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return invalid("must not have a ? or #");
        }
        match url.scheme() {
            "https" if url.path().len() > 1 => Ok(Self(url)),
            "https" => invalid("must name a repository"),
            // The guard of outgoing calls admits what may do without TLS.
            "http" if !settings.outbound_admit.is_empty() => Ok(Self(url)),
            "file" if settings.git_local_remotes && url.host().is_none() => Ok(Self(url)),
            _ => invalid("must begin with https://"),
        }
    }

    /// The address.
    pub fn url(&self) -> &Url {
        &self.0
    }

    /// The server it is on; `None`: it is a folder of this machine.
    pub fn server(&self) -> Option<Server> {
        Server::of(&self.0)
    }

    /// `owner/name`, if it is a repository of the GitHub that the settings name.
    pub fn on_github(&self, settings: &Settings) -> Option<String> {
        let github = Url::parse(&settings.github_url).ok()?;
        let is_there = (github.host(), github.port_or_known_default())
            == (self.0.host(), self.0.port_or_known_default());
        let path =
            self.0.path().trim_matches('/').strip_suffix(".git").unwrap_or(self.0.path().trim_matches('/'));
        full_name(path).filter(|_| is_there).map(|(owner, name)| format!("{owner}/{name}"))
    }
}

impl Server {
    /// GitHub, as the settings name it.
    ///
    /// # Errors
    /// [`Error::Internal`] when they name no server.
    pub fn github(settings: &Settings) -> Result<Self> {
        let url = Url::parse(&settings.github_url).map_err(Error::internal)?;
        Self::of(&url).ok_or_else(|| Error::internal("GITHUB_URL names no server"))
    }

    /// The name, which is the same however an address spells it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn of(url: &Url) -> Option<Self> {
        let (host, port) = (url.host_str()?, url.port_or_known_default()?);
        Some(Self(if port == 443 { host.to_owned() } else { format!("{host}:{port}") }))
    }
}

/// The parts of `owner/name`.
pub fn full_name(text: &str) -> Option<(&str, &str)> {
    text.split_once('/').filter(|(owner, name)| is_repository(owner) && is_repository(name))
}

/// Whether GitHub would take this as the name of a repository or of its owner.
pub fn is_repository(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !name.is_empty()
        && name.len() <= MAX_REPOSITORY
        && !name.starts_with(['-', '.'])
        && name.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Environment;

    #[test]
    fn no_hostile_branch_passes() {
        let hostile = [
            "",
            "-",
            "--upload-pack=touch canary",
            "-c",
            "--exec=x",
            "-b/x",
            "x/-y",
            "a b",
            "a\tb",
            "a\nb",
            "a\0b",
            "..",
            "a..b",
            "../x",
            "x/..",
            "/x",
            "x/",
            "x//y",
            ".x",
            "x/.y",
            "x.",
            "x.lock",
            "x.lock/y",
            "x~1",
            "x^",
            "x:y",
            "x?",
            "x*",
            "x[",
            "x\\y",
            "@",
            "@{u}",
            "x@{1}",
            "HEAD",
            "refs/heads/x",
            "$(touch canary)",
            "`touch canary`",
            "x;y",
            "x|y",
            "x&y",
            "x>y",
            "x<y",
            "x\"y",
            "x'y",
            "x\u{7f}",
            "x\u{a0}y",
            "a{b}",
            "x!",
        ];
        let taken: Vec<_> = hostile.iter().filter(|name| Branch::parse("/branch", name).is_ok()).collect();
        println!("git branches: {} hostile names, taken {}", hostile.len(), taken.len());
        assert!(taken.is_empty(), "{taken:?}");
        assert!(Branch::parse("/branch", &"x".repeat(MAX_BRANCH + 1)).is_err());
        for fine in
            ["main", "feature/one-two", "release-1.2", "größe", "a_b", "v1@x", "dependabot/npm/x+y", "fix#12"]
        {
            assert!(Branch::parse("/branch", fine).is_ok(), "{fine}");
        }
    }

    #[test]
    fn no_address_but_https_passes() {
        let settings = Settings { environment: Environment::Production, ..Settings::default() };
        let hostile = [
            "",
            "-",
            "--upload-pack=touch canary",
            "ext::sh -c touch% canary",
            "ext::sh",
            "file:///etc",
            "/srv/x.git",
            "./x",
            "../x",
            "git://example.com/x",
            "ssh://git@example.com/x",
            "git@example.com:x/y.git",
            "http://example.com/x",
            "ftp://example.com/x",
            "fd::17/foo",
            "https://user:token@example.com/x",
            "https://token@example.com/x",
            "https://example.com/x?a=b",
            "https://example.com/x#y",
            "https://",
            "https://example.com",
            "https:///x",
            "https://exa mple.com/x",
            "javascript:alert(1)",
            "-c/x",
            "a/-b",
            "a/../b",
            "https://example.com/\nx",
        ];
        let taken: Vec<_> =
            hostile.iter().filter(|text| Address::parse("/repo_url", text, &settings).is_ok()).collect();
        println!("git addresses: {} hostile, taken {}", hostile.len(), taken.len());
        assert_eq!(taken, [&"https:///x"; 0]);
        let own = Address::parse("/repo_url", "acme/flows", &settings).expect("a repository");
        assert_eq!(own.url().as_str(), "https://github.com/acme/flows.git");
        assert_eq!(own.on_github(&settings).as_deref(), Some("acme/flows"));
        let other =
            Address::parse("/repo_url", "https://git.example.com/acme/flows", &settings).expect("another");
        assert_eq!(other.on_github(&settings), None);
    }

    #[test]
    fn a_server_is_one_however_its_address_is_spelled() {
        let settings = Settings {
            outbound_admit: "git.example.com:80".into(),
            git_local_remotes: true,
            ..Settings::default()
        };
        let server = |text: &str| {
            let address = Address::parse("/repo_url", text, &settings).expect("an address");
            address.server().map(|server| server.as_str().to_owned())
        };
        let github = Server::github(&settings).expect("is named");
        for spelling in
            ["acme/flows", "https://GitHub.com/acme/flows", "https://github.com:443/acme/flows.git"]
        {
            assert_eq!(server(spelling).as_deref(), Some(github.as_str()), "{spelling}");
        }
        for (other, name) in [
            ("https://github.com:8443/acme/flows", "github.com:8443"),
            ("https://github.com.example.com/acme/flows", "github.com.example.com"),
            ("http://git.example.com/acme/flows", "git.example.com:80"),
            ("https://[2606:4700::1111]/acme/flows", "[2606:4700::1111]"),
        ] {
            assert_eq!(server(other).as_deref(), Some(name), "{other}");
        }
        assert_eq!(server("/srv/flows.git"), None);
    }
}
