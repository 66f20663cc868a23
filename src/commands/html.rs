//! What HTML pages share. A page is one file, readable without a network.

use anyhow::Result;
use minijinja::Environment;

/// The templates' environment. The name `.html` turns on HTML escaping, for every text from data, models and
/// runs.
pub(super) fn environment(page: &'static str) -> Result<Environment<'static>> {
    let mut environment = Environment::new();
    environment.add_filter("percent", |share: f64| format!("{:.1} %", 100.0 * share));
    environment.add_filter("number", |number: f64| format!("{number:.3}"));
    environment.add_template("style.css", include_str!("style.css"))?;
    environment.add_template("page.html", page)?;
    Ok(environment)
}

/// A text without control characters other than line breaks and tabs.
pub(super) fn printable(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control() || matches!(letter, '\n' | '\t')).collect()
}
