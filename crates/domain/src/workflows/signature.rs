//! Signed requests: whether the sender of a webhook knows the secret, when it signed, and which event it tells of.
//!
//! One rule describes what the services of the field do: where the signature and the time are, what exactly is signed,
//! and how the result is written. The named schemes of the decorator are such rules, filled in when a file is indexed.
//! The invariant: digests are compared in constant time, over the bytes of the body as they came.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Sha256, Sha512};

/// More signatures than a sender that rotates its secret needs.
const MOST_SIGNATURES: usize = 8;
const LONGEST_EVENT_ID: usize = 255;

/// How a request is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignatureRule {
    /// Name of the secret, in the store of the organization that the call acts in.
    pub secret: String,
    /// The header with the signature.
    pub header: String,
    /// The digest under the HMAC.
    pub algorithm: Algorithm,
    /// How the signature is written.
    pub encoding: Encoding,
    /// What stands before it: `sha256=`, `v1,`.
    #[serde(default)]
    pub prefix: String,
    /// What stands between several, of which one must fit.
    #[serde(default)]
    pub separator: Option<char>,
    /// What is signed: text with `{body}` and, as the sender does it, `{timestamp}` and `{id}`.
    pub content: String,
    /// The header with the time of signing, in seconds since 1970.
    #[serde(default)]
    pub timestamp_header: Option<String>,
    /// What stands before the time where it is in the signature's own header: `t=`.
    #[serde(default)]
    pub timestamp_prefix: Option<String>,
    /// How far the time of signing may be from now, in seconds.
    pub tolerance_seconds: u32,
    /// The header with the id of the event.
    #[serde(default)]
    pub event_id_header: Option<String>,
    /// What stands before a secret that is written in Base64, such as `whsec_`; `None`: the secret is used as it is.
    #[serde(default)]
    pub secret_base64_prefix: Option<String>,
}

/// The digest under the HMAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are the standard's")]
pub enum Algorithm {
    Sha256,
    Sha512,
}

/// How a signature is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "each name says it")]
pub enum Encoding {
    Hex,
    Base64,
}

/// What a request claims, not yet verified.
#[derive(Debug, PartialEq, Eq)]
pub struct Claim {
    signatures: Vec<Vec<u8>>,
    timestamp: String,
    event_id: String,
}

/// The request was not signed by who knows the secret, or not lately. Why, callers are not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused;

impl SignatureRule {
    /// Whether everything that is signed can be found. A rule that cannot be met refuses everything.
    pub fn is_sound(&self) -> bool {
        let has_time = self.timestamp_header.is_some() || self.timestamp_prefix.is_some();
        self.content.matches("{body}").count() == 1
            && (has_time || !self.content.contains("{timestamp}"))
            && (self.event_id_header.is_some() || !self.content.contains("{id}"))
            && !self.secret.is_empty()
            && !self.header.is_empty()
    }

    /// What the headers claim. Nothing secret is needed for this, so it comes first.
    ///
    /// # Errors
    /// [`Refused`] when there is no signature, no event id where one is asked for, or the time is missing, unreadable
    /// or too far from `now`.
    pub fn read<'a>(
        &self,
        header: impl Fn(&str) -> Option<&'a str>,
        now: DateTime<Utc>,
    ) -> Result<Claim, Refused> {
        if !self.is_sound() {
            return Err(Refused);
        }
        let value = header(&self.header).ok_or(Refused)?;
        let parts: Vec<&str> = match self.separator {
            Some(separator) => value.split(separator).map(str::trim).collect(),
            None => vec![value.trim()],
        };
        let signatures: Vec<Vec<u8>> = parts
            .iter()
            .filter_map(|part| self.encoding.decode(part.strip_prefix(self.prefix.as_str())?))
            .take(MOST_SIGNATURES)
            .collect();
        if signatures.is_empty() {
            return Err(Refused);
        }
        let timestamp = match (&self.timestamp_header, &self.timestamp_prefix) {
            (Some(name), _) => Some(header(name).ok_or(Refused)?.trim()),
            (None, Some(prefix)) => {
                Some(parts.iter().find_map(|part| part.strip_prefix(prefix.as_str())).ok_or(Refused)?)
            }
            (None, None) => None,
        };
        if let Some(seconds) = timestamp {
            let signed_at: i64 = seconds.parse().map_err(|_| Refused)?;
            if now.timestamp().abs_diff(signed_at) > u64::from(self.tolerance_seconds) {
                return Err(Refused);
            }
        }
        let event_id = match &self.event_id_header {
            None => "",
            Some(name) => header(name).map(str::trim).filter(|id| is_event_id(id)).ok_or(Refused)?,
        };
        Ok(Claim {
            signatures,
            timestamp: timestamp.unwrap_or_default().to_owned(),
            event_id: event_id.to_owned(),
        })
    }

    /// Whether one of the claimed signatures is this secret's over this body. Gives the id of the event, if the rule
    /// asks for one.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn verify(
        &self,
        claim: Claim,
        secret: &SecretString,
        body: &[u8],
    ) -> Result<Option<String>, Refused> {
        let key = self.key(secret)?;
        let (before, after) = self.content.split_once("{body}").ok_or(Refused)?;
        let fill =
            |text: &str| text.replace("{timestamp}", &claim.timestamp).replace("{id}", &claim.event_id);
        let (before, after) = (fill(before), fill(after));
        let content = [before.as_bytes(), body, after.as_bytes()];
        let fits = |signature: &Vec<u8>| self.algorithm.fits(&key, content, signature);
        // Every signature is looked at, whether one has fitted already or not.
        let any_fits = claim.signatures.iter().map(fits).fold(false, |any, this| any | this);
        if !any_fits {
            return Err(Refused);
        }
        Ok(self.event_id_header.is_some().then_some(claim.event_id))
    }

    fn key(&self, secret: &SecretString) -> Result<zeroize::Zeroizing<Vec<u8>>, Refused> {
        let text = secret.expose_secret();
        let key = match &self.secret_base64_prefix {
            None => text.as_bytes().to_vec(),
            Some(prefix) => {
                STANDARD.decode(text.strip_prefix(prefix.as_str()).unwrap_or(text)).map_err(|_| Refused)?
            }
        };
        // With an empty key anybody could sign.
        if key.is_empty() { Err(Refused) } else { Ok(key.into()) }
    }
}

impl Encoding {
    fn decode(self, text: &str) -> Option<Vec<u8>> {
        match self {
            Self::Base64 => STANDARD.decode(text).ok(),
            Self::Hex => {
                let pair = |pair: &[u8]| {
                    let digits =
                        std::str::from_utf8(pair).ok().filter(|_| pair.iter().all(u8::is_ascii_hexdigit))?;
                    u8::from_str_radix(digits, 16).ok()
                };
                let bytes = text.as_bytes();
                bytes.len().is_multiple_of(2).then(|| bytes.chunks_exact(2).map(pair).collect()).flatten()
            }
        }
    }
}

impl Algorithm {
    fn fits(self, key: &[u8], content: [&[u8]; 3], signature: &[u8]) -> bool {
        match self {
            Self::Sha256 => Hmac::<Sha256>::new_from_slice(key).is_ok_and(|mut mac| {
                content.iter().for_each(|part| mac.update(part));
                mac.verify_slice(signature).is_ok()
            }),
            Self::Sha512 => Hmac::<Sha512>::new_from_slice(key).is_ok_and(|mut mac| {
                content.iter().for_each(|part| mac.update(part));
                mac.verify_slice(signature).is_ok()
            }),
        }
    }
}

fn is_event_id(id: &str) -> bool {
    (1..=LONGEST_EVENT_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_614_265_330;

    fn rule(json: serde_json::Value) -> SignatureRule {
        let mut whole = serde_json::json!({
            "secret": "hook", "header": "X-Signature", "algorithm": "sha256", "encoding": "hex", "content": "{body}",
            "tolerance_seconds": 300,
        });
        whole.as_object_mut().expect("an object").extend(json.as_object().expect("an object").clone());
        serde_json::from_value(whole).expect("a rule")
    }

    fn check(
        rule: &SignatureRule,
        headers: &[(&str, &str)],
        secret: &str,
        body: &str,
        now: i64,
    ) -> Option<Option<String>> {
        let header =
            |name: &str| headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, v)| *v);
        let claim = rule.read(header, DateTime::from_timestamp(now, 0).expect("a time")).ok()?;
        rule.verify(claim, &secret.into(), body.as_bytes()).ok()
    }

    /// The examples that the services publish, or that their own libraries make.
    #[test]
    fn the_published_examples_of_the_field_verify() {
        // GitHub, "Validating webhook deliveries".
        let github = rule(serde_json::json!({"header": "X-Hub-Signature-256", "prefix": "sha256="}));
        let signed = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        let headers = [("x-hub-signature-256", signed)];
        assert_eq!(check(&github, &headers, "It's a Secret to Everybody", "Hello, World!", 0), Some(None));
        assert_eq!(check(&github, &headers, "It's a Secret to Everybody", "Hello, World?", 0), None);
        assert_eq!(check(&github, &headers, "it's a Secret to Everybody", "Hello, World!", 0), None);

        // The specification of Standard Webhooks.
        let standard = rule(serde_json::json!({
            "header": "webhook-signature", "encoding": "base64", "prefix": "v1,", "separator": " ",
            "content": "{id}.{timestamp}.{body}", "timestamp_header": "webhook-timestamp", "event_id_header": "webhook-id",
            "secret_base64_prefix": "whsec_",
        }));
        let body = r#"{"test": 2432232314}"#;
        let headers = [
            ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
            ("webhook-timestamp", "1614265330"),
            (
                "webhook-signature",
                "v1,bm9ldHUjKzFob2VudXRob2VodWUzMjRvdWVvdW9ldQo= v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            ),
        ];
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let id = Some(Some("msg_p5jXN8AQM9LWM0D4loKWxJek".to_owned()));
        assert_eq!(check(&standard, &headers, secret, body, NOW), id);
        assert_eq!(check(&standard, &headers, secret, body, NOW + 300), id, "at the edge of the window");
        assert_eq!(check(&standard, &headers, secret, body, NOW + 301), None, "too old");
        assert_eq!(check(&standard, &headers, secret, body, NOW - 301), None, "from the future");

        // Slack, "Verifying requests from Slack".
        let slack = rule(serde_json::json!({
            "header": "X-Slack-Signature", "prefix": "v0=", "content": "v0:{timestamp}:{body}",
            "timestamp_header": "X-Slack-Request-Timestamp",
        }));
        let body = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
        let headers = [
            ("X-Slack-Request-Timestamp", "1531420618"),
            ("X-Slack-Signature", "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"),
        ];
        assert_eq!(
            check(&slack, &headers, "8f742231b10e8888abcd99yyyzzz85a5", body, 1_531_420_618),
            Some(None)
        );
    }

    #[test]
    fn what_is_missing_malformed_or_unsigned_is_refused() {
        let stripe = rule(serde_json::json!({
            "header": "Stripe-Signature", "prefix": "v1=", "separator": ",", "content": "{timestamp}.{body}",
            "timestamp_prefix": "t=",
        }));
        let sign = |key: &str, content: &str| {
            let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("any key");
            mac.update(content.as_bytes());
            hex::encode(mac.finalize().into_bytes())
        };
        let good = sign("k", &format!("{NOW}.{{}}"));
        let with = |value: &str| check(&stripe, &[("stripe-signature", value)], "k", "{}", NOW);
        assert_eq!(with(&format!("t={NOW},v1={good}")), Some(None));
        assert_eq!(
            with(&format!("t={NOW},v0=00,v1=00,v1={good}")),
            Some(None),
            "a rotated secret signs twice"
        );
        let mut refused = 0;
        for wrong in [
            String::new(),
            good.clone(),
            format!("v1={good}"),
            format!("t={NOW}"),
            format!("t={NOW},v0={good}"),
            format!("t={NOW},v1="),
            format!("t={NOW},v1={}", &good[2..]),
            format!("t={NOW},v1={good}00"),
            format!("t={NOW},v1={}", good.replace(&good[..1], "g")),
            format!("t={NOW},v1={}", "é".repeat(32)),
            format!("t={},v1={good}", NOW + 1),
            format!("t={}0,v1={good}", NOW),
            format!("t=,v1={good}"),
            format!("t=soon,v1={good}"),
            format!("t={NOW},v1={}", sign("other", &format!("{NOW}.{{}}"))),
            format!("t={NOW},v1={}", sign("k", "{}")),
        ] {
            assert_eq!(with(&wrong), None, "{wrong}");
            refused += 1;
        }
        println!("signatures: {refused} forged or malformed, accepted 0");
        assert_eq!(
            check(
                &stripe,
                &[("stripe-signature", &format!("t={NOW},v1={}", sign("", &format!("{NOW}.{{}}"))))],
                "",
                "{}",
                NOW
            ),
            None,
            "an empty secret signs nothing"
        );
    }

    #[test]
    fn a_rule_that_cannot_be_met_refuses_everything() {
        for broken in [
            serde_json::json!({"content": "signed"}),
            serde_json::json!({"content": "{body}{body}"}),
            serde_json::json!({"content": "{timestamp}{body}"}),
            serde_json::json!({"content": "{id}{body}"}),
            serde_json::json!({"secret": ""}),
            serde_json::json!({"header": ""}),
        ] {
            let rule = rule(broken);
            assert!(!rule.is_sound(), "{rule:?}");
            assert_eq!(rule.read(|_| Some("00"), DateTime::UNIX_EPOCH), Err(Refused));
        }
    }
}
