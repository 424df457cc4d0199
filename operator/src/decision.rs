//! Decision records: the bounded history in status, and the audit log.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use millrace_contract::decision::{Check, DecidedBy, Decision, Question, Verdict};
use millrace_crds::common::MAX_DECISIONS;
use tracing_subscriber::EnvFilter;

/// Target of the audit log.
const AUDIT: &str = "audit";

/// A decision that was just made; id and time are given when it is recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct Made {
    /// What was asked.
    pub question: Question,
    /// What it was about.
    pub subject: String,
    /// The answer.
    pub verdict: Verdict,
    /// Machine-readable reason, CamelCase.
    pub reason: String,
    /// One sentence for a person.
    pub message: String,
    /// Who or what decided.
    pub decided_by: DecidedBy,
    /// Name of the user who decided, where it is known.
    pub user: Option<String>,
    /// The checks it rests on.
    pub checks: Vec<Check>,
}

/// Number that the next decision gets. Pure.
pub fn next_id(history: &[Decision]) -> i64 {
    history.iter().map(|decision| decision.id).max().unwrap_or_default() + 1
}

/// Puts a decision into a history, newest first; the oldest falls out. Returns the record. Pure.
pub fn record(history: &mut Vec<Decision>, made: Made, now: Timestamp) -> Decision {
    let Made { question, subject, verdict, reason, message, decided_by, user, checks } = made;
    let id = next_id(history);
    let time = crate::conditions::whole_seconds(now).to_string();
    let decision = Decision { id, time, question, subject, verdict, reason, message, decided_by, user, checks };
    history.insert(0, decision.clone());
    history.truncate(MAX_DECISIONS);
    decision
}

/// Writes a decision to the audit log (tracing target `audit`). To be called once the status that holds it is written.
pub fn audit(kind: &'static str, object: &ObjectMeta, decision: &Decision) {
    let record = serde_json::to_string(decision).unwrap_or_default();
    tracing::info!(
        target: AUDIT,
        kind,
        namespace = object.namespace.as_deref().unwrap_or_default(),
        name = object.name.as_deref().unwrap_or_default(),
        uid = object.uid.as_deref().unwrap_or_default(),
        decision = record,
        "decided"
    );
}

/// What is logged: what the operator's setting says, and the audit log whatever it says.
pub fn log_filter(setting: &str) -> EnvFilter {
    let always = format!("{AUDIT}=info").parse().expect("a target and a level are a directive");
    EnvFilter::new(setting).add_directive(always)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn no_log_level_silences_the_audit_log() {
        for setting in ["off", "error", "warn,audit=off", "millrace_operator=debug"] {
            let written = Written::default();
            let writer = written.clone();
            let builder = tracing_subscriber::fmt().json().flatten_event(true).with_env_filter(log_filter(setting));
            let subscriber = builder.with_writer(move || writer.clone()).finish();
            let decision = record(&mut Vec::new(), made(), Timestamp::UNIX_EPOCH);
            tracing::subscriber::with_default(subscriber, || audit("ModelVersion", &ObjectMeta::default(), &decision));
            let lines = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
            assert!(lines.contains(r#""target":"audit""#) && lines.contains("GatesPassed"), "{setting}: {lines:?}");
        }
    }

    fn made() -> Made {
        Made {
            question: Question::Gate,
            subject: "fraud-1".to_owned(),
            verdict: Verdict::Pass,
            reason: "GatesPassed".to_owned(),
            message: "every gate passed".to_owned(),
            decided_by: DecidedBy::Operator,
            user: None,
            checks: Vec::new(),
        }
    }

    #[test]
    fn history_is_newest_first_bounded_and_numbered_without_reuse() {
        let mut history = Vec::new();
        let now: Timestamp = "2026-01-01T00:00:00.5Z".parse().unwrap();
        for _ in 0..25 {
            record(&mut history, made(), now);
        }
        assert_eq!(history.len(), MAX_DECISIONS);
        assert_eq!((history[0].id, history[9].id), (25, 16));
        assert_eq!(history[0].time, "2026-01-01T00:00:00Z");
    }
}
