//! What a process tells Prometheus, read as strictly as the format is written (text format 0.0.4).

use std::collections::{BTreeMap, HashMap, HashSet};

/// The figures of one scrape.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    values: HashMap<String, f64>,
    names: HashSet<String>,
}

impl Figures {
    /// Asks the process that has this port for metrics.
    ///
    /// # Panics
    /// When it does not answer, or not in the format.
    pub async fn scrape(port: u16) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().expect("the options are valid");
        let reply = http.get(format!("http://127.0.0.1:{port}/metrics")).send().await.expect("it answers");
        assert!(reply.status().is_success(), "{}", reply.status());
        let kind = reply.headers()[reqwest::header::CONTENT_TYPE].to_str().expect("text").to_owned();
        assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
        Self::parse(&reply.text().await.expect("text")).unwrap_or_else(|fault| panic!("{fault}"))
    }

    /// Reads the text.
    ///
    /// # Errors
    /// The first line that is not as it must be.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut reader = Reader::default();
        if !text.ends_with('\n') {
            return Err("the text does not end with a line".into());
        }
        for (number, line) in text.lines().enumerate() {
            reader.line(line).map_err(|fault| format!("line {}: {fault}: {line}", number + 1))?;
        }
        reader.check_histograms()?;
        Ok(Self { values: reader.values, names: reader.names })
    }

    /// The value of one series, labels in any order; NaN when there is none.
    #[must_use]
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.values.get(&key(name, &labels)).copied().unwrap_or(f64::NAN)
    }

    /// The same, with nothing for what was not counted yet.
    #[must_use]
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let value = self.get(name, labels);
        if value.is_nan() { 0.0 } else { value }
    }

    /// Whether there is a series of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Every series, as it is named.
    pub fn series(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }
}

#[derive(Default)]
struct Reader {
    values: HashMap<String, f64>,
    names: HashSet<String>,
    kinds: HashMap<String, String>,
    /// Per histogram and labels: bounds with their counts, in order.
    buckets: BTreeMap<String, Vec<(f64, f64)>>,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<(), String> {
        if line.is_empty() {
            return Ok(());
        }
        if let Some(comment) = line.strip_prefix("# ") {
            return self.comment(comment);
        }
        let (name, labels, value) = sample(line)?;
        let family = self.family(name).ok_or("a sample without TYPE")?;
        let is_histogram = self.kinds[&family] == "histogram";
        if is_histogram == (family == name) {
            return Err("a sample whose name does not fit its TYPE".into());
        }
        if let (true, Some(bound)) = (name.ends_with("_bucket") && is_histogram, labels.get("le")) {
            let mut others = labels.clone();
            others.remove("le");
            let bound = number(bound)?;
            self.buckets.entry(key(&family, &others)).or_default().push((bound, value));
        }
        self.names.insert(name.to_owned());
        match self.values.insert(key(name, &labels), value) {
            Some(_) => Err("the same series twice".into()),
            None => Ok(()),
        }
    }

    fn comment(&mut self, comment: &str) -> Result<(), String> {
        let mut words = comment.splitn(3, ' ');
        let (what, name, rest) = (words.next(), words.next().unwrap_or_default(), words.next());
        check_name(name)?;
        match (what, rest) {
            (Some("HELP"), Some(_)) => Ok(()),
            (Some("TYPE"), Some(kind @ ("counter" | "gauge" | "histogram"))) => {
                match self.kinds.insert(name.to_owned(), kind.to_owned()) {
                    Some(_) => Err("a TYPE twice".into()),
                    None => Ok(()),
                }
            }
            _ => Err("a comment that is neither HELP nor TYPE of a known kind".into()),
        }
    }

    fn family(&self, name: &str) -> Option<String> {
        let parts = ["_bucket", "_sum", "_count"];
        let stripped = parts.iter().find_map(|part| name.strip_suffix(part));
        let is_histogram = |name: &&str| self.kinds.get(*name).is_some_and(|kind| kind == "histogram");
        stripped.filter(is_histogram).or(self.kinds.contains_key(name).then_some(name)).map(str::to_owned)
    }

    fn check_histograms(&self) -> Result<(), String> {
        for (series, buckets) in &self.buckets {
            let rises = buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
            let last = buckets.last().ok_or("a histogram without buckets")?;
            let (name, labels) = series.split_once('{').ok_or("a key has labels")?;
            let count = self.values.get(&format!("{name}_count{{{labels}"));
            let has_sum = self.values.contains_key(&format!("{name}_sum{{{labels}"));
            if !rises || last.0 != f64::INFINITY || count != Some(&last.1) || !has_sum {
                return Err(format!("{series} is no histogram: {buckets:?}, count {count:?}"));
            }
        }
        Ok(())
    }
}

fn key(name: &str, labels: &BTreeMap<String, String>) -> String {
    let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    format!("{name}{{{}}}", labels.join(","))
}

fn check_name(name: &str) -> Result<(), String> {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let begins = name.chars().next().is_some_and(|c| !c.is_ascii_digit());
    if begins && name.chars().all(is_fine) { Ok(()) } else { Err(format!("{name:?} is no name")) }
}

fn number(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| format!("{text:?} is no number"))
}

/// A sample: its name, labels and value, without a time.
fn sample(line: &str) -> Result<(&str, BTreeMap<String, String>, f64), String> {
    let end = line.find(['{', ' ']).ok_or("a sample without a value")?;
    let (name, mut rest) = line.split_at(end);
    check_name(name)?;
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"").ok_or("a label without a value")?;
            check_name(label)?;
            let (value, after) = quoted(after)?;
            if labels.insert(label.to_owned(), value).is_some() {
                return Err("a label twice".into());
            }
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = &rest[1..];
    }
    let value = rest.strip_prefix(' ').ok_or("no space before the value")?;
    Ok((name, labels, number(value)?))
}

fn quoted(text: &str) -> Result<(String, &str), String> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match letters.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, escaped @ ('"' | '\\'))) => value.push(escaped),
                _ => return Err("an unknown escape".into()),
            },
            other => value.push(other),
        }
    }
    Err("a value without an end".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_exposition_is_refused() {
        let good = "# TYPE a counter\na{x=\"1\",y=\"q\\\"\"} 3\n# TYPE h histogram\n\
                    h_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 4\nh_count 2\n";
        let figures = Figures::parse(good).expect("the format");
        assert!((figures.get("a", &[("y", "q\""), ("x", "1")]) - 3.0).abs() < f64::EPSILON);
        for bad in [
            "a 1\n",
            "# TYPE a counter\na{x=\"1\"} 1\na{x=\"1\"} 2\n",
            "# TYPE a counter\na{x=1} 1\n",
            "# TYPE a counter\na one\n",
            "# TYPE h histogram\nh_bucket{le=\"1\"} 3\nh_bucket{le=\"+Inf\"} 2\nh_sum 4\nh_count 2\n",
            "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_sum 4\nh_count 1\n",
            "# TYPE a counter\na 1",
        ] {
            assert!(Figures::parse(bad).is_err(), "{bad}");
        }
    }
}
