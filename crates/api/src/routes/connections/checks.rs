//! What a connection must be like before it is stored: member by member, with a pointer to each fault.

use domain::connections::{Changes, Connection, NewConnection};
use domain::json::NUL_RULE;
use domain::outbound::Outbound;
use domain::{Error, FieldError};
use secrecy::ExposeSecret;
use url::Url;

use super::LONGEST_ADDRESS;
use super::model::{CreateOAuthConnectionRequest, OAuthFlowType, Scopes, UpdateOAuthConnectionRequest};

const LONGEST_CLIENT: usize = 1_024;
const LONGEST_SCOPES: usize = 4_096;
const LONGEST_SECRET: usize = 64 * 1024;

/// Collects what is wrong, member by member.
#[derive(Default)]
struct Faults(Vec<FieldError>);

impl Faults {
    fn add(&mut self, pointer: &str, detail: &str) {
        self.0.push(FieldError { pointer: pointer.into(), detail: detail.into() });
    }

    fn text(&mut self, pointer: &str, text: &str, range: std::ops::RangeInclusive<usize>) {
        if !range.contains(&text.chars().count()) {
            self.add(pointer, &format!("must have {} to {} characters", range.start(), range.end()));
        } else if text.contains('\0') {
            self.add(pointer, NUL_RULE);
        }
    }

    /// An address that the server calls.
    fn called(&mut self, outbound: &Outbound, pointer: &str, address: &str) {
        let fault = match Url::parse(address) {
            Ok(url) => outbound.check(&url).err().map(|refused| refused.to_string()),
            Err(_) => Some("must be an address that begins with https://".into()),
        };
        if let Some(fault) = fault {
            self.add(pointer, &fault);
        } else {
            self.text(pointer, address, 1..=LONGEST_ADDRESS);
        }
    }

    /// An address that a browser opens: it may well be in a network that the server does not reach.
    fn opened(&mut self, outbound: &Outbound, pointer: &str, address: &str) {
        let url = Url::parse(address).ok();
        let fits = url.is_some_and(|url| url.scheme() == "https" || outbound.check(&url).is_ok());
        if fits {
            self.text(pointer, address, 1..=LONGEST_ADDRESS);
        } else {
            self.add(pointer, "must be an address that begins with https://");
        }
    }

    fn none(self) -> Result<(), Error> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::Invalid(self.0)) }
    }
}

/// Empty texts count as absent, as clients send them for what they leave open.
fn given_text(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.trim().is_empty())
}

/// A connection to make, if all of it fits.
///
/// # Errors
/// [`Error::Invalid`].
pub(super) fn checked(
    outbound: &Outbound,
    given: CreateOAuthConnectionRequest,
) -> Result<NewConnection, Error> {
    let mut faults = Faults::default();
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let name = given.connection_name;
    if !(1..=100).contains(&name.len()) || !name.chars().all(fits) {
        faults.add("/connection_name", "may hold 1 to 100 letters, digits, underscores and dashes");
    }
    let authorization_url = given_text(given.authorization_url);
    let client_secret = given.client_secret.filter(|secret| !secret.expose_secret().is_empty());
    faults.text("/name", given.name.as_deref().unwrap_or_default(), 0..=255);
    faults.text("/description", given.description.as_deref().unwrap_or_default(), 0..=500);
    faults.text("/client_id", &given.client_id, 1..=LONGEST_CLIENT);
    faults.text("/scopes", &given.scopes, 0..=LONGEST_SCOPES);
    faults.called(outbound, "/token_url", &given.token_url);
    match (&authorization_url, given.oauth_flow_type) {
        (Some(address), _) => faults.opened(outbound, "/authorization_url", address),
        (None, OAuthFlowType::AuthorizationCode) => {
            faults.add("/authorization_url", "is required for authorization_code");
        }
        (None, _) => {}
    }
    match (&client_secret, given.oauth_flow_type) {
        (Some(secret), _) => faults.text("/client_secret", secret.expose_secret(), 1..=LONGEST_SECRET),
        (None, OAuthFlowType::ClientCredentials) => {
            faults.add("/client_secret", "is required for client_credentials");
        }
        (None, _) => {}
    }
    let redirect_uri = given_text(given.redirect_uri);
    faults.text("/redirect_uri", redirect_uri.as_deref().unwrap_or_default(), 0..=LONGEST_ADDRESS);
    faults.none()?;
    Ok(NewConnection {
        name,
        display_name: given_text(given.name),
        description: given_text(given.description),
        flow: given.oauth_flow_type.as_str(),
        client_id: given.client_id,
        client_secret,
        authorization_url,
        token_url: given.token_url,
        scopes: given.scopes,
        redirect_uri,
    })
}

/// What to change, if all of it fits.
///
/// # Errors
/// [`Error::Invalid`].
pub(super) fn checked_changes(
    outbound: &Outbound,
    before: &Connection,
    given: UpdateOAuthConnectionRequest,
) -> Result<Changes, Error> {
    let mut faults = Faults::default();
    let scopes = given.scopes.map(|scopes| match scopes {
        Scopes::List(list) => list.join(" "),
        Scopes::Text(text) => text,
    });
    faults.text("/name", given.name.as_deref().unwrap_or_default(), 0..=255);
    faults.text("/scopes", scopes.as_deref().unwrap_or_default(), 0..=LONGEST_SCOPES);
    if let Some(id) = &given.client_id {
        faults.text("/client_id", id, 1..=LONGEST_CLIENT);
    }
    if let Some(secret) = &given.client_secret {
        faults.text("/client_secret", secret.expose_secret(), 1..=LONGEST_SECRET);
    }
    if let Some(address) = &given.token_url {
        faults.called(outbound, "/token_url", address);
    }
    match given.authorization_url.as_deref() {
        None => {}
        Some("") if OAuthFlowType::of(&before.flow) == OAuthFlowType::AuthorizationCode => {
            faults.add("/authorization_url", "is required for authorization_code");
        }
        Some("") => {}
        Some(address) => faults.opened(outbound, "/authorization_url", address),
    }
    faults.none()?;
    Ok(Changes {
        display_name: given.name,
        client_id: given.client_id,
        client_secret: given.client_secret,
        authorization_url: given.authorization_url,
        token_url: given.token_url,
        scopes,
    })
}
