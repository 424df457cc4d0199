//! `metrics.jsonl` as a trainer appends to it: read on from where the last look ended, line by line, within bounds. Reads one
//! local file.

use std::{
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use millrace_contract::training::TrainingProgress;
use serde_json::Value;

use super::local;
use crate::failure::shorten;

/// Longest line, bytes; a longer one is skipped and counted.
const LINE_MAX_BYTES: usize = 16 * 1024;
/// Bytes read at one look.
const LOOK_MAX_BYTES: u64 = 4 << 20;
/// Metrics kept, at most; names that come later are left out.
const METRICS: usize = 32;
/// Longest name of a metric, bytes.
const NAME_MAX_BYTES: usize = 64;
/// What Python's `json` writes for numbers that JSON has no word for.
const NO_NUMBERS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// Where reading has got to, and what was found.
#[derive(Debug, Default)]
pub struct Tail {
    offset: u64,
    partial: Vec<u8>,
    /// The rest of a line that is too long is being skipped.
    skipping: bool,
    /// Newest values.
    pub progress: TrainingProgress,
    /// Lines that were no JSON object or too long.
    pub bad_lines: u64,
    /// The metric of the first value that was NaN or infinite, and how many such values there were.
    not_numbers: Option<(String, u64)>,
}

impl Tail {
    /// Reads what has been appended since the last look.
    pub fn look(&mut self, output: &Path) -> io::Result<()> {
        let Some(opened) = local::open(output, Path::new("metrics.jsonl"))? else { return Ok(()) };
        if opened.bytes < self.offset {
            // Written anew by a trainer that started over.
            let (progress, not_numbers) = (std::mem::take(&mut self.progress), self.not_numbers.take());
            *self = Self { progress, not_numbers, bad_lines: self.bad_lines, ..Self::default() };
        }
        let mut file = std::fs::File::open(opened.path())?;
        file.seek(SeekFrom::Start(self.offset))?;
        let mut bytes = Vec::new();
        file.take(LOOK_MAX_BYTES).read_to_end(&mut bytes)?;
        self.offset += bytes.len() as u64;
        self.feed(&bytes);
        Ok(())
    }

    /// Takes the last line, too, although it does not end with a line end: nothing more will come.
    pub fn finish(&mut self) {
        self.feed(b"\n");
    }

    /// What in the file was of no use, for a person.
    pub fn problem(&self) -> Option<String> {
        let values = self.not_numbers.as_ref().map(|(name, count)| {
            format!("values in metrics.jsonl that are NaN or infinite: {count}, the first of them of {name}")
        });
        let lines = (self.bad_lines > 0).then(|| {
            let bad_lines = self.bad_lines;
            format!("lines of metrics.jsonl that are no JSON object of at most {LINE_MAX_BYTES} bytes: {bad_lines}")
        });
        let said: Vec<String> = values.into_iter().chain(lines).collect();
        (!said.is_empty()).then(|| said.join("; "))
    }

    fn feed(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|&b| b == b'\n') {
            let ends = piece.last() == Some(&b'\n');
            if !self.skipping {
                self.partial.extend_from_slice(piece);
                if self.partial.len() > LINE_MAX_BYTES {
                    self.skipping = true;
                    self.bad_lines += 1;
                    self.partial.clear();
                }
            }
            if ends {
                let line = std::mem::take(&mut self.partial);
                if !self.skipping {
                    self.take_line(&line);
                }
                self.skipping = false;
            }
        }
    }

    fn take_line(&mut self, line: &[u8]) {
        if line.trim_ascii().is_empty() {
            return;
        }
        match serde_json::from_slice(line).or_else(|_| serde_json::from_slice(&with_words_quoted(line))) {
            Ok(Value::Object(entries)) => entries.into_iter().for_each(|(name, value)| self.take_entry(name, &value)),
            Ok(_) | Err(_) => self.bad_lines += 1,
        }
    }

    fn take_entry(&mut self, name: String, value: &Value) {
        let number = value.as_f64().filter(|v| v.is_finite());
        match (name.as_str(), number) {
            ("step", _) => self.progress.step = value.as_i64().or(self.progress.step),
            ("percent", Some(percent)) => self.progress.percent = Some(percent.clamp(0.0, 100.0)),
            (_, Some(number)) => {
                let metrics = &mut self.progress.metrics;
                let has_room = metrics.len() < METRICS && name.len() <= NAME_MAX_BYTES;
                if has_room || metrics.contains_key(&name) {
                    metrics.insert(name, number);
                }
            }
            (_, None) if value.as_str().is_some_and(|text| NO_NUMBERS.contains(&text)) => {
                self.not_numbers.get_or_insert_with(|| (shorten(&name, NAME_MAX_BYTES), 0)).1 += 1;
            }
            (_, None) => {}
        }
    }
}

/// The line with `NaN` and the like as texts, so that all else in it can be read.
fn with_words_quoted(line: &[u8]) -> Vec<u8> {
    let (mut quoted, mut rest, mut is_text) = (Vec::with_capacity(line.len()), line, false);
    while let [first, others @ ..] = rest {
        let word = NO_NUMBERS.into_iter().find(|word| !is_text && rest.starts_with(word.as_bytes()));
        if let Some(word) = word {
            quoted.extend_from_slice(format!("\"{word}\"").as_bytes());
            rest = &rest[word.len()..];
        } else if let (true, b'\\', [escaped, after @ ..]) = (is_text, *first, others) {
            // It may be a quote.
            quoted.extend_from_slice(&[*first, *escaped]);
            rest = after;
        } else {
            is_text ^= *first == b'"';
            quoted.push(*first);
            rest = others;
        }
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn appended_lines_are_read_once_and_the_newest_values_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut tail = Tail::default();
        tail.look(folder.path()).expect("nothing there is no error");
        let mut file = std::fs::File::create(folder.path().join("metrics.jsonl")).unwrap();
        file.write_all(b"{\"step\":1,\"loss\":0.5,\"phase\":\"warm\"}\nnonsense\n[1]\n{\"step\":2,\"per").unwrap();
        tail.look(folder.path()).unwrap();
        assert_eq!((tail.progress.step, tail.progress.percent, tail.bad_lines), (Some(1), None, 2));
        file.write_all(b"cent\":250,\"loss\":0.25}\n{\"step\":3}").unwrap();
        tail.look(folder.path()).unwrap();
        assert_eq!((tail.progress.step, tail.progress.percent), (Some(2), Some(100.0)));
        assert_eq!(tail.progress.metrics, [("loss".to_owned(), 0.25)].into());
        tail.finish();
        assert_eq!(tail.progress.step, Some(3));
    }

    #[test]
    fn a_value_that_is_no_number_takes_no_other_with_it_and_is_told() {
        let mut tail = Tail::default();
        assert_eq!(tail.problem(), None);
        tail.feed(b"{\"a \\\"NaN\": 1, \"loss\": NaN, \"step\": 3, \"auc\": 0.5, \"note\": \"no NaN\"}\n");
        tail.feed(b"{\"loss\": -Infinity, \"auc\": Infinity}\n");
        let metrics: std::collections::BTreeMap<String, f64> =
            [("a \"NaN".to_owned(), 1.0), ("auc".to_owned(), 0.5)].into();
        assert_eq!((tail.progress.step, &tail.progress.metrics, tail.bad_lines), (Some(3), &metrics, 0));
        let values = "values in metrics.jsonl that are NaN or infinite: 3, the first of them of loss";
        assert_eq!(tail.problem().as_deref(), Some(values));
        tail.feed(b"{\"loss\": NaN\n");
        let lines = "lines of metrics.jsonl that are no JSON object of at most 16384 bytes: 1";
        assert_eq!(tail.problem(), Some(format!("{values}; {lines}")));
    }

    #[test]
    fn a_file_written_anew_is_read_from_its_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, "{\"step\":10}\n{\"step\":11}\n").unwrap();
        let mut tail = Tail::default();
        tail.look(folder.path()).unwrap();
        std::fs::write(&path, "{\"step\":1}\n").unwrap();
        tail.look(folder.path()).unwrap();
        assert_eq!(tail.progress.step, Some(1));
    }

    #[test]
    fn endless_lines_and_endless_names_stay_within_bounds() {
        let mut tail = Tail::default();
        tail.feed(&vec![b'x'; LINE_MAX_BYTES]);
        tail.feed(&vec![b'x'; LINE_MAX_BYTES]);
        assert!(tail.partial.len() <= LINE_MAX_BYTES);
        tail.feed(b"{\"step\":9}\n");
        assert_eq!(
            (tail.progress.step, tail.bad_lines),
            (None, 1),
            "the end of the long line is not a line of its own"
        );
        tail.feed(b"{\"step\":7}\n");
        assert_eq!((tail.progress.step, tail.bad_lines), (Some(7), 1));
        for i in 0..100 {
            tail.feed(format!("{{\"m{i}\":{i}}}\n").as_bytes());
        }
        assert_eq!(tail.progress.metrics.len(), METRICS);
    }
}
