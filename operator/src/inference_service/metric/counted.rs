//! What the answers to checks of the users' own count for, and since when there have been none. Pure.

use jiff::Timestamp;
use millrace_crds::inference_service::Metric;

use super::{Answer, Found, Measured, Measurements, Refused, Run, Running, is_good, is_stuck};
use crate::names::short_hash;

/// Most characters kept of why there is no number.
const MAX_TROUBLE: usize = 300;
/// Most checks that something is known of, with those that are no longer asked for.
const MAX_KNOWN: usize = 64;

/// Forgets what is no longer asked for, but how many Jobs it had: were it asked for again, those would be counted another time.
fn forget(metrics: &[Metric], measured: &mut Measurements) {
    let is_asked_for = |name: &String| metrics.iter().any(|metric| metric.name == *name);
    let has_room = measured.len() <= MAX_KNOWN;
    measured.retain(|name, known| is_asked_for(name) || (known.jobs > 0 && has_room));
    for (_, known) in measured.iter_mut().filter(|(name, _)| !is_asked_for(name)) {
        *known = Measured { jobs: known.jobs, ..Measured::default() };
    }
}

/// Counts the answers.
pub fn count(
    metrics: &[Metric],
    measured: &mut Measurements,
    weight: i32,
    answers: &[(String, Answer)],
    now: Timestamp,
) {
    forget(metrics, measured);
    for (name, answer) in answers {
        let Some(metric) = metrics.iter().find(|metric| metric.name == *name) else { continue };
        let known = measured.entry(name.clone()).or_default();
        if known.weight != weight {
            (known.weight, known.good) = (weight, 0);
        }
        known.time = Some(now);
        match answer {
            Ok(value) if value.is_finite() => {
                (known.value, known.trouble) = (Some(*value), None);
                let counter = if is_good(metric, *value) { &mut known.good } else { &mut known.bad };
                *counter = counter.saturating_add(1);
            }
            // A number that is none says as little as no answer. One that is infinite, as after a division by zero, can't be stored either; it may be
            // out of bounds, but is never good.
            Ok(value) => {
                known.trouble = Some(format!("the answer is {value}"));
                let is_bad = value.is_infinite() && !is_good(metric, *value);
                known.bad = known.bad.saturating_add(i32::from(is_bad));
            }
            Err(why) => known.trouble = Some(shortened(why)),
        }
    }
}

/// Counts what Jobs say, each once: the next measurement is that of another Job.
pub fn count_runs(
    metrics: &[Metric],
    measured: &mut Measurements,
    weight: i32,
    found: &[(Run, Found)],
    now: Timestamp,
) {
    let mut answers = Vec::new();
    for (run, found) in found {
        match found {
            Found::Absent => {
                if let Some(known) = measured.get_mut(&run.check) {
                    known.running = None;
                }
            }
            Found::Runs(problem) => {
                let problem = problem.as_deref().map(shortened);
                let known = measured.entry(run.check.clone()).or_default();
                known.running = Some(Running { job: run.name.clone(), problem });
                known.refused = None;
            }
            Found::Ends => {}
            Found::Ended(answer) => {
                let known = measured.entry(run.check.clone()).or_default();
                known.refused = None;
                known.jobs = known.jobs.saturating_add(1);
                known.job = Some(run.name.clone());
                known.program = Some(short_hash(&run.job));
                let waited = known.running.take().and_then(|running| running.problem);
                let answer = match (answer, waited) {
                    // Once a Job is past its deadline its pod is gone, and nobody else tells what it waited for.
                    (Err(why), Some(waited)) => Err(format!("{why}; {waited}")),
                    (answer, _) => answer.clone(),
                };
                answers.push((run.check.clone(), answer));
            }
        }
    }
    count(metrics, measured, weight, &answers, now);
}

/// Takes down since when checks have had no data: the policy waits from then on, and not from the beginning of a step that may be hours ago.
/// A pause begins that anew, as nobody could wait meanwhile.
pub fn note_lack(metrics: &[Metric], measured: &mut Measurements, weight: i32, is_paused: bool, now: Timestamp) {
    for metric in metrics {
        let Some(known) = measured.get_mut(&metric.name) else { continue };
        if is_paused {
            known.lacking_since = None;
            continue;
        }
        let had_some = known.weight == weight && known.value.is_some();
        let since = known.lacking_since.or(had_some.then_some(now));
        known.lacking_since = since.filter(|_| lacks(metric, known, weight));
    }
}

/// Since when a check has had no data at this share, which began at `start`; nothing where it has some, if not enough yet, and where it had
/// some and nobody knows since when it has none, as in a pause.
pub fn lacking_since(metric: &Metric, measured: &Measurements, weight: i32, start: Timestamp) -> Option<Timestamp> {
    let Some(known) = measured.get(&metric.name) else { return Some(start) };
    let had_some = known.weight == weight && known.value.is_some();
    let since = match known.lacking_since {
        Some(since) => since.max(start),
        None if had_some => return None,
        None => start,
    };
    lacks(metric, known, weight).then_some(since)
}

/// Takes down that a Job can't be made. There is no data then, until one is.
pub fn refused(measured: &mut Measurements, run: &Run, why: &str, now: Timestamp) {
    let known = measured.entry(run.check.clone()).or_default();
    known.refused = Some(Refused { job: run.name.clone(), why: shortened(why), time: now });
}

fn shortened(why: &str) -> String {
    why.chars().take(MAX_TROUBLE).collect()
}

/// Whether the newest look gave no answer, or there was none yet at this share.
fn lacks(metric: &Metric, known: &Measured, weight: i32) -> bool {
    is_stuck(metric, known) || known.weight != weight || known.trouble.is_some() || known.value.is_none()
}
