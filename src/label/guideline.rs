//! The guideline: Markdown as a tree of known elements. The page builds them one by one, so that nothing in
//! the text is ever interpreted as HTML.

use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag};
use serde_json::{Value, json};

/// The elements of a text: strings, and `{"tag", "children", "href"?}`.
pub(super) fn tree(markdown: &str) -> Vec<Value> {
    let mut open: Vec<(Value, Vec<Value>)> = vec![(Value::Null, Vec::new())];
    let add = |open: &mut Vec<(Value, Vec<Value>)>, node: Value| {
        open.last_mut().expect("the root is never closed").1.push(node);
    };
    for event in Parser::new_ext(markdown, Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH) {
        match event {
            Event::Start(tag) => open.push((element(&tag), Vec::new())),
            Event::End(_) => {
                let (mut node, children) = open.pop().expect("every end has a start");
                node["children"] = Value::Array(children);
                add(&mut open, node);
            }
            Event::Code(text) => add(&mut open, json!({ "tag": "code", "children": [&*text] })),
            Event::SoftBreak => add(&mut open, json!(" ")),
            Event::HardBreak => add(&mut open, json!({ "tag": "br", "children": [] })),
            Event::Rule => add(&mut open, json!({ "tag": "hr", "children": [] })),
            // HTML is shown as it is written.
            Event::Text(text) | Event::Html(text) | Event::InlineHtml(text) => add(&mut open, json!(&*text)),
            Event::InlineMath(text) | Event::DisplayMath(text) | Event::FootnoteReference(text) => {
                add(&mut open, json!(&*text));
            }
            Event::TaskListMarker(is_done) => add(&mut open, json!(if is_done { "☑ " } else { "☐ " })),
        }
    }
    open.pop().expect("the root").1
}

fn element(tag: &Tag<'_>) -> Value {
    let name = match tag {
        Tag::Link { dest_url, .. } if is_web_address(dest_url) => return json!({ "tag": "a", "href": &**dest_url }),
        Tag::Heading { level, .. } => match level {
            HeadingLevel::H1 => "h2",
            HeadingLevel::H2 => "h3",
            _ => "h4",
        },
        Tag::Paragraph | Tag::HtmlBlock => "p",
        Tag::BlockQuote(_) => "blockquote",
        Tag::CodeBlock(_) => "pre",
        Tag::List(Some(_)) => "ol",
        Tag::List(None) => "ul",
        Tag::Item => "li",
        Tag::Table(_) => "table",
        Tag::TableHead | Tag::TableRow => "tr",
        Tag::TableCell => "td",
        Tag::Emphasis => "em",
        Tag::Strong => "strong",
        Tag::Strikethrough => "s",
        _ => "span",
    };
    json!({ "tag": name })
}

fn is_web_address(link: &str) -> bool {
    ["http://", "https://", "mailto:"].iter().any(|scheme| link.to_ascii_lowercase().starts_with(scheme))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn html_and_odd_links_stay_text() {
        let text =
            "# A\n\n<script>x()</script>\n\na <b>b</b> [c](javascript:alert(1)) [d](https://e.example)\n\n- `f`\n";
        let nodes = tree(text);
        assert_eq!(nodes[0], json!({ "tag": "h2", "children": ["A"] }));
        assert_eq!(nodes[1], json!({ "tag": "p", "children": ["<script>x()</script>\n"] }));
        let line = json!([
            "a ", "<b>", "b", "</b>", " ", { "tag": "span", "children": ["c"] }, " ",
            { "tag": "a", "href": "https://e.example", "children": ["d"] }
        ]);
        assert_eq!(nodes[2], json!({ "tag": "p", "children": line }));
        let code = json!({ "tag": "code", "children": ["f"] });
        assert_eq!(nodes[3], json!({ "tag": "ul", "children": [{ "tag": "li", "children": [code] }] }));
    }
}
