//! How many pods a revision needs. Pure.
//!
//! The stable revision keeps its full number until a rollout is decided; a canary gets what its share of the requests needs,
//! before it gets the requests.

/// Pods for a share of the requests: so many that none has more requests than one of the stable revision's, which keeps all of its pods for
/// what is left: a busier pod is a slower one, and the two are compared. `ceil(replicas * weight / (100 - weight))`, at least one and no more
/// than `replicas`.
pub fn pods_for(weight: i32, replicas: i32) -> i32 {
    let replicas = replicas.max(1);
    let (given, left) = (i64::from(weight.clamp(0, 100)), i64::from(100 - weight.clamp(0, 100)));
    let pods = (i64::from(replicas) * given + left - 1).checked_div(left).unwrap_or(i64::MAX);
    i32::try_from(pods).unwrap_or(replicas).clamp(1, replicas)
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
            (9, 10, 1),
            (10, 10, 2),
            (20, 2, 1),
            (25, 8, 3),
            (50, 2, 2),
            (50, 3, 3),
            (99, 3, 3),
            (100, 3, 3),
            (50, 0, 1),
        ] {
            assert_eq!(pods_for(weight, replicas), expected, "{weight} % of {replicas}");
        }
    }
}
