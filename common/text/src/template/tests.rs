use super::*;
use crate::chatml::Role;

fn template(source: &str) -> Result<Template> {
    Template::new(
        PathBuf::from("chat_template.jinja"),
        vec![("default".to_owned(), source.to_owned())],
        vec![("eos_token".to_owned(), "<|im_end|>".to_owned())],
    )
}

fn rendered(source: &str) -> std::result::Result<String, String> {
    let messages = [Message::new(Role::User, "hi <b>&"), Message::new(Role::Assistant, "x</think>\n\ny ")];
    let template = template(source).map_err(|error| {
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    });
    template.and_then(|template| template.render(&messages.into(), true)).inspect_err(|message| {
        assert!(!message.contains('\n'), "{message}");
    })
}

#[test]
fn templates_see_what_they_are_written_for() {
    for (source, expected) in [
        ("{{ messages[0]['content'] }}{{ messages[0].role }}", "hi <b>&user"),
        ("{{ messages[1].content.split('</think>')[-1].lstrip('\\n').strip() }}", "y"),
        ("{% for m in messages[::-1] %}{{ loop.index0 }}{{ m.role.startswith('ass') }};{% endfor %}", "0True;1False;"),
        (
            "{% if enable_thinking is defined and enable_thinking is false %}off{% endif %}{% if tools %}tools{% endif %}",
            "off",
        ),
        ("{{ eos_token }}{{ add_generation_prompt }}{{ no_such_thing }}", "<|im_end|>True"),
        ("{{ {'a': '<'} | tojson }}", "{\"a\": \"<\"}"),
        ("a\n{% if true %}\n  b\n{% endif %}\nc\n", "a\n  b\nc"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2"),
        ("{% for m in messages %}{% if loop.last %}{% continue %}{% endif %}{{ m.role }}{% endfor %}", "user"),
        ("{%- if true %}{% generation %}x{% endgeneration %}{%- endif %}", "x"),
    ] {
        assert_eq!(rendered(source).as_deref(), Ok(expected), "{source}");
    }
}

#[test]
fn hostile_templates_are_stopped() {
    for (source, expected) in [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "it runs too long"),
        ("{% for a in range(9999) %}{{ messages[0].content * 10 }}{% endfor %}", "writes more than 65536 bytes"),
        ("{% include '/etc/passwd' %}", "cannot be rendered"),
        ("{% import 'secrets' as s %}", "cannot be rendered"),
        ("{{ raise_exception('roles must\nalternate') }}", "roles must alternate"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "cannot be rendered"),
        ("{% if %}", "does not parse"),
        ("{{ messages[0].content.__class__() }}", "cannot be rendered"),
        ("{{ 'x' * 1000000000 }}", "cannot be rendered"),
    ] {
        let message = rendered(source).unwrap_err();
        assert!(message.contains(expected), "{source}: {message}");
    }
    let long = "x".repeat(MAX_SOURCE_BYTES + 1);
    assert!(rendered(&long).unwrap_err().contains("expected at most 262144"));
}

#[test]
fn the_template_is_found_where_checkpoints_keep_it() {
    let dir = tempfile::TempDir::new().unwrap();
    let open = || {
        Template::open(dir.path())
            .map(|template| template.map(|template| template.render(&Dialogue::default(), false).unwrap()))
    };
    assert_eq!(open().unwrap(), None);
    let config = |text: &str| std::fs::write(dir.path().join("tokenizer_config.json"), text).unwrap();
    config("{}");
    assert_eq!(open().unwrap(), None);
    config(r#"{"chat_template": "a{{ eos_token }}", "eos_token": {"content": "E"}}"#);
    assert_eq!(open().unwrap().as_deref(), Some("aE"));
    config(r#"{"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}"#);
    assert_eq!(open().unwrap().as_deref(), Some("d"));
    config(r#"{"chat_template": [{"name": "tool_use", "template": "t"}]}"#);
    assert!(open().unwrap_err().to_string().contains("without a template named `default`"));
    config(r#"{"chat_template": 3}"#);
    assert!(open().unwrap_err().to_string().contains("expected a Jinja template"));
    config("{");
    assert!(open().unwrap_err().to_string().contains("expected JSON"));
    config(r#"{"chat_template": "a"}"#);
    std::fs::write(dir.path().join("chat_template.jinja"), "j").unwrap();
    assert_eq!(open().unwrap().as_deref(), Some("j"));
}
