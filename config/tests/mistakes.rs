//! What is said about each mistake, word for word: these lines are what an operator works with.

use minigate_config::{Source, check};

fn lines(texts: &[(&str, &str)]) -> String {
    let source = |(name, text): &(&str, &str)| Source { name: (*name).into(), text: (*text).into() };
    let checked = check(&texts.iter().map(source).collect::<Vec<_>>(), None);
    checked.diagnostics.iter().map(|found| format!("{found}\n")).collect()
}

#[track_caller]
fn expect(yaml: &str, expected: &str) {
    assert_eq!(lines(&[("a.yaml", yaml)]), expected, "in\n{yaml}");
}

/// A file with one profile whose lines these are; the first is line 3.
fn profile(lines: &str) -> String {
    let lines: String = lines.lines().map(|line| format!("    {line}\n")).collect();
    format!("profiles:\n  p:\n{lines}models: {{fast: {{kind: openclaw}}}}\n")
}

#[test]
fn several_mistakes_are_one_report() {
    expect("profile:\n  a: {}\n", "");
}
