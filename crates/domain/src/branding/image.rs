//! What may be shown as a logo: by its content, whatever its name or sender says.
//!
//! An SVG is a document that browsers run, so it may draw and nothing else.

use std::io::Cursor;

use image::{ImageFormat, ImageReader, Limits};
use roxmltree::{Document, Node, ParsingOptions};

/// Largest logo, in bytes.
pub const LARGEST_LOGO: usize = 5 * 1024 * 1024;
/// Longest side, in pixels: a small file can hold a picture that fills the memory.
const LONGEST_SIDE: u32 = 8_192;
const MOST_MEMORY: u64 = 512 * 1024 * 1024;
const MOST_NODES: u32 = 100_000;

const SVG: &str = "http://www.w3.org/2000/svg";
/// Elements that run, embed or change something.
const REFUSED: [&str; 12] = [
    "script",
    "foreignobject",
    "iframe",
    "embed",
    "object",
    "audio",
    "video",
    "handler",
    "listener",
    "set",
    "animate",
    "animatetransform",
];

/// What a logo is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaType {
    /// Portable network graphics.
    Png,
    /// JPEG.
    Jpeg,
    /// Scalable vector graphics.
    Svg,
}

impl MediaType {
    /// As HTTP says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Svg => "image/svg+xml",
        }
    }
}

/// What the bytes are, if they may be shown; else why not.
pub(super) fn check(content: &[u8]) -> Result<MediaType, String> {
    if content.len() > LARGEST_LOGO {
        return Err("a logo may have at most 5 MiB".to_owned());
    }
    match image::guess_format(content) {
        Ok(ImageFormat::Png) => decode(content, ImageFormat::Png).map(|()| MediaType::Png),
        Ok(ImageFormat::Jpeg) => decode(content, ImageFormat::Jpeg).map(|()| MediaType::Jpeg),
        _ => check_svg(content).map(|()| MediaType::Svg),
    }
}

/// The whole picture: a header alone is no image.
fn decode(content: &[u8], format: ImageFormat) -> Result<(), String> {
    let mut reader = ImageReader::with_format(Cursor::new(content), format);
    let mut limits = Limits::default();
    limits.max_image_width = Some(LONGEST_SIDE);
    limits.max_image_height = Some(LONGEST_SIDE);
    limits.max_alloc = Some(MOST_MEMORY);
    reader.limits(limits);
    let damaged = |_| "the image is damaged, or larger than 8,192 × 8,192 pixels".to_owned();
    reader.decode().map(drop).map_err(damaged)
}

fn check_svg(content: &[u8]) -> Result<(), String> {
    let unknown = || "a logo must be a PNG, JPEG or SVG image".to_owned();
    let text = std::str::from_utf8(content).map_err(|_| unknown())?;
    // Without a document type there are no entities, which could grow or fetch something.
    let options = ParsingOptions { allow_dtd: false, nodes_limit: MOST_NODES, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text, options).map_err(|error| match error {
        roxmltree::Error::DtdDetected if text.contains("<svg") => {
            "an SVG logo may have no DOCTYPE; remove that line".to_owned()
        }
        _ => unknown(),
    })?;
    let root = document.root_element();
    if (root.tag_name().name(), root.tag_name().namespace()) != ("svg", Some(SVG)) {
        return Err(unknown());
    }
    document.descendants().filter(Node::is_element).try_for_each(check_element)?;
    let runs = document.descendants().any(|node| node.is_pi());
    if runs { Err("an SVG logo may have no processing instructions".to_owned()) } else { Ok(()) }
}

fn check_element(element: Node<'_, '_>) -> Result<(), String> {
    let name = element.tag_name().name();
    if element.tag_name().namespace() == Some(SVG) && REFUSED.contains(&name.to_ascii_lowercase().as_str()) {
        return Err(format!("an SVG logo may have no <{name}>"));
    }
    if element.tag_name().namespace() == Some("http://www.w3.org/1999/xhtml") {
        return Err("an SVG logo may hold no HTML".to_owned());
    }
    if name.eq_ignore_ascii_case("style") {
        check_style(&element.descendants().filter_map(|node| node.text()).collect::<String>())?;
    }
    for attribute in element.attributes() {
        let (name, value) = (attribute.name().to_ascii_lowercase(), attribute.value().trim());
        if name.starts_with("on") {
            return Err(format!("an SVG logo may have no attribute {}", attribute.name()));
        }
        let is_own = value.starts_with('#')
            || ["data:image/png", "data:image/jpeg"].iter().any(|own| value.starts_with(own));
        if matches!(name.as_str(), "href" | "src") && !is_own {
            return Err("an SVG logo may refer to nothing outside of itself".to_owned());
        }
        check_style(value)?;
    }
    Ok(())
}

/// Styles, and attributes that are styles too, refer to parts of the document at most.
fn check_style(style: &str) -> Result<(), String> {
    let style: String = style.to_ascii_lowercase().split_whitespace().collect();
    let mut references = style.split("url(").skip(1).map(|rest| rest.trim_start_matches(['"', '\'']));
    // A backslash writes letters otherwise, and a comment parts them.
    let is_hidden = style.contains('\\') || style.contains("/*");
    if style.contains("@import")
        || style.contains("javascript:")
        || is_hidden
        || !references.all(|to| to.starts_with('#'))
    {
        return Err("an SVG logo may refer to nothing outside of itself".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn svg(inner: &str) -> String {
        format!(
            r#"<svg xmlns="{SVG}" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 8 8">{inner}</svg>"#
        )
    }

    fn encoded(format: ImageFormat) -> Vec<u8> {
        let mut bytes = Vec::new();
        image::RgbImage::new(3, 2).write_to(&mut Cursor::new(&mut bytes), format).unwrap();
        bytes
    }

    #[test]
    fn images_are_known_by_their_content() {
        assert_eq!(check(&encoded(ImageFormat::Png)), Ok(MediaType::Png));
        assert_eq!(check(&encoded(ImageFormat::Jpeg)), Ok(MediaType::Jpeg));
        for drawn in [
            r##"<defs><linearGradient id="g"/></defs><path d="M0 0h8" style="fill: url(#g)"/>"##,
            r##"<style>.a { fill: #0a7 }</style><use xlink:href="#g"/><image href="data:image/png;base64,AAAA"/>"##,
            "<title>Acme</title><text>on and on</text>",
        ] {
            assert_eq!(check(svg(drawn).as_bytes()), Ok(MediaType::Svg), "{drawn}");
        }
    }

    #[test]
    fn what_is_damaged_runs_or_refers_elsewhere_is_refused() {
        let png = encoded(ImageFormat::Png);
        let mut refused: Vec<Vec<u8>> = vec![
            Vec::new(),
            b"GIF89a".to_vec(),
            png[..png.len() / 2].to_vec(),
            b"\x89PNG\r\n\x1a\n<script>alert(1)</script>".to_vec(),
            b"<html><body/></html>".to_vec(),
            b"<svg><path/></svg>".to_vec(),
            format!("<!DOCTYPE svg [<!ENTITY a 'b'>]>{}", svg("<text>&a;</text>")).into_bytes(),
            format!("<?xml-stylesheet href='https://evil.example/x.css'?>{}", svg("")).into_bytes(),
        ];
        let inner = [
            "<script>alert(1)</script>",
            "<SCRIPT/>",
            r#"<path onclick="alert(1)"/>"#,
            r#"<path ONLOAD="alert(1)"/>"#,
            "<foreignObject><body xmlns='http://www.w3.org/1999/xhtml'/></foreignObject>",
            "<body xmlns='http://www.w3.org/1999/xhtml'><script/></body>",
            r#"<a href="javascript:alert(1)"><path/></a>"#,
            r#"<a xlink:href=" JavaScript:alert(1)"><path/></a>"#,
            r#"<use href="https://evil.example/x.svg#a"/>"#,
            r#"<image href="https://evil.example/x.png"/>"#,
            r#"<image href="data:image/svg+xml;base64,AAAA"/>"#,
            r#"<path style="fill: url(https://evil.example/)"/>"#,
            r#"<path fill="url( 'https://evil.example/')"/>"#,
            "<style>@import 'https://evil.example/x.css';</style>",
            r"<style>@\69mport 'https://evil.example/x.css';</style>",
            "<style>a { fill: u/**/rl(https://evil.example) }</style>",
            r##"<set href="#a" attributeName="href" to="javascript:alert(1)"/>"##,
        ];
        refused.extend(inner.map(|inner| svg(inner).into_bytes()));
        let accepted: Vec<_> = refused.iter().filter(|content| check(content).is_ok()).collect();
        println!("images that must not be shown: accepted {} of {}", accepted.len(), refused.len());
        assert!(
            accepted.is_empty(),
            "{:?}",
            accepted.iter().map(|a| String::from_utf8_lossy(a)).collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_document_type_is_refused_by_its_name() {
        let doctype = r#"<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd">"#;
        let refused = check(format!("<?xml version=\"1.0\"?>\n{doctype}\n{}", svg("<path/>")).as_bytes());
        assert!(refused.is_err_and(|why| why.contains("may have no DOCTYPE")));
    }

    #[test]
    fn what_is_large_is_refused_before_it_fills_the_memory() {
        assert!(check(&vec![b' '; LARGEST_LOGO + 1]).is_err());
        let mut wide = Vec::new();
        image::GrayImage::new(LONGEST_SIDE + 1, 1)
            .write_to(&mut Cursor::new(&mut wide), ImageFormat::Png)
            .unwrap();
        assert!(check(&wide).is_err());
        assert!(check(svg(&"<g/>".repeat(MOST_NODES as usize)).as_bytes()).is_err());
    }
}
