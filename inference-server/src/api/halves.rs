//! FP16 out of JSON text, rounded once. A number goes through FP64 on the way, which is exact enough but for those that FP64 rounds to the middle
//! between two FP16: there the text decides which side it is on. Pure.

use std::cmp::Ordering;

use half::f16;

/// What would come after the largest.
const BEYOND: f64 = 65_536.0;

/// The FP16 nearest to the number that `text` writes, of which `wide` is the nearest FP64; infinite when it is out of range.
pub fn nearest(wide: f64, text: &str) -> f16 {
    // The library rounds to FP32 first, so it may be one off.
    let near = f16::from_f64(wide);
    if !wide.is_finite() || near.to_f64() == wide || wide.abs() >= BEYOND {
        return near;
    }
    let (sign, size) = (near.to_bits() & 0x8000, wide.abs());
    let at = near.to_bits() & 0x7fff;
    let low = if value(at) > size { at - 1 } else { at };
    // Between two powers of two they are equally far apart, and the sum of two neighbours is exact.
    let middle = f64::midpoint(value(low), value(low + 1));
    let is_above = match size.total_cmp(&middle) {
        Ordering::Less => false,
        Ordering::Greater => true,
        Ordering::Equal => match compare(text, middle) {
            Ordering::Less => false,
            Ordering::Greater => true,
            Ordering::Equal => low % 2 == 1,
        },
    };
    f16::from_bits(sign | (low + u16::from(is_above)))
}

/// The size of an FP16 without sign; the infinite one is where the next power of two would be.
fn value(bits: u16) -> f64 {
    if bits == f16::INFINITY.to_bits() { BEYOND } else { f16::from_bits(bits).to_f64() }
}

/// The number that JSON writes, without its sign, beside a middle between two FP16.
fn compare(text: &str, middle: f64) -> Ordering {
    // 25 digits are behind the point of the longest; written so, none is left out.
    let exact = format!("{middle:.25}");
    let ((digits, point), (other_digits, other_point)) = (digits(text), digits(&exact));
    let longest = digits.len().max(other_digits.len());
    let padded = |digits: Vec<u8>| digits.into_iter().chain(std::iter::repeat(b'0')).take(longest);
    point.cmp(&other_point).then_with(|| padded(digits).cmp(padded(other_digits)))
}

/// The digits of a number from its first that is not 0, and how many of them are before the point.
fn digits(text: &str) -> (Vec<u8>, i64) {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let mantissa = mantissa.trim_start_matches(['-', '+']);
    let (whole, behind) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all: Vec<u8> = whole.bytes().chain(behind.bytes()).collect();
    let zeros = all.iter().take_while(|&&digit| digit == b'0').count();
    // An exponent that does not fit is that of a number far from every middle.
    let exponent: i64 = exponent.parse().unwrap_or_default();
    let before = i64::try_from(whole.len()).unwrap_or(i64::MAX) - i64::try_from(zeros).unwrap_or(i64::MAX);
    (all[zeros..].to_vec(), before.saturating_add(exponent))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> f16 {
        nearest(text.parse().unwrap(), text)
    }

    #[test]
    fn what_is_near_the_middle_between_two_goes_to_its_own_side() {
        let (one, next) = (f16::ONE, f16::from_bits(f16::ONE.to_bits() + 1));
        for (text, expected) in [
            // The middle is 1.00048828125, and the even one of the two is 1.
            ("1.00048828125", one),
            ("100048828125e-11", one),
            ("1.0004882812500000000000001", next),
            ("1.00048828125000000000000010e0", next),
            ("1.0004882812499999999999999", one),
            // FP32 would make the middle of these.
            ("1.000488281250001", next),
            ("1.000488281249999", one),
            ("-1.0004882812500000000000001", -next),
            ("0.0000000298023223876953125", f16::ZERO),
            ("2.98023223876953126e-8", f16::from_bits(1)),
            ("65519.99999999999999999", f16::MAX),
            ("65520", f16::INFINITY),
            ("-65520", f16::NEG_INFINITY),
            ("1e300", f16::INFINITY),
            ("1e-300", f16::ZERO),
        ] {
            assert_eq!(read(text).to_bits(), expected.to_bits(), "{text}");
        }
        assert!(read("-0.0").is_sign_negative() && nearest(f64::NAN, "null").is_nan());
    }

    proptest! {
        #[test]
        fn no_other_is_nearer(bits in 0_u16..0x7bff, share in 0.0_f64..1.0) {
            let (low, high) = (value(bits), value(bits + 1));
            let wide = low + (high - low) * share;
            let read = nearest(wide, &wide.to_string()).to_f64();
            let best = (wide - low).min(high - wide);
            prop_assert_eq!((wide - read).abs(), best, "{} became {}", wide, read);
        }
    }
}
