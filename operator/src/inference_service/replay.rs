//! Decisions that can be computed again: what each rested on is kept as long as the decision is in the history. Pure.

use std::collections::BTreeMap;

use millrace_contract::decision::{DecidedBy, Decision, Question, Verdict};
use millrace_crds::common::MAX_DECISIONS;

use super::canary::{Inputs, Judgement};

/// Most bytes of all inputs together: a ConfigMap holds a mebibyte.
const MAX_BYTES: usize = 700 * 1_024;

/// The data of the ConfigMap with inputs after these decisions, newest kept; nothing where none of them rests on evidence.
pub fn records(
    former: Option<&BTreeMap<String, String>>,
    decisions: &[Decision],
    inputs: &Inputs,
) -> Option<BTreeMap<String, String>> {
    let new: Vec<i64> =
        decisions.iter().filter(|decision| rests_on_evidence(decision)).map(|decision| decision.id).collect();
    if new.is_empty() {
        return None;
    }
    let text = serde_json::to_string(inputs).ok()?;
    let mut all: Vec<(i64, String)> = former
        .into_iter()
        .flatten()
        .filter_map(|(key, text)| Some((key.parse().ok()?, text.clone())))
        .filter(|(id, _)| !new.contains(id))
        .collect();
    all.extend(new.into_iter().map(|id| (id, text.clone())));
    all.sort_by_key(|(id, _)| std::cmp::Reverse(*id));
    all.truncate(MAX_DECISIONS);
    let mut bytes = 0;
    let fitting = all.into_iter().take_while(|(_, text)| {
        bytes += text.len();
        bytes <= MAX_BYTES
    });
    Some(fitting.map(|(id, text)| (id.to_string(), text)).collect())
}

fn rests_on_evidence(decision: &Decision) -> bool {
    let about_a_revision = match decision.question {
        Question::Step | Question::Promote | Question::Rollback | Question::Rehearse => true,
        Question::Gate | Question::Approve | Question::Retrain | Question::Drift => false,
    };
    about_a_revision && decision.decided_by == DecidedBy::Operator && !decision.checks.is_empty()
}

/// A decision computed again.
#[derive(Clone, Debug, PartialEq)]
pub struct Replayed {
    /// What the inputs say now.
    pub judgement: Judgement,
    /// Where it is not what was recorded, a sentence each.
    pub differences: Vec<String>,
}

/// Computes a decision again from its inputs.
///
/// # Errors
/// A sentence where the inputs can't be read.
pub fn replay(decision: &Decision, inputs: &str) -> Result<Replayed, String> {
    let inputs: Inputs = serde_json::from_str(inputs)
        .map_err(|error| format!("the inputs of decision {} can't be read: {error}", decision.id))?;
    let judgement = inputs.judge();
    let mut differences = Vec::new();
    let (recorded, now) = (said(decision.verdict), said(judgement.verdict()));
    if decision.verdict != judgement.verdict() {
        differences.push(format!("the verdict was {recorded}, and is {now} now"));
    }
    if decision.checks.len() != judgement.checks().len() {
        differences.push(format!(
            "{} checks were recorded, {} are computed",
            decision.checks.len(),
            judgement.checks().len()
        ));
    }
    for (then, now) in decision.checks.iter().zip(judgement.checks()) {
        if then != now {
            differences.push(format!("{}: recorded {}, computed {}", then.name, then.message, now.message));
        }
    }
    Ok(Replayed { judgement, differences })
}

fn said(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "Pass",
        Verdict::Fail => "Fail",
        Verdict::Unknown => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use millrace_crds::inference_service::{AnalysisCheck, Rollout};
    use millrace_profile::canary_evidence::Arm;

    use super::*;
    use crate::inference_service::{
        canary,
        evidence::{Evidence, Kind},
        fixtures::at,
    };

    fn inputs(errors: u64) -> Inputs {
        let mut rollout = Rollout::default();
        rollout.analysis.checks = vec![AnalysisCheck::ErrorRate];
        let mut evidence = Evidence::of(None, ("b", "a"), None);
        let arm = |errors| Arm { requests: 1_000, errors, ..Arm::default() };
        evidence.counts.observe(0.5, &arm(errors), &arm(0), &canary::settings(&rollout.analysis)).unwrap();
        Inputs {
            rollout,
            kind: Kind::Split,
            weight: 50,
            start: Some(at(0)),
            is_paused: false,
            is_sticky: false,
            rehearsed: None,
            now: at(500),
            evidence,
        }
    }

    fn decision(id: i64, inputs: &Inputs) -> Decision {
        let judgement = inputs.judge();
        Decision {
            id,
            time: at(500).to_string(),
            question: Question::Rollback,
            subject: "fraud-2".to_owned(),
            verdict: judgement.verdict(),
            reason: "ErrorRate".to_owned(),
            message: String::new(),
            decided_by: DecidedBy::Operator,
            user: None,
            checks: judgement.checks().to_vec(),
        }
    }

    #[test]
    fn a_decision_is_computed_again_from_what_was_stored_to_the_same_result() {
        let inputs = inputs(100);
        let decision = decision(3, &inputs);
        let stored = records(None, std::slice::from_ref(&decision), &inputs).unwrap();
        let again = replay(&decision, &stored["3"]).unwrap();
        assert_eq!((again.judgement.verdict(), again.differences), (Verdict::Fail, Vec::new()));
    }

    #[test]
    fn a_decision_that_does_not_follow_from_its_inputs_is_told() {
        let decision = decision(3, &inputs(100));
        let other = serde_json::to_string(&inputs(0)).unwrap();
        let again = replay(&decision, &other).unwrap();
        assert_eq!(again.differences.len(), 2, "{:?}", again.differences);
        assert!(again.differences[1].starts_with("errorRate: recorded 100 errors in 1000"), "{:?}", again.differences);
        assert!(replay(&decision, "{").unwrap_err().contains("decision 3"));
    }

    #[test]
    fn inputs_are_kept_for_the_newest_decisions_on_evidence() {
        let inputs = inputs(0);
        let mut kept = BTreeMap::new();
        for id in 1..=12 {
            kept = records(Some(&kept), &[decision(id, &inputs)], &inputs).unwrap();
        }
        let mut ids: Vec<i64> = kept.keys().map(|key| key.parse().unwrap()).collect();
        ids.sort_unstable();
        assert_eq!(ids, (3..=12).collect::<Vec<_>>());
        let by_user = Decision { decided_by: DecidedBy::User, ..decision(13, &inputs) };
        assert_eq!(records(Some(&kept), &[by_user], &inputs), None);
    }
}
