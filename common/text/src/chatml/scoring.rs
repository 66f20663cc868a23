//! The files beside a reward model's weights by which other programs read it as `align` does: they score the last token of what the chat
//! template writes.

use serde_json::{Map, Value, json};

use super::ChatFormat;

/// The template's file.
const TEMPLATE: &str = "chat_template.jinja";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

impl ChatFormat {
    /// The files to put beside the weights of a reward model that reads this format; `tokenizer_config` is the one that is there. A chat
    /// template that ends at the end token and inserts the system text that was trained under, where the checkpoint's does not; and
    /// padding with another token than the one that is scored.
    pub fn scoring_files(&self, tokenizer_config: Option<&[u8]>) -> Vec<(&'static str, Vec<u8>)> {
        let mut files: Vec<_> = self.scoring_template().map(|text| (TEMPLATE, text.into_bytes())).into_iter().collect();
        let parsed = tokenizer_config.and_then(|bytes| serde_json::from_slice::<Map<String, Value>>(bytes).ok());
        if let Some(mut config) = parsed {
            let special = self.tokenizer().special();
            let (end, pad) = (self.tokenizer().token(special.im_end), self.tokenizer().token(special.endoftext));
            let named = config.get("pad_token").map(|token| token.get("content").unwrap_or(token).clone());
            if named == Some(json!(end)) {
                config.insert("pad_token".to_owned(), json!(pad));
                let mut text = serde_json::to_vec_pretty(&config).expect("JSON values always serialise");
                text.push(b'\n');
                files.push((TOKENIZER_CONFIG, text));
            }
        }
        files
    }

    /// The checkpoint's template, made to end at the end token and to insert the format's own system text; nothing where there is no
    /// template, or where it does so already.
    fn scoring_template(&self) -> Option<String> {
        let judge = self.inner.judge.as_ref()?;
        let inserts = !self.system().is_empty() && judge.system != self.system();
        if !inserts && !judge.ends_with_newline {
            return None;
        }
        // As a Jinja string: JSON's escapes are Python's, and minijinja's.
        let system = Value::String(self.system().to_owned()).to_string();
        let insert = if inserts {
            format!(
                "{{%- if not messages or messages[0].role != 'system' %}}{{%- set messages = [{{'role': 'system', 'content': {system}}}] + messages %}}{{%- endif %}}\n"
            )
        } else {
            String::new()
        };
        // Jinja drops a newline at a template's end; inside a block it would stay.
        let source = judge.template.source();
        let source = source.strip_suffix('\n').unwrap_or(source);
        Some(format!(
            "{{#- As align trained this reward model: under its system text, and scored at the last <|im_end|>, where this ends. -#}}\n\
             {insert}{{%- set dialogue %}}{source}{{% endset -%}}\n\
             {{%- if not add_generation_prompt and dialogue[-1:] == '\\n' -%}}{{{{- dialogue[:-1] -}}}}{{%- else -%}}{{{{- dialogue -}}}}{{%- endif -%}}\n"
        ))
    }
}
