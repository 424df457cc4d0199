//! What became of the copies that a mirror sends, and how their answers compare with the live ones.

use std::{
    array,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use millrace_contract::traffic::{MirrorTraffic, RATIO_EDGES};

use super::{add, read};

/// What came of comparing an answer with its copy's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agreement {
    /// Whether the classes are the same; none where there are none.
    pub classes: Option<bool>,
    /// Whether the numbers are close enough; none where there are none.
    pub numbers: Option<bool>,
}

/// The counters of one mirror.
#[derive(Debug)]
pub struct MirrorCounts {
    pub(super) revision: String,
    in_flight: AtomicU32,
    sent: AtomicU64,
    shed: AtomicU64,
    failed: AtomicU64,
    incomparable: AtomicU64,
    classes: [AtomicU64; 2],
    numbers: [AtomicU64; 2],
    ratio: [AtomicU64; RATIO_EDGES.len() + 1],
}

/// A copy in flight, until it is dropped.
#[derive(Debug)]
pub struct Copying(Arc<MirrorCounts>);

impl Drop for Copying {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl MirrorCounts {
    pub(super) fn new(revision: &str) -> Self {
        Self {
            revision: revision.to_owned(),
            in_flight: AtomicU32::new(0),
            sent: AtomicU64::new(0),
            shed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            incomparable: AtomicU64::new(0),
            classes: array::from_fn(|_| AtomicU64::new(0)),
            numbers: array::from_fn(|_| AtomicU64::new(0)),
            ratio: array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// A copy is to be sent: counted as sent, or as shed where there are too many.
    pub fn begin(self: &Arc<Self>, most: u32) -> Option<Copying> {
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        let copying = Copying(self.clone());
        add(if before < most { &self.sent } else { &self.shed });
        (before < most).then_some(copying)
    }

    /// A copy is not sent.
    pub fn shed(&self) {
        add(&self.shed);
    }

    /// A copy got no answer below 400, or over gRPC none with status OK.
    pub fn failed(&self) {
        add(&self.failed);
    }

    /// A copy took so long, in percent of the live request.
    pub fn took(&self, percent: u32) {
        add(&self.ratio[RATIO_EDGES.partition_point(|edge| *edge < percent)]);
    }

    /// Both answers were compared, if they could be.
    pub fn compared(&self, agreement: Option<Agreement>) {
        let Some(Agreement { classes, numbers }) = agreement else { return add(&self.incomparable) };
        for ([compared, agreed], result) in [(&self.classes, classes), (&self.numbers, numbers)] {
            if let Some(result) = result {
                add(compared);
                if result {
                    add(agreed);
                }
            }
        }
    }

    /// The counters at this moment.
    pub fn stats(&self) -> MirrorTraffic {
        let ([classes_compared, classes_agreed], [numbers_compared, numbers_agreed]) = (&self.classes, &self.numbers);
        MirrorTraffic {
            revision: self.revision.clone(),
            sent: read(&self.sent),
            shed: read(&self.shed),
            failed: read(&self.failed),
            incomparable: read(&self.incomparable),
            classes_compared: read(classes_compared),
            classes_agreed: read(classes_agreed),
            numbers_compared: read(numbers_compared),
            numbers_agreed: read(numbers_agreed),
            latency_ratio: self.ratio.iter().map(read).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_beyond_the_bound_are_shed() {
        let mirror = Arc::new(MirrorCounts::new("b"));
        let copying = mirror.begin(1);
        assert!(copying.is_some() && mirror.begin(1).is_none());
        drop(copying);
        assert!(mirror.begin(1).is_some());
        let stats = mirror.stats();
        assert_eq!((stats.sent, stats.shed), (2, 1));
    }

    #[test]
    fn agreement_and_latency_ratio_are_counted() {
        let mirror = MirrorCounts::new("b");
        mirror.compared(Some(Agreement { classes: Some(true), numbers: Some(false) }));
        mirror.compared(Some(Agreement { classes: Some(false), numbers: None }));
        mirror.compared(None);
        for percent in [25, 26, 100, 101, 1_000_000] {
            mirror.took(percent);
        }
        let stats = mirror.stats();
        assert_eq!((stats.classes_compared, stats.classes_agreed), (2, 1));
        assert_eq!((stats.numbers_compared, stats.numbers_agreed, stats.incomparable), (1, 0, 1));
        assert_eq!(stats.latency_ratio, [1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
    }
}
