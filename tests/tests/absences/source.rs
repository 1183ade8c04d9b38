//! Rust source as the scan sees it: without comments, literals, whitespace and unit tests.

/// Blanks comments and the content of literals; lines keep their numbers.
pub fn code_of(source: &str) -> String {
    let text: Vec<char> = source.chars().collect();
    let (mut out, mut at) = (String::with_capacity(source.len()), 0);
    while at < text.len() {
        let end = token_end(&text, at);
        match end {
            Some(end) => {
                out.push(' ');
                out.extend(text[at..end].iter().filter(|c| **c == '\n'));
                at = end;
            }
            None => {
                out.push(text[at]);
                at += 1;
            }
        }
    }
    out
}

/// Where the comment, string, character or lifetime that begins at `at` ends; `None` if none does.
fn token_end(text: &[char], at: usize) -> Option<usize> {
    let after = |n: usize| text.get(at + n).copied();
    let in_word = at > 0 && is_word(text[at - 1]);
    match text[at] {
        '/' if after(1) == Some('/') => Some(find(text, at, |rest| rest[0] == '\n', 0)),
        '/' if after(1) == Some('*') => Some(block_comment_end(text, at)),
        '"' => Some(string_end(text, at + 1)),
        'r' if !in_word && matches!(after(1), Some('"' | '#')) => raw_string_end(text, at + 1),
        'b' | 'c' if !in_word && after(1) == Some('"') => Some(string_end(text, at + 2)),
        'b' | 'c' if !in_word && after(1) == Some('r') => raw_string_end(text, at + 2),
        '\'' if after(1) == Some('\\') => Some(find(text, at + 3, |rest| rest[0] == '\'', 1)),
        '\'' if after(2) == Some('\'') => Some(at + 3),
        // A lifetime: `'static` is not the keyword.
        '\'' => Some(find(text, at + 1, |rest| !is_word(rest[0]), 0)),
        _ => None,
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn find(text: &[char], from: usize, found: impl Fn(&[char]) -> bool, len: usize) -> usize {
    let at = (from..text.len()).find(|at| found(&text[*at..]));
    at.map_or(text.len(), |at| at + len)
}

fn block_comment_end(text: &[char], at: usize) -> usize {
    let (mut at, mut depth) = (at, 0);
    while at < text.len() {
        match (text[at], text.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string_end(text: &[char], mut at: usize) -> usize {
    while at < text.len() && text[at] != '"' {
        at += if text[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(text.len())
}

/// `at` is behind the `r`. `None` if it is a raw identifier.
fn raw_string_end(text: &[char], at: usize) -> Option<usize> {
    let hashes = text[at..].iter().take_while(|c| **c == '#').count();
    if text.get(at + hashes) != Some(&'"') {
        return None;
    }
    let closes = |rest: &[char]| rest[0] == '"' && rest[1..].iter().take_while(|c| **c == '#').count() >= hashes;
    Some(find(text, at + hashes + 1, closes, hashes + 1))
}

/// Cuts a trailing `#[cfg(test)] mod name { … }`, which by convention is the last item of a file.
pub fn without_unit_tests(code: &str) -> &str {
    let marker = code.match_indices("#[cfg(test)]").find(|(at, marker)| {
        let item = code[at + marker.len()..].trim_start();
        let item = item.strip_prefix("pub(super) ").or(item.strip_prefix("pub(crate) ")).unwrap_or(item);
        item.starts_with("mod ")
            && item.split_once(['{', ';']).is_some_and(|(name, _)| item[name.len()..].starts_with('{'))
    });
    marker.map_or(code, |(at, _)| &code[..at])
}

/// The lines, from 1, on which `needle` occurs as a word or as a path from its root.
///
/// A path (`std::time::Instant`) is also found in a use tree (`std::time::{Duration, Instant}`) and as the beginning
/// of a longer path. A macro is a word with its `!`.
pub fn lines_with(code: &str, needle: &str) -> Vec<usize> {
    let mut places = occurrences(code, needle);
    if let Some((parent, last)) = needle.rsplit_once("::") {
        for at in occurrences(code, parent) {
            let rest = code[at + parent.len()..].trim_start();
            let Some(group) = rest.strip_prefix("::").map(str::trim_start).and_then(|r| r.strip_prefix('{')) else {
                continue;
            };
            let group_at = code.len() - group.len();
            places.extend(top_level(group).filter(|(_, item)| is_item(item, last)).map(|(n, _)| group_at + n));
        }
    }
    places.sort_unstable();
    places.into_iter().map(|at| 1 + code[..at].matches('\n').count()).collect()
}

fn is_item(item: &str, name: &str) -> bool {
    item.strip_prefix(name).is_some_and(|rest| !rest.starts_with(is_word))
}

/// The items of a use tree's group, up to its closing brace, with their offsets.
fn top_level(group: &str) -> impl Iterator<Item = (usize, &str)> {
    let (mut depth, mut start, mut items) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                let item = &group[start..at];
                items.push((start + item.len() - item.trim_start().len(), item.trim()));
                start = at + 1;
            }
            _ => {}
        }
        if c == '}' && start == at + 1 {
            break;
        }
    }
    items.into_iter()
}

/// Offsets of `needle` where it is neither part of a longer word nor the tail of a longer path.
fn occurrences(code: &str, needle: &str) -> Vec<usize> {
    let is_path = needle.contains("::");
    let whole = |&(at, found): &(usize, &str)| {
        let (before, after) = (&code[..at], &code[at + found.len()..]);
        let inside_word = before.ends_with(is_word) || (needle.ends_with(is_word) && after.starts_with(is_word));
        let root = before.strip_suffix("::").is_none_or(|before| !before.ends_with(is_word) && !before.ends_with('>'));
        !inside_word && (!is_path || root)
    };
    code.match_indices(needle).filter(whole).map(|(at, _)| at).collect()
}

#[test]
fn comments_literals_and_lifetimes_are_not_code() {
    let source = "a // unsafe\nb /* unsafe /* unsafe */ unsafe */ c \"unsafe \\\" unsafe\" r#\"unsafe \" unsafe\"# '\"' '\\'' &'static d";
    let code = code_of(source);
    assert_eq!(code.split_whitespace().collect::<Vec<_>>(), ["a", "b", "c", "&", "d"]);
    assert_eq!(code.lines().count(), 2);
    assert!(code_of("br\"unsafe\" b'x' r#type x").contains("r#type x"));
}

#[test]
fn words_and_paths_are_found_where_they_are_meant() {
    assert_eq!(lines_with("unsafe {\n}\nunsafely; not_unsafe", "unsafe"), [1]);
    assert_eq!(lines_with("let x =\n std::time::Instant::now();", "std::time::Instant"), [2]);
    assert_eq!(lines_with("use std::time::{\n  Duration,\n  Instant};", "std::time::Instant"), [3]);
    assert_eq!(lines_with("use std::time::{Duration, InstantLike, x::{Instant}};", "std::time::Instant"), [0_usize; 0]);
    assert_eq!(lines_with("use std::{io, time::Instant};", "std::time"), [1]);
    assert_eq!(lines_with("tokio::spawn(x)", "tokio::"), [1]);
    assert_eq!(lines_with("quorate_io::tokio::X; openraft_rt_tokio::Y; crate::tokio::Z", "tokio::"), [0_usize; 0]);
    assert_eq!(lines_with("futures::select! {}; select2(a)", "select!"), [1]);
}

#[test]
fn unit_tests_at_the_end_are_cut() {
    assert_eq!(without_unit_tests("a\n#[cfg(test)]\nmod tests {\n b\n}\n"), "a\n");
    assert_eq!(without_unit_tests("#[cfg(test)]\npub(crate) mod tests { b }"), "");
    let outside = "#[cfg(test)]\nmod tests;\nfn a() {}";
    assert_eq!(without_unit_tests(outside), outside);
}
