//! Masking: values of secrets a run has read do not leave it, in whatever form they are written.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use aho_corasick::{AhoCorasick, AhoCorasickKind, Input, MatchKind};
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

/// Lines of a secret this long are forms of their own, since output arrives line by line.
const SHORTEST_LINE: usize = 8;
/// Bytes of a form that are searched for. What follows is compared where they are found, so that a secret of 64 KiB
/// costs no more memory than one of this size.
const SEARCHED: usize = 512;
/// Lengths of the lines that Base64 is broken into: by `openssl`, and by `base64`, Python's `encodebytes` and mails.
const LINE_LENGTHS: [usize; 2] = [64, 76];
/// The same of such a line: a secret of 64 KiB has thousands of them.
const SEARCHED_OF_LINE: usize = 24;
/// How often a form is escaped once more.
const ESCAPES: usize = 2;
/// What the host appends to text that it cut.
const CUT: &str = "… [truncated]";

/// The secrets a run has read, in all their forms.
#[derive(Debug, Default)]
pub(crate) struct Mask {
    /// Each with the most of its bytes that are searched for.
    forms: HashMap<String, usize>,
    /// Finds any of them in one pass; made when it is needed first after one was added.
    finder: Option<Finder>,
}

/// The beginnings of all forms, and what they are the beginnings of.
#[derive(Debug)]
struct Finder {
    beginnings: AhoCorasick,
    forms: Vec<Vec<String>>,
    /// Where among these the beginnings of lines are: a longer beginning of something shorter hides them.
    lines: HashMap<String, usize>,
}

impl Mask {
    /// Adds a value that was handed to the run.
    pub(crate) fn add(&mut self, value: &str) {
        let lines = value.lines().filter(|line| line.len() >= SHORTEST_LINE && line.len() < value.len());
        // Also without the blanks around it: who reads a secret from a file or a form strips it first.
        let stripped = Some(value.trim()).filter(|stripped| stripped.len() < value.len());
        let whole = std::iter::once(value).chain(stripped).filter(|value| value.len() >= SHORTEST);
        let values: Vec<&str> = whole.chain(lines).collect();
        self.insert(values.iter().copied().flat_map(base64_lines).collect(), SEARCHED_OF_LINE);
        let mut forms: Vec<String> = values.into_iter().flat_map(forms_of).collect();
        // Text in JSON within JSON is escaped twice, and once more where that is part of a result.
        for _ in 0..ESCAPES {
            let escaped = forms.iter().flat_map(|form| [json_escaped(form), ascii_escaped(form)]);
            let escaped: HashSet<String> = escaped.collect();
            self.insert(forms, SEARCHED);
            forms = escaped.into_iter().collect();
        }
        self.insert(forms, SEARCHED);
    }

    fn insert(&mut self, forms: Vec<String>, searched: usize) {
        for form in forms {
            if self.forms.insert(form, searched) != Some(searched) {
                self.finder = None;
            }
        }
    }

    fn finder(&mut self) -> Option<&Finder> {
        if self.finder.is_none() && !self.forms.is_empty() {
            self.finder = Some(Finder::new(&self.forms));
        }
        self.finder.as_ref()
    }

    /// The text without secrets.
    pub(crate) fn text<'a>(&mut self, text: &'a str) -> Cow<'a, str> {
        let Some(finder) = self.finder() else { return Cow::Borrowed(text) };
        let masked = finder.replace(text);
        if !masked.contains(CUT) {
            return masked;
        }
        // The end of what was kept may be the beginning of a secret.
        let mut parts: Vec<Cow<'_, str>> = masked.split(CUT).map(Cow::Borrowed).collect();
        let last = parts.len() - 1;
        for part in &mut parts[..last] {
            if let Some(kept) = finder.without_end(part) {
                *part = Cow::Owned(kept);
            }
        }
        Cow::Owned(parts.join(CUT))
    }

    /// The text without secrets, which begins or ends in the middle of longer text.
    pub(crate) fn piece<'a>(&mut self, text: &'a str, goes_on: bool, continues: bool) -> Cow<'a, str> {
        let mut masked = self.text(text);
        let Some(finder) = self.finder() else { return masked };
        if continues && let Some(kept) = finder.without_beginning(&masked) {
            masked = Cow::Owned(kept);
        }
        if goes_on && let Some(kept) = finder.without_end(&masked) {
            masked = Cow::Owned(kept);
        }
        masked
    }

    /// The JSON without secrets; it stays JSON, since the forms never hold a bare quote.
    pub(crate) fn json(&mut self, json: RawJson) -> RawJson {
        match self.text(json.get()) {
            Cow::Borrowed(_) => json,
            Cow::Owned(masked) => RawValue::from_string(masked).unwrap_or_else(|_| {
                // A secret made of digits or punctuation can be part of the syntax itself.
                RawValue::from_string(format!("\"{MASK}\"")).expect("a masked string is JSON")
            }),
        }
    }
}

impl Finder {
    fn new(all: &HashMap<String, usize>) -> Self {
        let mut by_beginning: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (form, searched) in all {
            by_beginning.entry(&form[..form.floor_char_boundary(*searched)]).or_default().push(form.clone());
        }
        // Of two that begin together the longer one: a form that contains another must go as a whole. Never a DFA,
        // which takes kilobytes for each byte searched for.
        let beginnings = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .build(by_beginning.keys())
            .expect("beginnings are far shorter than what an automaton can hold");
        let of_lines = |(at, beginning): (usize, &&str)| {
            (beginning.len() == SEARCHED_OF_LINE).then(|| ((*beginning).to_owned(), at))
        };
        let lines = by_beginning.keys().enumerate().filter_map(of_lines).collect();
        Self { beginnings, forms: by_beginning.into_values().collect(), lines }
    }

    fn replace<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let (mut at, mut masked) = (0, String::new());
        while let Some(found) = self.beginnings.find(Input::new(text).range(at..)) {
            let rest = &text[found.start()..];
            let line = rest.get(..SEARCHED_OF_LINE).and_then(|beginning| self.lines.get(beginning));
            let forms =
                self.forms[found.pattern()].iter().chain(line.into_iter().flat_map(|at| &self.forms[*at]));
            let length = forms.map(|form| common(form, rest)).max().unwrap_or(found.len());
            masked.push_str(&text[at..found.start()]);
            masked.push_str(MASK);
            at = found.start() + length;
        }
        if at == 0 {
            return Cow::Borrowed(text);
        }
        masked.push_str(&text[at..]);
        Cow::Owned(masked)
    }

    /// The text without the beginning of a form at its end, if it has one there.
    fn without_end(&self, text: &str) -> Option<String> {
        let ends = |form: &String| {
            let longest = form.len().min(SEARCHED + 1);
            (SHORTEST..longest).rev().find(|&k| form.get(..k).is_some_and(|part| text.ends_with(part)))
        };
        let cut = self.forms.iter().flatten().filter_map(ends).max()?;
        Some(format!("{}{MASK}", &text[..text.len() - cut]))
    }

    /// The text without the end of a form at its beginning, if it has one there.
    fn without_beginning(&self, text: &str) -> Option<String> {
        let begins = |form: &String| {
            let parts = (1..form.len().saturating_sub(SHORTEST - 1)).filter_map(|k| form.get(k..));
            parts
                .map(|part| (part.len(), part))
                .find(|(_, part)| text.starts_with(part))
                .map(|(length, _)| length)
        };
        let cut = self.forms.iter().flatten().filter_map(begins).max()?;
        Some(format!("{MASK}{}", &text[cut..]))
    }
}

/// Bytes that both begin with, in whole characters.
fn common(form: &str, text: &str) -> usize {
    let same = form.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
    text.floor_char_boundary(same)
}

fn forms_of(value: &str) -> Vec<String> {
    let json = json_escaped(value);
    let mut forms = vec![
        value.to_owned(),
        json.replace('/', "\\/"),
        json,
        ascii_escaped(value),
        // As Python's `repr` writes it, between single quotes and, if it has some, double ones.
        value.escape_debug().to_string().replace("\\'", "'").replace("\\\"", "\""),
        value.escape_debug().to_string().replace("\\\"", "\""),
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
    forms.extend(inside_base64(value));
    forms
}

fn ascii_escaped(text: &str) -> String {
    text.encode_utf16().map(ascii_json).collect()
}

fn json_escaped(text: &str) -> String {
    let quoted = serde_json::to_string(text).unwrap_or_default();
    quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default().to_owned()
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

/// The lines that a value is broken into when it is encoded alone, for each may arrive by itself.
fn base64_lines(value: &str) -> Vec<String> {
    let encoded = STANDARD_NO_PAD.encode(value);
    let lengths = LINE_LENGTHS.into_iter().filter(|length| *length < encoded.len());
    let places = lengths.flat_map(|length| (0..encoded.len()).step_by(length).map(move |at| at..at + length));
    let lines = places.map(|place| encoded[place.start..place.end.min(encoded.len())].to_owned());
    lines.filter(|line| line.len() >= SHORTEST_PART).collect()
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
        Ok(b'\n') => "\\n".into(),
        Ok(b'\r') => "\\r".into(),
        Ok(b'\t') => "\\t".into(),
        Ok(8) => "\\b".into(),
        Ok(12) => "\\f".into(),
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
    fn a_secret_is_masked_in_base64_that_is_broken_into_lines() {
        for last in 'x'..='z' {
            // 73 to 75 bytes, none of them twice.
            let secret: String = ('0'..=last).collect();
            let mut mask = Mask::default();
            mask.add(&secret);
            for (length, after) in [(64, ""), (76, ""), (64, "\n")] {
                let encoded = STANDARD.encode(format!("{secret}{after}"));
                let (first, second) = encoded.split_at(length);
                assert_eq!(mask.text(&format!("a {first}")), "a ***", "in a line of the log");
                // Padding, or what stands for the line feed.
                let rest = mask.text(second).strip_prefix(MASK).expect("is masked").to_owned();
                assert!(rest.len() <= 4, "{length}, {last}: {rest}");
                let result = serde_json::json!({ "encoded": format!("{first}\n{second}\n") });
                let masked = mask.json(serde_json::value::to_raw_value(&result).expect("JSON"));
                assert_eq!(masked.get(), format!(r#"{{"encoded":"***\n***{rest}\n"}}"#));
            }
        }
    }

    #[test]
    fn every_line_of_a_secret_is_masked_by_itself() {
        let mut mask = Mask::default();
        mask.add("-----BEGIN KEY-----\nMIIEvQIBADANBgkq\n-----END KEY-----\n");
        assert_eq!(mask.text("1: MIIEvQIBADANBgkq"), "1: ***");
    }

    #[test]
    fn a_secret_is_masked_without_the_blanks_around_it_as_well() {
        for (secret, stripped) in
            [("hunter2\n", "hunter2"), (" long-token ", "long-token"), ("\r\n\tp w\u{a0}", "p w")]
        {
            let mut mask = Mask::default();
            mask.add(secret);
            let is_long_enough = stripped.len() >= SHORTEST;
            for written in [
                stripped.to_owned(),
                format!("user:{stripped}"),
                percent_encoded(stripped, "-._~"),
                STANDARD.encode(stripped),
                URL_SAFE_NO_PAD.encode(stripped),
                serde_json::json!({ "secret": stripped }).to_string(),
            ] {
                let masked = mask.text(&written).into_owned();
                assert_eq!(masked.contains(MASK), is_long_enough, "{written:?} became {masked:?}");
                assert!(!is_long_enough || !masked.contains(stripped), "{written:?} became {masked:?}");
            }
            assert_eq!(mask.text(&format!("<{secret}>")), "<***>", "as it is");
        }
    }

    #[test]
    fn json_in_json_and_repr_are_masked() {
        let secret = "it's \"quoted\\\" \n text";
        let mut mask = Mask::default();
        mask.add(secret);
        let inner = serde_json::json!({ "secret": secret }).to_string();
        let outer = serde_json::json!({ "inner": inner }).to_string();
        assert_eq!(mask.text(&outer), r#"{"inner":"{\"secret\":\"***\"}"}"#);
        // What Python prints for repr() of it.
        assert_eq!(mask.text(r#"'it\'s "quoted\\" \n text'"#), "'***'");
    }

    #[test]
    fn a_secret_cut_by_a_limit_or_split_between_two_pieces_is_masked() {
        let mut mask = Mask::default();
        mask.add("a-rather-long-secret");
        assert_eq!(mask.text("xx a-rather-lo… [truncated]"), "xx ***… [truncated]");
        assert_eq!(mask.piece("xx a-rather-lo", true, false), "xx ***");
        assert_eq!(mask.piece("ng-secret yy", false, true), "*** yy");
        assert_eq!(mask.piece("nothing here", true, true), "nothing here");
    }

    #[test]
    fn a_long_secret_is_masked_whole_and_costs_little() {
        let secret: String =
            (0..8192_u32).map(|n| format!("{:08x}", n.wrapping_mul(2_654_435_761))).collect();
        let mut mask = Mask::default();
        mask.add(&secret);
        assert_eq!(mask.text(&format!("<{secret}>")), "<***>");
        assert_eq!(mask.text(&format!("<{}>", STANDARD.encode(&secret))), "<***>");
        assert_eq!(mask.text(&format!("<{}… [truncated]", &secret[..9000])), "<***… [truncated]");
        let encoded = STANDARD.encode(&secret);
        for start in (0..encoded.len()).step_by(76) {
            let line = &encoded[start..encoded.len().min(start + 76)];
            assert!(mask.text(line).starts_with(MASK), "from {start} on");
        }
        let bytes = mask.finder().expect("was made").beginnings.memory_usage();
        println!("a secret of {} KiB: {} KiB of automaton", secret.len() / 1024, bytes / 1024);
        assert!(bytes < 2 * 1024 * 1024, "{bytes}");
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
