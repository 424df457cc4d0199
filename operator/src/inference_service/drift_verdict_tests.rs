//! Tests of verdicts about drift.

use millrace_contract::{
    decision::DecidedBy,
    sketch::{Bins, FieldSketch},
};
use millrace_profile::windows::DriftMonitor;

use super::*;

fn settings() -> DriftMonitoring {
    DriftMonitoring {
        threshold: 0.2,
        window_seconds: 60,
        min_samples: 100,
        max_window_seconds: 300,
        consecutive_windows: 2,
    }
}

fn counts(bins: [u64; 2]) -> Counts {
    Counts { bins: bins.to_vec(), missing: 0 }
}

fn sketch(name: &str, current: [u64; 2]) -> FieldSketch {
    FieldSketch {
        name: name.to_owned(),
        bins: Bins::Numeric { edges: vec![0.0] },
        reference: Some(counts([5_000, 5_000])),
        current: counts(current),
    }
}

/// The last of these windows, each with the counts of its features.
fn closed(windows_of: &[Vec<FieldSketch>]) -> ClosedWindow {
    let mut monitor = DriftMonitor::default();
    let mut last = None;
    for (minute, fields) in (0..).zip(windows_of) {
        monitor.step("r", minute * 60, 200, fields, &windows(&settings())).unwrap();
        last = monitor.step("r", minute * 60 + 60, 0, &[], &windows(&settings())).unwrap();
    }
    last.unwrap()
}

#[test]
fn a_verdict_is_computed_again_from_what_is_stored_of_it() {
    let (good, bad, few) = ([100, 100], [10, 190], [1, 3]);
    let cases = [
        ("as the training data", vec![good], Verdict::Pass),
        ("one drifted window", vec![bad], Verdict::Unknown),
        ("two in a row", vec![bad, bad], Verdict::Fail),
        ("not in a row", vec![bad, good, bad], Verdict::Unknown),
        ("raised and not over", vec![bad, bad, bad], Verdict::Fail),
        ("raised and over", vec![bad, bad, good], Verdict::Pass),
        ("too few values of the feature", vec![few], Verdict::Unknown),
    ];
    for (case, windows_of, expected) in cases {
        let fields: Vec<_> = windows_of.into_iter().map(|bins| vec![sketch("amount", bins)]).collect();
        let closed = closed(&fields);
        let text = serde_json::to_string(&DriftInputs::of(&closed, &settings())).unwrap();
        let again = serde_json::from_str::<DriftInputs>(&text).unwrap().judge().unwrap();
        let recorded = Judged { verdict: verdict(closed.verdict, closed.raised), checks: checks(&closed.fields) };
        assert_eq!((&again, again.verdict), (&recorded, expected), "{case}");
    }
}

#[test]
fn other_inputs_have_another_result() {
    type Change<'a> = &'a dyn Fn(&mut DriftInputs);
    let window = vec![sketch("amount", [10, 190])];
    let inputs = DriftInputs::of(&closed(&[window.clone(), window]), &settings());
    let cases: [(&str, Change<'_>); 6] = [
        ("the threshold", &|inputs| inputs.settings.threshold = 9.0),
        ("windows in a row", &|inputs| inputs.settings.consecutive_windows = 3),
        ("least values", &|inputs| inputs.settings.min_samples = 1_000),
        ("windows before", &|inputs| inputs.before = InARow::default()),
        ("counts of the window", &|inputs| inputs.features[0].current = counts([100, 100])),
        ("the reference", &|inputs| inputs.features[0].reference = counts([500, 9_500])),
    ];
    assert_eq!(inputs.judge().unwrap().verdict, Verdict::Fail);
    for (case, change) in cases {
        let mut changed = inputs.clone();
        change(&mut changed);
        assert_ne!(changed.judge().unwrap().verdict, Verdict::Fail, "{case}");
    }
    let mut torn = inputs;
    torn.features[0].current.bins.push(1);
    assert!(torn.judge().is_err());
}

#[test]
fn of_many_features_those_are_kept_that_the_verdict_hangs_on() {
    // All reach the threshold: the last has the least PSI, and is the only one with more values than chance explains.
    let strange = |number: u64| FieldSketch {
        reference: Some(counts([2, 2])),
        ..sketch(&format!("f{number:03}"), [10 - number % 3, 190])
    };
    let mut fields: Vec<FieldSketch> = (0..300).map(strange).collect();
    fields.push(sketch("last", [55, 145]));
    let closed = closed(&[fields.clone(), fields]);
    let names: Vec<&str> = closed.fields.iter().map(|field| field.name.as_str()).collect();
    assert_eq!((names.len(), names[300]), (301, "last"));
    let drifted: Vec<&FieldDrift> = closed.fields.iter().filter(|field| field.verdict == Verdict::Fail).collect();
    assert_eq!((drifted.len(), drifted[0].name.as_str()), (1, "last"));
    let inputs = DriftInputs::of(&closed, &settings());
    assert_eq!((inputs.features.len(), inputs.compared), (MAX_KEPT, 301));
    assert_eq!(inputs.judge().unwrap(), Judged { verdict: Verdict::Fail, checks: checks(&closed.fields) });
}

fn known(id: i64, question: Question) -> Decision {
    Decision {
        id,
        time: String::new(),
        question,
        subject: "fraud-1".to_owned(),
        verdict: Verdict::Fail,
        reason: "InputsDrifted".to_owned(),
        message: String::new(),
        decided_by: DecidedBy::Operator,
        user: None,
        checks: Vec::new(),
    }
}

#[test]
fn a_verdict_is_told_until_the_history_has_it() {
    let inputs = DriftInputs::of(&closed(&[vec![sketch("amount", [100, 100])]]), &settings());
    let fresh = DriftVerdict::new(Verdict::Pass, inputs.clone());
    let numbered = |decision| DriftVerdict { decision: Some(decision), ..fresh.clone() };
    let cases = [
        ("never told", fresh.clone(), vec![known(4, Question::Step)], Some(5)),
        ("a crash before the status", numbered(5), vec![known(4, Question::Step)], Some(5)),
        ("a crash, and a history without it", numbered(5), vec![], Some(1)),
        ("its number went to another", numbered(5), vec![known(5, Question::Step)], Some(6)),
        ("told", numbered(5), vec![known(6, Question::Step), known(5, Question::Drift)], None),
        ("told long ago", numbered(5), vec![known(16, Question::Step), known(7, Question::Step)], None),
    ];
    for (case, mut verdict, history, expected) in cases {
        let before = verdict.decision;
        let told = verdict.tell(&history, crate::decision::next_id(&history));
        assert_eq!(told, expected.map(|_| inputs.clone()), "{case}");
        assert_eq!(verdict.decision, expected.or(before), "{case}");
        assert_eq!(verdict.inputs.is_some(), expected.is_some(), "{case}");
    }
}
