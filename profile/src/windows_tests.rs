//! Tests of the drift windows.

use millrace_contract::sketch::Bins;

use super::*;

const HOUR: i64 = 3_600;

fn settings() -> WindowSettings {
    WindowSettings {
        length_seconds: HOUR,
        max_seconds: 3 * HOUR,
        consecutive: 2,
        drift: DriftSettings { min_samples: 100, ..DriftSettings::default() },
    }
}

fn field(current: [u64; 2]) -> Vec<FieldSketch> {
    vec![FieldSketch {
        name: "x".to_owned(),
        bins: Bins::Numeric { edges: vec![0.0] },
        reference: Some(Counts { bins: vec![5_000, 5_000], missing: 0 }),
        current: Counts { bins: current.to_vec(), missing: 0 },
    }]
}

/// Steps a monitor with (time, counts) and returns what closed: (start, end, rows, verdict, consecutive, newly raised).
fn closed(steps: &[(i64, [u64; 2])]) -> Vec<(i64, i64, u64, Verdict, u32, bool)> {
    let mut monitor = DriftMonitor::default();
    steps
        .iter()
        .filter_map(|(now, counts)| {
            // A restart between all steps must change nothing.
            let json = serde_json::to_string(&monitor).unwrap();
            monitor = serde_json::from_str(&json).unwrap();
            let rows = counts.iter().sum();
            monitor.step("rev", *now, rows, &field(*counts), &settings()).unwrap()
        })
        .map(|window| (window.start, window.end, window.rows, window.verdict, window.consecutive, window.newly_raised))
        .collect()
}

#[test]
fn windows_are_aligned_to_utc() {
    let cases = [(0, 0), (3_599, 0), (3_600, 1), (-1, -1), (7_300, 2)];
    for (time, expected) in cases {
        assert_eq!(window_index(time, HOUR), expected);
    }
}

#[test]
fn a_window_closes_at_its_boundary_when_it_has_enough_rows() {
    let steps = [(HOUR + 1_000, [60, 60]), (HOUR + 3_599, [30, 30]), (2 * HOUR, [1, 1])];
    assert_eq!(closed(&steps), [(HOUR, 2 * HOUR, 180, Verdict::Pass, 0, false)]);
}

#[test]
fn a_window_with_too_few_rows_waits_for_a_later_boundary() {
    let steps = [(0, [40, 40]), (HOUR, [5, 5]), (HOUR + 60, [50, 50]), (HOUR + 120, [0, 0]), (2 * HOUR + 5, [0, 0])];
    assert_eq!(closed(&steps), [(0, 2 * HOUR, 190, Verdict::Pass, 0, false)]);
}

#[test]
fn a_window_that_stays_short_of_rows_is_unknown_at_its_longest() {
    let steps = [(0, [0, 40]), (HOUR, [0, 0]), (3 * HOUR - 1, [0, 0]), (3 * HOUR, [0, 0])];
    assert_eq!(closed(&steps), [(0, 3 * HOUR, 40, Verdict::Unknown, 0, false)]);
}

#[test]
fn without_rows_no_window_begins_or_ends() {
    let steps = [(0, [0, 0]), (HOUR, [0, 0]), (9 * HOUR, [0, 0]), (9 * HOUR + 10, [60, 60]), (10 * HOUR, [0, 0])];
    assert_eq!(closed(&steps), [(9 * HOUR, 10 * HOUR, 120, Verdict::Pass, 0, false)]);
}

#[test]
fn drift_is_raised_once_after_enough_drifted_windows_in_a_row() {
    let (bad, good) = ([10, 190], [100, 100]);
    let steps = [(0, bad), (HOUR, good), (2 * HOUR, bad), (3 * HOUR, bad), (4 * HOUR, bad), (5 * HOUR, good)];
    let found: Vec<_> = closed(&steps).into_iter().map(|window| (window.3, window.4, window.5)).collect();
    let expected = [
        (Verdict::Fail, 1, false),
        (Verdict::Pass, 0, false),
        (Verdict::Fail, 1, false),
        (Verdict::Fail, 2, true),
        (Verdict::Fail, 3, false),
    ];
    assert_eq!(found, expected);
}

#[test]
fn an_unknown_window_neither_counts_nor_forgives() {
    let bad = [10, 190];
    let steps = [(0, bad), (HOUR, [1, 1]), (4 * HOUR, bad), (5 * HOUR, [0, 0])];
    let found: Vec<_> = closed(&steps).into_iter().map(|window| (window.3, window.4, window.5)).collect();
    assert_eq!(found, [(Verdict::Fail, 1, false), (Verdict::Unknown, 1, false), (Verdict::Fail, 2, true)]);
}

#[test]
fn another_revision_begins_anew() {
    let mut monitor = DriftMonitor::default();
    monitor.step("old", 0, 200, &field([10, 190]), &settings()).unwrap();
    assert_eq!(monitor.step("new", HOUR, 7, &field([3, 4]), &settings()).unwrap(), None);
    assert_eq!((monitor.rows, monitor.consecutive, monitor.window_start), (7, 0, Some(HOUR)));
}

#[test]
fn a_field_that_changes_its_bins_is_refused_and_the_window_begins_anew() {
    let mut monitor = DriftMonitor::default();
    monitor.step("rev", 0, 200, &field([100, 100]), &settings()).unwrap();
    let mut changed = field([1, 1]);
    changed[0].current.bins.push(1);
    assert!(monitor.step("rev", 60, 3, &changed, &settings()).is_err());
    assert_eq!((monitor.rows, monitor.fields.len()), (0, 0));
}

#[test]
fn counts_can_be_replaced_by_what_was_added() {
    let added = std::collections::BTreeMap::from([("x".to_owned(), Counts { bins: vec![1, 2], missing: 3 })]);
    let replaced = with_counts(&field([50, 60]), &added);
    assert_eq!(replaced[0].current, Counts { bins: vec![1, 2], missing: 3 });
    assert_eq!(with_counts(&field([50, 60]), &Default::default()), []);
}

#[test]
fn a_window_goes_on_with_what_the_ones_before_it_left() {
    let row = |consecutive, raised| InARow { consecutive, raised };
    let cases = [
        (row(0, false), Verdict::Fail, 2, row(1, false)),
        (row(1, false), Verdict::Fail, 2, row(2, true)),
        (row(1, true), Verdict::Fail, 9, row(2, true)),
        (row(u32::MAX, true), Verdict::Fail, 2, row(u32::MAX, true)),
        (row(1, false), Verdict::Unknown, 1, row(1, false)),
        (row(2, true), Verdict::Pass, 2, row(0, false)),
        (row(0, false), Verdict::Fail, 0, row(1, true)),
    ];
    for (before, window, needed, expected) in cases {
        assert_eq!(before.after(window, needed), expected, "{before:?}, {window:?} of {needed}");
    }
}
