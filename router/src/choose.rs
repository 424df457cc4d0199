//! The random split: an independent uniform draw a request over the weights of the targets that can serve. Pure.

use rand::{Rng, RngExt};

/// One target's part in the draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Part of the sum; 0 is never drawn.
    pub weight: u32,
    /// Whether an endpoint is ready; a target without one is left out, so that its part goes to the others.
    pub ready: bool,
}

impl Share {
    fn effective(self) -> u64 {
        if self.ready { u64::from(self.weight) } else { 0 }
    }
}

/// Index of the target drawn; none when no target with a weight is ready.
pub fn draw(shares: impl Iterator<Item = Share> + Clone, rng: &mut impl Rng) -> Option<usize> {
    let total: u64 = shares.clone().map(Share::effective).sum();
    if total == 0 {
        return None;
    }
    let mut point = rng.random_range(0..total);
    for (index, share) in shares.enumerate() {
        let weight = share.effective();
        if point < weight {
            return Some(index);
        }
        point -= weight;
    }
    None
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    fn share(weight: u32, ready: bool) -> Share {
        Share { weight, ready }
    }

    fn counts(shares: &[Share], draws: usize) -> Vec<usize> {
        let mut rng = StdRng::seed_from_u64(7);
        let mut counts = vec![0; shares.len()];
        for _ in 0..draws {
            counts[draw(shares.iter().copied(), &mut rng).expect("a target is ready")] += 1;
        }
        counts
    }

    #[test]
    fn five_percent_of_a_hundred_thousand_draws_lie_in_the_binomial_interval() {
        // n p = 5,000 and the deviation is sqrt(100,000 * 0.05 * 0.95) = 68.9; 99 % lie within 2.576 deviations, 177.5.
        let drawn = counts(&[share(95, true), share(5, true)], 100_000)[1];
        assert!((4_823..=5_177).contains(&drawn), "{drawn} draws");
    }

    #[test]
    fn the_part_of_a_target_that_is_not_ready_goes_to_the_others_by_their_weights() {
        // 1 of 4 remaining parts: 25,000 expected, deviation 136.9, 99 % within 352.7.
        let drawn = counts(&[share(96, false), share(3, true), share(1, true)], 100_000);
        assert_eq!(drawn[0], 0);
        assert!((24_647..=25_353).contains(&drawn[2]), "{drawn:?}");
    }

    #[test]
    fn weight_zero_is_never_drawn() {
        assert_eq!(counts(&[share(0, true), share(1, true), share(0, true)], 1_000), [0, 1_000, 0]);
    }

    #[test]
    fn nothing_is_drawn_when_no_weighted_target_is_ready() {
        let mut rng = StdRng::seed_from_u64(7);
        assert_eq!(draw([share(0, true), share(5, false)].into_iter(), &mut rng), None);
        assert_eq!(draw([].into_iter(), &mut rng), None);
    }

    #[test]
    fn weights_that_would_overflow_32_bits_are_summed() {
        let drawn = counts(&[share(u32::MAX, true), share(u32::MAX, true)], 1_000);
        assert!(drawn[0] > 400 && drawn[1] > 400, "{drawn:?}");
    }
}
