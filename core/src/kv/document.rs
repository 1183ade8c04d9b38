//! JSON documents that are checked and then left alone.

use bytes::Bytes;
use serde_json::value::RawValue;

/// Exactly one JSON value (RFC 8259) in UTF-8, in the very bytes it was sent in, without whitespace around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document(Bytes);

/// The bytes are not exactly one JSON value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason} at line {line} column {column}")]
pub struct NotJson {
    /// What is wrong there.
    pub reason: String,
    /// From 1; 0 if the position is unknown.
    pub line: usize,
    /// In bytes, from 1; 0 if it is before the first byte of the line.
    pub column: usize,
}

impl Document {
    /// Checks `bytes`; the document is a slice of them. Nesting may be arbitrarily deep: the check does not recurse.
    ///
    /// # Errors
    /// See [`NotJson`].
    pub fn parse(bytes: &Bytes) -> Result<Self, NotJson> {
        match serde_json::from_slice::<&RawValue>(bytes) {
            Ok(raw) => Ok(Self(bytes.slice_ref(raw.get().as_bytes()))),
            Err(error) => {
                let (line, column) = (error.line(), error.column());
                let text = error.to_string();
                let place = format!(" at line {line} column {column}");
                let reason = text.strip_suffix(&place).unwrap_or(&text).to_owned();
                Err(NotJson { reason, line, column })
            }
        }
    }

    /// A document that [`Document::parse`] has seen before it was encoded.
    pub(super) fn trusted(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// Its bytes, shared.
    pub fn bytes(&self) -> Bytes {
        self.0.clone()
    }

    /// Its bytes.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: impl AsRef<[u8]>) -> Result<Bytes, NotJson> {
        Document::parse(&Bytes::copy_from_slice(text.as_ref())).map(Document::into_bytes)
    }

    #[test]
    fn kept_to_the_byte_but_for_the_whitespace_around() {
        for text in [
            "9007199254740993",
            "1e400",
            "-0.0",
            "1.000000000000000000000000000001",
            r#"{"a":1,"a":2}"#,
            "{ \"b\" : [ ] ,\n\"a\":null }",
            r#""\ud800 lone surrogate, \u0041""#,
            "\"\u{e9}\u{1F600}\"",
            "true",
        ] {
            assert_eq!(parse(text).expect(text), text.as_bytes());
            assert_eq!(parse(format!(" \t\r\n{text}\n ")).expect(text), text.as_bytes());
        }
    }

    #[test]
    fn anything_else_is_refused_with_a_position() {
        for text in [
            &b""[..],
            b"  ",
            b"{",
            b"nul",
            b"01",
            b"+1",
            b"NaN",
            b"'a'",
            b"{\"a\":1,}",
            b"[1 2]",
            b"1 2",
            b"{} x",
            b"\"\x01\"",
            b"\"\\x\"",
            b"\"\xff\"",
            b"\xef\xbb\xbf1",
            b"\0",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        let error = parse("{\n  \"a\": x}").expect_err("x is no value");
        assert_eq!((error.line, error.column), (2, 8));
        assert_eq!(error.to_string(), "expected value at line 2 column 8");
    }

    #[test]
    fn deep_nesting_does_not_recurse() {
        let depth = 500_000;
        let text = "[".repeat(depth) + &"]".repeat(depth);
        assert_eq!(parse(&text).expect("well-formed").len(), 2 * depth);
        assert!(parse(&text[..text.len() - 1]).is_err());
    }
}
