//! Users with sticky keys, for simulations: few of them send most of the requests, and each has something of its own.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// Clusters of keys.
pub const CLUSTERS: u32 = 400;
const USERS: usize = 1_000;

/// Who sends how much, what is the user's own about each request, and in which cluster.
pub struct User<T = f64> {
    until: f64,
    pub own: T,
    pub cluster: u32,
}

/// A Pareto tail of exponent 1.2: a hundredth of the users sends a third of the requests.
pub fn users<T>(random: &mut ChaCha8Rng, own: impl Fn(&mut ChaCha8Rng) -> T) -> Vec<User<T>> {
    let weights: Vec<f64> = (0..USERS).map(|_| (1.0 - random.random::<f64>()).powf(-1.0 / 1.2)).collect();
    let total: f64 = weights.iter().sum();
    let mut until = 0.0;
    let mut user = |weight: &f64| {
        until += weight / total;
        let own = own(random);
        User { until, own, cluster: random.random_range(0..CLUSTERS) }
    };
    weights.iter().map(&mut user).collect()
}

/// One user of twenty is unlike the others.
pub fn one_of_twenty(random: &mut ChaCha8Rng, rare: f64, usual: f64) -> f64 {
    if random.random::<f64>() < 0.05 { rare } else { usual }
}

/// Who sends the next request.
pub fn next<'a, T>(users: &'a [User<T>], random: &mut ChaCha8Rng) -> &'a User<T> {
    let at = random.random::<f64>();
    &users[users.partition_point(|user| user.until < at).min(users.len() - 1)]
}
