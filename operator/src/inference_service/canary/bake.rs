//! The judgement on a revision after its promotion, while the former one is warm. Pure.

use jiff::Timestamp;
use millrace_contract::decision::{Check, Verdict};
use millrace_crds::inference_service::Analysis;
use millrace_profile::sequential;

use super::{
    Judgement,
    checks::{failed, plainly_bad},
};
use crate::inference_service::evidence::Evidence;

/// Errors a request that are tolerated after promotion, beyond those of the rollout: times differ, and nothing is compared.
const BAKE_MARGIN: f64 = 0.02;
/// Errors a request that are taken for usual before anything was counted, and for how many requests that stands.
const USUAL: (f64, f64) = (0.025, 20.0);
/// Chance that a revision within that margin is sent back for its errors.
const BAKE_ALPHA: f64 = 0.001;

/// Judges a revision after its promotion. There is nobody to compare it with at the same time, so only plain facts count, and a rate of
/// errors far above what was seen before it; where nothing was (it was only previewed, and nobody asked), above what is usual anywhere.
pub(super) fn judge_bake(evidence: &Evidence, now: Timestamp) -> Judgement {
    let (canary, stable) = evidence.counts.totals();
    let arms = [&canary, &stable, &evidence.usual];
    let (seen, errors) = arms.iter().fold((0, 0), |sum, arm| (sum.0 + arm.requests, sum.1 + arm.errors));
    let (usual, weight) = USUAL;
    let tolerated = (errors as f64 + usual * weight) / (seen as f64 + weight) + BAKE_MARGIN;
    let baked = &evidence.baked;
    let log_evidence = sequential::log_evidence(
        baked.errors,
        baked.requests.saturating_sub(baked.errors),
        tolerated.clamp(BAKE_MARGIN, 0.5),
        1.0,
    );
    let is_worse = log_evidence >= -BAKE_ALPHA.ln();
    let message = format!("{} errors in {} requests since its promotion", baked.errors, baked.requests);
    let check = Check {
        name: "bakeErrorRate".to_owned(),
        verdict: if is_worse { Verdict::Fail } else { Verdict::Unknown },
        value: (baked.requests > 0).then(|| baked.errors as f64 / baked.requests as f64),
        baseline: (seen > 0).then(|| errors as f64 / seen as f64),
        threshold: Some(tolerated),
        interval: None,
        log_evidence: Some(log_evidence),
        samples: i64::try_from(baked.requests).unwrap_or(i64::MAX),
        message: message.clone(),
    };
    let checks = vec![check];
    match plainly_bad(evidence, now).or_else(|| failed(&checks, &Analysis::default())) {
        Some((reason, message)) => Judgement::Bad { reason, message, checks },
        None => Judgement::Open { message, checks },
    }
}
