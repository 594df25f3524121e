//! The repository on its server: which address git may connect to, and with what token.
//!
//! The invariant: git connects to an address that was looked at here, and to no other; names are not resolved again, and redirects
//! are not followed.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};

use super::names::Address;
use super::{Failed, Outcome};
use crate::outbound::Outbound;

/// How git gets there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Https,
    /// To a host that the operator admits without TLS.
    Http,
    /// A folder of this machine; development and tests.
    Local,
}

/// A repository that may be connected to.
#[derive(Debug)]
pub(super) struct Remote {
    pub(super) transport: Transport,
    pub(super) token: Option<SecretString>,
    address: Address,
    addresses: Vec<IpAddr>,
}

impl Transport {
    pub(super) fn scheme(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
            Self::Local => "file",
        }
    }
}

impl Remote {
    /// Looks at an address now.
    pub(super) async fn resolve(
        outbound: &Outbound,
        address: &Address,
        token: Option<SecretString>,
    ) -> Outcome<Self> {
        let transport = match address.url().scheme() {
            "file" => Transport::Local,
            "http" => Transport::Http,
            _ => Transport::Https,
        };
        let addresses = match transport {
            Transport::Local => Vec::new(),
            _ => outbound
                .resolve(address.url())
                .await
                .map_err(|failure| Failed::said(format!("the repository: {failure}")))?,
        };
        Ok(Self { transport, token, address: address.clone(), addresses })
    }

    /// What git is told to connect to.
    pub(super) fn argument(&self) -> String {
        match self.transport {
            // git does not decode a file URL.
            Transport::Local => self.address.url().to_file_path().map_or_else(
                |()| self.address.url().to_string(),
                |path| format!("file://{}", path.display()),
            ),
            _ => self.address.url().to_string(),
        }
    }

    /// The addresses of the host, for `http.curloptResolve`.
    pub(super) fn pinned(&self) -> Option<String> {
        let url = self.address.url();
        let (host, port) = (url.host_str()?, url.port_or_known_default()?);
        let list: Vec<String> = self
            .addresses
            .iter()
            .map(|address| match address {
                IpAddr::V4(address) => address.to_string(),
                IpAddr::V6(address) => format!("[{address}]"),
            })
            .collect();
        (!list.is_empty()).then(|| format!("{host}:{port}:{}", list.join(",")))
    }

    /// The header that proves who we are.
    pub(super) fn authorization(&self) -> Option<SecretString> {
        let token = self.token.as_ref().filter(|_| self.transport != Transport::Local)?;
        let pair = format!("x-access-token:{}", token.expose_secret());
        Some(format!("Authorization: Basic {}", STANDARD.encode(pair)).into())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::settings::Settings;

    async fn pinned(name: &str, found: &[&str]) -> Result<Option<String>, String> {
        let found = found.iter().map(|address| address.parse().expect("an address")).collect();
        let outbound = Outbound::knowing(HashMap::from([(name.to_owned(), found)]));
        let address =
            Address::parse("/repo_url", &format!("https://{name}/acme/flows.git"), &Settings::default());
        match Remote::resolve(&outbound, &address.expect("an address"), None).await {
            Ok(remote) => Ok(remote.pinned()),
            Err(Failed::Said(why)) => Err(why),
            Err(Failed::Broken(error)) => panic!("{error}"),
        }
    }

    #[tokio::test]
    async fn git_is_given_the_public_addresses_of_a_name_and_no_others() {
        let only = pinned("git.example", &["127.0.0.1", "93.184.216.34", "169.254.169.254", "::1"]).await;
        assert_eq!(only, Ok(Some("git.example:443:93.184.216.34".into())));
        let both = pinned("git.example", &["2606:4700::1111", "93.184.216.34"]).await;
        assert_eq!(both, Ok(Some("git.example:443:[2606:4700::1111],93.184.216.34".into())));
        for private in ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "fd00::1", "::ffff:192.168.1.1"] {
            let refused = pinned("rebound.example", &[private]).await;
            assert_eq!(refused, Err("the repository: the address is not a public one".into()), "{private}");
        }
    }
}
