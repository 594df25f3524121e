//! Where a request came from: the peer, or what proxies that are trusted say of it.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::HeaderMap;
use axum::http::header::{HeaderName, USER_AGENT};
use axum::http::request::Parts;

use ipnet::IpNet;

use crate::AppState;
use crate::request_id::RequestId;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const LONGEST_USER_AGENT: usize = 512;

/// The client behind a request.
#[derive(Debug)]
pub(crate) struct Client {
    /// Address of the nearest peer that is no trusted proxy.
    pub(crate) address: IpAddr,
    /// What it calls itself.
    pub(crate) user_agent: Option<String>,
    /// Id of the request.
    pub(crate) request_id: Option<String>,
}

impl FromRequestParts<AppState> for Client {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Infallible> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let user_agent = parts.headers.get(USER_AGENT).and_then(|value| value.to_str().ok());
        Ok(Self {
            address: origin(
                peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip()),
                &parts.headers,
                &app.proxies,
            ),
            user_agent: user_agent.map(|text| text.chars().take(LONGEST_USER_AGENT).collect()),
            request_id: parts.extensions.get::<RequestId>().map(|id| id.0.to_string()),
        })
    }
}

/// Who sent a request that reached us from `peer`. Each proxy appends whom it heard from, so the list is read from its
/// end, and only as far as those who wrote it are trusted: what lies before was written by anybody.
fn origin(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut origin = peer.to_canonical();
    let forwarded: Vec<&str> = headers
        .get_all(X_FORWARDED_FOR)
        .iter()
        .flat_map(|value| value.to_str().unwrap_or_default().split(','))
        .map(str::trim)
        .collect();
    for hop in forwarded.into_iter().rev() {
        if !is_trusted(&origin) {
            break;
        }
        // Behind an entry that is no address nothing can be told: the last one known stands.
        let Some(address) = address_of(hop) else { break };
        origin = address;
    }
    origin
}

/// An address as proxies write it: bare, with a port, or in brackets.
fn address_of(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.split(']').next()).unwrap_or(text);
    let address =
        bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))?;
    Some(IpAddr::to_canonical(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trusted_proxies_are_believed() {
        let trusted: Vec<IpNet> =
            ["10.0.0.0/8", "fd00::/8"].iter().map(|text| text.parse().expect("a network")).collect();
        let origin_of = |peer: &str, forwarded: &[&str], trusted: &[IpNet]| {
            let mut headers = HeaderMap::new();
            for value in forwarded {
                headers.append(X_FORWARDED_FOR, value.parse().expect("a header value"));
            }
            origin(peer.parse().expect("an address"), &headers, trusted).to_string()
        };

        for (peer, forwarded, expected) in [
            ("203.0.113.9", &["198.51.100.1"][..], "203.0.113.9"), // the peer is nobody's proxy
            ("10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["1.1.1.1, 198.51.100.1"], "198.51.100.1"), // what a client wrote itself
            ("10.0.0.1", &["1.1.1.1", "198.51.100.1, 10.2.2.2"], "198.51.100.1"), // two proxies, two headers
            ("::ffff:10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("fd00::1", &["[2001:db8::7]:4711"], "2001:db8::7"),
            ("10.0.0.1", &["198.51.100.1:4711"], "198.51.100.1"),
            ("10.0.0.1", &["unknown"], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1, nonsense"], "10.0.0.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["10.9.9.9"], "10.9.9.9"), // all of them proxies: the farthest
        ] {
            assert_eq!(origin_of(peer, forwarded, &trusted), expected, "{peer} {forwarded:?}");
        }
        assert_eq!(origin_of("10.0.0.1", &["198.51.100.1"], &[]), "10.0.0.1", "nobody is trusted unasked");
    }
}
