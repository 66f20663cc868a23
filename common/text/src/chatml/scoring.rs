//! Files saved with a reward model, so that other programs score dialogues as `align` does. Those programs
//! score the last token of the chat template's output.

use serde_json::{Map, Value, json};

use super::ChatFormat;

/// The file name of the template.
const TEMPLATE: &str = "chat_template.jinja";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

impl ChatFormat {
    /// The files to save with a reward model of this format: a chat template that ends at the end token and
    /// inserts the system text used in training, if the checkpoint's does not; and a tokenizer config whose
    /// pad token is not the scored token, if the present one (`tokenizer_config`) has that.
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

    /// The checkpoint's template, wrapped so that it ends at the end token and inserts the format's system
    /// text; `None` without a template, or if it does so already.
    fn scoring_template(&self) -> Option<String> {
        let template_info = self.inner.template_info.as_ref()?;
        let inserts = !self.system().is_empty() && template_info.system != self.system();
        if !inserts && !template_info.ends_with_newline {
            return None;
        }
        // As a Jinja string literal: Python's and minijinja's escapes are those of JSON.
        let system = Value::String(self.system().to_owned()).to_string();
        let insert = if inserts {
            format!(
                "{{%- if not messages or messages[0].role != 'system' %}}{{%- set messages = [{{'role': 'system', 'content': {system}}}] + messages %}}{{%- endif %}}\n"
            )
        } else {
            String::new()
        };
        // Jinja drops a newline at the end of a template, but not at the end of a block.
        let source = template_info.template.source();
        let source = source.strip_suffix('\n').unwrap_or(source);
        Some(format!(
            "{{#- As align trained this reward model: under its system text, and scored at the last <|im_end|>, where this ends. -#}}\n\
             {insert}{{%- set dialogue %}}{source}{{% endset -%}}\n\
             {{%- if not add_generation_prompt and dialogue[-1:] == '\\n' -%}}{{{{- dialogue[:-1] -}}}}{{%- else -%}}{{{{- dialogue -}}}}{{%- endif -%}}\n"
        ))
    }
}
