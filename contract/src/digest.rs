//! Content digests: `sha256:` and 64 lower-case hex digits. Pure.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A SHA-256 digest in its one written form, `sha256:<64 lower-case hex digits>`; parsing refuses any other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("pattern" = "^sha256:[0-9a-f]{64}$", "maxLength" = 71))]
pub struct Digest(String);

/// Why a string is no digest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("digest {0:?} is not `sha256:` followed by 64 lower-case hex digits")]
pub struct InvalidDigest(String);

impl Digest {
    const PREFIX: &'static str = "sha256:";

    /// The digest of these bytes.
    pub fn of(bytes: impl AsRef<[u8]>) -> Self {
        Self::from_sha256(Sha256::digest(bytes).into())
    }

    /// The digest whose 32 hash bytes are already known (a streaming hash, say).
    pub fn from_sha256(hash: [u8; 32]) -> Self {
        Self(format!("{}{}", Self::PREFIX, hex::encode(hash)))
    }

    /// `sha256:<hex>`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 64 hex digits, fit for a path segment.
    pub fn hex(&self) -> &str {
        &self.0[Self::PREFIX.len()..]
    }

    /// The first eight hex digits, for names and messages; never an identity.
    pub fn short(&self) -> &str {
        &self.hex()[..8]
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_lower_hex = |hex: &str| hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match text.strip_prefix(Self::PREFIX) {
            Some(hex) if is_lower_hex(hex) => Ok(Self(text.to_owned())),
            _ => Err(InvalidDigest(text.chars().take(100).collect())),
        }
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_nothing_is_the_published_one() {
        assert_eq!(Digest::of(b"").as_str(), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[test]
    fn only_the_one_written_form_parses() {
        let good = format!("sha256:{}", "0a".repeat(32));
        assert_eq!(good.parse::<Digest>().map(|d| d.short().to_owned()), Ok("0a0a0a0a".to_owned()));
        for bad in
            ["", "sha256:", "sha256:00", &"0a".repeat(32), &format!("sha256:{}", "0A".repeat(32)), &format!("{good}0")]
        {
            assert!(bad.parse::<Digest>().is_err(), "{bad:?} must not parse");
        }
    }
}
