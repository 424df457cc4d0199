//! The queue with the clock in hand.

use std::time::Duration;

use millrace_engine::Data;

use super::*;

const ROOM: usize = 1 << 20;

fn entry(places: &Arc<Places>, enqueued: Instant, timeout: Duration) -> (Entry, oneshot::Receiver<Reply>) {
    let (reply, answer) = oneshot::channel();
    let deadline = enqueued + timeout;
    let (inputs, sketched) = (Vec::new(), Sketched::default());
    let work = Work { inputs, rows: 1, shares: false, priority: 1, sketched, enqueued, deadline, reply };
    (Entry { permit: places.try_take(0).unwrap(), work }, answer)
}

#[test]
fn a_queue_has_as_many_places_as_its_limit_and_a_taken_entry_frees_one() {
    let (places, now) = (Places::new(2, ROOM), Instant::now());
    let mut queue = Queue::default();
    let (first, _answer1) = entry(&places, now, Duration::from_secs(1));
    let (second, _answer2) = entry(&places, now, Duration::from_secs(1));
    queue.push(first);
    queue.push(second);
    assert_eq!(places.try_take(0).unwrap_err(), Full::Requests(2));
    assert_eq!(queue.take(|_| Take::Yes).len(), 2);
    assert_eq!(places.taken(), 0);
}

#[test]
fn bytes_are_bounded_too_but_one_request_alone_may_be_larger_than_the_bound() {
    let places = Places::new(10, 100);
    let first = places.try_take(60).unwrap();
    assert_eq!(places.try_take(41).unwrap_err(), Full::Bytes(100));
    assert_eq!((places.taken(), places.bytes()), (1, 60));
    let second = places.try_take(40).unwrap();
    drop((first, second));
    let large = places.try_take(1000).unwrap();
    assert_eq!(places.try_take(1).unwrap_err(), Full::Bytes(100));
    drop(large);
    assert_eq!((places.taken(), places.bytes()), (0, 0));
    assert_eq!(places.try_take(usize::MAX).map(|permit| permit.bytes), Ok(usize::MAX));
}

#[test]
fn a_client_that_went_away_frees_its_place_without_a_run() {
    let (places, now) = (Places::new(1, ROOM), Instant::now());
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
    let (places, now) = (Places::new(3, ROOM), Instant::now());
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

#[test]
fn the_more_urgent_goes_first_and_equals_keep_their_order() {
    let (places, now) = (Places::new(9, ROOM), Instant::now());
    let mut queue = Queue::default();
    let mut answers = Vec::new();
    for (priority, rows) in [(2, 1), (3, 2), (1, 3), (2, 4), (1, 5), (3, 6)] {
        let (mut entry, answer) = entry(&places, now, Duration::from_secs(1));
        (entry.work.priority, entry.work.rows) = (priority, rows);
        queue.push(entry);
        answers.push(answer);
    }
    let order: Vec<usize> = queue.iter().map(|work| work.rows).collect();
    assert_eq!(order, [3, 5, 1, 4, 2, 6]);
}

#[test]
fn requests_are_alike_when_a_row_of_each_input_has_the_same_name_and_shape() {
    let (places, now) = (Places::new(9, ROOM), Instant::now());
    let of = |name: &str, shape: &[i64], shares: bool| {
        let (mut entry, _) = entry(&places, now, Duration::from_secs(1));
        let tensor = Tensor { shape: shape.to_vec(), data: Data::Fp32(Vec::new()) };
        entry.work.inputs = vec![NamedTensor { name: name.into(), tensor }];
        entry.work.shares = shares;
        entry.work
    };
    let one = of("x", &[1, 4], true);
    assert!(one.is_like(&of("x", &[7, 4], true)));
    for other in [of("x", &[1, 5], true), of("y", &[1, 4], true), of("x", &[1, 4, 1], true), of("x", &[1, 4], false)] {
        assert!(!one.is_like(&other) && !other.is_like(&one), "{other:?}");
    }
}
