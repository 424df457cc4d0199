//! What the condition PayloadLogReady says: whether servers write what they were asked to write down. Pure.
//!
//! A request never waits for the log, so nothing fails where it can't be written. Servers tell of it, beside what they have seen.

use std::time::Duration;

use millrace_contract::sketch::PayloadLogReport;
use millrace_crds::inference_service::PayloadLog;

use super::{pods::ServerPod, status::Said};
use crate::conditions::Is;

/// No object of ours changes when a store comes to refuse or to take files, so servers are asked.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// What servers tell of their logs.
#[derive(Clone, Debug)]
pub struct Heard<'a> {
    /// The revision of each server that has such a log, and how it fares there.
    reports: Vec<(&'a str, &'a PayloadLogReport)>,
    /// Every ready server has answered.
    is_whole: bool,
}

/// What is heard of them.
pub fn heard(pods: &[ServerPod]) -> Heard<'_> {
    let told = pods.iter().filter_map(|pod| pod.sketches.as_ref());
    let reports = told.filter_map(|sketches| Some((&*sketches.revision, sketches.payload_log.as_ref()?)));
    let is_whole = pods.iter().filter(|pod| pod.is_ready).all(|pod| pod.sketches.is_some());
    Heard { reports: reports.collect(), is_whole }
}

/// What is said of `server.payloadLog`, by what servers report, and by what was said of the same spec before.
pub fn said(asked: Option<&PayloadLog>, heard: &Heard<'_>, former: Option<Said>) -> Option<Said> {
    let asked = asked?;
    let reports = &heard.reports;
    let lost = reports.iter().filter_map(|(revision, report)| Some((*revision, report.trouble.as_deref()?)));
    // The same one at each look, as long as the same ones are there.
    if let Some((revision, why)) = lost.min() {
        let remedy = remedy(asked);
        let message = format!("server.payloadLog: servers of revision {revision} lose records: {why}; {remedy}");
        return Some((Is::False, "RecordsLost".to_owned(), message));
    }
    if let Some(former) = former.filter(|(is, ..)| still_holds(*is, heard)) {
        return Some(former);
    }
    if reports.iter().any(|(_, report)| report.written > 0) {
        return Some((Is::True, "RecordsWritten".to_owned(), "servers write records, and lose none".to_owned()));
    }
    let message = "no server has written a record yet: it takes a request that is sampled, and for files their time";
    Some((Is::Unknown, "NoRecordYet".to_owned(), message.to_owned()))
}

/// Whether what was said before holds where nobody tells of a loss.
fn still_holds(former: Is, heard: &Heard<'_>) -> bool {
    match former {
        // A server that was started anew has lost nothing, although it has written nothing yet.
        Is::True => true,
        // The one that loses records may be the one that does not answer now.
        Is::False => heard.reports.is_empty() || !heard.is_whole,
        Is::Unknown => false,
    }
}

fn remedy(asked: &PayloadLog) -> String {
    match (&asked.parquet, &asked.cloud_events) {
        (Some(files), _) => format!(
            "see that the credentials in the Secret millrace-store may write below {}, and what kubectl logs says of files \
             that are lost",
            files.uri
        ),
        (None, Some(events)) => {
            format!("see that {} can be reached from this namespace and takes CloudEvents", events.url)
        }
        (None, None) => "name a place for them".to_owned(),
    }
}

/// How long until servers are asked again.
pub fn look_again(asked: Option<&PayloadLog>) -> Option<Duration> {
    asked.map(|_| LOOK_EVERY)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::inference_service::fixtures::{approved, server_pod, serving};

    fn asked(log: Value) -> PayloadLog {
        serde_json::from_value(log).unwrap()
    }

    fn report(written: u64, trouble: Option<&str>) -> PayloadLogReport {
        PayloadLogReport { written, trouble: trouble.map(str::to_owned) }
    }

    fn told<'a>(reports: &[(&'a str, &'a PayloadLogReport)]) -> Heard<'a> {
        Heard { reports: reports.to_vec(), is_whole: true }
    }

    #[test]
    fn records_are_lost_written_or_not_there_yet() {
        let files = json!({"parquet": {"uri": "s3://b/log"}});
        let events = json!({"cloudEvents": {"url": "http://broker/a"}});
        let (fresh, well) = (report(0, None), report(7, None));
        let (denied, refused) = (report(7, Some("AccessDenied")), report(0, Some("it answers 403 Forbidden")));
        let cases = [
            (&files, vec![], (Is::Unknown, "NoRecordYet", vec![])),
            (&files, vec![("a", &fresh)], (Is::Unknown, "NoRecordYet", vec![])),
            (&files, vec![("a", &fresh), ("b", &well)], (Is::True, "RecordsWritten", vec![])),
            (
                &files,
                vec![("a", &well), ("b", &denied)],
                (Is::False, "RecordsLost", vec!["revision b", "AccessDenied", "Secret millrace-store", "s3://b/log"]),
            ),
            (
                &events,
                vec![("b", &refused), ("a", &denied)],
                (Is::False, "RecordsLost", vec!["revision a", "AccessDenied", "http://broker/a"]),
            ),
        ];
        for (log, reports, (status, reason, words)) in cases {
            let (is, why, message) = said(Some(&asked(log.clone())), &told(&reports), None).unwrap();
            assert_eq!((is, &*why), (status, reason), "{reports:?}");
            assert!(words.iter().all(|word| message.contains(word)), "{message}");
        }
        assert_eq!(said(None, &told(&[("a", &denied)]), None), None);
    }

    #[test]
    fn servers_that_are_silent_for_a_moment_or_started_anew_change_nothing() {
        let log = asked(json!({"parquet": {"uri": "s3://b/log"}}));
        let (fresh, well, denied) = (report(0, None), report(7, None), report(0, Some("AccessDenied")));
        let cases = [
            (Is::True, vec![], true, Is::True),
            (Is::True, vec![("a", &fresh)], true, Is::True),
            (Is::True, vec![("a", &well), ("b", &denied)], true, Is::False),
            (Is::False, vec![], true, Is::False),
            (Is::False, vec![("a", &well)], false, Is::False),
            (Is::False, vec![("a", &well)], true, Is::True),
            (Is::False, vec![("a", &fresh)], true, Is::Unknown),
            (Is::Unknown, vec![("a", &well)], false, Is::True),
        ];
        for (before, reports, is_whole, expected) in cases {
            let heard = Heard { is_whole, ..told(&reports) };
            let (is, ..) = said(Some(&log), &heard, Some((before, String::new(), String::new()))).unwrap();
            assert_eq!(is, expected, "{before:?}, then {heard:?}");
        }
    }

    #[test]
    fn only_servers_with_a_log_are_heard_and_all_that_are_ready_are_to_answer() {
        let revision = serving(&approved("fraud", 1)).stable.unwrap();
        let without = server_pod(&revision);
        let mut with = without.clone();
        with.sketches.as_mut().unwrap().payload_log = Some(report(1, None));
        let silent = ServerPod { sketches: None, ..without.clone() };
        let starting = ServerPod { is_ready: false, ..silent.clone() };
        let pods = [without, with, starting];
        let all = heard(&pods);
        assert_eq!((all.reports, all.is_whole), (vec![(&*revision.revision, &report(1, None))], true));
        assert!(!heard(&[silent]).is_whole);
    }
}
