//! What was found as desired a short while ago, so that it need not be read at every look. Memory of the process only: a new one
//! knows nothing and reads everything.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use millrace_contract::Digest;

/// How long a finding counts.
const COUNTS: SignedDuration = SignedDuration::from_secs(60);
/// Findings kept; beyond that those that do not count any more go, then all.
const MOST: usize = 4_096;

/// Findings by place.
#[derive(Clone, Debug, Default)]
pub struct Known(Arc<Mutex<HashMap<String, (Digest, Timestamp)>>>);

impl Known {
    /// Whether exactly this was found there lately.
    pub fn is_known(&self, place: &str, digest: &Digest, now: Timestamp) -> bool {
        let found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        found.get(place).is_some_and(|(known, at)| known == digest && counts(*at, now))
    }

    /// Notes that this was found there.
    pub fn note(&self, place: String, digest: Digest, now: Timestamp) {
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if found.len() >= MOST {
            found.retain(|_, (_, at)| counts(*at, now));
        }
        if found.len() >= MOST {
            found.clear();
        }
        found.insert(place, (digest, now));
    }
}

/// A clock that was set back makes nothing known for longer.
fn counts(at: Timestamp, now: Timestamp) -> bool {
    let age = now.duration_since(at);
    !age.is_negative() && age < COUNTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_counts_for_a_minute_and_for_what_was_found_only() {
        let known = Known::default();
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let (one, other) = (Digest::of("one"), Digest::of("other"));
        assert!(!known.is_known("Role a/b", &one, at(100)));
        known.note("Role a/b".to_owned(), one.clone(), at(100));
        assert!(known.is_known("Role a/b", &one, at(159)));
        assert!(!known.is_known("Role a/b", &one, at(160)));
        assert!(!known.is_known("Role a/b", &one, at(99)));
        assert!(!known.is_known("Role a/b", &other, at(101)));
        assert!(!known.is_known("Role a/c", &one, at(101)));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let known = Known::default();
        for nth in 0..MOST + 1 {
            known.note(nth.to_string(), Digest::of("x"), Timestamp::UNIX_EPOCH);
        }
        assert!(known.0.lock().unwrap().len() <= MOST);
    }
}
