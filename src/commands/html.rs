//! Pages of one file, readable without network: what they share.

use anyhow::Result;
use minijinja::Environment;

/// The templates' environment. A page's name ends in `.html`, which turns HTML escaping on: every text from data, models and runs
/// passes through it.
pub(super) fn environment(page: &'static str) -> Result<Environment<'static>> {
    let mut environment = Environment::new();
    environment.add_filter("percent", |share: f64| format!("{:.1} %", 100.0 * share));
    environment.add_filter("number", |number: f64| format!("{number:.3}"));
    environment.add_template("style.css", include_str!("style.css"))?;
    environment.add_template("page.html", page)?;
    Ok(environment)
}

/// Without control characters other than line ends and tabs.
pub(super) fn printable(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control() || matches!(letter, '\n' | '\t')).collect()
}
