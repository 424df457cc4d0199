//! How many pods a revision needs. Pure.
//!
//! The stable revision keeps its full number until a rollout is decided; a canary gets what its share of the requests needs,
//! before it gets the requests.

/// Pods for a share of the requests: `ceil(replicas * weight / 100)`, at least one.
pub fn pods_for(weight: i32, replicas: i32) -> i32 {
    let weight = i64::from(weight.clamp(0, 100));
    let pods = (i64::from(replicas.max(1)) * weight + 99) / 100;
    i32::try_from(pods).unwrap_or(replicas).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canary_gets_its_share_of_the_pods_and_at_least_one() {
        for (weight, replicas, expected) in [
            (0, 10, 1),
            (1, 10, 1),
            (5, 10, 1),
            (10, 10, 1),
            (11, 10, 2),
            (50, 3, 2),
            (99, 3, 3),
            (100, 3, 3),
            (50, 0, 1),
        ] {
            assert_eq!(pods_for(weight, replicas), expected, "{weight} % of {replicas}");
        }
    }
}
