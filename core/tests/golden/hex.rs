//! Bytes as text that a person can read and a diff can show.

use std::fmt::Write as _;

const ROW: usize = 32;

/// Rows of an offset and 32 bytes; rows of zeros are left out, and the last line is the length.
pub fn dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (number, row) in bytes.chunks(ROW).enumerate().filter(|(_, row)| row.iter().any(|byte| *byte != 0)) {
        let _ = write!(text, "{:08x} ", number * ROW);
        for (at, byte) in row.iter().enumerate() {
            let _ = write!(text, "{}{byte:02x}", if at % 8 == 0 { " " } else { "" });
        }
        text.push('\n');
    }
    let _ = writeln!(text, "length {}", bytes.len());
    text
}

/// Reads what [`dump`] wrote.
pub fn parse(text: &str) -> Vec<u8> {
    let last = text.lines().last().expect("a dump is not empty");
    let len = last.strip_prefix("length ").and_then(|len| len.parse().ok()).expect("a dump ends with its length");
    let mut bytes = vec![0; len];
    for row in text.lines().take_while(|line| !line.starts_with("length ")) {
        let (offset, digits) = row.split_once(' ').expect("an offset, then bytes");
        let offset = usize::from_str_radix(offset, 16).expect("a hexadecimal offset");
        let digits: Vec<u8> = digits.bytes().filter(|digit| *digit != b' ').collect();
        for (at, pair) in digits.chunks(2).enumerate() {
            let pair = std::str::from_utf8(pair).expect("digits are ASCII");
            bytes[offset + at] = u8::from_str_radix(pair, 16).expect("two hexadecimal digits");
        }
    }
    bytes
}

#[test]
fn a_dump_reads_back() {
    for len in [0, 1, 31, 32, 33, 200] {
        let bytes: Vec<u8> = (0..len).map(|n| if n % 100 < 64 { 0 } else { n as u8 }).collect();
        assert_eq!(parse(&dump(&bytes)), bytes);
    }
}
