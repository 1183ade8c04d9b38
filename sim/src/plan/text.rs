//! Plans as files: Rust Object Notation, one fault a line, so that a person can delete lines, change them, and say why in
//! a comment.
//!
//! A field that a file lacks takes its default, so that files from before the field go on working; one that does not
//! exist is refused by its name.

use std::fmt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use ron::extensions::Extensions;
use ron::ser::PrettyConfig;

use super::Plan;

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The text is not that of a plan.
    #[error("line {line}, column {column}: {what}")]
    Text {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// What is wrong there.
        what: String,
    },
    /// A plan that cannot be run.
    #[error("{field}: {what}")]
    Field {
        /// Which field, from the top: `workload.clients`, `faults[3].kind`.
        field: String,
        /// What is wrong with it.
        what: String,
    },
    /// There is no such file.
    #[error("{target} is no seed, which is a decimal number, and no plan file that can be read: {error}")]
    Unreadable {
        /// What was asked for.
        target: String,
        /// Why it is not readable.
        error: io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {}: {error}", file.display())]
    Unwritable {
        /// Which file.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// What is wrong in a file.
    #[error("{}: {error}", file.display())]
    File {
        /// Which file.
        file: PathBuf,
        /// What is wrong.
        error: Box<PlanError>,
    },
}

/// `None` and plain values instead of `None` and `Some(…)`.
fn options() -> ron::Options {
    ron::Options::default().with_default_extension(Extensions::IMPLICIT_SOME)
}

impl Plan {
    /// The plan as a file.
    pub fn to_text(&self) -> String {
        let layout = PrettyConfig::new().depth_limit(2).new_line("\n");
        let text = options().to_string_pretty(self, layout).expect("a plan is plain data");
        text + "\n"
    }

    /// The plan as a file, under a comment of one line or several.
    pub fn to_text_under(&self, comment: &str) -> String {
        comment.lines().map(|line| format!("// {line}\n")).collect::<String>() + &self.to_text()
    }

    /// Reads what [`Plan::to_text`] writes, and what a person made of it. The faults may be in any order.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(text: &str) -> Result<Self, PlanError> {
        let parsed: Result<Self, _> = options().from_str(text);
        let mut plan = parsed.map_err(|error| {
            let at = error.span.start;
            PlanError::Text { line: at.line, column: at.col, what: error.code.to_string() }
        })?;
        plan.faults.sort_by_key(|fault| fault.at_ms);
        plan.check()?;
        Ok(plan)
    }

    /// Writes the plan to a file, under a comment of one line or several.
    ///
    /// # Errors
    /// Why the file could not be written.
    pub fn save(&self, file: &Path, comment: &str) -> Result<(), PlanError> {
        let written = fs::write(file, self.to_text_under(comment));
        written.map_err(|error| PlanError::Unwritable { file: file.to_owned(), error })
    }

    /// The plan of a seed (a decimal number) or of a file (anything else).
    ///
    /// # Errors
    /// Why there is none.
    pub fn load(target: &str) -> Result<Self, PlanError> {
        if let Ok(seed) = target.parse() {
            return Ok(Self::draw(seed));
        }
        let text = fs::read_to_string(target);
        let text = text.map_err(|error| PlanError::Unreadable { target: target.to_owned(), error })?;
        Self::parse(&text).map_err(|error| PlanError::File { file: target.into(), error: Box::new(error) })
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Core, DiskFault, Fault, FaultKind, Setup, Victim, Workload};
    use crate::platform::CRASH_POINTS;

    #[test]
    fn every_plan_is_its_text() {
        for plan in (0..300).map(Plan::draw) {
            let text = plan.to_text();
            assert_eq!(Plan::parse(&text).expect("what was written can be read"), plan, "{text}");
            let lines = text.lines().filter(|line| line.trim_start().starts_with("(at_ms: ")).count();
            assert_eq!(lines, plan.faults.len(), "one line a fault:\n{text}");
        }
    }

    #[test]
    fn what_a_file_lacks_has_its_default_and_comments_are_read_over() {
        let text = "// short\n(seed: 3, nodes: 3, heal_ms: 5000, /* none */ workload: (keys: 2), faults: [
            (at_ms: 900, kind: Disk(CrashPoint(victim: Leader, point: \"after log sync\", nth: 2, power: true))),
            (at_ms: 20, for_ms: 5, kind: Kill(Node(2))), // out of order
        ])";
        let point = CRASH_POINTS.iter().find(|point| point.name == "after log sync").expect("there is one");
        let crash = FaultKind::Disk(DiskFault::CrashPoint { victim: Victim::Leader, point, nth: 2, power: true });
        let plan = Plan {
            seed: 3,
            nodes: 3,
            spares: 0,
            heal_ms: 5_000,
            canary: false,
            core: Core::default(),
            setup: Setup::default(),
            workload: Workload { keys: 2, ..Workload::default() },
            faults: vec![
                Fault { at_ms: 20, for_ms: 5, kind: FaultKind::Kill(Victim::Node(2)) },
                Fault { at_ms: 900, for_ms: 0, kind: crash },
            ],
        };
        assert_eq!(Plan::parse(text).expect("it is a plan"), plan);
    }

    /// The first `from` of a plan's text replaced: what the refusal says.
    fn refusal(from: &str, to: &str) -> String {
        let plan = Plan { faults: vec![], ..Plan::draw(4) };
        let text = plan.to_text().replace("faults: []", "faults: [(at_ms: 5, for_ms: 10, kind: Kill(Node(1)))]");
        assert!(text.contains(from), "{from} is not in\n{text}");
        Plan::parse(&text.replacen(from, to, 1)).expect_err(to).to_string()
    }

    #[test]
    fn a_bad_text_is_refused_with_its_place_and_the_name_of_what_is_wrong() {
        for (from, to, says) in [
            ("nodes:", "knots:", &["line 3", "knots"][..]),
            ("keys:", "keyes:", &["keyes", "keys"]),
            ("at_ms:", "at_s:", &["at_s"]),
            ("seed: 4,", "", &["seed"]),
            ("seed: 4", "seed: -4", &["line 2"]),
            ("seed: 4", "seed: 99999999999999999999", &["line 2"]),
            ("Kill(", "Slay(", &["Slay", "Kill"]),
            ("Node(1)", "Node(-1)", &["line"]),
            (
                "Kill(Node(1))",
                "Disk(CrashPoint(victim: Leader, point: \"nowhere\", nth: 1, power: true))",
                &["nowhere", "after log sync"],
            ),
            ("Kill(Node(1))", "Disk(Slow(victim: Leader, factor: 2, speed: 1))", &["speed"]),
            ("(", "", &["line"]),
        ] {
            let error = refusal(from, to);
            assert!(says.iter().all(|part| error.contains(part)), "{to}: {error}");
        }
        assert!(Plan::parse("").is_err());
        assert!(Plan::parse(&"(".repeat(100_000)).is_err());
    }

    #[test]
    fn a_target_is_a_seed_or_a_file() {
        assert_eq!(Plan::load("12").expect("a seed"), Plan::draw(12));
        let error = Plan::load("there/is/none.plan").expect_err("there is none").to_string();
        assert!(error.contains("there/is/none.plan is no seed") && error.contains("no plan file"), "{error}");
    }
}
