//! The timeline: its data holds what happened, and its page works in a real browser.

#![cfg(madsim)]

#[path = "timeline/browser.rs"]
mod browser;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sim::Recorded;
use sim::check::history::{Outcome, Violation};
use sim::check::revision_order::REAL_TIME;
use sim::plan::{Plan, Workload};
use sim::run::{Report, record, run};
use sim::timeline::page;

use browser::Browser;

fn data(page: &str) -> Value {
    let (_, json) = page.split_once(r#"id="data">"#).expect("the page has data");
    let (json, _) = json.split_once("</script>").expect("they end");
    serde_json::from_str(json).expect("they are JSON")
}

fn rows<'a>(data: &'a Value, of: &str) -> &'a Vec<Value> {
    data[of].as_array().unwrap_or_else(|| panic!("there are {of}"))
}

/// Two acknowledged operations of a clean run are said to be in conflict.
fn accused() -> (Report, Vec<Recorded>, [usize; 2]) {
    let (mut report, recorded) = record(&Plan::draw(3));
    let done = report.history.iter().enumerate().filter(|(_, o)| matches!(o.outcome, Outcome::Put { .. }));
    let done: Vec<usize> = done.map(|(index, _)| index).collect();
    let pair = [done[done.len() / 2], done[done.len() / 2 + 1]];
    report.violation = Some(Violation::new(REAL_TIME, "these two <b>disagree</b>".to_owned(), pair));
    (report, recorded, pair)
}

/// A run of more than ten thousand events.
fn busy() -> Plan {
    let drawn = Plan::draw(3);
    let bursts_ms = (1..12).map(|at| at * 1_000).collect();
    let workload = Workload { clients: 8, burst_ops: 60, pause_ms_max: 4, bursts_ms, ..drawn.workload };
    Plan { workload, nodes: 5, heal_ms: 13_000, faults: drawn.faults.into_iter().take(3).collect(), ..drawn }
}

#[test]
fn a_recording_is_the_run_that_a_replay_is() {
    for plan in [Plan::draw(5), Plan { canary: true, ..Plan::draw(2) }] {
        let (replayed, (report, recorded)) = (run(&plan, 0), record(&plan));
        assert_eq!(report.hash, replayed.hash);
        assert_eq!((report.events, &report.violation), (replayed.events, &replayed.violation));
        assert!(recorded.len() as u64 > report.events, "it holds details that nobody hashes");
        assert_eq!(page(&report, recorded), page(&report, record(&plan).1), "a page is a function of its plan");
    }
}

#[test]
fn every_operation_fault_and_boot_of_a_run_is_in_its_data() {
    for seed in [3, 7] {
        let (report, recorded) = record(&Plan::draw(seed));
        let data = data(&page(&report, recorded));
        let operations = rows(&data, "operations");
        assert_eq!(operations.len(), report.history.len());
        for row in operations {
            let operation = &report.history[row[0].as_u64().expect("an index") as usize];
            assert_eq!(row[1], operation.client);
            assert_eq!(row[8], operation.outcome.revision().map_or(json!(-1), |revision| json!(revision)));
            assert!(row[5].as_str().is_some_and(|op| operation.op.to_string().starts_with(&op[..8.min(op.len())])));
        }
        let faults: Vec<&str> = rows(&data, "faults").iter().map(|row| row[2].as_str().expect("a text")).collect();
        let planned: Vec<String> = report.plan.faults.iter().map(|fault| fault.kind.to_string()).collect();
        assert_eq!(faults, planned);
        let boots = rows(&data, "marks").iter().filter(|row| row[3] == "boot").count() as u64;
        assert_eq!(boots, u64::from(report.plan.nodes) + report.stats.restarts);
        assert_eq!(rows(&data, "nodes").len() as u32, report.plan.nodes);
        let kinds: Vec<&str> = rows(&data, "messageKinds").iter().map(|kind| kind.as_str().expect("a name")).collect();
        for kind in ["append entries", "heartbeat", "vote", "handshake"] {
            let sent = |row: &&Value| row[4].as_u64().is_some_and(|at| kinds[at as usize] == kind);
            assert!(rows(&data, "messages").iter().any(|row| sent(&row)), "seed {seed}: {kind}");
        }
        let unread =
            rows(&data, "messages").iter().filter(|row| row[7].as_str().is_some_and(|t| t.contains("cannot be read")));
        assert_eq!(unread.count(), 0, "every frame can be put into words");
    }
}

#[test]
fn a_violated_run_marks_its_operations_and_says_what_is_wrong() {
    let (report, recorded, pair) = accused();
    let data = data(&page(&report, recorded));
    let violation = &data["violation"];
    assert_eq!(violation["property"], REAL_TIME);
    assert_eq!(violation["operations"], json!(pair));
    let story: Vec<&str> = rows(violation, "story").iter().map(|line| line[0].as_str().expect("a text")).collect();
    assert!(pair.iter().all(|index| story.iter().any(|line| line.starts_with(&format!("#{index}: at ")))), "{story:?}");
    assert!(rows(&data, "commands").iter().any(|row| row[1].as_str().is_some_and(|c| c.ends_with("replay 3"))));

    let (report, recorded) = record(&Plan { canary: true, ..Plan::draw(2) });
    let data = self::data(&page(&report, recorded));
    let story = data["violation"]["story"].to_string();
    assert!(story.contains("Replicas part at entry ") && story.contains("; n"), "{story}");
    assert!(!data["violation"]["explanation"].to_string().contains("00000000"), "nodes have their names");
}

#[test]
fn the_command_writes_the_page_and_tells_the_verdict() {
    let sim = |args: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_sim")).args(args).output().expect("it is built");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let scratch = Scratch::new("command");
    let (clean, red, plan) = (scratch.file("clean.html"), scratch.file("red.html"), scratch.file("red.plan"));
    let (code, said) = sim(&["timeline", "5", "-o", &clean]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("clean; hash "), "{said}");
    Plan { canary: true, ..Plan::draw(2) }.save(Path::new(&plan), "a canary").expect("it can be written");
    let (code, said) = sim(&["timeline", &plan, "-o", &red]);
    assert_eq!(code, Some(1), "{said}");
    let page = std::fs::read_to_string(&red).expect("it was written");
    assert!(page.contains("red.plan violates: state machine equality</title>"));
    assert!(!page.contains("http://") && !page.contains("https://"), "it needs no network");
    assert_eq!(sim(&["timeline", "5", "-o", "/no/such/folder/x.html"]).0, Some(2));
    assert_eq!(sim(&["timeline", "no-such.plan", "-o", &clean]).0, Some(2));
}

/// A folder of a test's own, gone when it is over.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("timeline-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for the pages");
        Self(folder)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }

    fn write(&self, name: &str, page: &str) -> String {
        std::fs::write(self.0.join(name), page).expect("the page can be written");
        format!("file://{}", self.file(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_page_works_in_chromium() {
    let Some(browser) = Browser::start() else {
        println!("SKIPPED: chromium and chromedriver (Debian: chromium, chromium-driver) are not installed");
        return;
    };
    let scratch = Scratch::new("chromium");
    shows_the_violation(&browser, &scratch);
    shows_hostile_values_as_text(&browser, &scratch);
    draws_ten_thousand_events(&browser, &scratch);
}

/// The page's own account of what it shows.
fn shown(browser: &Browser, what: &str) -> f64 {
    let text = browser.run(&format!("return document.body.dataset.{what}"));
    text.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{what} is {text}"))
}

fn open(browser: &Browser, url: &str) {
    browser.open(url);
    assert_eq!(browser.run("return document.body.dataset.ready"), "yes");
    no_errors(browser);
}

fn no_errors(browser: &Browser) {
    let said = browser.run("return document.getElementById('broken').textContent");
    assert_eq!((shown(browser, "errors"), &said), (0.0, &json!("")));
    assert_eq!(browser.severe_log_lines(), Vec::<String>::new());
}

/// Waits for the next frame, in which the page draws.
fn settle(browser: &Browser) {
    browser.run_async("requestAnimationFrame(() => requestAnimationFrame(() => arguments[0]()))");
}

fn click(browser: &Browser, id: &str) {
    browser.click(id);
    settle(browser);
}

fn shows_the_violation(browser: &Browser, scratch: &Scratch) {
    let (report, recorded, pair) = accused();
    let end = report.stats.simulated_ns as f64;
    let [first, last] = pair.map(|index| &report.history[index]);
    open(browser, &scratch.write("accused.html", &page(&report, recorded)));
    let text = |id: &str| browser.text(id);
    assert_eq!(text("title"), format!("seed 3 violates: {REAL_TIME}"));
    for part in ["What was finished before an operation began", "these two <b>disagree</b>", "Herlihy & Wing"] {
        assert!(text("verdict").contains(part), "{part} is not in {}", text("verdict"));
    }
    assert!(pair.iter().all(|index| text("verdict").contains(&format!("#{index}"))));
    assert!(text("facts").contains("-- replay 3"));

    // It opens at the violation; the whole run and back.
    let view = || [shown(browser, "from"), shown(browser, "to")];
    let there = view();
    let (from, to) = (first.invoke_ns.min(last.invoke_ns) as f64, last.complete_ns.max(first.complete_ns));
    assert!(there[0] <= from && to.is_some_and(|to| there[1] >= to as f64), "{there:?}");
    assert!(there[1] - there[0] < end / 2.0, "{there:?} of {end}");
    click(browser, "to-all");
    assert!(view()[0] <= 0.0 && view()[1] >= end, "{:?}", view());
    let all = shown(browser, "shown");
    assert_eq!(all, shown(browser, "items"));
    click(browser, "zoom-in");
    assert!(shown(browser, "shown") < all);
    click(browser, "to-violation");
    assert_eq!(view(), there);
    browser.key("0");
    settle(browser);
    assert!(view()[1] >= end);

    // Filters.
    browser.run("document.getElementById('kinds').open = true");
    click(browser, "kind-disk");
    let without_disks = shown(browser, "shown");
    assert!(without_disks < all);
    click(browser, "node-1");
    assert!(shown(browser, "shown") < without_disks);
    assert!(text("status").contains("switched off: 1 kinds, 1 nodes"), "{}", text("status"));
    click(browser, "node-1");
    click(browser, "kind-disk");
    assert_eq!(shown(browser, "shown"), all);
    browser.run("document.getElementById('kinds').open = false");

    // Searching.
    browser.type_into("search", &format!("#{} client", pair[0]));
    settle(browser);
    assert_eq!(text("found"), "1 found");
    click(browser, "next");
    let chosen = browser.run("return document.querySelector('tr.chosen').textContent");
    assert!(chosen.as_str().is_some_and(|row| row.contains(&format!("#{} client", pair[0]))), "{chosen}");
    assert_eq!(browser.run("return document.querySelector('tr.chosen').classList.contains('marked')"), true);

    // What lies under the mouse: each operation in conflict, where it is drawn.
    click(browser, "to-violation");
    for index in pair {
        browser.run(&format!(
            "const hit = hits.find((hit) => hit.item.index === {index}), at = canvas.getBoundingClientRect();
             const [clientX, clientY] = [at.left + (hit.x0 + hit.x1) / 2, at.top + (hit.y0 + hit.y1) / 2];
             canvas.dispatchEvent(new PointerEvent('pointermove', {{ clientX, clientY, bubbles: true }}));"
        ));
        settle(browser);
        assert!(text("tip").contains(&format!("#{index} client")), "{}", text("tip"));
    }
    no_errors(browser);
}

fn shows_hostile_values_as_text(browser: &Browser, scratch: &Scratch) {
    let hostile = "put k=\"</script><img src=x onerror=alert(1) class=evil>{{@script@}}'\u{2028}&lt;\"";
    let (report, mut recorded) = record(&Plan::draw(5));
    for (kind, at) in [("client invoke", 1_000_000_000), ("client ok", 1_100_000_000)] {
        let subject = hostile.to_owned();
        recorded.push(Recorded { at, node: 1, kind, subject, numbers: [1, 99_999], payload: vec![] });
    }
    let report = Report { file: Some("<i class=evil>.plan".to_owned()), ..report };
    open(browser, &scratch.write("hostile.html", &page(&report, recorded)));
    assert_eq!(browser.run("return document.querySelectorAll('.evil, img').length"), 0);
    browser.type_into("search", "onerror=alert");
    settle(browser);
    assert_eq!(browser.text("found"), "1 found");
    let row = browser.run("return document.querySelector('#rows td:last-child').textContent");
    assert!(row.as_str().is_some_and(|row| row.contains(hostile)), "{row}");
    no_errors(browser);
}

fn draws_ten_thousand_events(browser: &Browser, scratch: &Scratch) {
    let (report, recorded) = record(&busy());
    open(browser, &scratch.write("busy.html", &page(&report, recorded)));
    let items = shown(browser, "items");
    assert!(items >= 10_000.0, "{items} events");
    click(browser, "to-all");
    assert_eq!(shown(browser, "shown"), items, "all are in view");
    // What would lie on top of each other is drawn once, and it is said what is not drawn one by one.
    assert!(shown(browser, "drawn") < items, "{} of {items}", shown(browser, "drawn"));
    assert!(shown(browser, "arrows") <= 900.0 && shown(browser, "barred") > 0.0);
    assert!(browser.text("status").contains("messages are drawn as bars"));
    for _ in 0..8 {
        click(browser, "zoom-in");
    }
    assert!(shown(browser, "shown") < items / 20.0);
    assert_eq!(shown(browser, "barred"), 0.0, "now each has an arrow");
    no_errors(browser);
}
