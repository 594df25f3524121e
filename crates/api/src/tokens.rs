//! Access tokens: JWT, HS256, short-lived. They name a session; what its owner may do is never read from them.
//!
//! Several keys may be known: the first signs, and a token is verified by the one its header names. So a key is replaced
//! without signing anybody out: put the new one in front, and take the old one away once its tokens have expired.

use domain::id::{SessionId, UserId};
use domain::sessions::{Authenticated, Principal};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, get_current_timestamp};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

const ISSUER: &str = "bifrost-api";
const AUDIENCE: &str = "bifrost-client";
const ACCESS: &str = "access";
/// Audience of tokens that are good for the second factor and nothing else.
const MFA_AUDIENCE: &str = "bifrost-mfa";
/// Seconds between the first and the second factor.
const MFA_LIFETIME: i64 = 300;
/// How many tokens are remembered as good, those of the latest requests.
const REMEMBERED: u64 = 10_000;
/// Seconds that clocks of replicas may differ.
const LEEWAY: u64 = 2;
/// Bytes of role names in a token. It must fit into a cookie; `/auth/me` lists them all.
const MAX_ROLES: usize = 1_000;

/// Signs and verifies. No key ever prints.
pub(crate) struct Tokens {
    key_id: String,
    signing: EncodingKey,
    /// By the id that a token's header names its key with. A handful at most.
    verifying: Vec<(String, DecodingKey)>,
    validation: Validation,
    mfa_validation: Validation,
    lifetime_seconds: i64,
    /// Tokens that were found good, by their digest: reading one takes ten times as long as the digest, and clients send
    /// theirs again and again.
    good: moka::sync::Cache<[u8; 32], Good>,
}

/// A token that was found good, for as long as it is.
#[derive(Debug, Clone, Copy)]
struct Good {
    session: SessionId,
    /// Seconds since 1970.
    expires: u64,
}

/// What a token between the two factors is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum MfaStage {
    /// Giving the second factor.
    #[serde(rename = "mfa")]
    Login,
    /// Enrolling one.
    #[serde(rename = "mfa_setup")]
    Setup,
}

/// What a token between the two factors says.
#[derive(Debug, Serialize, Deserialize)]
struct MfaClaims {
    iss: String,
    aud: String,
    exp: i64,
    iat: i64,
    jti: Uuid,
    typ: MfaStage,
    sub: UserId,
    email: String,
    /// What the first factor found: once the password is another, the token is good for nothing.
    credentials_version: i64,
}

/// What a token says. Only `sid` is acted on; the rest is for clients to display.
#[derive(Debug, Serialize)]
struct Claims<'a> {
    iss: &'static str,
    aud: &'static str,
    exp: i64,
    iat: i64,
    jti: Uuid,
    sid: SessionId,
    typ: &'static str,
    sub: UserId,
    email: &'a str,
    name: &'a str,
    user_type: &'a str,
    is_superuser: bool,
    org_id: Option<Uuid>,
    roles: Vec<&'a str>,
}

/// What verification reads back.
#[derive(Debug, Deserialize)]
struct Verified {
    typ: String,
    sid: SessionId,
    #[expect(dead_code, reason = "a list of issuers, as others accept it, does not deserialize")]
    iss: String,
    #[expect(dead_code, reason = "nor does a list of audiences")]
    aud: String,
    exp: u64,
}

impl Tokens {
    /// Reads `SECRET_KEY`: one key, or several separated by commas of which the first signs.
    pub(crate) fn new(setting: &SecretString, lifetime_minutes: i64) -> Self {
        let keys: Vec<&[u8]> = setting.expose_secret().split(',').map(|key| key.trim().as_bytes()).collect();
        Self {
            key_id: key_id(keys[0]),
            signing: EncodingKey::from_secret(keys[0]),
            verifying: keys.iter().map(|key| (key_id(key), DecodingKey::from_secret(key))).collect(),
            validation: validation(AUDIENCE),
            mfa_validation: validation(MFA_AUDIENCE),
            lifetime_seconds: lifetime_minutes * 60,
            good: moka::sync::Cache::new(REMEMBERED),
        }
    }

    /// Seconds a token is good for.
    pub(crate) fn lifetime_seconds(&self) -> i64 {
        self.lifetime_seconds
    }

    /// A new token for a session.
    pub(crate) fn issue(&self, principal: &Principal) -> String {
        let now = chrono::Utc::now().timestamp();
        let claims = Claims {
            iss: ISSUER,
            aud: AUDIENCE,
            exp: now + self.lifetime_seconds,
            iat: now,
            jti: Uuid::now_v7(),
            sid: principal.session_id,
            typ: ACCESS,
            sub: principal.user_id,
            email: &principal.email,
            name: &principal.name,
            user_type: &principal.user_type,
            is_superuser: principal.is_superuser,
            org_id: principal.organization_id.map(|org| org.0),
            roles: within(MAX_ROLES, roles(principal)),
        };
        self.sign(&claims)
    }

    /// A token for somebody who proved the first of two factors.
    pub(crate) fn issue_mfa(&self, user: &Authenticated, stage: MfaStage) -> String {
        let now = chrono::Utc::now().timestamp();
        self.sign(&MfaClaims {
            iss: ISSUER.into(),
            aud: MFA_AUDIENCE.into(),
            exp: now + MFA_LIFETIME,
            iat: now,
            jti: Uuid::now_v7(),
            typ: stage,
            sub: user.user_id,
            email: user.email.clone(),
            credentials_version: user.credentials_version,
        })
    }

    /// Who proved the first factor, if the token is ours, for this stage, and has not expired.
    pub(crate) fn verify_mfa(&self, token: &str, stage: MfaStage) -> Option<Authenticated> {
        let claims = self.claims::<MfaClaims>(token, &self.mfa_validation)?;
        (claims.typ == stage).then_some(Authenticated {
            user_id: claims.sub,
            email: claims.email,
            credentials_version: claims.credentials_version,
        })
    }

    fn sign(&self, claims: &impl Serialize) -> String {
        let header = Header { kid: Some(self.key_id.clone()), ..Header::new(Algorithm::HS256) };
        jsonwebtoken::encode(&header, claims, &self.signing)
            .expect("claims are always JSON, and any bytes are an HMAC key")
    }

    /// The session a token names, if the token is ours, an access token, and has not expired.
    pub(crate) fn verify(&self, token: &str) -> Option<SessionId> {
        let digest = Sha256::digest(token).into();
        if let Some(good) = self.good.get(&digest)
            && get_current_timestamp() <= good.expires + LEEWAY
        {
            return Some(good.session);
        }
        let claims = self.claims::<Verified>(token, &self.validation)?;
        if claims.typ != ACCESS {
            return None;
        }
        self.good.insert(digest, Good { session: claims.sid, expires: claims.exp });
        Some(claims.sid)
    }

    /// What a token says, if the key that its header names is ours and has signed it.
    fn claims<C: DeserializeOwned>(&self, token: &str, validation: &Validation) -> Option<C> {
        let named = jsonwebtoken::decode_header(token).ok()?.kid?;
        let (_, key) = self.verifying.iter().find(|(id, _)| *id == named)?;
        Some(jsonwebtoken::decode::<C>(token, key, validation).ok()?.claims)
    }
}

fn validation(audience: &str) -> Validation {
    let mut validation = Validation::new(Algorithm::HS256);
    validation.leeway = LEEWAY;
    validation.validate_nbf = true;
    validation.set_issuer(&[ISSUER]);
    validation.set_audience(&[audience]);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    validation
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// The names clients show as roles: those that everybody has, then the user's own.
pub(crate) fn roles(principal: &Principal) -> Vec<&str> {
    let own = principal.roles.iter().map(String::as_str);
    standing(principal.is_superuser).into_iter().chain(own).collect()
}

/// The names that come with an account, whatever roles it has.
pub(crate) fn standing(is_superuser: bool) -> [&'static str; 2] {
    ["authenticated", if is_superuser { "PlatformAdmin" } else { "OrgUser" }]
}

/// As many of the names as fit.
fn within(mut room: usize, mut names: Vec<&str>) -> Vec<&str> {
    names.retain(|name| {
        let fits = name.len() <= room;
        room = room.saturating_sub(name.len());
        fits
    });
    names
}

/// Names a key without telling anything about it.
fn key_id(key: &[u8]) -> String {
    let digest = Sha256::new().chain_update(b"bifrost token key").chain_update(key).finalize();
    hex::encode(&digest[..8])
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use domain::PermissionSet;
    use serde_json::{Value, json};

    use super::*;

    const KEY: &str = "k3RrN0yZ4vQx7pLw9sTd2uHf6jBm1cGa8eXo";

    fn tokens() -> Tokens {
        Tokens::new(&KEY.into(), 15)
    }

    fn principal() -> Principal {
        Principal {
            session_id: SessionId::generate(),
            user_id: UserId::generate(),
            organization_id: None,
            email: "ada@example.com".into(),
            name: "Ada".into(),
            user_type: "PLATFORM".into(),
            is_superuser: true,
            roles: vec!["Technicians".into()],
            permissions: PermissionSet::NONE,
        }
    }

    /// The claims of a good token with one member replaced, signed with the right key.
    fn forged(member: &str, value: Value) -> String {
        let good = tokens().issue(&principal());
        let payload = URL_SAFE_NO_PAD.decode(good.split('.').nth(1).expect("payload")).expect("base64");
        let mut claims: Value = serde_json::from_slice(&payload).expect("JSON");
        claims[member] = value;
        let header = Header { kid: Some(tokens().key_id), ..Header::new(Algorithm::HS256) };
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(KEY.as_bytes())).expect("signs")
    }

    #[test]
    fn a_token_names_its_session() {
        let principal = principal();
        assert_eq!(tokens().verify(&tokens().issue(&principal)), Some(principal.session_id));
    }

    #[test]
    fn a_token_that_was_good_is_good_until_it_expires_and_by_its_every_letter() {
        let tokens = tokens();
        let good = tokens.issue(&principal());
        let session = tokens.verify(&good);
        assert!(session.is_some());
        assert_eq!(tokens.verify(&good), session, "once more");
        let mut other = good.clone();
        other.replace_range(..1, "f");
        assert_eq!(tokens.verify(&other), None);

        let remember = |expires| {
            let session = SessionId::generate();
            tokens.good.insert(Sha256::digest("remembered").into(), Good { session, expires });
            session
        };
        let known = remember(get_current_timestamp() - LEEWAY + 1);
        assert_eq!(tokens.verify("remembered"), Some(known));
        remember(get_current_timestamp() - LEEWAY - 1);
        assert_eq!(tokens.verify("remembered"), None, "it has expired since");
    }

    #[test]
    fn a_token_between_the_factors_says_what_the_first_one_found() {
        let (user_id, email) = (UserId::generate(), "ada@example.com".to_owned());
        let user = Authenticated { user_id, email, credentials_version: 7 };
        let token = tokens().issue_mfa(&user, MfaStage::Setup);
        assert_eq!(tokens().verify_mfa(&token, MfaStage::Setup), Some(user));
        assert_eq!(tokens().verify_mfa(&token, MfaStage::Login), None, "for another stage");
    }

    #[test]
    fn a_token_names_the_roles_that_fit() {
        let mut principal = principal();
        assert_eq!(roles(&principal), ["authenticated", "PlatformAdmin", "Technicians"]);
        principal.roles = (0..200).map(|n| format!("A role with a longer name, number {n}")).collect();
        assert!(tokens().issue(&principal).len() < 3_000, "a cookie holds 4,096 bytes");
    }

    #[test]
    fn every_pinned_claim_is_checked() {
        for (member, value) in [
            ("iss", json!("somebody")),
            ("aud", json!("somebody")),
            ("typ", json!("refresh")),
            ("exp", json!(chrono::Utc::now().timestamp() - 10)),
            ("exp", json!("4102444800")),
            ("exp", Value::Null),
        ] {
            assert_eq!(tokens().verify(&forged(member, value.clone())), None, "{member} = {value}");
        }
    }

    #[test]
    fn a_key_is_replaced_without_signing_anybody_out() {
        const NEXT: &str = "Zp8Yw2Qn5Rt7Ls1Kd4Jf9Hg3Mb6Vc0Xa_Te";
        let principal = principal();
        let both = Tokens::new(&format!("{NEXT}, {KEY}").into(), 15);
        let next = Tokens::new(&NEXT.into(), 15);
        let old = tokens().issue(&principal);

        assert_eq!(both.verify(&old), Some(principal.session_id), "the old key still verifies");
        assert_eq!(next.verify(&both.issue(&principal)), Some(principal.session_id), "the new key signs");
        assert_eq!(next.verify(&old), None, "a key that was taken away verifies nothing");
    }

    #[test]
    fn another_key_or_algorithm_is_refused() {
        let other = Tokens::new(&"Zp8Yw2Qn5Rt7Ls1Kd4Jf9Hg3Mb6Vc0Xa_Te".into(), 15);
        assert_eq!(tokens().verify(&other.issue(&principal())), None);

        let stronger = Header { kid: Some(tokens().key_id), ..Header::new(Algorithm::HS512) };
        let claims = json!({"iss": ISSUER, "aud": AUDIENCE, "exp": 4_102_444_800_u64, "sub": "x", "typ": ACCESS, "sid": Uuid::now_v7()});
        let token = jsonwebtoken::encode(&stronger, &claims, &EncodingKey::from_secret(KEY.as_bytes()))
            .expect("signs");
        assert_eq!(tokens().verify(&token), None);
    }
}
