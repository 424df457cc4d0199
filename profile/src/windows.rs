//! Tumbling windows of drift, aligned to UTC, and the count of drifted windows in a row. A pure state machine: time is passed in, the
//! state is small and meant to be kept where a restart finds it again.

use millrace_contract::{
    decision::Verdict,
    sketch::{Counts, FieldSketch},
};
use serde::{Deserialize, Serialize};

use crate::{
    bins::{self, BinsError},
    drift::{self, DriftSettings, FieldDrift},
};

/// When a window closes and how many drifted ones raise drift.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowSettings {
    /// Least length, in seconds; windows begin at multiples of it since 1970 UTC.
    pub length_seconds: i64,
    /// Longest a window waits for rows, in seconds; then it is Unknown.
    pub max_seconds: i64,
    /// Drifted windows in a row before drift is raised.
    pub consecutive: u32,
    /// What counts as drift; `min_samples` is also what a window needs to close.
    pub drift: DriftSettings,
}

/// Index of the window a time falls into: seconds since 1970 UTC, divided by the length and rounded down.
pub fn window_index(unix_seconds: i64, length_seconds: i64) -> i64 {
    unix_seconds.div_euclid(length_seconds.max(1))
}

/// The open window and what the closed ones left behind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DriftMonitor {
    /// What is watched (the revision); another one begins anew, since its reference is another.
    pub subject: String,
    /// Start of the open window, in seconds since 1970 UTC.
    pub window_start: Option<i64>,
    /// When the open window ends if it has enough rows by then; else it is moved on by whole lengths.
    #[serde(default)]
    pub window_end: Option<i64>,
    /// Rows in the open window.
    pub rows: u64,
    /// Reference and counts of the open window.
    pub fields: Vec<FieldSketch>,
    /// Drifted windows in a row.
    pub consecutive: u32,
    /// Whether drift is raised.
    pub raised: bool,
}

/// Drifted windows in a row, and what follows from them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InARow {
    /// How many drifted. An Unknown window neither adds nor resets.
    pub consecutive: u32,
    /// Whether drift is raised.
    pub raised: bool,
}

impl InARow {
    /// After one more window with this verdict, where so many raise drift.
    pub fn after(self, window: Verdict, needed: u32) -> Self {
        match window {
            Verdict::Unknown => self,
            Verdict::Pass => Self::default(),
            Verdict::Fail => {
                let consecutive = self.consecutive.saturating_add(1);
                Self { consecutive, raised: self.raised || consecutive >= needed.max(1) }
            }
        }
    }
}

/// What a closed window says.
#[derive(Clone, Debug, PartialEq)]
pub struct ClosedWindow {
    /// Start, in seconds since 1970 UTC.
    pub start: i64,
    /// End, in seconds since 1970 UTC.
    pub end: i64,
    /// Rows in it.
    pub rows: u64,
    /// Fail: this window drifted. Unknown: too few rows.
    pub verdict: Verdict,
    /// All fields, greatest PSI first; empty when Unknown for want of rows.
    pub fields: Vec<FieldDrift>,
    /// What they were computed from.
    pub counts: Vec<FieldSketch>,
    /// The windows before it.
    pub before: InARow,
    /// Drifted windows in a row, this one included. An Unknown window neither adds nor resets.
    pub consecutive: u32,
    /// Whether drift is raised after this window.
    pub raised: bool,
    /// Whether it is this window that raised it.
    pub newly_raised: bool,
}

impl DriftMonitor {
    /// Closes the open window if it has ended by `now` (a window ends at the first multiple of its length with enough rows, or as
    /// Unknown at its longest), then adds what was counted since the last call to the window that is open then. Rows are those of
    /// `fields`, whose `current` is the delta.
    ///
    /// # Errors
    /// [`BinsError::Length`] when a field changed its bins within one subject; the open window is then begun anew.
    pub fn step(
        &mut self,
        subject: &str,
        now_unix_seconds: i64,
        rows: u64,
        fields: &[FieldSketch],
        settings: &WindowSettings,
    ) -> Result<Option<ClosedWindow>, BinsError> {
        if self.subject != subject {
            *self = Self { subject: subject.to_owned(), ..Self::default() };
        }
        let length = settings.length_seconds.max(1);
        let closed = match self.window_start {
            Some(start) => self.close(start, now_unix_seconds, settings)?,
            None => None,
        };
        let aligned = window_index(now_unix_seconds, length) * length;
        if self.window_start.is_none() {
            self.begin(Some((aligned, aligned + length)));
        }
        if let Err(error) = self.add(rows, fields) {
            self.begin(Some((aligned, aligned + length)));
            return Err(error);
        }
        Ok(closed)
    }

    /// Whether it differs from an earlier state of itself in what can't be found again from that and the clock: an open window is moved
    /// on while it is short of rows, and one without rows has no beginning yet.
    pub fn has_news(&self, earlier: &Self) -> bool {
        let Self { subject, window_start, window_end: _, rows, fields, consecutive, raised } = self;
        let has_begun = *rows > 0 || earlier.rows > 0;
        (has_begun && *window_start != earlier.window_start)
            || *rows != earlier.rows
            || *consecutive != earlier.consecutive
            || *raised != earlier.raised
            || *subject != earlier.subject
            || *fields != earlier.fields
    }

    fn close(&mut self, start: i64, now: i64, settings: &WindowSettings) -> Result<Option<ClosedWindow>, BinsError> {
        let length = settings.length_seconds.max(1);
        let end = self.window_end.unwrap_or(start + length);
        if now < end {
            return Ok(None);
        }
        // Where nobody asks anything there is no window: the next one begins with the first rows.
        if self.rows == 0 {
            self.begin(None);
            return Ok(None);
        }
        let boundary = window_index(now, length) * length;
        let enough = self.rows >= settings.drift.min_samples.max(1);
        if !enough && boundary - start < settings.max_seconds {
            self.window_end = Some(boundary + length);
            return Ok(None);
        }
        let end = if enough { end } else { boundary };
        let (rows, counts) = (self.rows, std::mem::take(&mut self.fields));
        self.begin(None);
        let fields = if enough { drift::drift(&counts, &settings.drift)? } else { Vec::new() };
        let verdict = drift::overall(&fields);
        let before = InARow { consecutive: self.consecutive, raised: self.raised };
        let InARow { consecutive, raised } = before.after(verdict, settings.consecutive);
        (self.consecutive, self.raised) = (consecutive, raised);
        let newly_raised = raised && !before.raised;
        Ok(Some(ClosedWindow { start, end, rows, verdict, fields, counts, before, consecutive, raised, newly_raised }))
    }

    fn begin(&mut self, window: Option<(i64, i64)>) {
        self.window_start = window.map(|(start, _)| start);
        self.window_end = window.map(|(_, end)| end);
        self.rows = 0;
        self.fields.clear();
    }

    fn add(&mut self, rows: u64, fields: &[FieldSketch]) -> Result<(), BinsError> {
        for field in fields {
            match self.fields.iter_mut().find(|known| known.name == field.name) {
                None => self.fields.push(field.clone()),
                Some(known) => bins::merge(&mut known.current, &field.current)?,
            }
        }
        self.rows = self.rows.saturating_add(rows);
        Ok(())
    }
}

/// Sketches with their counts replaced by what was added, as [`DriftMonitor::step`] takes them. Fields without an addition are left out.
pub fn with_counts(sketches: &[FieldSketch], added: &std::collections::BTreeMap<String, Counts>) -> Vec<FieldSketch> {
    sketches
        .iter()
        .filter_map(|sketch| {
            let current = added.get(&sketch.name)?.clone();
            Some(FieldSketch { current, ..sketch.clone() })
        })
        .collect()
}

#[cfg(test)]
#[path = "windows_tests.rs"]
mod tests;
