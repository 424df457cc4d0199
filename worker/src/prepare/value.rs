//! Values read from text, one function a type: the only place that says what counts as an integer, a number, a truth value
//! or a moment. Pure.

use millrace_contract::dataset::FieldType;

/// Whole floating point numbers beyond this are not exact.
const EXACT_WHOLE: f64 = 9_007_199_254_740_992.0;

/// A 64-bit signed integer; surrounding blanks are ignored, `3.0` is 3 (as tools write integers beside missing values).
pub fn parse_integer(text: &str) -> Option<i64> {
    let text = text.trim();
    text.parse::<i64>().ok().or_else(|| {
        let looks_like_a_number = text.contains(['.', 'e', 'E']);
        if looks_like_a_number { parse_number(text).and_then(whole) } else { None }
    })
}

/// A floating point number without a fraction, as an integer.
pub fn whole(value: f64) -> Option<i64> {
    #[allow(clippy::cast_possible_truncation)]
    (value.fract() == 0.0 && value.abs() <= EXACT_WHOLE).then_some(value as i64)
}

/// A 64-bit floating point number; `NaN` and `inf` count.
pub fn parse_number(text: &str) -> Option<f64> {
    text.trim().parse().ok()
}

/// `true` or `false` in any case, `1` or `0`.
pub fn parse_boolean(text: &str) -> Option<bool> {
    let text = text.trim();
    if text == "1" || text.eq_ignore_ascii_case("true") {
        Some(true)
    } else if text == "0" || text.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}

/// Microseconds since 1970 of an ISO 8601 date or date and time; UTC where no offset is given. Finer digits are cut off.
pub fn parse_timestamp(text: &str) -> Option<i64> {
    let text = text.trim();
    if let Ok(moment) = text.parse::<jiff::Timestamp>() {
        return Some(moment.as_microsecond());
    }
    let local: jiff::civil::DateTime = text.parse().ok()?;
    let has_date_and_time_only = !text.contains(['+', '[', 'Z', 'z']);
    let moment = has_date_and_time_only.then(|| local.to_zoned(jiff::tz::TimeZone::UTC).ok())??;
    Some(moment.timestamp().as_microsecond())
}

/// What a column of text could be; narrows with each value.
#[derive(Clone, Copy, Debug)]
pub struct Candidates {
    integer: bool,
    number: bool,
    boolean: bool,
    timestamp: bool,
    any_value: bool,
    any_digit: bool,
}

impl Default for Candidates {
    fn default() -> Self {
        Self { integer: true, number: true, boolean: true, timestamp: true, any_value: false, any_digit: false }
    }
}

impl Candidates {
    /// Narrows by one value.
    pub fn see(&mut self, text: &str) {
        let text = text.trim();
        self.any_value = true;
        self.any_digit |= text.bytes().any(|b| b.is_ascii_digit());
        // `007` is a code, not a number: as a number it would lose its zeros.
        let is_code = has_leading_zero(text);
        self.integer = self.integer && !is_code && text.parse::<i64>().is_ok();
        self.number = self.number && !is_code && parse_number(text).is_some();
        self.boolean = self.boolean && (text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false"));
        self.timestamp = self.timestamp && parse_timestamp(text).is_some();
    }

    /// The narrowest type that holds all values seen; text where there was none.
    pub fn narrowest(self) -> FieldType {
        match self {
            Self { any_value: false, .. } => FieldType::String,
            Self { boolean: true, .. } => FieldType::Boolean,
            Self { integer: true, .. } => FieldType::Integer,
            Self { number: true, any_digit: true, .. } => FieldType::Number,
            Self { timestamp: true, .. } => FieldType::Timestamp,
            _ => FieldType::String,
        }
    }
}

fn has_leading_zero(text: &str) -> bool {
    let digits = text.trim_start_matches(['-', '+']).as_bytes();
    digits.len() > 1 && digits[0] == b'0' && digits[1].is_ascii_digit()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn infer(values: &[&str]) -> FieldType {
        let mut candidates = Candidates::default();
        values.iter().for_each(|v| candidates.see(v));
        candidates.narrowest()
    }

    #[test]
    fn the_narrowest_type_that_holds_all_values_is_inferred() {
        let table: [(&[&str], FieldType); 14] = [
            (&["1", "-2", " 3 "], FieldType::Integer),
            (&["1", "2.5"], FieldType::Number),
            (&["1e3", "NaN", "-inf"], FieldType::Number),
            (&["NaN", "inf"], FieldType::String),
            (&["9223372036854775808"], FieldType::Number),
            (&["0", "1"], FieldType::Integer),
            (&["true", "False"], FieldType::Boolean),
            (&["true", "1"], FieldType::String),
            (&["007", "012"], FieldType::String),
            (&["0.5", "0"], FieldType::Number),
            (&["2024-02-29", "2024-03-01T12:00:00Z"], FieldType::Timestamp),
            (&["2024-02-30"], FieldType::String),
            (&["1", "x"], FieldType::String),
            (&[], FieldType::String),
        ];
        for (values, expected) in table {
            assert_eq!(infer(values), expected, "{values:?}");
        }
    }

    #[test]
    fn moments_are_read_as_utc_microseconds() {
        let table = [
            ("1970-01-01", Some(0)),
            ("1970-01-01 00:00:01", Some(1_000_000)),
            ("1970-01-01T00:00:00.000001Z", Some(1)),
            ("1970-01-01T01:00:00+01:00", Some(0)),
            ("1969-12-31T23:59:59.5Z", Some(-500_000)),
            ("12:00", None),
            ("17", None),
            ("2024-13-01", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse_timestamp(text), expected, "{text}");
        }
    }

    #[test]
    fn whole_floats_are_integers_and_others_are_not() {
        assert_eq!(parse_integer("3.0"), Some(3));
        assert_eq!(parse_integer("3.5"), None);
        assert_eq!(parse_integer("1e30"), None);
        assert_eq!(parse_integer("nan"), None);
        assert_eq!(parse_integer(""), None);
    }

    #[test]
    fn truth_values_have_four_spellings() {
        for (text, expected) in [("TRUE", Some(true)), ("0", Some(false)), ("1", Some(true)), ("yes", None), ("", None)]
        {
            assert_eq!(parse_boolean(text), expected, "{text}");
        }
    }
}
