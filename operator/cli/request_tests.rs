use std::sync::LazyLock;

use serde_json::Value;

use millrace_crds::{ModelVersion, inference_service::ModelReference};
use millrace_operator::inference_service::commands::asked_by;

use super::*;
use crate::fixtures::{condition, model_version, service};

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn status(value: Value) -> InferenceServiceStatus {
    service("flights", "flights", value).status.unwrap()
}

fn revision(version: &str, revision: &str) -> Value {
    json!({"modelVersion": version, "revision": revision, "image": "server:1", "digest": null})
}

fn rejected(version: &str, revision: &str, time: &str) -> Value {
    json!({"modelVersion": version, "revision": revision, "reason": "ErrorRate", "message": "too many errors", "time": time})
}

fn rolling_out() -> InferenceServiceStatus {
    status(json!({"stable": revision("flights-1", "aaaa"), "canary": revision("flights-2", "bbbb")}))
}

fn rolled_back() -> InferenceServiceStatus {
    let (old, new) =
        (rejected("flights-2", "bbbb", "2026-01-01T00:00:00Z"), rejected("flights-3", "cccc", "2026-01-02T00:00:00Z"));
    status(json!({"stable": revision("flights-1", "aaaa"), "rejected": [old, new]}))
}

fn met(status: &InferenceServiceStatus) -> Met<'_> {
    static MODEL: ModelReference = ModelReference { name: None, model_version: None };
    static VERSIONS: LazyLock<Vec<ModelVersion>> = LazyLock::new(|| {
        let approved = json!({"conditions": [condition("Approved", "True", "GatesPassed", "")]});
        (1..=3).map(|number| model_version("flights", number, approved.clone())).collect()
    });
    Met { status, model: &MODEL, versions: &VERSIONS }
}

#[test]
fn a_request_is_about_what_is_rolled_out_or_was_rejected_last_and_is_refused_elsewhere() {
    let first = status(json!({"canary": revision("flights-1", "aaaa")}));
    let retry = |version: Option<&str>| Wish::Retry { version: version.map(str::to_owned) };
    let cases = [
        (Wish::Promote { full: true }, rolling_out(), Ok("bbbb")),
        (Wish::Abort, rolling_out(), Ok("bbbb")),
        (Wish::Promote { full: true }, first.clone(), Ok("aaaa")),
        (Wish::Abort, first, Err("revision aaaa is the first one: there is nothing to go back to")),
        (
            Wish::Promote { full: true },
            rolled_back(),
            Err("nothing is being rolled out: flights-1 serves all requests"),
        ),
        (Wish::Abort, InferenceServiceStatus::default(), Err("nothing is being rolled out, and nothing serves yet")),
        (retry(None), rolled_back(), Ok("cccc")),
        (retry(Some("flights-2")), rolled_back(), Ok("bbbb")),
        (
            retry(Some("flights-9")),
            rolled_back(),
            Err("flights-9 is not among the rejected revisions: there is nothing to retry"),
        ),
        (retry(None), rolling_out(), Err("no revision is remembered as rejected: there is nothing to retry")),
    ];
    for (wish, status, expected) in cases {
        let asked = command(&wish, met(&status), "n".to_owned(), now(), 60).map(|(command, _)| command.revision);
        assert_eq!(asked.as_deref().map_err(String::as_str), expected, "{wish:?}");
    }
}

#[test]
fn what_is_written_is_what_the_operator_reads() {
    let (command, version) =
        command(&Wish::Promote { full: true }, met(&rolling_out()), "n1".to_owned(), now(), 60).unwrap();
    assert_eq!(version, "flights-2");
    assert_eq!(
        serde_json::to_value(&command).unwrap(),
        json!({"verb": "promoteFull", "revision": "bbbb", "nonce": "n1", "expires": "2026-01-01T00:01:00Z"})
    );
}

#[test]
fn a_request_is_written_with_who_makes_it_where_that_is_known() {
    let (command, _) = command(&Wish::Abort, met(&rolling_out()), "n1".to_owned(), now(), 60).unwrap();
    let text = serde_json::to_string(&command).unwrap();
    let by = signature("n1", "ada");
    let written = annotations(&command, by).unwrap();
    assert_eq!(written, BTreeMap::from([(COMMAND, text.clone()), (COMMAND_BY, "n1 ada".to_owned())]));
    assert_eq!(asked_by(&command, &written[COMMAND], written.get(COMMAND_BY).map(String::as_str)), Some("ada"));
    assert_eq!(annotations(&command, None).unwrap(), BTreeMap::from([(COMMAND, text)]));
}

fn decided(id: i64, by: &str) -> Value {
    json!({
        "id": id, "time": "2026-01-01T00:00:00Z", "question": "Rollback", "subject": "flights-2", "verdict": "Fail", "reason": "Aborted",
        "message": "flights-2 was aborted by a request", "decidedBy": by,
    })
}

#[test]
fn the_outcome_is_the_decision_that_came_after_the_request() {
    let asked =
        |wish: &Wish, status: &InferenceServiceStatus| command(wish, met(status), "n".to_owned(), now(), 60).unwrap().0;
    let abort = asked(&Wish::Abort, &rolling_out());
    let history = |decisions: Vec<Value>| status(json!({"history": decisions}));
    let done = Some("Aborted: flights-2 was aborted by a request".to_owned());
    assert_eq!(outcome(&abort, &rolling_out(), &history(vec![decided(1, "User")])), done);
    assert_eq!(outcome(&abort, &history(vec![decided(1, "User")]), &history(vec![decided(1, "User")])), None);
    assert_eq!(outcome(&abort, &rolling_out(), &history(vec![decided(1, "Operator")])), None);

    let retry = asked(&Wish::Retry { version: None }, &rolled_back());
    assert!(outcome(&retry, &rolled_back(), &rolling_out()).is_some_and(|message| message.contains("cccc")));
    assert_eq!(outcome(&retry, &rolled_back(), &rolled_back()), None);
}

#[test]
fn only_a_refusal_of_this_request_counts() {
    let event = |time: &str, message: &str| {
        serde_json::from_value::<Event>(json!({
            "metadata": {}, "involvedObject": {}, "reason": REFUSED, "eventTime": time, "message": message,
        }))
        .unwrap()
    };
    let events =
        [event("2025-12-31T23:00:00.000000Z", "an old one"), event("2026-01-01T00:00:01.000000Z", "it expired")];
    assert_eq!(newest_since(&events, now()).as_deref(), Some("it expired"));
    assert_eq!(newest_since(&events[..1], now()), None);
}
