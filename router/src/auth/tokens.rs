//! JSON Web Tokens: verified by the key set of their issuer, which is read by [`super::refresh`]. What was verified is remembered until
//! it expires, since a signature costs more than a whole request, and holds by the key set it was verified by and no other: a key that is
//! withdrawn takes its tokens with it, also one that was just being verified.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation, decode, decode_header,
    errors::ErrorKind,
    jwk::{Jwk, JwkSet},
};
use millrace_contract::routing_policy::Jwt;
use quick_cache::sync::Cache;
use serde_json::Value;
use tokio::{sync::watch, time::timeout};

use crate::caller::Caller;

/// Verified tokens that are remembered.
const REMEMBERED: usize = 4_096;
/// Longest a request waits for the first reading of a key set.
const FIRST_READING: Duration = Duration::from_secs(3);
const LONGEST_TOKEN: usize = 8 * 1024;
/// Clocks may differ by so many seconds.
const LEEWAY: u64 = 30;
/// Algorithms with a public key. None with a shared secret: a public key would be taken for one.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// Tokens of one issuer.
#[derive(Debug)]
pub struct Tokens {
    /// The rule of the plan.
    pub rule: Jwt,
    /// Where the key set is, if it is a file.
    pub file: Option<PathBuf>,
    /// Where a key set of a URL is kept for the next start.
    pub kept: Option<PathBuf>,
    /// The set as it was read.
    text: ArcSwap<Vec<u8>>,
    set: ArcSwap<Set>,
    verified: Cache<Arc<str>, Verified>,
    /// Somebody showed a token of a key that is not in the set.
    wants_keys: AtomicBool,
    /// Second of the last attempt to read the set.
    read_at: AtomicU64,
    /// It has not ended.
    is_reading: AtomicBool,
    /// Whether an attempt has ended.
    was_tried: watch::Sender<bool>,
}

/// A key set, with a number that no other one of this process has.
#[derive(Debug, Default)]
struct Set {
    number: u64,
    keys: Vec<Key>,
}

impl Set {
    fn new(keys: Vec<Key>) -> Self {
        static SETS: AtomicU64 = AtomicU64::new(1);
        Self { number: SETS.fetch_add(1, Ordering::Relaxed), keys }
    }
}

#[derive(Debug)]
struct Key {
    id: Option<String>,
    algorithm: Option<Algorithm>,
    key: DecodingKey,
}

#[derive(Clone, Debug)]
struct Verified {
    caller: Caller,
    expires: u64,
    /// Number of the key set it was verified by.
    set: u64,
}

impl Verified {
    fn new(claims: Value, set: &Set) -> Self {
        let name = claims.get("sub").and_then(Value::as_str).unwrap_or_default().into();
        let expires = claims.get("exp").and_then(Value::as_f64).unwrap_or_default() as u64;
        Self { caller: Caller { name, claims: Some(Arc::new(claims)) }, expires, set: set.number }
    }

    /// Whether it is still valid by this key set at this second.
    fn holds(&self, set: &Set, now: u64) -> bool {
        self.set == set.number && self.expires.saturating_add(LEEWAY) > now
    }
}

impl Tokens {
    /// With the keys of the `former` rule where the set is the same, else those of the file, else those that were kept.
    pub fn new(rule: Jwt, file: Option<PathBuf>, kept: Option<PathBuf>, former: Option<&Self>) -> Self {
        super::provider::install();
        let tokens = Self {
            rule,
            kept: kept.filter(|_| file.is_none()),
            file,
            text: ArcSwap::default(),
            set: ArcSwap::default(),
            verified: Cache::new(REMEMBERED),
            wants_keys: AtomicBool::new(true),
            read_at: AtomicU64::new(0),
            is_reading: AtomicBool::new(false),
            was_tried: watch::Sender::new(false),
        };
        let is_same = |former: &&Self| former.rule.jwks == tokens.rule.jwks && former.file == tokens.file;
        match former.filter(is_same).filter(|former| former.has_keys()) {
            Some(former) => {
                tokens.text.store(former.text.load_full());
                tokens.set.store(former.set.load_full());
                tokens.read_at.store(former.read_at.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            None => {
                let known = tokens.file.as_ref().or(tokens.kept.as_ref());
                if let Some(text) = known.and_then(|file| std::fs::read(file).ok()) {
                    // What is wrong with it is told when it is read again.
                    let _ = tokens.replace(&text);
                }
            }
        }
        tokens
    }

    /// The set as it was read.
    pub fn text(&self) -> Arc<Vec<u8>> {
        self.text.load_full()
    }

    /// Keys by which tokens are verified.
    pub fn count(&self) -> usize {
        self.set.load().keys.len()
    }

    /// Whether any key is known.
    pub fn has_keys(&self) -> bool {
        self.count() > 0
    }

    /// Whether no key is known and nobody has tried to read them.
    pub fn is_unread(&self) -> bool {
        !self.has_keys() && !*self.was_tried.borrow()
    }

    /// An attempt to read the set has ended.
    pub fn tried(&self) {
        self.is_reading.store(false, Ordering::Relaxed);
        self.was_tried.send_replace(true);
    }

    /// Wait until an attempt to read the set has ended, within bounds.
    pub async fn first_reading(&self) {
        let mut tried = self.was_tried.subscribe();
        // Without one in time there is still no key, which is told then.
        let _ = timeout(FIRST_READING, tried.wait_for(|tried| *tried)).await;
    }

    /// Whether the key set is to be read again: regularly every `every` seconds, and after `soonest` when a key is missing. Asking is
    /// taken for an attempt, which ends when it was [`tried`](Self::tried).
    pub fn is_due(&self, now: u64, every: u64, soonest: u64) -> bool {
        // A clock that was set back says nothing of the age.
        let age = now.checked_sub(self.read_at.load(Ordering::Relaxed)).unwrap_or(every);
        let is_time = age >= every || (age >= soonest && self.wants_keys.load(Ordering::Relaxed));
        let due = is_time && !self.is_reading.load(Ordering::Relaxed);
        if due {
            self.read_at.store(now, Ordering::Relaxed);
            self.is_reading.store(true, Ordering::Relaxed);
        }
        due
    }

    /// Follow this key set, if it is another one; says how many keys it has.
    pub fn replace_if_new(&self, text: &[u8]) -> Result<Option<usize>, String> {
        if **self.text.load() != text {
            return self.replace(text).map(Some);
        }
        self.wants_keys.store(false, Ordering::Relaxed);
        Ok(None)
    }

    /// A new key set as text. One that is none leaves the former in force.
    fn replace(&self, text: &[u8]) -> Result<usize, String> {
        let set: JwkSet = serde_json::from_slice(text).map_err(|error| format!("no JSON Web Key Set: {error}"))?;
        let keys: Vec<Key> = set.keys.iter().filter_map(key).collect();
        let count = keys.len();
        if count == 0 {
            return Err("no key in the set has an algorithm that is supported".to_owned());
        }
        self.text.store(Arc::new(text.to_vec()));
        self.set.store(Arc::new(Set::new(keys)));
        self.wants_keys.store(false, Ordering::Relaxed);
        Ok(count)
    }

    /// Who shows this token, `now` in seconds since 1970; else why it is not valid.
    pub fn verify(&self, token: &str, now: u64) -> Result<Caller, String> {
        let set = self.set.load();
        if let Some(known) = self.verified.get(token)
            && known.holds(&set, now)
        {
            return Ok(known.caller);
        }
        if token.len() > LONGEST_TOKEN {
            return Err("the token is too long".to_owned());
        }
        let verified = Verified::new(self.claims(token, &set)?, &set);
        self.verified.insert(token.into(), verified.clone());
        Ok(verified.caller)
    }

    fn claims(&self, token: &str, set: &Set) -> Result<Value, String> {
        let header = decode_header(token).map_err(|_| "no API key and no token".to_owned())?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(format!("algorithm {:?} is not accepted", header.alg));
        }
        let fits = |key: &&Key| {
            let same_id = header.kid.is_none() || key.id == header.kid;
            same_id && key.algorithm.is_none_or(|algorithm| algorithm == header.alg)
        };
        let mut validation = Validation::new(header.alg);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.rule.issuer]);
        validation.set_audience(&self.rule.audiences);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        let mut reason = "its key is not in the key set".to_owned();
        for key in set.keys.iter().filter(fits) {
            match decode::<Value>(token, &key.key, &validation) {
                Ok(decoded) => return Ok(decoded.claims),
                Err(error) => reason = explain(error.kind()),
            }
        }
        if !set.keys.iter().any(|key| fits(&key)) {
            self.wants_keys.store(true, Ordering::Relaxed);
        }
        Err(reason)
    }
}

fn key(jwk: &Jwk) -> Option<Key> {
    let algorithm = match jwk.common.key_algorithm {
        Some(named) => Some(ALGORITHMS.into_iter().find(|known| format!("{known:?}") == named.to_string())?),
        None => None,
    };
    let key = DecodingKey::from_jwk(jwk).ok()?;
    Some(Key { id: jwk.common.key_id.clone(), algorithm, key })
}

fn explain(kind: &ErrorKind) -> String {
    match kind {
        ErrorKind::ExpiredSignature => "the token has expired".to_owned(),
        ErrorKind::ImmatureSignature => "the token is not valid yet".to_owned(),
        ErrorKind::InvalidIssuer => "the token has another issuer".to_owned(),
        ErrorKind::InvalidAudience => "the token is for another audience".to_owned(),
        ErrorKind::InvalidSignature => "the signature is wrong".to_owned(),
        ErrorKind::MissingRequiredClaim(claim) => format!("the token has no {claim}"),
        // The library's own list; the others say that it is no token.
        _ => "no API key and no token".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> Tokens {
        let jwks = "https://issuer.test/keys".into();
        let rule = Jwt { issuer: "https://issuer.test".into(), audiences: vec!["millrace".into()], jwks };
        Tokens::new(rule, None, None, None)
    }

    #[test]
    fn a_token_that_was_being_verified_when_its_key_was_withdrawn_is_not_remembered() {
        let given: Value = serde_json::from_str(include_str!("../../tests/it/tokens.json")).expect("the fixture");
        let token = given["tokens"]["rs256"].as_str().expect("a token");
        let both = given["jwks"].to_string();
        let only_ec = serde_json::json!({"keys": [given["jwks"]["keys"][1]]}).to_string();
        let tokens = tokens();
        assert_eq!(tokens.replace_if_new(both.as_bytes()), Ok(Some(2)));
        let former = tokens.set.load_full();
        let claims = tokens.claims(token, &former).expect("valid");
        assert_eq!(tokens.replace_if_new(only_ec.as_bytes()), Ok(Some(1)));
        tokens.verified.insert(token.into(), Verified::new(claims, &former));
        assert_eq!(tokens.verify(token, 0), Err("its key is not in the key set".to_owned()));
        assert_eq!(tokens.replace_if_new(both.as_bytes()), Ok(Some(2)));
        assert!(tokens.verify(token, 0).is_ok() && tokens.verify(token, 0).is_ok(), "its key is there again");
    }

    #[test]
    fn what_was_verified_holds_by_its_key_set_until_it_expires_however_late_that_is() {
        let (set, other) = (Set::new(Vec::new()), Set::new(Vec::new()));
        for (expires, now, holds) in [(1_000, 1_029, true), (1_000, 1_030, false), (u64::MAX, 1_000, true)] {
            let verified = Verified { expires, ..Verified::new(Value::Null, &set) };
            assert_eq!(verified.holds(&set, now), holds, "{expires} after {now} s");
            assert!(!verified.holds(&other, now));
        }
    }

    #[test]
    fn a_set_that_is_none_is_asked_for_again_soon_but_not_while_it_is_read() {
        let tokens = tokens();
        assert!(tokens.is_due(1_000, 300, 5));
        assert!(!tokens.is_due(1_400, 300, 5), "it is being read");
        assert!(tokens.replace_if_new(b"<html>").is_err());
        tokens.tried();
        assert!(!tokens.is_due(1_004, 300, 5));
        assert!(tokens.is_due(1_005, 300, 5));
        tokens.tried();
        assert!(tokens.is_due(500, 300, 5), "the clock was set back");
        tokens.tried();
        assert!(!tokens.is_due(500, 300, 5));
    }
}
