//! Tests of requests: which make sense, and who makes them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use millrace_crds::inference_service::{Override, PreviousRevision, RehearsalStatus, SwapStatus};

use super::*;
use crate::inference_service::fixtures::{
    approved, at, model_version, pinned_to, rejected, rolling_out, serving, spec,
};

fn meets(annotation: &str, status: &InferenceServiceStatus, seconds: i64) -> Request {
    let versions = [approved("fraud", 1), approved("fraud", 2), model_version("fraud", 3)];
    let met = Met { status, model: &spec("fraud").model, versions: &versions };
    request(Some(annotation), met, at(seconds))
}

fn asked(verb: &str, revision: &str, nonce: &str) -> String {
    format!(r#"{{"verb":"{verb}","revision":"{revision}","nonce":"{nonce}","expires":"2026-01-01T00:01:00Z"}}"#)
}

fn told(request: Request) -> String {
    match request {
        Request::None => "none".to_owned(),
        Request::Accepted(command) => format!("{:?}", command.verb),
        Request::Refused { message, .. } => message,
    }
}

#[test]
fn a_request_is_accepted_where_it_makes_sense_and_refused_with_the_reason_elsewhere() {
    let (one, two) = (approved("fraud", 1), approved("fraud", 2));
    let rolling = rolling_out(&one, &two, 5);
    let canary = rolling.canary.as_ref().unwrap().revision.clone();
    let mut rolled_back = serving(&one);
    rolled_back.rejected = vec![rejected(&two)];
    let first = InferenceServiceStatus { stable: None, ..rolling.clone() };
    let decided = rolling_out(&one, &two, 100);
    let mut recreated = decided.clone();
    recreated.rollout.as_mut().unwrap().recreating_since = Some(Time(at(9)));
    let mut swapped = rolling.clone();
    swapped.rollout.as_mut().unwrap().swap =
        Some(SwapStatus { start_time: Time(at(9)), handed_over: 1, pod: None, pod_start_time: None });
    let mut last_swapped = decided.clone();
    last_swapped.rollout.clone_from(&swapped.rollout);
    let mut paused = rolling.clone();
    paused.rollout.as_mut().unwrap().paused_since = Some(Time(at(9)));
    let cases = [
        (
            asked("promote", &canary, "n"),
            &rolling_out(&one, &two, 0),
            "the pods of fraud-2 still start, so there is no step to leave: wait, or ask for promote --full".to_owned(),
        ),
        (asked("promote", &canary, "n"), &rolling, "Promote".to_owned()),
        (asked("promoteFull", &canary, "n"), &rolling_out(&one, &two, 0), "PromoteFull".to_owned()),
        (asked("promoteFull", &canary, "n"), &decided, "fraud-2 gets all requests already".to_owned()),
        (
            asked("promote", &canary, "n"),
            &swapped,
            "the running pods load fraud-2, one after the other, and it is promoted by itself then".to_owned(),
        ),
        (
            asked("promoteFull", &canary, "n"),
            &swapped,
            "the running pods load fraud-2, one after the other, and it is promoted by itself then".to_owned(),
        ),
        (asked("abort", &canary, "n"), &swapped, "Abort".to_owned()),
        (
            asked("abort", &canary, "n"),
            &last_swapped,
            "fraud-2 gets all requests already, and the former pods gave it their room: ask for a rollback after that"
                .to_owned(),
        ),
        (asked("pause", &canary, "n"), &rolling, "Pause".to_owned()),
        (asked("pause", &canary, "n"), &paused, "the rollout is paused already, since 2026-01-01T00:00:09Z".to_owned()),
        (
            asked("promote", &canary, "n"),
            &paused,
            "the rollout is paused since 2026-01-01T00:00:09Z: resume it first".to_owned(),
        ),
        (asked("resume", &canary, "n"), &paused, "Resume".to_owned()),
        (
            asked("resume", &canary, "n"),
            &rolling,
            "nothing is paused, and no rollback holds a version: there is nothing to resume".to_owned(),
        ),
        (asked("abort", &canary, "n"), &decided, "Abort".to_owned()),
        (
            asked("abort", &canary, "n"),
            &recreated,
            "fraud-2 gets all requests already, and the former pods gave it their room: ask for a rollback after that"
                .to_owned(),
        ),
        (asked("abort", &canary, "n"), &rolling, "Abort".to_owned()),
        (asked("abort", "0000", "n"), &rolling, format!("revision 0000 is not being rolled out: {canary} is")),
        (
            asked("promote", &canary, "n"),
            &rolled_back,
            format!("revision {canary} is not being rolled out: nothing is"),
        ),
        (asked("retry", &canary, "n"), &rolled_back, "Retry".to_owned()),
        (
            asked("retry", "0000", "n"),
            &rolled_back,
            "revision 0000 was not rejected: there is nothing to retry".to_owned(),
        ),
        (
            asked("abort", &canary, "n"),
            &first,
            format!("revision {canary} is the first one: there is nothing to go back to"),
        ),
    ];
    for (annotation, status, expected) in cases {
        assert_eq!(told(meets(&annotation, status, 0)), expected, "{annotation}");
    }
}

/// What is said of a retry of a version that was rejected.
fn retried(
    status: InferenceServiceStatus,
    rejects: &ModelVersion,
    model: &ModelReference,
    versions: &[ModelVersion],
) -> String {
    let status = InferenceServiceStatus { rejected: vec![rejected(rejects)], ..status };
    let asked = asked("retry", &status.rejected[0].revision, "n");
    told(request(Some(&asked), Met { status: &status, model, versions }, at(0)))
}

#[test]
fn a_retry_is_refused_while_a_rollback_holds_another_version() {
    use OverrideVerb::{Abort, Promote, Rollback};
    let all = [approved("fraud", 2), approved("fraud", 4)];
    let (followed, other) = (spec("fraud").model, spec("other").model);
    let overridden = |verb, version: &str, model: &ModelReference| {
        let (model_version, revision, time) = (version.to_owned(), String::new(), Time(at(0)));
        let known = Override { verb, model_version, revision, left: None, model: model.clone(), time };
        InferenceServiceStatus { overridden: Some(known), ..serving(&all[0]) }
    };
    for (verb, version, model, expected) in [
        (Rollback, "fraud-2", &followed, "a rollback holds fraud-2: ask for kubectl millrace resume first"),
        (Rollback, "fraud-4", &followed, "Retry"),
        (Rollback, "fraud-2", &other, "Retry"),
        (Promote, "fraud-2", &followed, "Retry"),
        (Abort, "fraud-2", &followed, "Retry"),
    ] {
        let status = overridden(verb, version, model);
        assert_eq!(retried(status, &all[1], &followed, &all), expected, "{verb:?} of {version}");
    }
}

#[test]
fn a_retry_is_refused_where_the_spec_would_not_ask_for_what_was_rejected() {
    let two = approved("fraud", 2);
    let pin = pinned_to("fraud-1").model;
    let of = |rejects: &ModelVersion, model: &ModelReference, versions: &[ModelVersion]| {
        retried(serving(&two), rejects, model, versions)
    };
    let followed = spec("fraud").model;
    let all = [approved("fraud", 1), two.clone(), model_version("fraud", 3), approved("fraud", 4)];
    let newer =
        "fraud-2 serves, which is newer, so fraud-1 would not be tried: ask for kubectl millrace rollback --to fraud-1";
    for (rejects, model, versions, expected) in [
        (&all[3], &followed, &all[..], "Retry"),
        (&all[1], &followed, &all[..], "Retry"),
        (&all[0], &pin, &all[..1], "Retry"),
        (&all[0], &followed, &all[..], newer),
        // The version that serves was deleted.
        (&all[0], &followed, &all[..1], newer),
        (&all[2], &followed, &all[..], "ModelVersion fraud-3 is not approved: approve it first"),
        (&all[3], &followed, &all[..3], "ModelVersion fraud-4 is no version of the model that this service follows"),
        (&all[3], &pin, &all[..1], "ModelVersion fraud-4 is no version of the model that this service follows"),
    ] {
        assert_eq!(of(rejects, model, versions), expected);
    }
}

#[test]
fn a_request_names_who_makes_it_and_no_other_request_does() {
    let text = asked("abort", "r", "7f3a");
    let command: Command = serde_json::from_str(&text).unwrap();
    let escaped = text.replace("7f3a", "7f3\\u0061");
    assert_eq!(serde_json::from_str::<Command>(&escaped).unwrap().nonce, "7f3a");
    let (full, long) = ("é".repeat(256), "x".repeat(257));
    for (text, by, expected) in [
        (&text, signature("7f3a", "ada"), Some("ada")),
        (&text, signature("7f3a", "Ada L"), Some("Ada L")),
        (&text, signature("7f3a", &full), Some(full.as_str())),
        (&text, signature("7f3a", ""), None),
        (&text, signature("7f3a", &long), None),
        (&text, signature("7f3a", "a\nb"), None),
        (&text, signature("0000", "ada"), None),
        (&text, Some(format!("7f3a {long}")), None),
        (&text, Some("7f3a \u{1b}[2J".to_owned()), None),
        (&text, Some("7f3a".to_owned()), None),
        (&text, Some("7f3a ".to_owned()), None),
        (&text, Some("ada".to_owned()), None),
        (&text, Some(String::new()), None),
        (&escaped, signature("7f3a", "ada"), None),
        (&text, None, None),
    ] {
        assert_eq!(asked_by(&command, text, by.as_deref()), expected, "{by:?} of {text}");
    }
}

#[test]
fn a_nonce_with_a_space_names_nobody() {
    let text = asked("abort", "r", "n x");
    let command: Command = serde_json::from_str(&text).unwrap();
    assert_eq!(asked_by(&command, &text, Some("n x ada")), None, "the policy has read the user x ada");
}

#[test]
fn a_request_expires() {
    let (one, two) = (approved("fraud", 1), approved("fraud", 2));
    let rolling = rolling_out(&one, &two, 5);
    let annotation = asked("promote", &rolling.canary.as_ref().unwrap().revision, "n");
    assert_eq!(told(meets(&annotation, &rolling, 59)), "Promote");
    assert_eq!(told(meets(&annotation, &rolling, 60)), "the request expired at 2026-01-01T00:01:00Z: ask again");
}

#[test]
fn a_handled_request_is_not_acted_on_again() {
    let (one, two) = (approved("fraud", 1), approved("fraud", 2));
    let mut rolling = rolling_out(&one, &two, 5);
    rolling.handled_command = Some("n".to_owned());
    let annotation = asked("promote", &rolling.canary.as_ref().unwrap().revision, "n");
    assert_eq!(meets(&annotation, &rolling, 0), Request::None);
}

#[test]
fn nonsense_is_refused_once() {
    let mut status = serving(&approved("fraud", 1));
    let Request::Refused { nonce, message } = meets("promote it!", &status, 0) else { panic!("refused") };
    assert!(message.contains("must be JSON with verb"), "{message}");
    status.handled_command = Some(nonce);
    assert_eq!(meets("promote it!", &status, 0), Request::None);
}

#[test]
fn a_rollback_goes_to_what_is_warm_or_to_an_approved_version() {
    let (one, two) = (approved("fraud", 1), approved("fraud", 2));
    let status = serving(&two);
    let stable = status.stable.clone().unwrap().revision;
    let mut baking = status.clone();
    let revision = serving(&one).stable.unwrap();
    baking.previous = Some(PreviousRevision { revision, rollout_start_time: None, until: Time(at(100)) });
    let to = |version: Option<&str>, revision: &str| {
        let version = version.map(|version| format!(r#""modelVersion":"{version}","#)).unwrap_or_default();
        format!(
            r#"{{"verb":"rollback","revision":"{revision}",{version}"nonce":"n","expires":"2026-01-01T00:01:00Z"}}"#
        )
    };
    for (annotation, status, expected) in [
        (to(None, &stable), &baking, "Rollback"),
        (to(Some("fraud-1"), &stable), &status, "Rollback"),
        (to(None, &stable), &status, "no former revision is warm any more: say which version to go back to (--to)"),
        (to(Some("fraud-2"), &stable), &status, "fraud-2 serves all requests already"),
        (to(Some("fraud-3"), &stable), &status, "ModelVersion fraud-3 is not approved: approve it first"),
        (
            to(Some("fraud-9"), &stable),
            &status,
            "ModelVersion fraud-9 is no version of the model that this service follows",
        ),
        (to(None, &stable), &rolling_out(&two, &one, 5), "fraud-1 is being rolled out: abort it first"),
    ] {
        assert_eq!(told(meets(&annotation, status, 0)), expected, "{annotation}");
    }
    let pinned = Met { status: &status, model: &pinned_to("fraud-2").model, versions: &[two] };
    assert_eq!(
        told(request(Some(&to(Some("fraud-1"), &stable)), pinned, at(0))),
        "spec.model.modelVersion pins fraud-2, which no command changes: pin fraud-1 instead"
    );
}

#[test]
fn one_version_is_rehearsed_at_a_time_while_nothing_is_rolled_out() {
    let (one, two) = (approved("fraud", 1), approved("fraud", 2));
    let status = serving(&one);
    let mut busy = status.clone();
    let revision = serving(&two).stable.unwrap();
    let hash = revision.revision.clone();
    let mut baking = status.clone();
    let warm = PreviousRevision { revision: revision.clone(), rollout_start_time: None, until: Time(at(9)) };
    baking.previous = Some(warm);
    busy.rehearsal = Some(RehearsalStatus {
        revision,
        start_time: Time(at(0)),
        end_time: None,
        wanted: 10,
        compared: 0,
        verdict: None,
        checks: Vec::new(),
        message: String::new(),
    });
    let of = |version: &str, requests: i64| {
        format!(
            r#"{{"verb":"rehearse","modelVersion":"{version}","requests":{requests},"nonce":"n","expires":"2026-01-01T00:01:00Z"}}"#
        )
    };
    for (annotation, status, expected) in [
        (of("fraud-3", 100), &status, "Rehearse"),
        (of("fraud-3", 1), &status, "requests must be 10 to 1000000"),
        (of("fraud-1", 100), &status, "fraud-1 serves all requests already"),
        (of("fraud-3", 100), &busy, "fraud-2 is being rehearsed: wait for its end, or abort it first"),
        (
            of("fraud-3", 100),
            &rolling_out(&one, &two, 5),
            "fraud-2 is being rolled out: wait for its end, or abort it first",
        ),
        (asked("abort", &hash, "n"), &busy, "Abort"),
        (
            of("fraud-3", 100),
            &baking,
            "fraud-1 is watched after its promotion until 2026-01-01T00:00:09Z: rehearse then",
        ),
    ] {
        assert_eq!(told(meets(&annotation, status, 0)), expected, "{annotation}");
    }
}
