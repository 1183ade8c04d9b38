//! The header of a store file, and the file that says which one counts.

use quorate_core::store_file::{
    BLOCK_BYTES, CURRENT_BYTES, HEADER_BYTES, Header, block_at, decode_current, decode_headers, encode_current,
    group_at, group_of, runs,
};

use super::input::Input;

/// What decodes is what was encoded; two written headers, changed as the input says, give one of the two or an error;
/// blocks and sums have places of their own.
pub fn store_file(data: &[u8]) {
    if let Ok(generation) = decode_current(data) {
        assert_eq!(encode_current(generation), data);
    }
    if let Ok(headers) = decode_headers(data, 7) {
        let whole = headers.newest.encode(7);
        assert!([0, HEADER_BYTES].iter().any(|at| data.get(*at..at + HEADER_BYTES) == Some(&whole[..])));
    }
    let mut input = Input(data);
    changed_headers(&mut input);
    changed_current(&mut input);
    places(1 + input.u64() % (1 << 40), u64::from(input.u16()));
}

fn changed_headers(input: &mut Input<'_>) {
    let mut header =
        || Header { sequence: u64::from(input.u16()), len: input.u64(), block: vec![input.u8(); BLOCK_BYTES].into() };
    let written = [header(), header()];
    let mut bytes = [written[0].encode(7), written[1].encode(7)].concat();
    for _ in 0..input.index(4) {
        let at = input.index(bytes.len());
        bytes[at] ^= input.u8();
    }
    match decode_headers(&bytes, 7) {
        Ok(headers) => {
            assert!(written.contains(&headers.newest), "neither of the two was read");
            assert!(headers.unreadable.is_some() || written.iter().all(|w| w.sequence <= headers.newest.sequence));
        }
        Err(_) => {
            assert!(bytes != [written[0].encode(7), written[1].encode(7)].concat(), "what was written was not read");
        }
    }
}

fn changed_current(input: &mut Input<'_>) {
    let generation = input.u64();
    let mut bytes = encode_current(generation);
    let at = input.index(CURRENT_BYTES);
    bytes[at] ^= input.u8();
    match decode_current(&bytes) {
        Ok(read) => assert_eq!(read, generation),
        Err(_) => assert!(bytes != encode_current(generation)),
    }
}

fn places(block: u64, blocks: u64) {
    let mut next = block;
    for (first, range) in runs(block, blocks * BLOCK_BYTES as u64) {
        assert_eq!(first, next);
        let run = (range.len() / BLOCK_BYTES) as u64;
        let last = first + run - 1;
        assert_eq!(group_of(first), group_of(last), "a run lies within a group");
        assert_eq!(block_at(last) - block_at(first), (run - 1) * BLOCK_BYTES as u64, "and in one stretch");
        assert!(block_at(first) > group_at(group_of(first)), "behind the sums of its group");
        assert!(block_at(last) < group_at(group_of(first) + 1), "before those of the next");
        next += run;
    }
    assert_eq!(next, block + blocks);
}
