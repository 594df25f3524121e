//! Masking: values of secrets a run has read do not leave it, in whatever form they are written.

use std::borrow::Cow;

use aho_corasick::{AhoCorasick, MatchKind};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use domain::executions::RawJson;
use serde_json::value::RawValue;

/// What stands in the place of a secret.
const MASK: &str = "***";
/// Shorter values are no secrets, and masking them would make any text unreadable.
const SHORTEST: usize = 4;

/// Shorter parts of Base64 text are no proof of anything.
const SHORTEST_PART: usize = 8;

/// The secrets a run has read, in all their forms.
#[derive(Debug, Default)]
pub(crate) struct Mask {
    forms: Vec<String>,
    /// Finds any of them in one pass; made anew when one is added.
    finder: Option<AhoCorasick>,
}

impl Mask {
    /// Adds a value that was handed to the run.
    pub(crate) fn add(&mut self, value: &str) {
        if value.len() < SHORTEST {
            return;
        }
        let json = serde_json::to_string(value).unwrap_or_default();
        let escaped_slashes = json.replace('/', "\\/");
        let ascii: String = value.encode_utf16().map(ascii_json).collect();
        let forms = [
            value.to_owned(),
            json.trim_matches('"').to_owned(),
            escaped_slashes.trim_matches('"').to_owned(),
            ascii,
            // As browsers' forms, Python's `quote`, `quote(safe="")`, `quote_plus`, and `encodeURIComponent` write it.
            url::form_urlencoded::byte_serialize(value.as_bytes()).collect(),
            percent_encoded(value, "-._~/"),
            percent_encoded(value, "-._~"),
            percent_encoded(value, "-._~").replace("%20", "+"),
            percent_encoded(value, "-._~!*'()"),
            STANDARD.encode(value),
            STANDARD_NO_PAD.encode(value),
            URL_SAFE.encode(value),
            URL_SAFE_NO_PAD.encode(value),
        ];
        for form in forms.into_iter().chain(inside_base64(value)) {
            if !self.forms.contains(&form) {
                self.forms.push(form);
            }
        }
        // Of two that begin together the longer one: a form that contains another must go as a whole.
        let finder = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&self.forms);
        self.finder = Some(finder.expect("secrets are far shorter than what an automaton can hold"));
    }

    /// The text without secrets.
    pub(crate) fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let Some(finder) = self.finder.as_ref().filter(|finder| finder.is_match(text)) else {
            return Cow::Borrowed(text);
        };
        let mut masked = String::with_capacity(text.len());
        finder.replace_all_with(text, &mut masked, |_, _, into| {
            into.push_str(MASK);
            true
        });
        Cow::Owned(masked)
    }

    /// The JSON without secrets; it stays JSON, since the forms never hold a bare quote.
    pub(crate) fn json(&self, json: RawJson) -> RawJson {
        match self.text(json.get()) {
            Cow::Borrowed(_) => json,
            Cow::Owned(masked) => RawValue::from_string(masked).unwrap_or_else(|_| {
                // A secret made of digits or punctuation can be part of the syntax itself.
                RawValue::from_string(format!("\"{MASK}\"")).expect("a masked string is JSON")
            }),
        }
    }
}

/// What a value looks like in the middle of longer text that was encoded as a whole, `user:secret` for one: Base64
/// takes three bytes at a time, so there are three ways it can fall, and characters shared with a neighbour are left out.
fn inside_base64(value: &str) -> impl Iterator<Item = String> {
    let part = |before: usize| {
        let shifted = [vec![0; before], value.as_bytes().to_vec()].concat();
        let (first, end) = ((before * 8).div_ceil(6), shifted.len() * 8 / 6);
        [STANDARD_NO_PAD.encode(&shifted), URL_SAFE_NO_PAD.encode(&shifted)]
            .map(|encoded| encoded[first..end].to_owned())
    };
    (0..3).flat_map(part).filter(|part| part.len() >= SHORTEST_PART).collect::<Vec<_>>().into_iter()
}

fn percent_encoded(value: &str, kept: &str) -> String {
    let encode = |byte: u8| match char::from(byte) {
        plain if plain.is_ascii_alphanumeric() || kept.contains(plain) => plain.to_string(),
        _ => format!("%{byte:02X}"),
    };
    value.bytes().map(encode).collect()
}

fn ascii_json(unit: u16) -> String {
    match u8::try_from(unit) {
        Ok(b'"') => "\\\"".into(),
        Ok(b'\\') => "\\\\".into(),
        Ok(byte @ 0x20..=0x7e) => char::from(byte).to_string(),
        _ => format!("\\u{unit:04x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_masked_in_every_form() {
        let secret = "p/ß \"w+d?&";
        let mut mask = Mask::default();
        mask.add(secret);
        let url: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        let forms = [
            secret.to_owned(),
            serde_json::to_string(secret).expect("JSON"),
            "p/\\u00df \\\"w+d?&".to_owned(),
            url,
            "p/%C3%9F%20%22w%2Bd%3F%26".to_owned(),
            STANDARD.encode(secret),
            URL_SAFE_NO_PAD.encode(secret),
        ];
        for form in forms {
            let masked = mask.text(&form).into_owned();
            assert!(
                masked.contains(MASK) && !masked.contains(form.trim_matches('"')),
                "{form} became {masked}"
            );
        }
        assert_eq!(mask.text("nothing to hide"), "nothing to hide");
    }

    #[test]
    fn a_secret_is_masked_inside_longer_base64() {
        let secret = "hunter2+hunter2/hunter2";
        let mut mask = Mask::default();
        mask.add(secret);
        for before in ["", "u", "us", "usr", "user:"] {
            for after in ["", "x", "xy", "xyz"] {
                let encoded = STANDARD.encode(format!("{before}{secret}{after}"));
                let masked = mask.text(&encoded).into_owned();
                assert!(masked.contains(MASK), "{before}…{after}: {masked}");
                // At most one byte at either end can be told from what is left.
                assert!(masked.len() < encoded.len() - secret.len(), "{before}…{after}: {masked}");
            }
        }
        assert_eq!(mask.text("aHVudGluZw== is something else"), "aHVudGluZw== is something else");
    }

    #[test]
    fn of_two_secrets_that_overlap_nothing_is_left() {
        let mut mask = Mask::default();
        mask.add("token");
        mask.add("token-with-more");
        assert_eq!(mask.text("a token-with-more and a token"), "a *** and a ***");
    }

    #[test]
    fn masked_json_is_still_json() {
        let mut mask = Mask::default();
        mask.add("12345");
        mask.add("quo\"ted");
        let json = RawValue::from_string(r#"{"pin": "12345", "text": "a quo\"ted b"}"#.into()).expect("JSON");
        assert_eq!(mask.json(json).get(), r#"{"pin": "***", "text": "a *** b"}"#);
        let number = RawValue::from_string(r#"{"pin": 12345}"#.into()).expect("JSON");
        assert_eq!(mask.json(number).get(), r#""***""#);
    }
}
