//! A reader over the bytes of a JSON text, one value at a time, without a tree. Strings are borrowed where they hold no escapes; what
//! nobody asks for is skipped, but checked. Pure; no limit but the depth of nesting.

use std::borrow::Cow;

/// Deepest nesting that can be allowed: no request needs it, and every level costs stack or time.
pub const MAX_DEPTH: usize = 64;

/// What is wrong with the text, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}")]
pub struct Fault {
    /// What should have been there.
    pub expected: &'static str,
    /// Byte offset of what is there instead.
    pub at: usize,
}

impl Fault {
    /// The same with line and column, from 1.
    pub fn describe(&self, text: &[u8]) -> String {
        let before = &text[..self.at.min(text.len())];
        let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
        let column = before.iter().rev().take_while(|&&byte| byte != b'\n').count() + 1;
        format!("expected {} at line {line} column {column}", self.expected)
    }
}

/// A place in a JSON text.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

impl<'a> Cursor<'a> {
    /// At the beginning.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, depth: MAX_DEPTH }
    }

    /// At the beginning of a text that may be nested only so deep.
    pub fn within(bytes: &'a [u8], depth: usize) -> Self {
        Self { bytes, at: 0, depth: depth.min(MAX_DEPTH) }
    }

    /// The whole text.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Bytes read so far.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Bytes that are left.
    pub fn left(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    /// Goes to an offset that was read before, or to the end of a value that was found from there.
    pub fn seek(&mut self, at: usize) {
        self.at = at.min(self.bytes.len());
    }

    /// The next byte that is no white space.
    #[inline]
    pub fn peek(&mut self) -> Option<u8> {
        loop {
            match self.bytes.get(self.at) {
                Some(b' ' | b'\n' | b'\r' | b'\t') => self.at += 1,
                next => return next.copied(),
            }
        }
    }

    /// Takes the byte, if it is the next.
    #[inline]
    pub fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// A fault at the next byte.
    pub fn fault(&mut self, expected: &'static str) -> Fault {
        self.peek();
        Fault { expected, at: self.at }
    }

    fn need(&mut self, byte: u8, expected: &'static str) -> Result<(), Fault> {
        if self.eat(byte) { Ok(()) } else { Err(self.fault(expected)) }
    }

    /// Nothing follows.
    ///
    /// # Errors
    /// When something does.
    pub fn end(&mut self) -> Result<(), Fault> {
        if self.peek().is_none() { Ok(()) } else { Err(self.fault("the end of the body")) }
    }

    /// The members of an object: the closure is given each name, and reads its value.
    ///
    /// # Errors
    /// A fault of the text, or what the closure returns.
    pub fn object<E: From<Fault>>(
        &mut self,
        expected: &'static str,
        mut member: impl FnMut(&mut Self, &str) -> Result<(), E>,
    ) -> Result<(), E> {
        self.need(b'{', expected)?;
        if self.eat(b'}') {
            return Ok(());
        }
        loop {
            let name = self.string("a name in quotes")?;
            self.need(b':', "':'")?;
            member(self, &name)?;
            if self.eat(b'}') {
                return Ok(());
            }
            self.need(b',', "',' or '}'")?;
        }
    }

    /// The elements of an array, each read by the closure.
    ///
    /// # Errors
    /// A fault of the text, or what the closure returns.
    pub fn array<E: From<Fault>>(
        &mut self,
        expected: &'static str,
        mut element: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.need(b'[', expected)?;
        if self.eat(b']') {
            return Ok(());
        }
        loop {
            element(self)?;
            if self.eat(b']') {
                return Ok(());
            }
            self.need(b',', "',' or ']'")?;
        }
    }

    /// A string without its quotes.
    ///
    /// # Errors
    /// When there is none, or it is not UTF-8.
    pub fn string(&mut self, expected: &'static str) -> Result<Cow<'a, str>, Fault> {
        self.need(b'"', expected)?;
        let start = self.at;
        let special = |&byte: &u8| byte == b'"' || byte == b'\\' || byte < b' ';
        let length = self.bytes[start..].iter().position(special).unwrap_or(self.bytes.len() - start);
        self.at += length;
        match self.bytes.get(self.at) {
            Some(b'"') => self.at += 1,
            Some(b'\\') => return self.escaped(start).map(Cow::Owned),
            Some(_) | None => return Err(Fault { expected: "the end of the string", at: self.at }),
        }
        let text = std::str::from_utf8(&self.bytes[start..start + length]);
        text.map(Cow::Borrowed).map_err(|e| Fault { expected: "UTF-8", at: start + e.valid_up_to() })
    }

    /// A string with escapes; its quote is just before `start`.
    fn escaped(&mut self, start: usize) -> Result<String, Fault> {
        loop {
            match self.bytes.get(self.at) {
                Some(b'\\') => self.at += 2,
                Some(b'"') => break,
                Some(_) => self.at += 1,
                None => return Err(Fault { expected: "the end of the string", at: self.bytes.len() }),
            }
        }
        self.at += 1;
        serde_json::from_slice(&self.bytes[start - 1..self.at])
            .map_err(|_| Fault { expected: "a string with valid escapes", at: start - 1 })
    }

    /// A number, as it is written; checked against JSON's grammar.
    ///
    /// # Errors
    /// When there is none.
    pub fn number(&mut self) -> Result<&'a str, Fault> {
        self.peek();
        let start = self.at;
        let fault = Fault { expected: "a number", at: start };
        self.at += usize::from(self.bytes.get(start) == Some(&b'-'));
        let first = self.at;
        if self.digits() == 0 || (self.bytes[first] == b'0' && self.at > first + 1) {
            return Err(fault);
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            if self.digits() == 0 {
                return Err(fault);
            }
        }
        if let Some(b'e' | b'E') = self.bytes.get(self.at) {
            self.at += 1;
            self.at += usize::from(matches!(self.bytes.get(self.at), Some(b'+' | b'-')));
            if self.digits() == 0 {
                return Err(fault);
            }
        }
        std::str::from_utf8(&self.bytes[start..self.at]).map_err(|_| fault)
    }

    fn digits(&mut self) -> usize {
        let count = self.bytes[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        count
    }

    /// Takes a word such as `null`, if it is the next.
    pub fn word(&mut self, word: &str) -> bool {
        self.peek();
        let found = self.bytes[self.at..].starts_with(word.as_bytes());
        self.at += if found { word.len() } else { 0 };
        found
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// When there is neither.
    pub fn boolean(&mut self) -> Result<bool, Fault> {
        if self.word("true") {
            Ok(true)
        } else if self.word("false") {
            Ok(false)
        } else {
            Err(self.fault("true or false"))
        }
    }

    /// An array whose inside somebody reads later: only its brackets and strings are followed here.
    ///
    /// # Errors
    /// When there is none, or it does not end.
    pub fn pass_over(&mut self) -> Result<(), Fault> {
        if self.peek() != Some(b'[') {
            return Err(self.fault("an array"));
        }
        let mut open = 0_usize;
        loop {
            let special = |&byte: &u8| matches!(byte, b'[' | b']' | b'"');
            let Some(length) = self.bytes[self.at..].iter().position(special) else {
                return Err(Fault { expected: "the end of the array", at: self.bytes.len() });
            };
            self.at += length;
            match self.bytes[self.at] {
                b'"' => drop(self.string("a string")?),
                b'[' => {
                    open += 1;
                    self.at += 1;
                }
                _ => {
                    open -= 1;
                    self.at += 1;
                }
            }
            if open == 0 {
                return Ok(());
            }
        }
    }

    /// Any value, unread but checked.
    ///
    /// # Errors
    /// When it is no JSON, or nested deeper than it may be.
    pub fn skip(&mut self) -> Result<(), Fault> {
        self.skip_within(self.depth)
    }

    fn skip_within(&mut self, depth: usize) -> Result<(), Fault> {
        match self.peek() {
            Some(b'{' | b'[') if depth == 0 => Err(self.fault("a value nested less deeply")),
            Some(b'{') => self.object("an object", |inner, _| inner.skip_within(depth - 1)),
            Some(b'[') => self.array("an array", |inner| inner.skip_within(depth - 1)),
            Some(b'"') => self.string("a string").map(|_| ()),
            Some(b't' | b'f') => self.boolean().map(|_| ()),
            Some(b'n' | b'N' | b'I') if self.word("null") || self.word("NaN") || self.word("Infinity") => Ok(()),
            Some(b'-') if self.word("-Infinity") => Ok(()),
            Some(b'-' | b'0'..=b'9') => match super::numbers::end(self.bytes, self.at) {
                Some(end) => {
                    self.at = end;
                    Ok(())
                }
                None => self.number().map(|_| ()),
            },
            Some(_) | None => Err(self.fault("a value")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skipped(text: &str) -> Result<(), Fault> {
        let mut cursor = Cursor::new(text.as_bytes());
        cursor.skip()?;
        cursor.end()
    }

    #[test]
    fn whatever_is_json_can_be_skipped_and_nothing_else() {
        for text in ["0", " -1.5e+3 ", "null", "[]", "[1, [true], {}]", r#"{"a": {"b": "\u2603"}}"#, "\"é\""] {
            assert_eq!(skipped(text), Ok(()), "{text}");
        }
        for text in [
            "", "01", "1.", ".5", "+1", "1e", "-", "tru", "[1,]", "[1 2]", "{\"a\"}", "{a: 1}", "\"a", "\"\\x\"",
            "1 2", "\"\n\"",
        ] {
            assert!(skipped(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_array_is_passed_over_to_its_own_end() {
        for (text, end) in [("[] ]", 2), (" [1, [\"]\", 2]], 3", 14), ("[[]", 0), ("[\"", 0), ("1", 0)] {
            let mut cursor = Cursor::new(text.as_bytes());
            let passed = cursor.pass_over();
            assert_eq!(passed.map(|()| cursor.at()).unwrap_or_default(), end, "{text}");
        }
    }

    #[test]
    fn nesting_ends_at_the_limit() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(skipped(&nested(MAX_DEPTH)), Ok(()));
        assert_eq!(skipped(&nested(MAX_DEPTH + 1)).unwrap_err().expected, "a value nested less deeply");
        assert!(skipped(&"[".repeat(1_000_000)).is_err());
    }

    #[test]
    fn strings_are_borrowed_unless_they_hold_escapes() {
        let read = |text: &'static str| Cursor::new(text.as_bytes()).string("a string");
        assert!(matches!(read("\"plain ☃\""), Ok(Cow::Borrowed("plain ☃"))));
        assert_eq!(read(r#""a\"b\\\n\u00e9\ud83d\ude00""#).as_deref(), Ok("a\"b\\\né😀"));
        assert!(read(r#""\ud83d""#).is_err());
        assert_eq!(Cursor::new(b"\"a\xff\"").string("a string"), Err(Fault { expected: "UTF-8", at: 2 }));
    }

    #[test]
    fn faults_are_told_by_line_and_column() {
        let text = b"{\n  \"a\": x}";
        let mut cursor = Cursor::new(text);
        assert_eq!(cursor.skip().unwrap_err().describe(text), "expected a value at line 2 column 8");
    }
}
