//! What an ID token must say before anybody believes it, and what is believed of it then.

use openidconnect::core::{
    CoreGenderClaim, CoreIdTokenVerifier, CoreJsonWebKeySet, CoreJweContentEncryptionAlgorithm,
    CoreJwsSigningAlgorithm, CoreTokenType,
};
use openidconnect::{
    AdditionalClaims, ClaimsVerificationError, ClientId, ClientSecret, EmptyExtraTokenFields, IdToken,
    IdTokenClaims, IdTokenFields, IssuerUrl, Nonce,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::{Proven, Provider};

/// Stands for the tenant in the issuer of Microsoft's shared endpoints.
pub(super) const TENANT: &str = "{tenantid}";

/// Signatures that only the provider can make. Those with the client secret could be made by whoever reads our settings.
const ALGORITHMS: [CoreJwsSigningAlgorithm; 9] = [
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha384,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha512,
    CoreJwsSigningAlgorithm::RsaSsaPssSha256,
    CoreJwsSigningAlgorithm::RsaSsaPssSha384,
    CoreJwsSigningAlgorithm::RsaSsaPssSha512,
    CoreJwsSigningAlgorithm::EcdsaP256Sha256,
    CoreJwsSigningAlgorithm::EcdsaP384Sha384,
    CoreJwsSigningAlgorithm::EdDsa,
];

/// Claims of Microsoft beyond the standard ones.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct MoreClaims {
    /// The tenant.
    #[serde(default)]
    tid: Option<String>,
    /// Whether the owner of the address's domain is the tenant.
    #[serde(default)]
    xms_edov: Option<Value>,
    /// Addresses of domains that the tenant proved.
    #[serde(default)]
    verified_primary_email: Option<Vec<String>>,
}

impl AdditionalClaims for MoreClaims {}

pub(super) type Token =
    IdToken<MoreClaims, CoreGenderClaim, CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm>;
pub(super) type Claims = IdTokenClaims<MoreClaims, CoreGenderClaim>;
pub(super) type Tokens = oauth2::StandardTokenResponse<
    IdTokenFields<
        MoreClaims,
        EmptyExtraTokenFields,
        CoreGenderClaim,
        CoreJweContentEncryptionAlgorithm,
        CoreJwsSigningAlgorithm,
    >,
    CoreTokenType,
>;

/// The claims of a token: signed by one of the keys, of this issuer, for this client, not expired, and of this sign-in.
pub(super) fn verify<'a>(
    token: &'a Token,
    client: (&ClientId, &ClientSecret),
    issuer: &IssuerUrl,
    keys: &CoreJsonWebKeySet,
    nonce: &Nonce,
) -> Result<&'a Claims, ClaimsVerificationError> {
    let is_shared = issuer.contains(TENANT);
    let (id, secret) = client;
    let verifier = CoreIdTokenVerifier::new_confidential_client(
        id.clone(),
        secret.clone(),
        issuer.clone(),
        keys.clone(),
    )
    .set_allowed_algs(ALGORITHMS)
    .require_issuer_match(!is_shared);
    let claims = token.claims(&verifier, nonce)?;
    if is_shared {
        // The token names the tenant, and its issuer must be that tenant's.
        let tenant = claims.additional_claims().tid.as_deref().unwrap_or_default();
        let expected = issuer.replace(TENANT, tenant);
        if tenant.parse::<Uuid>().is_err() || claims.issuer().as_str() != expected {
            return Err(ClaimsVerificationError::InvalidIssuer("not that of its tenant".into()));
        }
    }
    Ok(claims)
}

/// Who a token speaks of, and which address its issuer vouches for.
pub(super) fn proven(provider: Provider, claims: &Claims) -> Proven {
    let shown = claims.email().map(|email| email.as_str().to_owned());
    let verified = match provider {
        Provider::Microsoft => vouched_by_tenant(shown.as_deref(), claims.additional_claims()),
        _ => shown.clone().filter(|_| claims.email_verified() == Some(true)),
    };
    let name = claims.name().and_then(|names| names.get(None)).map(|name| name.as_str().to_owned());
    Proven {
        provider,
        issuer: claims.issuer().to_string(),
        subject: claims.subject().to_string(),
        shown_email: shown.or_else(|| verified.clone()),
        verified_email: verified.as_deref().and_then(address),
        name: name.filter(|name| !name.trim().is_empty()).map(|name| name.chars().take(255).collect()),
    }
}

/// The bare `email` of Microsoft is whatever a tenant's administrator typed.
fn vouched_by_tenant(shown: Option<&str>, more: &MoreClaims) -> Option<String> {
    let owns_domain = match &more.xms_edov {
        Some(Value::Bool(owns)) => *owns,
        Some(Value::Number(number)) => number.as_i64() == Some(1),
        Some(Value::String(text)) => matches!(text.as_str(), "1" | "true"),
        _ => false,
    };
    let primary = more.verified_primary_email.iter().flatten().next();
    shown.filter(|_| owns_domain).or(primary.map(String::as_str)).map(ToOwned::to_owned)
}

/// An address as accounts have it, if it is one.
pub(super) fn address(text: &str) -> Option<String> {
    let text = text.trim().to_lowercase();
    let (local, domain) = text.split_once('@')?;
    let fits = !local.is_empty()
        && domain.contains('.')
        && !domain.contains('@')
        && text.len() <= 320
        && !text.contains(|c: char| c.is_whitespace() || c.is_control());
    fits.then_some(text)
}
