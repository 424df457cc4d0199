//! Fields of an InferenceService that are right but do nothing as long as another field is what it is. Pure. The API server can't tell: it
//! sees defaults where nobody wrote anything.

use serde_json::Value;

use crate::schema::Problem;

/// What a document of this kind says in vain.
pub fn waiting(kind: &str, value: &Value) -> Vec<Problem> {
    let Some(rollout) = value.pointer("/spec/rollout").filter(|_| kind == "InferenceService") else {
        return Vec::new();
    };
    let strategy = rollout.get("strategy").and_then(Value::as_str).unwrap_or("Canary");
    let waits = |field: &str, message: String| {
        let is_written = rollout.pointer(&format!("/{}", field.replace('.', "/"))).is_some();
        is_written.then(|| Problem { path: format!("spec.rollout.{field}"), message })
    };
    let needs = |wanted: &str| format!("does nothing with strategy {strategy}: it waits for {wanted}");
    let (is_canary, is_replace) = (strategy == "Canary", strategy == "Replace");
    let has_switch = ["BlueGreen", "Shadow"].contains(&strategy);
    let all = [
        waits("steps", needs("Canary")).filter(|_| !is_canary),
        waits("switch", needs("BlueGreen or Shadow")).filter(|_| !has_switch),
        waits("analysis", needs("Canary, BlueGreen or Shadow")).filter(|_| is_replace),
        waits("shield", needs("Canary, or bakeSeconds")).filter(|_| !is_canary && rollout.get("bakeSeconds").is_none()),
    ];
    let shares = shares(rollout).filter(|_| has_switch);
    all.into_iter().flatten().chain(shares).collect()
}

/// Checks that compare shares of the requests, which only a canary has.
fn shares(rollout: &Value) -> Option<Problem> {
    let checks = rollout.pointer("/analysis/checks")?.as_array()?;
    let idle: Vec<&str> = checks.iter().filter_map(Value::as_str).filter(|check| *check != "agreement").collect();
    let message = format!("{} compare shares of the requests, which only strategy Canary has", idle.join(", "));
    (!idle.is_empty()).then(|| Problem { path: "spec.rollout.analysis.checks".to_owned(), message })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_waits_for_another_strategy_is_told_and_nothing_else() {
        let whole = |strategy: &str| {
            json!({
                "strategy": strategy, "steps": [{"weight": 5}], "switch": {"holdSeconds": 1}, "shield": true,
                "analysis": {"minRequests": 5, "checks": ["errorRate", "agreement"]}, "shadow": {"percent": 5},
            })
        };
        let cases = [
            (whole("Canary"), vec!["switch"]),
            (whole("BlueGreen"), vec!["steps", "shield", "analysis.checks"]),
            (whole("Shadow"), vec!["steps", "shield", "analysis.checks"]),
            (whole("Replace"), vec!["steps", "switch", "analysis", "shield"]),
            (json!({"steps": [{"weight": 5}], "analysis": {}}), vec![]),
            (json!({"strategy": "Replace", "shield": true, "bakeSeconds": 60}), vec![]),
        ];
        for (rollout, expected) in cases {
            let value = json!({"spec": {"rollout": rollout}});
            let found: Vec<String> = waiting("InferenceService", &value).into_iter().map(|waits| waits.path).collect();
            let expected: Vec<String> = expected.into_iter().map(|field| format!("spec.rollout.{field}")).collect();
            assert_eq!(found, expected, "{rollout}");
            assert!(waiting("Dataset", &value).is_empty());
        }
    }
}
