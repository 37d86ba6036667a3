use proptest::prelude::*;

use super::*;

/// Lines of so many records.
fn ledger(records: usize) -> Vec<String> {
    let mut head = Head::default();
    let write = |number| {
        let (line, next) = head.link(&format!(r#"{{"kind":"turn","number":{number}}}"#));
        head = next;
        line
    };
    (0..records).map(write).collect()
}

fn verify(lines: &[String], expected: &[Head]) -> Report {
    let mut verifier = expected.iter().fold(Verifier::default(), |verifier, head| verifier.expect(*head));
    for line in lines {
        verifier.push(line);
    }
    verifier.finish()
}

fn finding(lines: &[String]) -> Option<(u64, Finding)> {
    verify(lines, &[]).fault.map(|fault| (fault.sequence, fault.finding))
}

/// So that no version of this program finds the ledgers of another one broken.
#[test]
fn a_line_is_this() {
    let (line, head) = Head::default().link("{}");
    let hash = "ddd9a698cb6b3338ed668c04838630d06a62d4494d978dd79224bba351245777";
    assert_eq!(line, format!(r#"{{"seq":1,"prev":"{}","hash":"{hash}","record":{{}}}}"#, "0".repeat(64)));
    assert_eq!((Head::of(&line), record(&line)), (Some(head), Some("{}")));
    assert_eq!(Head::parse(&head.to_string()), Some(head));
}

#[test]
fn a_ledger_that_nobody_touched_is_sound() {
    let lines = ledger(5);
    let report = verify(&lines, &[Head::of(&lines[2]).expect("a line")]);
    assert_eq!((report.fault, report.lines, report.first), (None, 5, 1));
    assert_eq!(Some(report.head), Head::of(&lines[4]));
    assert_eq!(verify(&[], &[]).fault, None);
}

#[test]
fn what_was_done_to_it_is_said() {
    let lines = ledger(6);
    let with = |change: &dyn Fn(&mut Vec<String>)| {
        let mut lines = lines.clone();
        change(&mut lines);
        finding(&lines)
    };
    let edited = lines[2].replace("\"number\":2", "\"number\":7");
    assert_eq!(with(&|lines| lines[2].clone_from(&edited)), Some((3, Finding::Changed)));
    let renumbered = lines[2].replace("\"seq\":3", "\"seq\":4");
    assert_eq!(with(&|lines| lines[2].clone_from(&renumbered)), Some((3, Finding::Changed)));
    let rewritten = Head::of(&lines[1]).expect("a line").link("{\"kind\":\"other\"}").0;
    assert_eq!(with(&|lines| lines[2].clone_from(&rewritten)), Some((4, Finding::Unlinked)));
    assert_eq!(with(&|lines| lines[2] = "{}".into()), Some((3, Finding::NotALine)));
    assert_eq!(with(&|lines| drop(lines.remove(2))), Some((3, Finding::Missing { through: 3 })));
    assert_eq!(with(&|lines| drop(lines.drain(1..4))), Some((2, Finding::Missing { through: 4 })));
    assert_eq!(with(&|lines| drop(lines.drain(..2))), Some((1, Finding::Missing { through: 2 })));
    assert_eq!(with(&|lines| lines.swap(2, 4)), Some((4, Finding::Moved)));
    assert_eq!(with(&|lines| lines.swap(0, 1)), Some((1, Finding::Moved)));
    assert_eq!(with(&|lines| lines.insert(4, lines[2].clone())), Some((3, Finding::Repeated)));
}

#[test]
fn a_missing_end_is_seen_by_a_head_of_before() {
    let lines = ledger(6);
    let last = Head::of(&lines[5]).expect("a line");
    assert_eq!(verify(&lines[..4], &[]).fault, None, "a chain alone cannot know");
    let cut = Fault { sequence: 6, finding: Finding::CutOff };
    assert_eq!(verify(&lines[..4], &[last]).fault, Some(cut));
    let other = Head { hash: [9; 32], ..last };
    let rewritten = Fault { sequence: 6, finding: Finding::Rewritten };
    assert_eq!(verify(&lines, &[other]).fault, Some(rewritten));
}

#[test]
fn lines_that_had_their_time_may_go_when_it_is_recorded() {
    let mut lines = ledger(6);
    let (through, head) = (Head::of(&lines[2]).expect("a line"), Head::of(&lines[5]).expect("a line"));
    lines.push(head.link(&retained(&through, 0)).0);
    assert_eq!(finding(&lines[3..]), None);
    assert_eq!(verify(&lines[3..], &[]).first, 4);
    // A copy may hold some of them still.
    assert_eq!(finding(&lines[2..]), None);
    assert_eq!(finding(&lines[4..]), Some((1, Finding::Missing { through: 4 })));
    assert_eq!(finding(&lines[3..6]), Some((1, Finding::Missing { through: 3 })));
    // The record of another deletion explains nothing.
    let elsewhere = Head { hash: [9; 32], ..through };
    let mut wrong = lines[3..6].to_vec();
    wrong.push(head.link(&retained(&elsewhere, 0)).0);
    assert_eq!(finding(&wrong), Some((1, Finding::Missing { through: 3 })));
}

proptest! {
    /// Any one letter, line, or order.
    #[test]
    fn no_single_change_escapes(
        records in 2_usize..20,
        at in any::<prop::sample::Index>(),
        other in any::<prop::sample::Index>(),
        letter in any::<prop::sample::Index>(),
        to in prop::char::range(' ', '~'),
        how in 0..4,
    ) {
        let whole = ledger(records);
        let expected = [Head::of(&whole[records - 1]).expect("a line")];
        let (at, other) = (at.index(records), other.index(records));
        let mut lines = whole.clone();
        match how {
            0 => {
                let place = letter.index(lines[at].len());
                lines[at].replace_range(place..=place, &to.to_string());
            }
            1 => drop(lines.remove(at)),
            2 => lines.swap(at, other),
            _ => lines.insert(other, whole[at].clone()),
        }
        let cut_off = lines[..] == whole[..lines.len().min(records)];
        prop_assert_eq!(verify(&lines, &expected).fault.is_none(), lines == whole);
        prop_assert_eq!(finding(&lines).is_none(), lines == whole || cut_off && lines.len() < records);
    }

    #[test]
    fn no_text_makes_the_verifier_fail(text in ".*", line in "\\{\"seq\":[0-9]{1,30},\"prev\":\"[0-9a-f]{60,66}.*") {
        let mut verifier = Verifier::default();
        verifier.push(&text);
        verifier.push(&line);
        prop_assert!(verifier.finish().fault.is_some());
        let _ = Head::parse(&text);
    }
}
