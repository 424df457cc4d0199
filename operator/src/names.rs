//! Names of children: the parent, what the child does, and a short hash where its content is immutable. Pure.

use millrace_contract::Digest;
use serde::Serialize;

/// Longest name of a child: it becomes a label value (a Job's pods carry its name) and a DNS label.
pub const MAX_LENGTH: usize = 63;

/// The first eight hex digits of the digest of this value's JSON. Maps are written in key order, so equal values give equal hashes.
pub fn short_hash(value: &impl Serialize) -> String {
    // A value of ours always has a JSON form; without one the hash of nothing still is a valid, stable name.
    let json = serde_json::to_vec(value).unwrap_or_default();
    Digest::of(json).short().to_owned()
}

/// `<parent>-<verb>-<hash8>`, at most 63 characters. A parent too long is cut and told apart by a hash of its whole name.
pub fn child(parent: &str, verb: &str, hash: &str) -> String {
    fit(parent, &format!("-{verb}-{hash}"))
}

/// `<parent>-<suffix>`, at most 63 characters, for children that live as long as their parent.
pub fn lasting_child(parent: &str, suffix: &str) -> String {
    fit(parent, &format!("-{suffix}"))
}

fn fit(parent: &str, suffix: &str) -> String {
    let room = MAX_LENGTH.saturating_sub(suffix.len());
    if parent.len() <= room {
        return format!("{parent}{suffix}");
    }
    let told_apart = format!("-{}", Digest::of(parent).short());
    let kept: String = parent.chars().take(room.saturating_sub(told_apart.len())).collect();
    format!("{}{told_apart}{suffix}", kept.trim_end_matches('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_named_after_its_parent_its_work_and_its_content() {
        assert_eq!(child("fraud", "prepare", "0a1b2c3d"), "fraud-prepare-0a1b2c3d");
        assert_eq!(lasting_child("fraud", "plan"), "fraud-plan");
    }

    #[test]
    fn long_parents_are_cut_yet_told_apart() {
        let one = child(&format!("{}a", "x".repeat(60)), "prepare", "0a1b2c3d");
        let other = child(&format!("{}b", "x".repeat(60)), "prepare", "0a1b2c3d");
        assert_eq!(one.len(), MAX_LENGTH);
        assert_ne!(one, other);
    }

    #[test]
    fn every_name_of_forty_characters_stays_whole() {
        let parent = "p".repeat(40);
        assert!(child(&parent, "evaluate", "0a1b2c3d").starts_with(&parent));
    }

    #[test]
    fn the_hash_depends_on_content_and_not_on_the_order_of_keys() {
        let one: serde_json::Value = serde_json::json!({"a": 1, "b": 2});
        let same: serde_json::Value = serde_json::from_str(r#"{"b": 2, "a": 1}"#).unwrap();
        assert_eq!(short_hash(&one), short_hash(&same));
        assert_ne!(short_hash(&one), short_hash(&serde_json::json!({"a": 1, "b": 3})));
    }
}
