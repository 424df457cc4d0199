//! The header `traceparent` of the W3C recommendation Trace Context, and who is traced. Pure.

/// Name of the header.
pub const HEADER: &str = "traceparent";

/// The span that a request belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The trace.
    pub trace_id: u128,
    /// The span.
    pub span_id: u64,
    /// The caller records the trace.
    pub sampled: bool,
}

/// Reads the header; one that is not by the rules counts as none.
pub fn parse(header: &[u8]) -> Option<Parent> {
    let text = std::str::from_utf8(header).ok()?;
    let mut parts = text.split('-');
    let mut part = |length: usize| {
        let part = parts.next()?;
        let is_hex = part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        (part.len() == length && is_hex).then_some(part)
    };
    let version = u8::from_str_radix(part(2)?, 16).ok()?;
    let trace_id = u128::from_str_radix(part(32)?, 16).ok()?;
    let span_id = u64::from_str_radix(part(16)?, 16).ok()?;
    let flags = u8::from_str_radix(part(2)?, 16).ok()?;
    // Later versions may add parts; this one must not have any.
    let is_known = version < 0xff && (version > 0 || parts.next().is_none());
    (is_known && trace_id != 0 && span_id != 0).then_some(Parent { trace_id, span_id, sampled: flags & 1 == 1 })
}

/// Whether to trace a request: as its parent says, else a share of `ratio`, by a `draw` from 0 to 1.
pub fn is_traced(parent: Option<Parent>, ratio: f64, draw: f64) -> bool {
    match parent {
        Some(parent) => parent.sampled,
        None => draw < ratio,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    #[test]
    fn the_header_is_read_by_the_rules_or_not_at_all() {
        let parent = Parent {
            trace_id: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c,
            span_id: 0xb7ad_6b71_6920_3331,
            sampled: true,
        };
        for (header, expected) in [
            (format!("00-{TRACE}-{SPAN}-01"), Some(parent)),
            (format!("00-{TRACE}-{SPAN}-00"), Some(Parent { sampled: false, ..parent })),
            (format!("00-{TRACE}-{SPAN}-03"), Some(parent)),
            (format!("01-{TRACE}-{SPAN}-01-later"), Some(parent)),
            (format!("00-{TRACE}-{SPAN}-01-extra"), None),
            (format!("ff-{TRACE}-{SPAN}-01"), None),
            (format!("00-{}-{SPAN}-01", TRACE.to_uppercase()), None),
            (format!("00-{}-{SPAN}-01", "0".repeat(32)), None),
            (format!("00-{TRACE}-{}-01", "0".repeat(16)), None),
            (format!("00-{TRACE}-{SPAN}"), None),
            (format!("00-{TRACE}-{SPAN}-+1"), None),
            (String::new(), None),
        ] {
            assert_eq!(parse(header.as_bytes()), expected, "{header}");
        }
        assert_eq!(parse(&[0xff; 55]), None);
    }

    #[test]
    fn the_parent_decides_and_without_one_the_ratio() {
        let parent = |sampled| Some(Parent { trace_id: 1, span_id: 1, sampled });
        assert!(is_traced(parent(true), 0.0, 0.9));
        assert!(!is_traced(parent(false), 1.0, 0.0));
        assert!(is_traced(None, 0.1, 0.09) && !is_traced(None, 0.1, 0.1));
        assert!(!is_traced(None, 0.0, 0.0));
    }
}
