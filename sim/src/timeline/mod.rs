//! A recorded run as one HTML page that needs nothing else: no network, no other file.
//!
//! ```text
//!  run::record(plan) ──► Report, [Recorded] ──data──► JSON ──page──► page.html with page.css, the scripts and the JSON in it
//!                                   lanes     what each node was and did
//!                                   messages  frames, put together from bytes; wire: what they say
//!                                   story     the verdict in plain words; properties: what each demands
//! ```
//!
//! The page holds data only as JSON in a `<script type="application/json">`, in which `<` is escaped, and its script
//! writes text only as text, never as HTML: values come from clients.

mod data;
mod lanes;
mod messages;
mod properties;
mod story;
mod wire;

use crate::run::Report;
use crate::trace::Recorded;

/// The page of a run that [`run::record`](crate::run::record) recorded.
pub fn page(report: &Report, recorded: Vec<Recorded>) -> String {
    let data = data::data(report, recorded);
    assemble(&data["title"].as_str().map_or_else(String::new, escape), &data.to_string())
}

/// Fills in the template, in one pass: what is filled in is not looked at again.
fn assemble(title: &str, json: &str) -> String {
    const PAGE: &str = include_str!("page.html");
    const CSS: &str = include_str!("page.css");
    const SCRIPTS: &str =
        concat!(include_str!("model.js"), include_str!("draw.js"), include_str!("lanes.js"), include_str!("page.js"),);
    let json = json.replace('<', "\\u003c");
    let mut page = String::with_capacity(PAGE.len() + CSS.len() + SCRIPTS.len() + json.len());
    let mut rest = PAGE;
    for (marker, text) in [("@title@", title), ("@style@", CSS), ("@data@", &json), ("@script@", SCRIPTS)] {
        let (before, after) = rest.split_once(marker).expect("the template has every marker once, in this order");
        page.push_str(before);
        page.push_str(text);
        rest = after;
    }
    page.push_str(rest);
    page
}

/// Text as HTML.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The beginning and the end of a text, if it has more than about so many characters, and how many are left out.
fn shorten(text: &str, chars_max: usize) -> String {
    let chars = text.chars().count();
    if chars <= chars_max {
        return text.to_owned();
    }
    let tail = chars_max / 4;
    let head: String = text.chars().take(chars_max - tail).collect();
    let end: String = text.chars().skip(chars - tail).collect();
    format!("{head}…({} more)…{end}", chars - chars_max)
}

/// A text in which a character that is there many times in a row, as in padded values, is there once, with its count.
fn brief(text: &str) -> String {
    const RUN_MIN: usize = 20;
    let (mut brief, mut rest) = (String::new(), text);
    while let Some(one) = rest.chars().next() {
        let run = rest.chars().take_while(|other| *other == one).count();
        let (run_text, after) = rest.split_at(run * one.len_utf8());
        match run < RUN_MIN {
            true => brief.push_str(run_text),
            false => brief.push_str(&format!("{one}×{run}")),
        }
        rest = after;
    }
    brief
}

/// Nanoseconds as `4.123 s`.
fn seconds(ns: u64) -> String {
    format!("{}.{:03} s", ns / 1_000_000_000, ns / 1_000_000 % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_the_data_ends_the_script() {
        let page = assemble(&escape("<b>\"&"), r#"{"x":"</script><script>alert(1)</script>@script@<!--"}"#);
        assert!(page.contains("<title>&lt;b&gt;&quot;&amp;</title>"));
        assert!(page.contains(r#"{"x":"\u003c/script>\u003cscript>alert(1)\u003c/script>@script@\u003c!--"}"#));
        assert_eq!(page.matches("<script").count(), 2, "the data and the script");
        assert_eq!(page.matches("</script").count(), 2);
    }

    #[test]
    fn long_texts_say_how_much_is_missing() {
        assert_eq!(shorten("äbc", 3), "äbc");
        assert_eq!(shorten(&"x".repeat(30), 8), "xxxxxx…(22 more)…xx");
        assert_eq!(brief(&format!("c1-{}ääb", "x".repeat(20))), "c1-x×20ääb");
        assert_eq!(brief(&"x".repeat(19)), "x".repeat(19));
        assert_eq!(seconds(4_123_456_789), "4.123 s");
    }
}
