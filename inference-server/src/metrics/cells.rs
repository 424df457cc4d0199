//! Counters and histograms that cost a few relaxed additions: one set a shard, a shard for each few threads, added up when they are read.
//! No lock, no allocation, no text. Knows no names.

use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::{
        OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

/// Upper bound of the first bucket of durations, nanoseconds.
pub const FIRST_NANOSECONDS: u64 = 6_250;
/// Buckets of durations: 6.25 µs to 13 s, doubling.
pub const DURATIONS: usize = 22;
/// Buckets of sizes: 1 to 4096, doubling.
pub const SIZES: usize = 13;
/// More shards than this would only cost memory.
const MOST_SHARDS: usize = 16;

/// As many as there are processors, a power of two.
fn shards() -> usize {
    static SHARDS: OnceLock<usize> = OnceLock::new();
    *SHARDS.get_or_init(|| {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        processors.next_power_of_two().min(MOST_SHARDS)
    })
}

/// The number of this thread, given out in the order of the first use.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) });
    NUMBER.with(|number| {
        if number.get() == usize::MAX {
            number.set(NEXT.fetch_add(1, Relaxed));
        }
        number.get()
    })
}

/// One value a shard; a line of cache apart, so that threads do not wait for each other.
#[derive(Debug)]
pub struct Sharded<T>(Box<[Line<T>]>);

#[derive(Debug, Default)]
#[repr(align(128))]
struct Line<T>(T);

impl<T: Default> Sharded<T> {
    /// All at their default.
    pub fn new() -> Self {
        Self((0..shards()).map(|_| Line::default()).collect())
    }

    /// The one of this thread.
    pub fn mine(&self) -> &T {
        // The number of shards is a power of two.
        &self.0[thread_number() & (self.0.len() - 1)].0
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|line| &line.0)
    }
}

/// Counts over doubling buckets, and the sum of what was counted.
#[derive(Debug)]
pub struct Buckets<const N: usize> {
    counts: [AtomicU64; N],
    beyond: AtomicU64,
    sum: AtomicU64,
}

impl<const N: usize> Default for Buckets<N> {
    fn default() -> Self {
        Self { counts: [const { AtomicU64::new(0) }; N], beyond: AtomicU64::new(0), sum: AtomicU64::new(0) }
    }
}

/// Histogram of durations, in nanoseconds.
pub type Durations = Buckets<DURATIONS>;
/// Histogram of sizes.
pub type Sizes = Buckets<SIZES>;

impl<const N: usize> Buckets<N> {
    fn add(&self, value: u64, in_first: u64) {
        // The smallest k with 2^k >= in_first.
        let bucket =
            in_first.max(1).checked_next_power_of_two().map_or(usize::MAX, |power| power.trailing_zeros() as usize);
        self.counts.get(bucket).unwrap_or(&self.beyond).fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }
}

impl Durations {
    /// Counts one duration.
    pub fn observe(&self, duration: Duration) {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.add(nanoseconds, nanoseconds.div_ceil(FIRST_NANOSECONDS));
    }
}

impl Sizes {
    /// Counts one size.
    pub fn observe(&self, size: u64) {
        self.add(size, size);
    }
}

/// Most sizes of one shard that are told apart; further ones are not kept.
const TOLD_APART: usize = 128;

/// Runs by exactly how many rows they had. Sizes take their places as they come: a size of up to 127 finds its own at once.
#[derive(Debug)]
pub struct BySize([OfSize; TOLD_APART]);

#[derive(Debug, Default)]
struct OfSize {
    /// 0 where nobody has it.
    size: AtomicU64,
    runs: AtomicU64,
    nanoseconds: [AtomicU64; 3],
}

impl Default for BySize {
    fn default() -> Self {
        Self(std::array::from_fn(|_| OfSize::default()))
    }
}

impl BySize {
    /// Counts a run and what its parts took. One of no rows is not kept.
    pub fn observe(&self, size: u64, parts: [Duration; 3]) {
        let Some(place) = self.place(size) else { return };
        place.runs.fetch_add(1, Relaxed);
        for (sum, part) in place.nanoseconds.iter().zip(parts) {
            sum.fetch_add(u64::try_from(part.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        }
    }

    fn place(&self, size: u64) -> Option<&OfSize> {
        let first = usize::try_from(size).ok().filter(|&size| size > 0)? % TOLD_APART;
        let (behind, before) = self.0.split_at(first);
        before.iter().chain(behind).find(|place| match place.size.load(Relaxed) {
            0 => place.size.compare_exchange(0, size, Relaxed, Relaxed).map_or_else(|taken| taken == size, |_| true),
            taken => taken == size,
        })
    }

    /// Adds what was counted to the runs and nanoseconds of each size.
    pub fn add_to(&self, sums: &mut BTreeMap<u64, (u64, [u64; 3])>) {
        for place in self.0.iter().filter(|place| place.size.load(Relaxed) > 0) {
            let (runs, nanoseconds) = sums.entry(place.size.load(Relaxed)).or_default();
            *runs += place.runs.load(Relaxed);
            for (sum, part) in nanoseconds.iter_mut().zip(&place.nanoseconds) {
                *sum += part.load(Relaxed);
            }
        }
    }
}

/// What a histogram has counted, over all shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// Counts, one a bucket, not cumulative; the last for everything beyond.
    pub counts: Vec<u64>,
    /// Sum of all values, in nanoseconds for durations.
    pub sum: u64,
}

impl Histogram {
    /// Adds the shards up.
    pub fn of<'a, const N: usize>(shards: impl Iterator<Item = &'a Buckets<N>>) -> Self {
        let mut whole = Self { counts: vec![0; N + 1], sum: 0 };
        for shard in shards {
            for (count, part) in whole.counts.iter_mut().zip(shard.counts.iter().chain([&shard.beyond])) {
                *count += part.load(Relaxed);
            }
            whole.sum += shard.sum.load(Relaxed);
        }
        whole
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Upper bounds with their counts as the encoder wants them, the first bound given.
    pub fn bounds(&self, first: f64) -> Vec<(f64, u64)> {
        let last = self.counts.len() - 1;
        let bound = |index: usize| if index == last { f64::INFINITY } else { first * (1_u64 << index) as f64 };
        self.counts.iter().enumerate().map(|(index, &count)| (bound(index), count)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_on_a_bound_belongs_to_the_bucket_below_it() {
        for (nanoseconds, bucket) in [
            (0, 0),
            (6_250, 0),
            (6_251, 1),
            (12_500, 1),
            (12_501, 2),
            (50_000, 3),
            (50_001, 4),
            (13_107_200_000, 21),
            (13_107_200_001, 22),
            (u64::MAX, 22),
        ] {
            let durations = Durations::default();
            durations.observe(Duration::from_nanos(nanoseconds));
            let read = Histogram::of([&durations].into_iter());
            assert_eq!(read.counts.iter().position(|count| *count == 1), Some(bucket), "{nanoseconds} ns");
            assert_eq!(read.sum, nanoseconds);
        }
        for (size, bucket) in [(0, 0), (1, 0), (2, 1), (3, 2), (32, 5), (33, 6), (4096, 12), (4097, 13)] {
            let sizes = Sizes::default();
            sizes.observe(size);
            assert_eq!(Histogram::of([&sizes].into_iter()).counts[bucket], 1, "{size}");
        }
    }

    #[test]
    fn sizes_are_told_apart_as_long_as_there_is_place() {
        let sizes = BySize::default();
        let took = |nanoseconds| [1_u64, 2, 3].map(|part| Duration::from_nanos(part * nanoseconds));
        for size in [3, 3, 128 + 3, 0, 1 << 40] {
            sizes.observe(size, took(10));
        }
        let read = || {
            let mut sums = BTreeMap::new();
            sizes.add_to(&mut sums);
            sums
        };
        let expected = [(3, (2, [20, 40, 60])), (131, (1, [10, 20, 30])), (1 << 40, (1, [10, 20, 30]))];
        assert_eq!(read(), BTreeMap::from(expected));
        (1..1000).for_each(|size| sizes.observe(size, took(1)));
        assert_eq!((read().len(), read()[&3]), (TOLD_APART, (3, [21, 42, 63])));
    }

    #[test]
    fn bounds_double_and_end_in_infinity() {
        let bounds: Vec<f64> =
            Histogram::of([&Sizes::default()].into_iter()).bounds(1.0).into_iter().map(|(bound, _)| bound).collect();
        assert_eq!((bounds[0], bounds[12], bounds[13]), (1.0, 4096.0, f64::INFINITY));
    }

    #[test]
    fn what_threads_count_at_the_same_time_is_all_there() {
        let cells: Sharded<AtomicU64> = Sharded::new();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..10_000).for_each(|_| _ = cells.mine().fetch_add(1, Relaxed)));
            }
        });
        assert_eq!(cells.iter().map(|cell| cell.load(Relaxed)).sum::<u64>(), 80_000);
    }
}
