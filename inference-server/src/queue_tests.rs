//! The queue with the clock in hand.

use std::time::Duration;

use super::*;

fn entry(places: &Arc<Places>, enqueued: Instant, timeout: Duration) -> (Entry, oneshot::Receiver<Reply>) {
    let (reply, answer) = oneshot::channel();
    let work = Work { inputs: Vec::new(), rows: 1, key: None, enqueued, deadline: enqueued + timeout, reply };
    (Entry { permit: places.try_take().unwrap(), work }, answer)
}

#[test]
fn a_queue_has_as_many_places_as_its_limit_and_a_taken_entry_frees_one() {
    let (places, now) = (Places::new(2), Instant::now());
    let mut queue = Queue::default();
    let (first, _answer1) = entry(&places, now, Duration::from_secs(1));
    let (second, _answer2) = entry(&places, now, Duration::from_secs(1));
    queue.push(first);
    queue.push(second);
    assert!(places.try_take().is_none());
    assert_eq!(queue.take(|_| true).len(), 2);
    assert_eq!(places.taken(), 0);
}

#[test]
fn a_client_that_went_away_frees_its_place_without_a_run() {
    let (places, now) = (Places::new(1), Instant::now());
    let mut queue = Queue::default();
    let (gone, answer) = entry(&places, now, Duration::from_secs(1));
    queue.push(gone);
    drop(answer);
    assert_eq!(queue.sweep(now), Swept { expired: 0, cancelled: 1 });
    assert!(queue.is_empty());
    assert_eq!(places.taken(), 0);
}

#[test]
fn work_past_its_deadline_is_answered_and_the_rest_keeps_its_order() {
    let (places, now) = (Places::new(3), Instant::now());
    let mut queue = Queue::default();
    let (long, _answer1) = entry(&places, now, Duration::from_millis(50));
    let (short, mut late) = entry(&places, now, Duration::from_millis(10));
    let (last, _answer3) = entry(&places, now + Duration::from_millis(1), Duration::from_millis(50));
    for entry in [long, short, last] {
        queue.push(entry);
    }
    assert_eq!(queue.sweep(now + Duration::from_millis(9)), Swept::default());
    assert_eq!(queue.sweep(now + Duration::from_millis(10)), Swept { expired: 1, cancelled: 0 });
    assert_eq!(late.try_recv().unwrap().unwrap_err().reason, Reason::QueueTimeout);
    let left: Vec<Instant> = queue.iter().map(|work| work.enqueued).collect();
    assert_eq!(left, [now, now + Duration::from_millis(1)]);
}
