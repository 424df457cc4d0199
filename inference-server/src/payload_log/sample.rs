//! Which requests are written. One with an id is decided by the id, so that all replicas, and all tries of one request, agree.

use xxhash_rust::xxh3::xxh3_64;

/// Longest id that is repeated in a record.
const MAX_ID_BYTES: usize = 256;

/// A share of all requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    rate: f64,
}

impl Sampler {
    /// A share from 0 to 1.
    pub fn new(rate: f64) -> Self {
        Self { rate: rate.clamp(0.0, 1.0) }
    }

    /// The id of the record, if there is to be one: that of the request, else one made up.
    pub fn pick(&self, id: Option<&str>) -> Option<String> {
        match id {
            Some(id) if !id.is_empty() && id.len() <= MAX_ID_BYTES => {
                self.takes(xxh3_64(id.as_bytes())).then(|| id.to_owned())
            }
            Some(_) | None => self.takes(rand::random()).then(|| format!("{:032x}", rand::random::<u128>())),
        }
    }

    fn takes(&self, hash: u64) -> bool {
        // 2^64 as a float: a hash is below a share of it with the probability of that share.
        self.rate >= 1.0 || (hash as f64) < self.rate * 18_446_744_073_709_551_616.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_the_share_asked_for_is_taken_and_an_id_is_always_decided_alike() {
        let sampler = Sampler::new(0.25);
        let ids: Vec<String> = (0..4000).map(|number| format!("request-{number}")).collect();
        let taken: Vec<bool> = ids.iter().map(|id| sampler.pick(Some(id)).is_some()).collect();
        let count = taken.iter().filter(|taken| **taken).count();
        assert!((880..1120).contains(&count), "{count} of 4000");
        let again: Vec<bool> = ids.iter().map(|id| Sampler::new(0.25).pick(Some(id)).is_some()).collect();
        assert_eq!(taken, again);
        let half = ids.iter().map(|id| Sampler::new(0.5).pick(Some(id)).is_some());
        assert!(taken.iter().zip(half).all(|(quarter, half)| half || !quarter), "a larger share has the smaller in it");
    }

    #[test]
    fn all_and_none_are_exact() {
        assert!((0..1000).all(|number| Sampler::new(1.0).pick(Some(&number.to_string())).is_some()));
        assert!((0..1000).all(|_| Sampler::new(0.0).pick(None).is_none()));
        assert!(Sampler::new(1.0).takes(u64::MAX));
    }

    #[test]
    fn a_request_without_a_fit_id_is_given_one() {
        assert_eq!(Sampler::new(1.0).pick(Some("mine")).as_deref(), Some("mine"));
        for unfit in [None, Some(""), Some("x".repeat(257).as_str())] {
            assert_eq!(Sampler::new(1.0).pick(unfit).unwrap().len(), 32);
        }
    }
}
