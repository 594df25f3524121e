//! Where a request came from.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::header::USER_AGENT;
use axum::http::request::Parts;

use crate::AppState;
use crate::envelope::RequestId;

const LONGEST_USER_AGENT: usize = 512;

/// The client behind a request.
#[derive(Debug)]
pub(crate) struct Client {
    /// Address of the peer. `X-Forwarded-For` is not believed: anybody can write it.
    pub(crate) address: IpAddr,
    /// What it calls itself.
    pub(crate) user_agent: Option<String>,
    /// Id of the request.
    pub(crate) request_id: Option<String>,
}

impl FromRequestParts<AppState> for Client {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, Infallible> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let user_agent = parts.headers.get(USER_AGENT).and_then(|value| value.to_str().ok());
        Ok(Self {
            address: peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip()),
            user_agent: user_agent.map(|text| text.chars().take(LONGEST_USER_AGENT).collect()),
            request_id: parts.extensions.get::<RequestId>().map(|id| id.0.to_string()),
        })
    }
}
