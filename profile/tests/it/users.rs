//! Users with sticky keys, for simulations: few of them send most of the requests, and one of twenty is unlike the others.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// Clusters of keys.
pub const CLUSTERS: u32 = 400;
const USERS: usize = 1_000;

/// Who sends how much, what is the user's own about each request, and in which cluster.
pub struct User {
    until: f64,
    pub own: f64,
    pub cluster: u32,
}

/// A Pareto tail of exponent 1.2: a hundredth of the users sends a third of the requests. One user of twenty has `rare` for its own, the others
/// have `usual`.
pub fn users(random: &mut ChaCha8Rng, rare: f64, usual: f64) -> Vec<User> {
    let weights: Vec<f64> = (0..USERS).map(|_| (1.0 - random.random::<f64>()).powf(-1.0 / 1.2)).collect();
    let total: f64 = weights.iter().sum();
    let mut until = 0.0;
    let mut user = |weight: &f64| {
        until += weight / total;
        let own = if random.random::<f64>() < 0.05 { rare } else { usual };
        User { until, own, cluster: random.random_range(0..CLUSTERS) }
    };
    weights.iter().map(&mut user).collect()
}

/// Who sends the next request.
pub fn next<'a>(users: &'a [User], random: &mut ChaCha8Rng) -> &'a User {
    let at = random.random::<f64>();
    &users[users.partition_point(|user| user.until < at).min(users.len() - 1)]
}
