//! Which bucket a key falls into, and who owns a bucket. Pure, and the same in every router at every time: XXH3 with 64 bits, whose
//! values are fixed.

use millrace_contract::routing_policy::STICKY_BUCKETS;
use xxhash_rust::xxh3::Xxh3;

use crate::choose::Share;

/// The bucket of a key, below [`STICKY_BUCKETS`].
pub fn bucket(service: &str, salt: &str, key: &str) -> u32 {
    hash(&[service, salt, key], STICKY_BUCKETS)
}

fn hash(parts: &[&str], below: u32) -> u32 {
    let mut hasher = Xxh3::new();
    for part in parts {
        hasher.update(part.as_bytes());
        // No text holds this byte, so that ("ab", "c") is not ("a", "bc").
        hasher.update(&[0xff]);
    }
    u32::try_from(hasher.digest() % u64::from(below)).unwrap_or_default()
}

/// Who owns a bucket: the targets in their order, each so many buckets as its weight says. When the owner is not ready, its buckets
/// go to the others by their weights, and the others keep theirs.
pub fn owner(bucket: u32, shares: impl Iterator<Item = Share> + Clone) -> Option<usize> {
    let all = at(bucket, shares.clone().map(|share| u64::from(share.weight)));
    let is_ready = |index: &usize| shares.clone().nth(*index).is_some_and(|share| share.ready);
    all.filter(is_ready).or_else(|| {
        let again = hash(&["again", &bucket.to_string()], STICKY_BUCKETS);
        at(again, shares.map(|share| if share.ready { u64::from(share.weight) } else { 0 }))
    })
}

fn at(bucket: u32, weights: impl Iterator<Item = u64> + Clone) -> Option<usize> {
    let total: u64 = weights.clone().sum();
    let mut edge = 0;
    weights.enumerate().find_map(|(index, weight)| {
        edge += weight;
        // bucket / STICKY_BUCKETS < edge / total, without division.
        (u128::from(bucket) * u128::from(total) < u128::from(edge) * u128::from(STICKY_BUCKETS)).then_some(index)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(weights: &[(u32, bool)]) -> Vec<Share> {
        weights.iter().map(|(weight, ready)| Share { weight: *weight, ready: *ready }).collect()
    }

    fn owned(weights: &[(u32, bool)]) -> Vec<Option<usize>> {
        let shares = shares(weights);
        (0..STICKY_BUCKETS).map(|bucket| owner(bucket, shares.iter().copied())).collect()
    }

    fn count(owners: &[Option<usize>], index: usize) -> usize {
        owners.iter().filter(|owner| **owner == Some(index)).count()
    }

    // By the reference implementation of XXH3 (Python's xxhash), of b"fraud\xff\xffalice\xff" and so on, modulo 10,000.
    #[test]
    fn buckets_are_the_same_for_ever() {
        assert_eq!(
            [bucket("fraud", "", "alice"), bucket("fraud", "", "bob"), bucket("fraud", "s", "alice")],
            [2_451, 2_095, 8_557]
        );
    }

    #[test]
    fn a_target_owns_just_its_share_of_the_buckets_and_gains_only_when_it_grows() {
        let (five, fifty) = (owned(&[(95, true), (5, true)]), owned(&[(50, true), (50, true)]));
        assert_eq!((count(&five, 1), count(&fifty, 1)), (500, 5_000));
        assert!(five.iter().zip(&fifty).all(|(before, after)| *before != Some(1) || *after == Some(1)));
    }

    #[test]
    fn keys_spread_over_the_buckets() {
        let in_first_tenth = (0..10_000).filter(|key| bucket("fraud", "", &key.to_string()) < 1_000).count();
        // 1,000 expected, deviation 30; 99 % within 77.
        assert!((923..=1_077).contains(&in_first_tenth), "{in_first_tenth}");
    }

    #[test]
    fn buckets_of_a_target_that_is_not_ready_go_to_the_others_which_keep_theirs() {
        let (all, one_gone) =
            (owned(&[(50, true), (30, true), (20, true)]), owned(&[(50, false), (30, true), (20, true)]));
        assert_eq!(count(&one_gone, 0), 0);
        assert!(all.iter().zip(&one_gone).all(|(before, after)| *before == Some(0) || before == after));
        // 5,000 buckets shared 3 to 2: 3,000 more for the one with 3,000, deviation 34.6.
        let gained = count(&one_gone, 1);
        assert!((5_880..=6_120).contains(&gained), "{gained}");
        assert_eq!(owned(&[(1, false), (0, true)])[0], None);
    }
}
