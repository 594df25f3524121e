//! The one HTTP client for addresses that people configure: providers, token endpoints, webhooks.
//!
//! The invariant: a connection is only ever made to a public address. The address is looked at where it is resolved for
//! the connection itself, so that a name cannot point elsewhere between the look and the connection, and no redirect is
//! followed. What an operator admits (`OUTBOUND_ADMIT`) is the one exception. No proxy is used: it would resolve names
//! by itself.

use std::error::Error as StdError;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use url::{Host, Url};

use crate::Error;

/// How long one request may take, its answer included.
const TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer that is read.
const MAX_ANSWER: usize = 1024 * 1024;

/// The client. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Outbound {
    client: reqwest::Client,
    guard: Arc<Guard>,
}

/// Why there is no answer. The text is fit for whoever configured the address.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The address is one that must not be called.
    #[error("{0}")]
    Refused(#[from] Refused),
    /// Nobody answered in time.
    #[error("the server did not answer in time")]
    TimedOut,
    /// There was no connection, or it broke.
    #[error("the server could not be reached")]
    Unreachable(#[source] Box<dyn StdError + Send + Sync>),
    /// The answer is longer than anybody wants to read.
    #[error("the answer is longer than 1 MiB")]
    TooLarge,
}

/// What is wrong with an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Neither https nor admitted by the operator.
    #[error("the address must begin with https://")]
    NotHttps,
    /// A user name or password before the host.
    #[error("the address must not hold a user name or password")]
    Credentials,
    /// A loopback, private, link-local, metadata or otherwise special address, or a name for nothing else.
    #[error("the address is not a public one")]
    NotPublic,
}

/// Decides which addresses may be called.
#[derive(Debug)]
struct Guard {
    /// Hosts, each with its port, that may be private and do without TLS.
    admitted: Vec<(String, u16)>,
    names: Names,
}

/// Where names are looked up.
#[derive(Debug)]
enum Names {
    System,
    #[cfg(test)]
    Fixed(std::collections::HashMap<String, Vec<IpAddr>>),
}

impl Outbound {
    /// A client that also calls the hosts of `admitted`: `host:port`, separated by commas.
    ///
    /// # Errors
    /// [`Error::Impossible`] for an entry that names no host.
    pub fn new(admitted: &str) -> Result<Self, Error> {
        Self::with_names(admitted, Names::System)
    }

    /// One that admits nothing and knows these names alone.
    #[cfg(test)]
    pub(crate) fn knowing(names: std::collections::HashMap<String, Vec<IpAddr>>) -> Self {
        Self::with_names("", Names::Fixed(names)).expect("nothing is admitted")
    }

    fn with_names(admitted: &str, names: Names) -> Result<Self, Error> {
        let entries = admitted.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let admitted = entries
            .map(|entry| {
                let url = Url::parse(&format!("https://{entry}")).ok();
                let url = url
                    .filter(|url| url.path() == "/" && url.query().is_none() && !entry.contains(['/', '@']));
                let host = url.as_ref().and_then(|url| Some((url.host_str()?, url.port_or_known_default()?)));
                host.map(|(host, port)| (host.to_owned(), port)).ok_or_else(|| {
                    Error::Impossible(format!("OUTBOUND_ADMIT: `{entry}` is no host and port"))
                })
            })
            .collect::<Result<_, _>>()?;
        let guard = Arc::new(Guard { admitted, names });
        Ok(Self { client: client(&guard)?, guard })
    }

    /// Sends a request and reads the answer; a redirect is an answer like any other.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, Failure> {
        let request = reqwest::Request::try_from(request).map_err(failure)?;
        self.guard.check(request.url())?;
        let mut answer = self.client.execute(request).await.map_err(failure)?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failure)? {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err(Failure::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        let mut response = Response::new(body);
        *response.status_mut() = answer.status();
        std::mem::swap(response.headers_mut(), answer.headers_mut());
        Ok(response)
    }

    /// The addresses at which `url` may be called now, for a program that connects by itself and is told to use no
    /// other. Empty when the host is an address already.
    ///
    /// # Errors
    /// [`Failure::Refused`], and [`Failure::Unreachable`] when the name is unknown.
    pub async fn resolve(&self, url: &Url) -> Result<Vec<IpAddr>, Failure> {
        self.guard.check(url)?;
        let Some(Host::Domain(name)) = url.host() else { return Ok(Vec::new()) };
        let looked_up = tokio::time::timeout(CONNECT_TIMEOUT, self.guard.look_up(name)).await;
        let found =
            looked_up.map_err(|_| Failure::TimedOut)?.map_err(|error| Failure::Unreachable(error.into()))?;
        let addresses: Vec<IpAddr> = self.guard.allowed(name, &found).map(|address| address.ip()).collect();
        if addresses.is_empty() { Err(Refused::NotPublic.into()) } else { Ok(addresses) }
    }

    /// Whether this address may be called, as far as it can be told without resolving its name.
    ///
    /// # Errors
    /// [`Refused`] with the reason.
    pub fn check(&self, url: &Url) -> Result<(), Refused> {
        self.guard.check(url)
    }
}

impl<'c> oauth2::AsyncHttpClient<'c> for Outbound {
    type Error = Failure;
    type Future = futures::future::BoxFuture<'c, Result<Response<Vec<u8>>, Failure>>;

    fn call(&'c self, request: Request<Vec<u8>>) -> Self::Future {
        Box::pin(self.send(request))
    }
}

impl Guard {
    fn check(&self, url: &Url) -> Result<(), Refused> {
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refused::Credentials);
        }
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return Err(Refused::NotHttps);
        };
        let named = self.admitted.iter().filter(|(admitted, _)| admitted == host);
        let mut ports = named.map(|(_, admitted)| *admitted).peekable();
        let is_known = ports.peek().is_some();
        if matches!(url.scheme(), "http" | "https") && ports.any(|admitted| admitted == port) {
            return Ok(());
        }
        if url.scheme() != "https" {
            return Err(Refused::NotHttps);
        }
        let is_public = match url.host() {
            // The resolver lets an admitted name pass whatever the port, so that other ports are refused here.
            Some(Host::Domain(_)) => !is_known,
            Some(Host::Ipv4(address)) => is_public_v4(address),
            Some(Host::Ipv6(address)) => is_public_v6(address),
            None => false,
        };
        if is_public { Ok(()) } else { Err(Refused::NotPublic) }
    }

    fn admits_name(&self, name: &str) -> bool {
        self.admitted.iter().any(|(admitted, _)| admitted == name)
    }

    /// Those of the addresses of a name that may be called.
    fn allowed(&self, name: &str, found: &[SocketAddr]) -> impl Iterator<Item = SocketAddr> {
        let is_admitted = self.admits_name(name);
        found.iter().copied().filter(move |address| is_admitted || is_public(address.ip()))
    }

    async fn look_up(&self, name: &str) -> std::io::Result<Vec<SocketAddr>> {
        match &self.names {
            Names::System => Ok(tokio::net::lookup_host((name, 0)).await?.collect()),
            #[cfg(test)]
            Names::Fixed(known) => {
                let found = known.get(name).into_iter().flatten();
                Ok(found.map(|address| SocketAddr::new(*address, 0)).collect())
            }
        }
    }
}

/// Resolves names for the connection itself, and forgets every address that must not be called.
struct Guarded(Arc<Guard>);

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.0.clone();
        Box::pin(async move {
            let found = guard.look_up(name.as_str()).await?;
            let allowed: Vec<SocketAddr> = guard.allowed(name.as_str(), &found).collect();
            if allowed.is_empty() {
                return Err(Refused::NotPublic.into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

fn client(guard: &Arc<Guard>) -> Result<reqwest::Client, Error> {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(Policy::none())
        .dns_resolver(Guarded(guard.clone()))
        .timeout(TIMEOUT)
        .connect_timeout(CONNECT_TIMEOUT)
        .user_agent(concat!("bifrost/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(Error::internal)
}

fn failure(error: reqwest::Error) -> Failure {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(&error);
    while let Some(one) = cause {
        if let Some(refused) = one.downcast_ref::<Refused>() {
            return Failure::Refused(*refused);
        }
        cause = one.source();
    }
    // The address of a request may hold a secret of its owner.
    if error.is_timeout() { Failure::TimedOut } else { Failure::Unreachable(error.without_url().into()) }
}

/// Whether an address belongs to the public internet.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// By the registry of special-purpose addresses (RFC 6890 and its successors).
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !matches!(
        (a, b, c),
        (0 | 10 | 127 | 224.., ..)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 168, _)
            | (192, 0, 0 | 2)
            | (192, 88, 99)
            | (198, 18 | 19, _)
            | (198, 51, 100)
            | (203, 0, 113)
    )
}

/// Only global unicast is public, less what is set apart in it; an address that stands for an IPv4 address is what that
/// one is.
fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(mapped) = address.to_ipv4_mapped() {
        return is_public_v4(mapped);
    }
    let segments = address.segments();
    match segments {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
            is_public_v4(Ipv4Addr::new(a, b, c, d))
        }
        // Protocol assignments with Teredo, 6to4, documentation.
        [0x2001, 0..=0x1ff, ..] | [0x2002, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => false,
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests;
