//! Numbers out of JSON text, eight digits at a time. Most of the time that a large JSON tensor costs is spent here.
//!
//! The usual forms are read in a few steps without a branch that depends on their length; whatever is longer, written with an exponent, or
//! too close to the middle between two numbers, is left to the standard library. So every result is the correctly rounded one. Pure.

/// `10^n` for the digits behind a point.
const TENS: [u64; 20] = {
    let mut tens = [1_u64; 20];
    let mut n = 1;
    while n < 20 {
        tens[n] = tens[n - 1] * 10;
        n += 1;
    }
    tens
};

/// The same as floating-point numbers; all of them exact.
const FLOAT_TENS: [f64; 17] = {
    let mut tens = [1.0_f64; 17];
    let mut n = 1;
    while n < 17 {
        tens[n] = tens[n - 1] * 10.0;
        n += 1;
    }
    tens
};

/// Integers up to here are exact in an FP64.
const EXACT: u64 = 1 << 53;
/// Digits of which every number is also an `i64`: that becomes an FP64 in one step.
const MOST_DIGITS: usize = 18;
const ZEROS: u64 = 0x3030_3030_3030_3030;
const COMMAS: u64 = 0x2c2c_2c2c_2c2c_2c2c;
/// The highest bit of each byte.
const HIGHEST: u64 = 0x8080_8080_8080_8080;

/// A number of a usual form.
struct Decimal {
    negative: bool,
    /// All digits, the point left out.
    digits: u64,
    /// How many of them are behind the point.
    scale: usize,
    /// Offset of the byte after it.
    end: usize,
}

/// Eight bytes; past the end there are zeros, which are no digits.
#[inline(always)]
fn eight(bytes: &[u8], at: usize) -> u64 {
    match bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        Some(chunk) => u64::from_le_bytes(*chunk),
        None => last(bytes, at),
    }
}

#[cold]
fn last(bytes: &[u8], at: usize) -> u64 {
    let mut chunk = [0; 8];
    for (to, from) in chunk.iter_mut().zip(bytes.get(at..).unwrap_or_default()) {
        *to = *from;
    }
    u64::from_le_bytes(chunk)
}

/// Digits that the eight bytes begin with.
#[inline(always)]
fn leading(chunk: u64) -> usize {
    (others(chunk ^ ZEROS).trailing_zeros() / 8) as usize
}

/// The highest bit of the first byte that is above 9, and none where all are values of digits. One above it may be wrong, as the carry only ever
/// reaches bytes behind the first such.
#[inline(always)]
fn others(values: u64) -> u64 {
    (values.wrapping_add(0x7676_7676_7676_7676) | values) & HIGHEST
}

/// The number that eight digits write, each the value of a byte.
#[inline(always)]
fn of_digits(values: u64) -> u64 {
    let pairs = values.wrapping_mul(10).wrapping_add(values >> 8);
    let low = (pairs & 0x0000_00ff_0000_00ff).wrapping_mul(0x000f_4240_0000_0064);
    let high = ((pairs >> 16) & 0x0000_00ff_0000_00ff).wrapping_mul(0x0000_2710_0000_0001);
    low.wrapping_add(high) >> 32
}

/// The number that the first `count` bytes write, 0 to 8 digits.
#[inline(always)]
fn value(chunk: u64, count: usize) -> u64 {
    of_digits((chunk ^ ZEROS).unbounded_shl(64 - 8 * count as u32))
}

#[inline(always)]
fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or_default()
}

/// How many of these bytes are before the first comma; 16 where there is none.
#[inline(always)]
fn before_comma(low: u64, high: u64) -> usize {
    let [low, high] = [low, high].map(|word| {
        let others = word ^ COMMAS;
        // The lowest of these bits is that of the first comma; one above it may be wrong.
        let commas = others.wrapping_sub(0x0101_0101_0101_0101) & !others & HIGHEST;
        (commas.trailing_zeros() / 8) as usize
    });
    // Of the second eight only where none of the first is one; without a branch, as nobody can foretell it.
    low + (high & 0_usize.wrapping_sub(low >> 3))
}

/// The commonest form in a list, read in one go: an optional sign, one digit, a point, 1 to 12 more digits (13 without a sign), a comma. The comma
/// is looked for first: where the next number begins then depends on nothing else, and the processor begins it while it still reads this one.
#[inline(always)]
fn listed(bytes: &[u8], at: usize) -> Option<Decimal> {
    let window = bytes.get(at..)?.first_chunk::<32>()?;
    let word = |from: usize| window[from..].first_chunk().map(|word| u64::from_le_bytes(*word));
    let length = before_comma(word(0)?, word(8)?);
    let negative = window[0] == b'-';
    let start = usize::from(negative);
    let (first, point) = (window[start], window[start + 1]);
    let digits = length.wrapping_sub(start + 1);
    if !first.is_ascii_digit() || point != b'.' || !(2..15).contains(&digits) || length == 16 {
        return None;
    }
    // The first digit takes the place of the point: now all digits stand side by side.
    let low = word(start + 1)? & !0xff | u64::from(first);
    let values = u128::from(word(start + 9)? ^ ZEROS) << 64 | u128::from(low ^ ZEROS);
    let aligned = values << (128 - 8 * digits as u32);
    let (early, late) = (aligned as u64, (aligned >> 64) as u64);
    if others(early) | others(late) != 0 {
        return None;
    }
    let number = of_digits(early) * 100_000_000 + of_digits(late);
    Some(Decimal { negative, digits: number, scale: digits - 1, end: at + length })
}

/// An optional sign, up to 7 digits, and up to 16 more behind a point, 18 in all; `None` for every other form, and for what is no number.
#[inline(always)]
fn decimal(bytes: &[u8], at: usize) -> Option<Decimal> {
    listed(bytes, at).or_else(|| usual(bytes, at))
}

/// What is not quite so common. Apart, so that the loop around [`listed`] stays small.
#[inline(never)]
fn usual(bytes: &[u8], at: usize) -> Option<Decimal> {
    let negative = byte(bytes, at) == b'-';
    let start = at + usize::from(negative);
    let whole = eight(bytes, start);
    let whole_digits = leading(whole);
    if whole_digits == 0 || whole_digits == 8 || (whole_digits > 1 && whole as u8 == b'0') {
        return None;
    }
    let whole = value(whole, whole_digits);
    let point = start + whole_digits;
    if byte(bytes, point) != b'.' {
        let ends = byte(bytes, point) | 0x20 != b'e';
        return ends.then_some(Decimal { negative, digits: whole, scale: 0, end: point });
    }
    let (one, two) = (eight(bytes, point + 1), eight(bytes, point + 9));
    let one_digits = leading(one);
    let two_digits = if one_digits == 8 { leading(two) } else { 0 };
    let scale = one_digits + two_digits;
    let end = point + 1 + scale;
    let next = byte(bytes, end);
    if one_digits == 0 || whole_digits + scale > MOST_DIGITS || next | 0x20 == b'e' || next.is_ascii_digit() {
        return None;
    }
    let digits = whole * TENS[scale] + value(one, one_digits) * TENS[two_digits] + value(two, two_digits);
    Some(Decimal { negative, digits, scale, end })
}

/// The number that at most [`MOST_DIGITS`] digits write, `scale` of them behind the point.
#[inline(always)]
fn quotient(digits: u64, scale: usize) -> f64 {
    digits as i64 as f64 / FLOAT_TENS[scale]
}

#[inline(always)]
fn signed(magnitude: f64, negative: bool) -> f64 {
    f64::from_bits(magnitude.to_bits() | u64::from(negative) << 63)
}

/// The number at an offset and the offset after it; `None` when it has to be read another way.
#[inline(always)]
pub fn float64(bytes: &[u8], at: usize) -> Option<(f64, usize)> {
    let Decimal { negative, digits, scale, end } = decimal(bytes, at)?;
    (digits <= EXACT).then(|| (signed(quotient(digits, scale), negative), end))
}

/// The number at an offset and the offset after it; `None` when it has to be read another way.
#[inline(always)]
pub fn float32(bytes: &[u8], at: usize) -> Option<(f32, usize)> {
    let Decimal { negative, digits, scale, end } = decimal(bytes, at)?;
    let nearly = quotient(digits, scale);
    // Two roundings moved it by less than two units in its last place; only within that of the middle could that decide an FP32.
    let from_middle = (nearly.to_bits() & 0x1fff_ffff).abs_diff(0x1000_0000);
    (from_middle > 2).then(|| (signed(nearly, negative) as f32, end))
}

/// Where the number at an offset ends; `None` when that has to be found another way.
pub fn end(bytes: &[u8], at: usize) -> Option<usize> {
    decimal(bytes, at).map(|decimal| decimal.end)
}

/// The integer at an offset, its sign apart, and the offset after it; `None` when it has to be read another way.
#[inline(always)]
pub fn integer(bytes: &[u8], at: usize) -> Option<(bool, u64, usize)> {
    let negative = byte(bytes, at) == b'-';
    let start = at + usize::from(negative);
    let (one, two) = (eight(bytes, start), eight(bytes, start + 8));
    let one_digits = leading(one);
    let two_digits = if one_digits == 8 { leading(two) } else { 0 };
    let count = one_digits + two_digits;
    let end = start + count;
    let next = byte(bytes, end);
    let leads_with_zero = count > 1 && one as u8 == b'0';
    if count == 0 || leads_with_zero || next == b'.' || next | 0x20 == b'e' || next.is_ascii_digit() {
        return None;
    }
    Some((negative, value(one, one_digits) * TENS[two_digits] + value(two, two_digits), end))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn usual_forms_are_read_whole_and_end_where_they_end() {
        for (text, expected) in [
            ("0", 0.0),
            ("7,", 7.0),
            ("-0.5]", -0.5),
            ("1234567", 1_234_567.0),
            ("3.25161265 ", 3.251_612_65),
            ("-1234.00000001", -1_234.000_000_01),
            ("0.4967141530112327,", 0.496_714_153_011_232_7),
        ] {
            let end = text.trim_end_matches([',', ']', ' ']).len();
            assert_eq!(float64(text.as_bytes(), 0), Some((expected, end)), "{text}");
        }
        assert!(float64(b"-0.0", 0).is_some_and(|(zero, _)| zero.is_sign_negative()));
        assert_eq!(integer(b"-9007199254740993,", 0), Some((true, 9_007_199_254_740_993, 17)));
    }

    #[test]
    fn other_forms_are_left_to_others() {
        for text in ["", "-", "x", "01", "00.5", "1.", ".5", "1e3", "1.5E-3", "12345678", "0.12345678901234567", "+1"] {
            assert_eq!(float64(text.as_bytes(), 0), None, "{text}");
        }
        for text in ["", "-", "01", "1.0", "1e3", "12345678901234567"] {
            assert_eq!(integer(text.as_bytes(), 0), None, "{text}");
        }
    }

    #[test]
    fn a_number_in_the_middle_between_two_is_not_rounded_twice() {
        // The middle of 1 and the next FP32 is 1.000000059604644775390625. This is a little more, but FP64 cannot tell the two apart.
        let text = "1.0000000596046448";
        assert_eq!(float32(text.as_bytes(), 0), None);
        assert_eq!(text.parse::<f32>(), Ok(1.000_000_1));
        assert_eq!(float32(b"1.000000059604644", 0), Some((1.0, 17)));
    }

    /// Followed by as much as a window reads.
    fn in_list(text: &str) -> String {
        format!("{text},1.5,1.5,1.5,1.5,1.5,1.5,1.5,1.5,1.5")
    }

    #[test]
    fn a_list_is_read_in_one_go_only_where_each_number_has_the_commonest_form() {
        for (text, negative, digits, scale) in [
            ("0.5", false, 5, 1),
            ("-0.50", true, 50, 2),
            ("9.87654321", false, 987_654_321, 8),
            ("-1.234567", true, 1_234_567, 6),
            ("-9.999999999999", true, 9_999_999_999_999, 12),
            ("9.9999999999999", false, 99_999_999_999_999, 13),
        ] {
            let read =
                listed(in_list(text).as_bytes(), 0).map(|read| (read.negative, read.digits, read.scale, read.end));
            assert_eq!(read, Some((negative, digits, scale, text.len())), "{text}");
        }
        for text in [
            "",
            "-",
            "5",
            "5.",
            "-5.",
            ".5",
            "-.5",
            "--5.0",
            "12.5",
            "0.5 ",
            "0.5]",
            "0.5],[0.5",
            "1.5e3",
            "0.1x2",
            "0.1/2",
            "0.1:2",
            "1.2.3",
            "0.-5",
            "-0.1234567890123",
            "0.12345678901234",
            "0.12345678901234567890123456789012345678901234567890",
        ] {
            assert!(listed(in_list(text).as_bytes(), 0).is_none(), "{text}");
        }
        assert!(listed(b"0.5,0.5", 0).is_none(), "there must be a whole window");
    }

    proptest! {
        #[test]
        fn numbers_of_a_list_are_read_one_after_the_other(texts in prop::collection::vec("-?[0-9]\\.[0-9]{1,12}", 1..9)) {
            let list = in_list(&texts.join(","));
            let mut at = 0;
            for text in &texts {
                let read = listed(list.as_bytes(), at).map(|read| (read.negative, read.digits, read.scale, read.end));
                let behind = text.len() - text.find('.').unwrap() - 1;
                let digits = text.replace(['-', '.'], "").parse().unwrap();
                let end = at + text.len();
                prop_assert_eq!(read, Some((text.starts_with('-'), digits, behind, end)));
                if let Some((number, _)) = float32(list.as_bytes(), at) {
                    prop_assert_eq!(number.to_bits(), text.parse::<f32>().unwrap().to_bits());
                }
                if let Some((number, _)) = float64(list.as_bytes(), at) {
                    prop_assert_eq!(number.to_bits(), text.parse::<f64>().unwrap().to_bits());
                }
                at = end + 1;
            }
        }

        #[test]
        fn what_is_read_is_what_the_standard_library_reads(whole in 0_u64..20_000_000, behind in "[0-9]{0,18}", minus: bool) {
            let point = if behind.is_empty() { "" } else { "." };
            let text = format!("{}{whole}{point}{behind}", if minus { "-" } else { "" });
            if let Some((number, end)) = float64(text.as_bytes(), 0) {
                prop_assert_eq!((number.to_bits(), end), (text.parse::<f64>().unwrap().to_bits(), text.len()));
            }
            if let Some((number, end)) = float32(text.as_bytes(), 0) {
                prop_assert_eq!((number.to_bits(), end), (text.parse::<f32>().unwrap().to_bits(), text.len()));
            }
        }

        #[test]
        fn integers_of_every_length_are_read(number: i64) {
            let text = number.to_string();
            if let Some((negative, magnitude, end)) = integer(text.as_bytes(), 0) {
                prop_assert_eq!((negative, magnitude, end), (number < 0, number.unsigned_abs(), text.len()));
            }
        }
    }
}
