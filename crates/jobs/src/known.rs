//! The secrets that a process has been handed: their values, and the mask that keeps them out of what its runs say.
//!
//! The values are kept beside the mask because a run may hand one to a run that it starts, which must mask it as well.

use std::collections::BTreeMap;

use domain::executions::RawJson;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

use crate::mask::Mask;

/// The secrets that the runs of a process have read so far.
#[derive(Debug, Default)]
pub(crate) struct Known {
    mask: Mask,
    values: Vec<SecretString>,
}

/// What a run gets that was handed secrets by the run that started it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Handed {
    /// Its parameters as they are.
    pub(crate) parameters: RawJson,
    /// The secrets in them.
    pub(crate) secrets: Vec<String>,
}

impl Known {
    /// Adds a value that was handed to a run.
    pub(crate) fn add(&mut self, value: &str) {
        if !self.values.iter().any(|known| known.expose_secret() == value) {
            self.mask.add(value);
            self.values.push(value.into());
        }
    }

    /// What masks all of them.
    pub(crate) fn mask(&mut self) -> &mut Mask {
        &mut self.mask
    }

    /// Where a secret is in the parameters of a run that is about to be started: what may be shown of them, and what that run is to
    /// get. `text` is the same as `parameters`.
    pub(crate) fn hide(
        &mut self,
        parameters: &Map<String, Value>,
        text: &RawJson,
    ) -> Option<(RawJson, Handed)> {
        if !masks(&mut self.mask, text.get()) {
            return None;
        }
        let is_in = |value: &&SecretString| {
            let mut alone = Mask::default();
            alone.add(value.expose_secret());
            masks(&mut alone, text.get())
        };
        let secrets =
            self.values.iter().filter(is_in).map(|value| value.expose_secret().to_owned()).collect();
        Some((self.shown(parameters, text), Handed { parameters: text.clone(), secrets }))
    }

    /// An object in any case, for that is what parameters are shown as.
    fn shown(&mut self, parameters: &Map<String, Value>, text: &RawJson) -> RawJson {
        let whole = self.mask.json(text.clone());
        if whole.get().starts_with('{') {
            return whole;
        }
        // A secret made of digits or punctuation is part of the syntax. One by one, most stay readable.
        let masked = |(name, value): (&String, &Value)| {
            (self.mask.text(name).into_owned(), self.mask.json(raw(value)))
        };
        let each = raw(&parameters.iter().map(masked).collect::<BTreeMap<_, _>>());
        if masks(&mut self.mask, each.get()) { raw(&BTreeMap::<String, Value>::new()) } else { each }
    }
}

impl Handed {
    /// As the text that is sealed.
    pub(crate) fn sealable(&self) -> SecretString {
        raw(self).get().into()
    }

    /// Reads what was sealed.
    pub(crate) fn read(plain: &SecretString) -> serde_json::Result<Self> {
        serde_json::from_str(plain.expose_secret())
    }
}

fn masks(mask: &mut Mask, text: &str) -> bool {
    *mask.text(text) != *text
}

fn raw(value: &impl Serialize) -> Box<RawValue> {
    to_raw_value(value).expect("what was JSON, under names that are text, is JSON")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn hide(known: &mut Known, parameters: Value) -> Option<(Value, Vec<String>)> {
        let Value::Object(parameters) = parameters else { panic!("parameters are an object") };
        let (shown, handed) = known.hide(&parameters, &raw(&parameters))?;
        let given: Value = serde_json::from_str(handed.parameters.get()).expect("JSON");
        assert_eq!(given, Value::Object(parameters), "nothing of what the run gets is masked");
        let read = Handed::read(&handed.sealable()).expect("what was written is read");
        assert_eq!(read.parameters.get(), handed.parameters.get());
        Some((serde_json::from_str(shown.get()).expect("JSON"), read.secrets))
    }

    #[test]
    fn the_secrets_in_parameters_are_hidden_and_go_along_and_no_others() {
        let mut known = Known::default();
        for secret in ["first-token", "second \"token\"", "never handed over", "first-token"] {
            known.add(secret);
        }
        assert!(hide(&mut known, json!({ "site": "Bern", "list": [1, null] })).is_none());
        let parameters =
            json!({ "header": "Bearer first-token", "deep": [{ "t": "second \"token\"" }], "site": "Bern" });
        let (shown, secrets) = hide(&mut known, parameters).expect("has secrets");
        assert_eq!(shown, json!({ "header": "Bearer ***", "deep": [{ "t": "***" }], "site": "Bern" }));
        assert_eq!(secrets, ["first-token", "second \"token\""]);
    }

    #[test]
    fn what_is_shown_is_an_object_whatever_the_secret_is_made_of() {
        let mut known = Known::default();
        known.add("12345");
        let (shown, secrets) =
            hide(&mut known, json!({ "pin": 12345, "site": "Bern" })).expect("has a secret");
        assert_eq!((shown, secrets), (json!({ "pin": "***", "site": "Bern" }), vec!["12345".to_owned()]));
        known.add("\":\"B");
        let (shown, _) = hide(&mut known, json!({ "pin": 12345, "site": "Bern" })).expect("has secrets");
        assert_eq!(shown, json!({}));
    }
}
