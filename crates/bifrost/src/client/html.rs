//! The text of an HTML report, for a terminal: what a person would read, line by line.

/// Elements whose content is not text.
const SKIPPED: [&str; 4] = ["style", "script", "head", "title"];
/// Elements that begin a line of their own.
const BLOCKS: [&str; 18] = [
    "p", "div", "h1", "h2", "h3", "h4", "h5", "h6", "li", "tr", "br", "table", "ul", "ol", "section",
    "header", "footer", "caption",
];

/// The lines of text, without blank ones.
pub(crate) fn text(html: &str) -> Vec<String> {
    let mut text = String::new();
    let mut rest = html;
    while let Some(start) = rest.find('<') {
        push_words(&mut text, &rest[..start]);
        rest = &rest[start..];
        if let Some(comment) = rest.strip_prefix("<!--") {
            rest = comment.find("-->").map_or("", |end| &comment[end + 3..]);
            continue;
        }
        let Some(end) = rest.find('>') else { break };
        let tag = rest[1..end].trim_start_matches('/');
        let closing = rest[1..end].starts_with('/');
        let name: String =
            tag.chars().take_while(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
        rest = &rest[end + 1..];
        if SKIPPED.contains(&name.as_str()) && !closing {
            rest = after_element(rest, &name);
        } else if BLOCKS.contains(&name.as_str()) {
            text.push('\n');
        } else if matches!(name.as_str(), "td" | "th") && !closing {
            text.push_str("  ");
        }
    }
    if !rest.starts_with('<') {
        push_words(&mut text, rest);
    }
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(ToOwned::to_owned).collect()
}

/// What follows the end of an element.
fn after_element<'a>(rest: &'a str, name: &str) -> &'a str {
    let end = rest.to_ascii_lowercase().find(&format!("</{name}"));
    end.and_then(|end| rest[end..].find('>').map(|close| &rest[end + close + 1..])).unwrap_or("")
}

/// Words, with runs of white space as one space, as a browser shows them.
fn push_words(text: &mut String, raw: &str) {
    let decoded = raw
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&#39;", "'")
        .replace("&#x27;", "'")
        .replace("&nbsp;", " ")
        .replace("&amp;", "&");
    if decoded.starts_with(char::is_whitespace) && !text.ends_with(char::is_whitespace) {
        text.push(' ');
    }
    let words: Vec<&str> = decoded.split_whitespace().collect();
    text.push_str(&words.join(" "));
    if !words.is_empty() && decoded.ends_with(char::is_whitespace) {
        text.push(' ');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_becomes_its_lines() {
        let html = "<html><head><style>b { x }</style></head><body><h1>Devices &amp; sites</h1>\n<!-- <p>no</p> -->\
                    <p>All <b>fine</b>, 3\n  left.</p><table><tr><th>Kind</th><th>Count</th></tr><tr><td>Switch</td><td>4</td></tr></table>";

        assert_eq!(text(html), ["Devices & sites", "All fine, 3 left.", "Kind  Count", "Switch  4"]);
    }

    #[test]
    fn broken_html_is_no_reason_to_fail() {
        assert_eq!(text("plain"), ["plain"]);
        assert_eq!(text("a<"), ["a"]);
        assert_eq!(text("<style>never closed"), Vec::<String>::new());
    }
}
