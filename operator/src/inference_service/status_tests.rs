//! Tests of the status.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use millrace_crds::inference_service::{PreviousRevision, SwapStatus};

use super::*;
use crate::inference_service::{
    fixtures::{approved, at, rejected, rolling_out, serving},
    pods::Trouble,
};

const STAY: Target = Target::Stay;

fn seen() -> Seen<'static> {
    Seen {
        rehearsed: Pods::default(),
        previous: Pods::default(),
        copies: (0, &[]),
        routes: None,
        callers: None,
        payload_log: None,
        gateway: None,
        is_holding: false,
        service: ("default", "fraud"),
        generation: 4,
        now: at(0),
        replicas: 2,
        target: &STAY,
        stable: Pods { ready: 2, loaded: 2, trouble: None },
        canary: Pods::default(),
        plan_generation: Some(9),
        is_accepted: true,
        gateway_is_behind: false,
        counted: (0, 0),
        judgement: None,
        front_trouble: None,
        progress_deadline_seconds: 600,
        drift: None,
    }
}

fn filled(mut status: InferenceServiceStatus, seen: &Seen<'_>) -> InferenceServiceStatus {
    fill(&mut status, seen);
    status
}

/// Conditions as `Type=Status(Reason)`, in the order of their types.
fn said(status: &InferenceServiceStatus) -> Vec<String> {
    let mut said: Vec<_> =
        status.conditions.iter().map(|c| format!("{}={}({})", c.type_, c.status, c.reason)).collect();
    said.sort();
    said
}

fn trouble() -> Option<Trouble> {
    Some(Trouble { reason: "ImagePullBackOff".to_owned(), message: "no such image".to_owned(), is_final: false })
}

#[test]
fn intended_accepted_and_measured_weights_stay_apart() {
    let rolling = rolling_out(&approved("fraud", 1), &approved("fraud", 2), 5);
    let canary = Pods { ready: 1, loaded: 1, trouble: None };
    let status = filled(rolling.clone(), &Seen { canary: canary.clone(), counted: (7, 120), ..seen() });
    let weight = status.canary.as_ref().unwrap().weight.clone();
    assert_eq!((weight.intended, weight.accepted, weight.measured), (5, Some(5), Some(5.8)));
    assert_eq!(status.stable.as_ref().unwrap().weight.measured, Some(94.2));
    let waiting = filled(rolling, &Seen { canary, is_accepted: false, ..seen() });
    let weight = waiting.canary.unwrap().weight;
    assert_eq!((weight.intended, weight.accepted, weight.measured), (5, None, None));
}

#[test]
fn the_scale_subresource_knows_the_stable_revision_only() {
    let stable = serving(&approved("fraud", 1));
    let revision = stable.stable.as_ref().unwrap().revision.clone();
    let status = filled(stable, &seen());
    assert_eq!(status.replicas, 2);
    assert_eq!(status.selector, Some(format!("millrace.dev/inference-service=fraud,millrace.dev/revision={revision}")));
    assert_eq!((status.observed_generation, status.plan_generation), (4, 9));
    assert_eq!(status.url.as_deref(), Some("http://fraud.default.svc"));
}

#[test]
fn conditions_and_phase_agree_in_every_state() {
    let (one, two) = (approved("fraud", 1), approved("fraud", 2));
    let nothing = |stalled| Target::Nothing { reason: "NoApprovedVersion", message: "none".to_owned(), stalled };
    let (waits, stuck) = (nothing(false), nothing(true));
    let empty = InferenceServiceStatus::default();
    let first = InferenceServiceStatus { stable: None, ..rolling_out(&one, &two, 0) };
    let mut rolled_back = serving(&one);
    rolled_back.rejected = vec![rejected(&two)];
    Conditions::new(&mut rolled_back.conditions, 1, at(0)).set(ROLLOUT_SUCCEEDED, Is::False, "ErrorRate", "bad");
    let down = Pods { ready: 0, loaded: 0, trouble: trouble() };
    let cases = [
        (
            "nothing approved",
            &empty,
            Seen { target: &waits, ..seen() },
            "Pending",
            vec!["Ready=False(NoApprovedVersion)", "Reconciling=True(NoApprovedVersion)"],
        ),
        (
            "nothing can be",
            &empty,
            Seen { target: &stuck, ..seen() },
            "Pending",
            vec!["Ready=False(NoApprovedVersion)", "Stalled=True(NoApprovedVersion)"],
        ),
        ("the first starts", &first, seen(), "Starting", vec!["Ready=False(Starting)", "Reconciling=True(RollingOut)"]),
        (
            "the first has trouble",
            &first,
            Seen { canary: down.clone(), ..seen() },
            "Starting",
            vec!["Ready=False(ImagePullBackOff)", "Reconciling=True(RollingOut)"],
        ),
        (
            "the first is late",
            &first,
            Seen { canary: down.clone(), now: at(600), ..seen() },
            "Starting",
            vec!["Ready=False(ImagePullBackOff)", "Stalled=True(ImagePullBackOff)"],
        ),
        ("it serves", &serving(&one), seen(), "Serving", vec!["Ready=True(Serving)"]),
        (
            "a pod is missing",
            &serving(&one),
            Seen { replicas: 3, ..seen() },
            "Serving",
            vec!["Ready=True(Serving)", "Reconciling=True(Scaling)"],
        ),
        (
            "no pod is ready",
            &serving(&one),
            Seen { stable: down.clone(), ..seen() },
            "Serving",
            vec!["Ready=False(ImagePullBackOff)", "Reconciling=True(Scaling)"],
        ),
        (
            "a canary is tried",
            &rolling_out(&one, &two, 5),
            seen(),
            "Progressing",
            vec!["Ready=True(Serving)", "Reconciling=True(RollingOut)"],
        ),
        (
            "no router follows",
            &rolling_out(&one, &two, 5),
            Seen { is_accepted: false, now: at(600), ..seen() },
            "Progressing",
            vec!["Ready=True(Serving)", "Stalled=True(RoutersDoNotFollow)"],
        ),
        (
            "no Gateway follows",
            &rolling_out(&one, &two, 5),
            Seen { is_accepted: false, gateway_is_behind: true, now: at(600), ..seen() },
            "Progressing",
            vec!["Ready=True(Serving)", "Stalled=True(GatewaysDoNotFollow)"],
        ),
        (
            "a pod for the next share does not come",
            &rolling_out(&one, &two, 5),
            Seen { canary: down.clone(), now: at(600), ..seen() },
            "Progressing",
            vec!["Ready=True(Serving)", "Stalled=True(ImagePullBackOff)"],
        ),
        (
            "it was rolled back",
            &rolled_back,
            seen(),
            "RolledBack",
            vec!["Ready=True(Serving)", "RolloutSucceeded=False(ErrorRate)"],
        ),
        (
            "the name is taken",
            &serving(&one),
            Seen { front_trouble: Some("taken"), ..seen() },
            "Serving",
            vec!["Ready=False(ServiceNameTaken)", "Stalled=True(ServiceNameTaken)"],
        ),
        (
            "the pin is not approved",
            &serving(&one),
            Seen { target: &stuck, ..seen() },
            "Serving",
            vec!["Ready=True(Serving)", "Stalled=True(NoApprovedVersion)"],
        ),
    ];
    for (case, status, seen, phase, expected) in cases {
        let status = filled(status.clone(), &seen);
        assert_eq!(said(&status), expected, "{case}");
        assert_eq!(format!("{:?}", status.phase.unwrap()), phase, "{case}");
    }
}

#[test]
fn drift_is_told_by_the_newest_window() {
    let drift = |verdict, consecutive| DriftStatus {
        verdict,
        window_start: None,
        window_end: None,
        rows: 1_000,
        consecutive,
        features: Vec::new(),
    };
    let (fine, once, twice, few) =
        (drift(Verdict::Pass, 0), drift(Verdict::Unknown, 1), drift(Verdict::Fail, 2), drift(Verdict::Unknown, 0));
    let cases = [
        (None, false, "Drifted=Unknown(NoWindow)"),
        (Some(&fine), false, "Drifted=False(NoDrift)"),
        (Some(&once), false, "Drifted=Unknown(OneWindowDrifted)"),
        (Some(&twice), true, "Drifted=True(InputsDrifted)"),
        (Some(&few), false, "Drifted=Unknown(TooFewRows)"),
        (Some(&few), true, "Drifted=True(InputsDrifted)"),
    ];
    for (window, is_raised, expected) in cases {
        let watched = Watched { newest: window, is_raised, decision: Some(7) };
        let status = filled(serving(&approved("fraud", 1)), &Seen { drift: Some(watched), ..seen() });
        assert_eq!(said(&status)[0], expected);
        let drifted = find(&status.conditions, DRIFTED).unwrap();
        assert_eq!(drifted.message.contains("since decision 7"), drifted.status != "Unknown", "{}", drifted.message);
    }
    let watched = Watched { newest: Some(&fine), ..Watched::default() };
    let watched = filled(serving(&approved("fraud", 1)), &Seen { drift: Some(watched), ..seen() });
    assert_eq!(said(&filled(watched, &seen())), ["Ready=True(Serving)"], "nothing is watched any more");
}

#[test]
fn a_second_look_at_the_same_changes_nothing() {
    let once = filled(rolling_out(&approved("fraud", 1), &approved("fraud", 2), 5), &seen());
    assert_eq!(filled(once.clone(), &Seen { now: at(50), ..seen() }), once);
}

#[test]
fn a_service_without_pods_by_wish_says_so() {
    let at_zero = Seen { replicas: 0, stable: Pods::default(), ..seen() };
    let ready = |seen: &Seen<'_>| {
        let status = filled(serving(&approved("fraud", 1)), seen);
        assert_eq!(status.stable.as_ref().map(|stable| stable.replicas), Some(0));
        let ready = find(&status.conditions, READY).unwrap().clone();
        (ready.status, ready.reason, ready.message)
    };
    let expected = |message: &str| ("False".to_owned(), "ScaledToZero".to_owned(), message.to_owned());
    assert_eq!(ready(&at_zero), expected("fraud-1 has no pods, as scaling.replicas says; raise it to serve"));
    assert_eq!(
        ready(&Seen { is_holding: true, ..at_zero }),
        expected(
            "fraud-1 has no pods, as scaling.replicas says: requests wait for it as long as scaling.coldStart says; raise it to serve"
        )
    );
}

#[test]
fn the_warm_revision_has_as_many_pods_as_the_one_that_serves() {
    let mut baking = serving(&approved("fraud", 2));
    baking.previous = Some(PreviousRevision {
        revision: serving(&approved("fraud", 1)).stable.unwrap(),
        rollout_start_time: None,
        until: Time(at(100)),
    });
    let status = filled(baking, &Seen { replicas: 10, ..seen() });
    assert_eq!(status.previous.unwrap().revision.replicas, 10);
}

#[test]
fn while_models_are_swapped_the_stable_revision_wants_a_pod_fewer_for_each_and_both_serve_users() {
    let mut swapping = rolling_out(&approved("fraud", 1), &approved("fraud", 2), 99);
    swapping.rollout.as_mut().unwrap().swap =
        Some(SwapStatus { start_time: Time(at(0)), handed_over: 1, pod: None, pod_start_time: None });
    let canary = Pods { ready: 1, loaded: 1, trouble: None };
    let with = |ready: i32| {
        let stable = Pods { ready, loaded: ready, trouble: None };
        filled(swapping.clone(), &Seen { stable, canary: canary.clone(), ..seen() })
    };
    let both = with(1);
    assert_eq!((both.stable.as_ref().unwrap().replicas, both.replicas), (1, 2));
    let alone = with(0);
    assert!(said(&alone).contains(&"Ready=True(Serving)".to_owned()), "{:?}", said(&alone));
}
