//! Where a service takes chat completions.

use std::fmt;
use std::net::IpAddr;

use ureq::http::Uri;

const COMPLETIONS: &str = "/chat/completions";

/// The address of chat completions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    text: String,
    is_encrypted: bool,
    is_this_machine: bool,
}

impl Address {
    /// From what a user gives: a service's address, with or without `/v1` and what follows.
    ///
    /// # Errors
    /// What is wrong with it. The text is not repeated, as it may hold a password.
    pub(super) fn new(given: &str) -> Result<Self, String> {
        let expected = "expected one like https://api.example.org/v1";
        let uri: Uri = given.trim().parse().map_err(|_| format!("is no address, {expected}"))?;
        let is_encrypted = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(format!("does not begin with http:// or https://, {expected}")),
        };
        let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
        if authority.contains('@') || uri.query().is_some() {
            return Err(format!("holds a name, a password or a query, {expected}, and the key in --key-file"));
        }
        let host = uri.host().unwrap_or_default();
        if host.is_empty() {
            return Err(format!("has no host, {expected}"));
        }
        let bare = host.trim_matches(['[', ']']);
        let is_this_machine =
            bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let path = uri.path().trim_end_matches('/');
        let path = match path {
            "" => format!("/v1{COMPLETIONS}"),
            path if path.ends_with(COMPLETIONS) => path.to_owned(),
            path => format!("{path}{COMPLETIONS}"),
        };
        let scheme = if is_encrypted { "https" } else { "http" };
        Ok(Self { text: format!("{scheme}://{authority}{path}"), is_encrypted, is_this_machine })
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    pub(super) fn is_this_machine(&self) -> bool {
        self.is_this_machine
    }

    /// Whether a key cannot be read on the way.
    pub(super) fn hides_the_key(&self) -> bool {
        self.is_encrypted || self.is_this_machine
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_may_be_given_with_or_without_its_path() {
        let of = |given: &str| Address::new(given).unwrap().text;
        assert_eq!(of("https://api.example.org"), "https://api.example.org/v1/chat/completions");
        assert_eq!(of("https://api.example.org/v1/"), "https://api.example.org/v1/chat/completions");
        assert_eq!(of("http://127.0.0.1:8000/openai/v1"), "http://127.0.0.1:8000/openai/v1/chat/completions");
        assert_eq!(of("http://a/v1/chat/completions"), "http://a/v1/chat/completions");
    }

    #[test]
    fn a_key_goes_to_another_machine_only_encrypted() {
        let hides = |given: &str| Address::new(given).unwrap().hides_the_key();
        for given in ["https://a.org", "http://localhost:80", "http://127.0.0.2/v1", "http://[::1]:8000/v1"] {
            assert!(hides(given), "{given}");
        }
        assert!(!hides("http://10.0.0.1:8000") && !hides("http://localhost.example.org"));
    }

    #[test]
    fn other_addresses_are_refused_without_repeating_them() {
        for given in ["", "api.example.org", "ftp://a", "http://", "https://ann:pass@a.org", "https://a.org?key=pass"] {
            let what = Address::new(given).unwrap_err();
            assert!(what.contains("expected") && !what.contains("pass@") && !what.contains("=pass"), "{given}: {what}");
        }
    }
}
