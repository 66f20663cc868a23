//! Texts as Markdown, which TensorBoard renders.

/// A prompt and its response under headings, both shown literally.
pub fn prompt_and_response(prompt: &str, response: &str) -> String {
    format!("**prompt**\n\n{}\n\n**response**\n\n{}", escaped(prompt), escaped(response))
}

/// A prompt and two responses to it, `(heading, text)`, in a table, all shown literally.
pub fn side_by_side(prompt: &str, one: (&str, &str), other: (&str, &str)) -> String {
    let (left, right) = (escaped(one.1), escaped(other.1));
    format!("**prompt**\n\n{}\n\n| {} | {} |\n|---|---|\n| {left} | {right} |", escaped(prompt), one.0, other.0)
}

/// Escapes `text`, so that Markdown shows it literally: no headings, tables, emphasis or HTML, with line
/// breaks and indents preserved.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    let mut indent = true;
    for character in text.chars() {
        match character {
            '\n' => out.push_str("<br>"),
            ' ' if indent => out.push_str("&nbsp;"),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\\' | '`' | '*' | '_' | '{' | '}' | '[' | ']' | '(' | ')' | '#' | '+' | '-' | '.' | '!' | '|' | '~' => {
                out.extend(['\\', character]);
            }
            // Other control characters would end a line, or are invisible.
            control if control.is_control() => out.push(if control == '\t' { '\u{2003}' } else { '\u{fffd}' }),
            other => out.push(other),
        }
        indent = character == '\n' || (indent && character == ' ');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_markdown_acts_on_is_left() {
        assert_eq!(escaped("# a\n\n  *b* | `c`"), r"\# a<br><br>&nbsp;&nbsp;\*b\* \| \`c\`");
        assert_eq!(escaped("<b>&amp;</b>"), "&lt;b&gt;&amp;amp;&lt;/b&gt;");
        assert_eq!(escaped("<|im_end|>"), r"&lt;\|im\_end\|&gt;");
        assert_eq!(escaped("a\r\tb\u{7}"), "a\u{fffd}\u{2003}b\u{fffd}");
    }

    #[test]
    fn prompt_and_response_are_paragraphs_of_their_own() {
        assert_eq!(prompt_and_response("a\nb", "c"), "**prompt**\n\na<br>b\n\n**response**\n\nc");
    }

    #[test]
    fn a_response_stays_in_its_cell() {
        let table = side_by_side("a", ("policy", "b\n|c"), ("reference", ""));
        assert_eq!(table, "**prompt**\n\na\n\n| policy | reference |\n|---|---|\n| b<br>\\|c |  |");
    }
}
