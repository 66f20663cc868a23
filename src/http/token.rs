//! The token that authorizes requests.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use align_core::error::{Error, Result};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// A token's hash. Comparing hashes takes the same time whatever was sent, whatever its length.
pub(crate) struct Token([u8; 32]);

impl Token {
    /// Reads a file with a token on one line.
    pub(crate) fn read(file: &Path) -> Result<Self> {
        read_token(file).map(|token| Self::of(token.as_bytes()))
    }

    /// The token with this text.
    pub(crate) fn of(text: &[u8]) -> Self {
        Self(Sha256::digest(text).into())
    }

    /// Whether a request has the token, as `Authorization: Bearer TOKEN`.
    pub(crate) fn authorizes(&self, headers: &HeaderMap) -> bool {
        const SCHEME: &[u8] = b"bearer ";
        let Some(value) = headers.get(AUTHORIZATION).map(|value| value.as_bytes()) else { return false };
        let Some((scheme, token)) = value.split_at_checked(SCHEME.len()) else { return false };
        let brought: [u8; 32] = Sha256::digest(token.trim_ascii()).into();
        scheme.eq_ignore_ascii_case(SCHEME) && bool::from(brought.ct_eq(&self.0))
    }
}

/// The text of a file with a token on one line.
///
/// # Errors
/// [`Error::Invalid`] when it cannot be read, or is anything else. What it holds is not repeated.
pub(crate) fn read_token(file: &Path) -> Result<String> {
    const LONGEST: u64 = 4096;
    let refuse = |what: &str| Err(Error::invalid(file.display(), format!("{what}, expected a token on one line")));
    let mut text = Vec::new();
    let read = File::open(file).and_then(|file| file.take(LONGEST + 1).read_to_end(&mut text));
    if let Err(error) = read {
        return refuse(&format!("cannot be read: {error}"));
    }
    let token = text.trim_ascii();
    if token.is_empty() {
        return refuse("is empty");
    }
    if text.len() as u64 > LONGEST {
        return refuse(&format!("has more than {LONGEST} bytes"));
    }
    if !token.iter().all(u8::is_ascii_graphic) {
        return refuse("has more than one word of plain characters");
    }
    Ok(String::from_utf8_lossy(token).into_owned())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn only_the_complete_token_in_the_right_header_is_accepted() {
        let token = Token::of(b"s3cret");
        let brought = |value: &str| {
            token.authorizes(&HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(value).unwrap())]))
        };
        assert!(brought("Bearer s3cret") && brought("bearer  s3cret"));
        for wrong in
            ["Bearer s3cre", "Bearer s3crets", "Bearer ", "Bearer", "s3cret", "Basic s3cret", "", "Bearer S3CRET"]
        {
            assert!(!brought(wrong), "{wrong}");
        }
        assert!(!token.authorizes(&HeaderMap::new()));
    }
}
