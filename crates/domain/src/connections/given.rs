//! A token answer as providers send it, which is not always as RFC 6749 says: lifetimes in quotes or with a fraction, scopes
//! as a list, no kind of the token.
//!
//! The invariant: only an answer without an access token is none; whatever else cannot be read counts as not said.

use std::fmt::{self, Display};
use std::time::Duration;

use oauth2::{AccessToken, RefreshToken, Scope, TokenResponse, TokenType};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// Seconds beyond which a lifetime is a mistake: ten years.
const LONGEST_LIFETIME: f64 = 10.0 * 365.0 * 24.0 * 3_600.0;

/// What a provider answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Given {
    access_token: AccessToken,
    #[serde(default)]
    token_type: Kind,
    #[serde(default, deserialize_with = "lifetime")]
    expires_in: Option<Duration>,
    #[serde(default, deserialize_with = "refresh_token")]
    refresh_token: Option<RefreshToken>,
    #[serde(default, deserialize_with = "scopes", rename = "scope")]
    scopes: Option<Vec<Scope>>,
}

/// Kind of the token; empty where the provider does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Kind(String);

impl Given {
    /// What was granted, if the provider says so.
    pub(super) fn granted(&self) -> Option<String> {
        let scopes = self.scopes.as_ref()?;
        Some(scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(" "))
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(given: D) -> Result<Self, D::Error> {
        text(given).map(|kind| Self(kind.unwrap_or_default()))
    }
}

impl Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TokenType for Kind {}

impl TokenResponse for Given {
    type TokenType = Kind;

    fn access_token(&self) -> &AccessToken {
        &self.access_token
    }

    fn token_type(&self) -> &Kind {
        &self.token_type
    }

    fn expires_in(&self) -> Option<Duration> {
        self.expires_in
    }

    fn refresh_token(&self) -> Option<&RefreshToken> {
        self.refresh_token.as_ref()
    }

    fn scopes(&self) -> Option<&Vec<Scope>> {
        self.scopes.as_ref()
    }
}

/// A text, if it is one.
fn text<'de, D: Deserializer<'de>>(given: D) -> Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(given)? {
        Value::String(text) => Some(text),
        _ => None,
    })
}

fn refresh_token<'de, D: Deserializer<'de>>(given: D) -> Result<Option<RefreshToken>, D::Error> {
    Ok(text(given)?.map(RefreshToken::new))
}

/// How long a token is good for.
///
/// # Errors
/// Those of the format.
pub fn lifetime<'de, D: Deserializer<'de>>(given: D) -> Result<Option<Duration>, D::Error> {
    let seconds: Option<f64> = match Value::deserialize(given)? {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let seconds = seconds.filter(|seconds| *seconds >= 0.0);
    Ok(seconds.map(|seconds| Duration::from_secs_f64(seconds.min(LONGEST_LIFETIME))))
}

/// What a token is good for, separated by blanks.
///
/// # Errors
/// Those of the format.
pub fn granted<'de, D: Deserializer<'de>>(given: D) -> Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(given)? {
        Value::String(text) => Some(text),
        Value::Array(all) => Some(all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")),
        _ => None,
    })
}

fn scopes<'de, D: Deserializer<'de>>(given: D) -> Result<Option<Vec<Scope>>, D::Error> {
    Ok(granted(given)?.map(|granted| vec![Scope::new(granted)]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(mut answer: Value) -> Given {
        answer["access_token"] = json!("access");
        serde_json::from_value(answer).expect("is read")
    }

    #[test]
    fn ordinary_answers_are_read_whatever_their_spelling() {
        for (given, seconds) in [
            (json!(3_600), Some(3_600.0)),
            (json!("3600"), Some(3_600.0)),
            (json!(3_600.5), Some(3_600.5)),
            (json!(u64::MAX), Some(LONGEST_LIFETIME)),
            (json!(0), Some(0.0)),
            (json!(-5), None),
            (json!("soon"), None),
            (json!("NaN"), None),
            (json!([]), None),
            (Value::Null, None),
        ] {
            let lifetime = read(json!({"expires_in": given})).expires_in;
            assert_eq!(lifetime.map(|lifetime| lifetime.as_secs_f64()), seconds, "{given}");
        }
        for (given, granted) in [
            (json!("a b"), Some("a b")),
            (json!(["a", "b"]), Some("a b")),
            (json!(5), None),
            (Value::Null, None),
        ] {
            assert_eq!(read(json!({"scope": given})).granted().as_deref(), granted, "{given}");
        }
        for (answer, kind) in [
            (json!({}), ""),
            (json!({"token_type": null}), ""),
            (json!({"token_type": 1}), ""),
            (json!({"token_type": "mac"}), "mac"),
        ] {
            assert_eq!(read(answer).token_type.to_string(), kind);
        }
        for given in [json!(false), Value::Null, json!(["r"])] {
            assert!(read(json!({"refresh_token": given})).refresh_token.is_none(), "{given}");
        }
        assert!(serde_json::from_value::<Given>(json!({"expires_in": 3_600})).is_err(), "there is no token");
    }
}
