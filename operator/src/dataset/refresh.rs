//! Which refresh is due, and when the next one is. Pure.
//!
//! A refresh is named by a key: the moment it was due, and the value of the annotation `millrace.dev/refresh` where there is
//! one, as `2026-01-01T03:00:00Z#now`. The first key is the object's own birth. The key only changes when a later moment of the
//! schedule has come or the annotation has another value; several missed moments are made up for by one refresh.

use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use jiff::{Timestamp, tz::TimeZone};
use millrace_contract::Digest;

use crate::conditions::whole_seconds;

/// Longest value of the annotation that is used as it is; a longer one is told apart by its hash.
const MAX_ANNOTATION: usize = 128;

/// What is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// Key of the refresh that should have been done by now.
    pub key: String,
    /// When the schedule asks for the next one.
    pub next: Option<Timestamp>,
    /// Why the schedule can't be followed, if it can't; nothing else depends on it.
    pub problem: Option<String>,
}

/// What is due at `now`, for an object that was born at `born` and has handled the refresh `handled`.
pub fn due(
    schedule: Option<&str>,
    annotation: Option<&str>,
    handled: Option<&str>,
    born: Timestamp,
    now: Timestamp,
) -> Due {
    let born = whole_seconds(born);
    let handled_moment = handled.map(moment_of).map_or(born, |moment| moment.unwrap_or(born));
    let (last, next, problem) = match schedule.map(|schedule| around(schedule, now)) {
        None => (None, None, None),
        Some(Ok((last, next))) => (last, next, None),
        Some(Err(problem)) => (None, None, Some(problem)),
    };
    let moment = last.filter(|last| *last > handled_moment).unwrap_or(handled_moment);
    Due { key: key(moment, annotation), next, problem }
}

fn key(moment: Timestamp, annotation: Option<&str>) -> String {
    match annotation.filter(|value| !value.is_empty()) {
        None => moment.to_string(),
        Some(value) if value.len() <= MAX_ANNOTATION => format!("{moment}#{value}"),
        Some(value) => format!("{moment}#{}", Digest::of(value)),
    }
}

fn moment_of(key: &str) -> Option<Timestamp> {
    key.split('#').next()?.parse().ok()
}

/// The last moment of a schedule up to `now` and the first one after it.
fn around(schedule: &str, now: Timestamp) -> Result<(Option<Timestamp>, Option<Timestamp>), String> {
    let cron = parsed(schedule)?;
    let now = now.to_zoned(TimeZone::UTC);
    let last = cron.find_previous_occurrence(&now, true).ok().map(|moment| whole_seconds(moment.timestamp()));
    let next = cron.find_next_occurrence(&now, false).ok().map(|moment| whole_seconds(moment.timestamp()));
    Ok((last, next))
}

fn parsed(schedule: &str) -> Result<Cron, String> {
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    parser.parse(schedule).map_err(|error| {
        format!(
            "spec.refresh.schedule {schedule:?} is no cron expression of five fields ({error}): write minute, hour, day of \
             month, month and day of week, as `0 3 * * *`"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    const BORN: &str = "2026-01-01T10:00:00Z";
    const DAILY: Option<&str> = Some("0 3 * * *");

    fn key_at(schedule: Option<&str>, annotation: Option<&str>, handled: Option<&str>, now: &str) -> String {
        due(schedule, annotation, handled, at(BORN), at(now)).key
    }

    #[test]
    fn the_first_refresh_is_the_birth_whatever_the_schedule() {
        assert_eq!(key_at(None, None, None, "2026-01-01T10:00:05Z"), BORN);
        assert_eq!(key_at(DAILY, None, None, "2026-01-01T10:00:05Z"), BORN);
    }

    #[test]
    fn a_moment_of_the_schedule_is_due_once() {
        let due_key = key_at(DAILY, None, Some(BORN), "2026-01-02T03:00:00Z");
        assert_eq!(due_key, "2026-01-02T03:00:00Z");
        assert_eq!(key_at(DAILY, None, Some(&due_key), "2026-01-02T23:00:00Z"), due_key);
    }

    #[test]
    fn missed_moments_are_made_up_for_by_one_refresh() {
        assert_eq!(key_at(DAILY, None, Some(BORN), "2026-01-09T12:00:00Z"), "2026-01-09T03:00:00Z");
    }

    #[test]
    fn another_value_of_the_annotation_is_due_at_once_and_only_once() {
        let asked = key_at(None, Some("now"), Some(BORN), "2026-01-01T11:00:00Z");
        assert_eq!(asked, "2026-01-01T10:00:00Z#now");
        assert_eq!(key_at(None, Some("now"), Some(&asked), "2026-01-03T11:00:00Z"), asked);
        assert_ne!(key_at(None, Some("again"), Some(&asked), "2026-01-03T11:00:00Z"), asked);
    }

    #[test]
    fn a_removed_schedule_asks_for_nothing() {
        assert_eq!(key_at(None, None, Some("2026-01-02T03:00:00Z"), "2026-02-02T03:00:00Z"), "2026-01-02T03:00:00Z");
    }

    #[test]
    fn the_next_moment_lies_after_now() {
        let due = due(DAILY, None, Some(BORN), at(BORN), at("2026-01-02T03:00:00Z"));
        assert_eq!(due.next, Some(at("2026-01-03T03:00:00Z")));
    }

    #[test]
    fn a_schedule_that_is_none_is_named_with_the_remedy_and_blocks_nothing_else() {
        for schedule in ["every day", "0 3 * *", "61 3 * * *", "0 0 3 * * *"] {
            let due = due(Some(schedule), None, None, at(BORN), at("2026-01-02T03:00:00Z"));
            let problem = due.problem.unwrap_or_default();
            assert!(problem.contains(schedule) && problem.contains("0 3 * * *"), "{schedule}: {problem}");
            assert_eq!(due.key, BORN);
        }
    }

    #[test]
    fn a_long_annotation_still_makes_a_short_key() {
        assert!(key_at(None, Some(&"x".repeat(5_000)), None, BORN).len() < 256);
    }
}
