//! What a test run's output says: counts, and whether something was skipped.

/// The counts of one suite, gathered from its output.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
    /// The first line in which a test says that it did not really run.
    pub(crate) skipped: Option<String>,
}

impl Counts {
    /// Takes one line of output into account.
    pub(crate) fn observe(&mut self, line: &str) {
        if let Some((_, result)) = line.split_once("test result:") {
            self.passed += count(result, "passed");
            self.failed += count(result, "failed");
            self.ignored += count(result, "ignored");
        } else if self.skipped.is_none() && says_skipped(line) {
            self.skipped = Some(line.trim().to_owned());
        }
    }

    /// Adds what another stream of the same suite said.
    pub(crate) fn merge(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.skipped = self.skipped.take().or(other.skipped);
    }
}

/// A suite and how it ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) suite: &'static str,
    pub(crate) counts: Counts,
    pub(crate) seconds: f64,
    /// Whether the suite's command succeeded.
    pub(crate) succeeded: bool,
}

impl Outcome {
    /// Why the suite counts as failed, if it does.
    pub(crate) fn problem(&self) -> Option<String> {
        if let Some(line) = &self.counts.skipped {
            Some(format!("skipped something: {line}"))
        } else if self.counts.failed > 0 {
            Some(format!("{} failed", self.counts.failed))
        } else if !self.succeeded {
            Some("its command failed".to_owned())
        } else if self.counts.passed == 0 {
            Some("ran no test".to_owned())
        } else {
            None
        }
    }

    /// Failed tests; a suite that failed in another way counts as one.
    fn failures(&self) -> u64 {
        let at_least = u64::from(self.problem().is_some());
        self.counts.failed.max(at_least)
    }
}

/// The closing lines: a row per suite, the problems, and the sums.
pub(crate) fn summary(outcomes: &[Outcome]) -> String {
    let mut text =
        format!("{:<12} {:>7} {:>7} {:>8} {:>8}\n", "suite", "passed", "failed", "ignored", "seconds");
    for outcome in outcomes {
        let counts = &outcome.counts;
        text += &format!(
            "{:<12} {:>7} {:>7} {:>8} {:>8.1}\n",
            outcome.suite, counts.passed, counts.failed, counts.ignored, outcome.seconds
        );
    }
    for outcome in outcomes {
        if let Some(problem) = outcome.problem() {
            text += &format!("{}: {problem}\n", outcome.suite);
        }
    }
    let passed: u64 = outcomes.iter().map(|outcome| outcome.counts.passed).sum();
    let failed: u64 = outcomes.iter().map(Outcome::failures).sum();
    text + &format!("{passed} passed, {failed} failed")
}

/// The number before `word` in `ok. 5 passed; 0 failed; 1 ignored`.
fn count(result: &str, word: &str) -> u64 {
    let mut previous = "";
    for token in result.split(|c: char| c.is_whitespace() || c == ';') {
        if token == word {
            return previous.parse().unwrap_or(0);
        }
        if !token.is_empty() {
            previous = token;
        }
    }
    0
}

/// A line that begins with the word, or shouts it; names of tests do not count.
fn says_skipped(line: &str) -> bool {
    let line = line.trim();
    if line.starts_with("test ") {
        return false;
    }
    let first = line.split(|c: char| !c.is_alphanumeric()).next();
    let begins = first
        .is_some_and(|word| ["skip", "skipped", "skipping"].contains(&word.to_ascii_lowercase().as_str()));
    begins || line.contains("SKIPPED")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(counts: Counts, succeeded: bool) -> Outcome {
        Outcome { suite: "core", counts, seconds: 1.0, succeeded }
    }

    fn observed(output: &str) -> Counts {
        let mut counts = Counts::default();
        output.lines().for_each(|line| counts.observe(line));
        counts
    }

    #[test]
    fn results_of_several_binaries_add_up() {
        let counts = observed(
            "running 3 tests\n\
             test a ... ok\n\
             test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
             test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s\n",
        );
        let expected = Counts { passed: 4, failed: 2, ignored: 1, skipped: None };
        assert_eq!(counts, expected);
    }

    #[test]
    fn the_wasm_runner_has_fewer_fields_and_maybe_colour() {
        let plain =
            observed("test result: ok. 12 passed; 0 failed; 0 ignored; 0 filtered out; finished in 0.05s");
        assert_eq!((plain.passed, plain.failed), (12, 0));
        let colour = observed("test result: \u{1b}[32mok\u{1b}[0m. 2 passed; 1 failed; 0 ignored");
        assert_eq!((colour.passed, colour.failed), (2, 1));
    }

    #[test]
    fn skipping_is_noticed_but_not_in_a_name() {
        assert!(observed("skipping: no workerd").skipped.is_some());
        assert!(observed("  SKIP openclaw").skipped.is_some());
        assert!(observed("3 tests SKIPPED").skipped.is_some());
        assert!(observed("test skipped_frames_are_dropped ... ok").skipped.is_none());
        assert!(observed("test result: ok. 1 passed; 0 failed; 0 ignored").skipped.is_none());
    }

    #[test]
    fn a_suite_without_tests_is_a_failure() {
        let empty = outcome(observed("test result: ok. 0 passed; 0 failed; 0 ignored"), true);
        assert_eq!(empty.problem().as_deref(), Some("ran no test"));
        assert!(summary(&[empty]).ends_with("\n0 passed, 1 failed"));
    }

    #[test]
    fn a_crash_after_passing_tests_is_a_failure() {
        let crashed = outcome(observed("test result: ok. 2 passed; 0 failed; 0 ignored"), false);
        assert_eq!(crashed.problem().as_deref(), Some("its command failed"));
        assert!(summary(&[crashed]).ends_with("\n2 passed, 1 failed"));
    }

    #[test]
    fn the_summary_has_a_row_for_each_suite() {
        let good = outcome(observed("test result: ok. 2 passed; 0 failed; 3 ignored"), true);
        let expected = "suite         passed  failed  ignored  seconds\n\
                        core               2       0        3      1.0\n\
                        2 passed, 0 failed";
        assert_eq!(summary(&[good]), expected);
    }
}
