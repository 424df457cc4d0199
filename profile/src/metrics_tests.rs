//! Tests of the metrics. Numbers of scikit-learn: `accuracy_score`, `precision_recall_fscore_support(average="macro")` (`"binary"` for two
//! classes), `roc_auc_score(multi_class="ovr", average="macro")`, `log_loss`, `mean_absolute_error`, `mean_squared_error ** 0.5`,
//! `r2_score`, version 1.9.1 on Python 3.11, on the rows below.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

fn texts(labels: &[&str]) -> Vec<String> {
    labels.iter().map(|label| (*label).to_owned()).collect()
}

fn classifier(classes: &[&str], truth: &[&str], predicted: Option<&[&str]>, probabilities: Option<&[f64]>) -> Scored {
    let predicted = predicted.map(texts);
    let scored = Classification::new(&texts(classes), &texts(truth), predicted.as_deref(), probabilities);
    Scored::Classification(scored.unwrap())
}

fn regressor(truth: &[f64], predicted: &[f64]) -> Scored {
    Scored::Regression(Regression::new(truth.to_vec(), predicted.to_vec()).unwrap())
}

fn assert_values(scored: &Scored, expected: &[(MetricName, f64)]) {
    let found = metrics(scored, &Bootstrap { resamples: 20, ..Bootstrap::seeded(1) });
    let names: Vec<MetricName> = found.iter().map(|metric| metric.name).collect();
    assert_eq!(names, expected.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    for (metric, (_, value)) in found.iter().zip(expected) {
        assert!((metric.value - value).abs() < 1e-9, "{metric:?}, expected {value}");
        assert!(metric.lower <= metric.value && metric.value <= metric.upper, "{metric:?}");
    }
}

const BINARY_TRUTH: [&str; 8] = ["no", "no", "yes", "yes", "yes", "no", "yes", "no"];
const BINARY_SCORES: [f64; 8] = [0.1, 0.4, 0.35, 0.8, 0.4, 0.6, 1.0, 0.0];

#[test]
fn two_classes_agree_with_scikit_learn_ties_and_certainty_included() {
    let predicted = BINARY_SCORES.map(|score| if score >= 0.5 { "yes" } else { "no" });
    assert_values(
        &classifier(&["no", "yes"], &BINARY_TRUTH, Some(&predicted), Some(&BINARY_SCORES)),
        &[
            (MetricName::Accuracy, 0.625),
            (MetricName::Precision, 0.666_666_666_666_666_6),
            (MetricName::Recall, 0.5),
            (MetricName::F1, 0.571_428_571_428_571_4),
            (MetricName::RocAuc, 0.781_25),
            (MetricName::LogLoss, 0.465_216_659_873_126_9),
        ],
    );
}

const MANY_TRUTH: [&str; 10] = ["a", "b", "c", "c", "b", "a", "c", "b", "a", "c"];
#[rustfmt::skip]
const MANY_SCORES: [f64; 30] = [
    0.7, 0.2, 0.1,  0.1, 0.6, 0.3,  0.2, 0.3, 0.5,  0.3, 0.4, 0.3,  0.5, 0.3, 0.2,
    0.6, 0.3, 0.1,  0.1, 0.1, 0.8,  0.2, 0.7, 0.1,  0.3, 0.3, 0.4,  0.1, 0.4, 0.5,
];

#[test]
fn three_classes_agree_with_scikit_learn() {
    assert_values(
        &classifier(&["a", "b", "c"], &MANY_TRUTH, None, Some(&MANY_SCORES)),
        &[
            (MetricName::Accuracy, 0.7),
            (MetricName::Precision, 0.694_444_444_444_444_3),
            (MetricName::Recall, 0.694_444_444_444_444_3),
            (MetricName::F1, 0.694_444_444_444_444_3),
            (MetricName::RocAuc, 0.899_801_587_301_587_3),
            (MetricName::LogLoss, 0.695_635_746_082_135_5),
        ],
    );
}

#[test]
fn regression_agrees_with_scikit_learn() {
    assert_values(
        &regressor(&[3.0, -0.5, 2.0, 7.0, 4.25], &[2.5, 0.0, 2.0, 8.0, 5.0]),
        &[
            (MetricName::Mae, 0.55),
            (MetricName::Rmse, 0.642_261_628_933_256_4),
            (MetricName::R2, 0.932_817_589_576_547_3),
        ],
    );
}

#[test]
fn metrics_the_rows_do_not_define_are_left_out() {
    let names = |scored: &Scored| -> Vec<MetricName> {
        metrics(scored, &Bootstrap { resamples: 5, ..Bootstrap::seeded(1) }).into_iter().map(|m| m.name).collect()
    };
    let one_class = classifier(&["no", "yes"], &["yes", "yes"], None, Some(&[0.9, 0.8]));
    assert!(!names(&one_class).contains(&MetricName::RocAuc));
    let labels_only = classifier(&[], &["x", "y"], Some(&["x", "x"]), None);
    assert_eq!(names(&labels_only), [MetricName::Accuracy, MetricName::Precision, MetricName::Recall, MetricName::F1]);
    assert_eq!(names(&regressor(&[1.0, 1.0], &[1.0, 2.0])), [MetricName::Mae, MetricName::Rmse]);
}

#[test]
fn a_class_the_model_does_not_know_counts_against_it() {
    // Rows: a right, b right, c answered a. Macro recall (1 + 1 + 0) / 3, log loss of the last row -ln 1e-15.
    let scored = classifier(&["a", "b"], &["a", "b", "c"], None, Some(&[0.9, 0.1, 0.2, 0.8, 0.7, 0.3]));
    let found = metrics(&scored, &Bootstrap { resamples: 5, ..Bootstrap::seeded(1) });
    let value = |name| found.iter().find(|metric| metric.name == name).map(|metric| metric.value).unwrap();
    assert!((value(MetricName::Recall) - 2.0 / 3.0).abs() < 1e-12);
    let by_hand = (-(0.9_f64.ln()) - 0.8_f64.ln() - 1e-15_f64.ln()) / 3.0;
    assert!((value(MetricName::LogLoss) - by_hand).abs() < 1e-12);
}

#[test]
fn what_is_no_answer_is_an_error_and_not_a_metric() {
    let two = texts(&["a", "b"]);
    let truth = texts(&["a", "b"]);
    let probabilities = |flat: &[f64]| Classification::new(&two, &truth, None, Some(flat)).unwrap_err();
    assert!(matches!(probabilities(&[f64::NAN, 0.5]), MetricsError::Probability { row: 0, .. }));
    assert!(matches!(probabilities(&[0.5, 0.5, 3.0, -2.0]), MetricsError::Probability { row: 1, .. }));
    assert!(matches!(probabilities(&[0.5, 0.5, 0.9, 0.9]), MetricsError::ProbabilitySum { row: 1, .. }));
    assert!(matches!(probabilities(&[0.5, 0.5, 0.9]), MetricsError::Length { found: 3, rows: 4, .. }));
    let unnamed = Classification::new(&[], &truth, None, Some(&[0.5, 0.5])).unwrap_err();
    assert_eq!(unnamed, MetricsError::NoClasses);
    let nan = Regression::new(vec![1.0, 2.0], vec![1.0, f64::NAN]).unwrap_err();
    assert_eq!(nan.to_string(), "the prediction of row 1 is NaN; the model must answer finite numbers");
    assert_eq!(Regression::new(Vec::new(), Vec::new()).unwrap_err(), MetricsError::Rows { rows: 0 });
}

#[test]
fn all_answers_right_is_no_proof_of_perfection() {
    let labels = vec!["yes"; 30];
    let found = metrics(&classifier(&["no", "yes"], &labels, Some(&labels), None), &Bootstrap::seeded(1));
    assert_eq!((found[0].value, found[0].lower, found[0].upper), (1.0, 0.9, 1.0));
}

/// 20,000 rows: the truth is "yes" for 30 %, and a model answers right in `right` of 1,000 rows, drawn from `seed`.
fn simulated(right: u32, seed: u64) -> Scored {
    let mut truth_random = ChaCha8Rng::seed_from_u64(99);
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let truth: Vec<bool> = (0..20_000).map(|_| truth_random.random_bool(0.3)).collect();
    let scores: Vec<f64> = truth
        .iter()
        .map(|truth| {
            let is_right = random.random_ratio(right, 1_000);
            let confidence = 0.5 + random.random::<f64>() / 2.0;
            if *truth == is_right { confidence } else { 1.0 - confidence }
        })
        .collect();
    let labels: Vec<&str> = truth.iter().map(|truth| if *truth { "yes" } else { "no" }).collect();
    classifier(&["no", "yes"], &labels, None, Some(&scores))
}

#[test]
fn the_interval_of_an_accuracy_is_that_of_the_binomial_distribution() {
    let scored = simulated(900, 1);
    let accuracy = metrics(&scored, &Bootstrap::seeded(5)).remove(0);
    // 1.96 sqrt(0.9 * 0.1 / 20000) = 0.00416
    assert!((accuracy.value - 0.9).abs() < 0.007, "{accuracy:?}");
    assert!(((accuracy.upper - accuracy.lower) / 2.0 - 0.004_16).abs() < 0.000_6, "{accuracy:?}");
    assert_eq!(accuracy.samples, 20_000);
}

#[test]
fn a_better_candidate_shows_in_the_paired_difference_and_an_equal_one_does_not() {
    let (champion, better, equal) = (simulated(900, 1), simulated(920, 2), simulated(900, 3));
    let found = differences(&better, &champion, &Bootstrap::seeded(5)).unwrap();
    assert_eq!(found.len(), 6);
    assert!(found[0].lower > 0.0 && found[0].upper < 0.04, "{:?}", found[0]);
    let log_loss = found.iter().find(|difference| difference.name == MetricName::LogLoss).unwrap();
    assert!(log_loss.upper < 0.0, "{log_loss:?}");
    let found = differences(&equal, &champion, &Bootstrap::seeded(5)).unwrap();
    assert!(found[0].lower < 0.0 && found[0].upper > 0.0, "{:?}", found[0]);
}

#[test]
fn a_model_does_not_differ_from_itself() {
    let scored = regressor(&[1.0, 2.0, 4.0], &[1.5, 2.0, 3.0]);
    for difference in differences(&scored, &scored, &Bootstrap::seeded(5)).unwrap() {
        assert_eq!((difference.difference, difference.lower, difference.upper), (0.0, 0.0, 0.0));
    }
}

#[test]
fn models_scored_on_other_rows_are_not_compared() {
    let one = regressor(&[1.0, 2.0], &[1.0, 2.0]);
    let other = regressor(&[1.0, 3.0], &[1.0, 2.0]);
    assert_eq!(differences(&one, &other, &Bootstrap::seeded(5)), Err(MetricsError::NotPaired));
    let labels = classifier(&["a"], &["a", "a"], Some(&["a", "a"]), None);
    assert_eq!(differences(&one, &labels, &Bootstrap::seeded(5)), Err(MetricsError::NotPaired));
}
