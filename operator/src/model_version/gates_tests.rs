//! Every verdict a gate can come to.

use millrace_contract::evaluation::MetricName::{Accuracy, F1, LogLoss, Rmse};

use super::*;
use crate::model_version::fixtures::*;

fn one(gate: Gate, evaluation: &Evaluation, champion: Option<&str>) -> Check {
    let mut checks = checks(&[gate], evaluation, champion);
    assert_eq!(checks.len(), 1);
    checks.remove(0)
}

fn threshold(metric: MetricName, threshold: f64) -> Gate {
    Gate { metric, threshold: Some(threshold), champion: None }
}

fn against(metric: MetricName, margin: f64) -> Gate {
    Gate { metric, threshold: None, champion: Some(ChampionGate { margin }) }
}

#[test]
fn a_threshold_is_a_least_value_or_a_greatest_one() {
    for (name, value, bound, expected) in [
        (Accuracy, 0.80, 0.8, Verdict::Pass),
        (Accuracy, 0.79, 0.8, Verdict::Fail),
        (Rmse, 2.5, 2.5, Verdict::Pass),
        (Rmse, 2.6, 2.5, Verdict::Fail),
        (LogLoss, 0.3, 0.4, Verdict::Pass),
    ] {
        let found = evaluation(vec![metric(name, value, value - 0.1, value + 0.1)], vec![]);
        assert_eq!(one(threshold(name, bound), &found, None).verdict, expected, "{name:?} {value} {bound}");
    }
}

#[test]
fn a_threshold_check_records_all_it_rests_on() {
    let found = evaluation(vec![metric(Accuracy, 0.75, 0.7, 0.8)], vec![]);
    assert_eq!(
        one(threshold(Accuracy, 0.8), &found, None),
        Check {
            name: "accuracy".to_owned(),
            verdict: Verdict::Fail,
            value: Some(0.75),
            baseline: None,
            threshold: Some(0.8),
            interval: Some([0.7, 0.8]),
            log_evidence: None,
            samples: 1_000,
            message: "accuracy is 0.7500; it must be at least 0.8".to_owned(),
        }
    );
}

#[test]
fn without_an_interval_nobody_can_tell() {
    let found = evaluation(vec![metric(Accuracy, 0.9, f64::NAN, f64::NAN)], vec![]);
    let check = one(threshold(Accuracy, 0.8), &found, None);
    assert_eq!((check.verdict, check.interval), (Verdict::Unknown, None));
}

#[test]
fn a_metric_that_was_not_computed_is_unknown_and_names_those_there_are() {
    let found = evaluation(vec![metric(Accuracy, 0.9, 0.8, 1.0), metric(F1, 0.9, 0.8, 1.0)], vec![]);
    let check = one(threshold(Rmse, 2.0), &found, None);
    assert_eq!(check.verdict, Verdict::Unknown);
    assert_eq!(check.message, "the evaluation has no rmse; it has: accuracy, f1");
}

#[test]
fn a_champion_gate_passes_by_the_worse_end_and_fails_by_the_better_one() {
    for (name, lower, upper, expected) in [
        (Accuracy, -0.01, 0.02, Verdict::Pass),
        (Accuracy, -0.010_1, 0.02, Verdict::Unknown),
        (Accuracy, -0.05, -0.01, Verdict::Unknown),
        (Accuracy, -0.05, -0.010_1, Verdict::Fail),
        // Where less is better the same interval means the opposite.
        (LogLoss, -0.02, 0.01, Verdict::Pass),
        (LogLoss, -0.02, 0.010_1, Verdict::Unknown),
        (LogLoss, 0.010_1, 0.05, Verdict::Fail),
        (LogLoss, -0.05, -0.02, Verdict::Pass),
    ] {
        let found = evaluation(vec![], vec![difference(name, f64::midpoint(lower, upper), lower, upper)]);
        let check = one(against(name, 0.01), &found, Some("flights-1"));
        assert_eq!(check.verdict, expected, "{name:?} {lower} {upper}");
    }
}

#[test]
fn a_champion_check_records_all_it_rests_on() {
    let found = evaluation(vec![], vec![difference(LogLoss, 0.03, 0.02, 0.04)]);
    assert_eq!(
        one(against(LogLoss, 0.01), &found, Some("flights-1")),
        Check {
            name: "log_loss vs champion".to_owned(),
            verdict: Verdict::Fail,
            value: Some(0.03),
            baseline: Some(0.9),
            threshold: Some(0.01),
            interval: Some([0.02, 0.04]),
            log_evidence: None,
            samples: 1_000,
            message: "log_loss is worse than flights-1's by the margin 0.01: difference 0.0300, 95 % interval 0.0200 to 0.0400"
                .to_owned(),
        }
    );
}

#[test]
fn without_a_champion_its_gate_passes_and_says_so() {
    let check = one(against(Accuracy, 0.0), &evaluation(vec![], vec![]), None);
    assert_eq!(check.verdict, Verdict::Pass);
    assert_eq!(check.message, "there is no champion to be compared with");
}

#[test]
fn a_champion_that_could_not_be_scored_leaves_its_gate_unknown() {
    let check = one(against(Accuracy, 0.0), &evaluation(vec![], vec![]), Some("flights-1"));
    assert_eq!(check.verdict, Verdict::Unknown);
    assert_eq!(check.message, "the evaluation has no accuracy; it has: none (flights-1)");
}

#[test]
fn a_gate_of_both_kinds_makes_two_checks() {
    let gate = Gate { metric: Accuracy, threshold: Some(0.8), champion: Some(ChampionGate { margin: 0.0 }) };
    let found = evaluation(vec![metric(Accuracy, 0.9, 0.8, 1.0)], vec![]);
    let names: Vec<_> = checks(&[gate], &found, None).into_iter().map(|check| check.name).collect();
    assert_eq!(names, ["accuracy", "accuracy vs champion"]);
}

#[test]
fn one_fail_outweighs_all_and_unknown_outweighs_pass() {
    let check = |verdict| Check { verdict, ..empty() };
    let (pass, fail, unknown) = (check(Verdict::Pass), check(Verdict::Fail), check(Verdict::Unknown));
    assert_eq!(verdict(&[]), Verdict::Pass);
    assert_eq!(verdict(&[pass.clone(), pass.clone()]), Verdict::Pass);
    assert_eq!(verdict(&[pass.clone(), unknown.clone()]), Verdict::Unknown);
    assert_eq!(verdict(&[pass, unknown, fail]), Verdict::Fail);
}
