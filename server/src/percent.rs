//! Keys in URLs: any bytes, percent-encoded (RFC 3986 §2.1).

use std::fmt::Write as _;

/// A `%` that two hexadecimal digits do not follow, at this byte offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the % at offset {0} is not followed by two hexadecimal digits")]
pub(crate) struct BadEscape(usize);

/// The bytes that `text` stands for. Everything but `%` stands for itself: `/` is the same byte as `%2F`, and `+` is a
/// plus, in queries too.
pub(crate) fn decode(text: &str) -> Result<Vec<u8>, BadEscape> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'%' {
            decoded.push(bytes[at]);
            at += 1;
            continue;
        }
        let digit = |offset: usize| bytes.get(at + offset).and_then(|byte| char::from(*byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(1), digit(2)) else { return Err(BadEscape(at)) };
        decoded.push(u8::try_from(high * 16 + low).expect("two hexadecimal digits make a byte"));
        at += 3;
    }
    Ok(decoded)
}

/// `bytes` in the one form that this API writes: letters, digits and `-._~/` as they are, everything else escaped in
/// upper case. It is good in a path and in a query as it stands.
pub(crate) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => text.push(char::from(*byte)),
            _ => write!(text, "%{byte:02X}").expect("a String takes everything"),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&encode(&all)), Ok(all));
    }

    #[test]
    fn only_percent_is_special() {
        assert_eq!(decode("a%2fb/c%2F+%00é").expect("valid"), "a/b/c/+\0é".as_bytes());
        for (text, offset) in [("%", 0), ("a%4", 1), ("%zz", 0), ("%25%%", 3), ("%+1", 0)] {
            assert_eq!(decode(text), Err(BadEscape(offset)), "{text}");
        }
    }
}
