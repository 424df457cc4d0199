//! How many lanes may run at the same time, over all models: as many as there are cores. More would only take turns on them, each run
//! taking longer and holding its memory; meanwhile requests gather, and the next run is a larger batch.

use std::sync::{Arc, Condvar, LazyLock, Mutex, PoisonError};

use crate::runtime::cores;

/// The gate of this machine: every model of the process runs on the same cores.
static MACHINE: LazyLock<Arc<Gate>> = LazyLock::new(|| Gate::new(cores()));

/// Places for runs; one gate a machine or device.
#[derive(Debug)]
pub struct Gate {
    free: Mutex<usize>,
    freed: Condvar,
}

/// A place, free again when dropped.
#[derive(Debug)]
pub struct Pass(Arc<Gate>);

impl Gate {
    /// `places` of them, at least one.
    pub fn new(places: usize) -> Arc<Self> {
        Arc::new(Self { free: Mutex::new(places.max(1)), freed: Condvar::new() })
    }

    /// The gate of all models that run on this machine's cores.
    pub fn of_machine() -> Arc<Self> {
        Arc::clone(&MACHINE)
    }

    /// Waits for a place. For lanes: blocks the thread.
    pub fn enter(self: &Arc<Self>) -> Pass {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self.freed.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Pass(Arc::clone(self))
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        thread,
    };

    use super::*;

    #[test]
    fn never_more_are_inside_than_there_are_places_and_everybody_gets_in() {
        let (gate, inside, most) = (Gate::new(2), AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let _pass = gate.enter();
                        let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
                        most.fetch_max(now, Ordering::SeqCst);
                        thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(most.load(Ordering::SeqCst), 2);
    }
}
