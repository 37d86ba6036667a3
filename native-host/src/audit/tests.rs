#![allow(clippy::unwrap_used, reason = "a test says so when something is missing")]

use minigate_core::ledger::{Report, Verifier};

use super::*;

/// A directory of its own.
fn directory(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("minigate-audit-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

fn writer(directory: &Path, keep_ms: u64) -> Writer {
    let copy = Some(directory.join("audit.jsonl"));
    let mut writer = Writer::open(directory, copy, keep_ms, Arc::default()).unwrap();
    writer.begin(&Policy::default()).unwrap();
    writer
}

fn add(writer: &mut Writer, records: u32) {
    writer.unwritten.extend((0..records).map(|number| format!("{{\"number\":{number}}}")));
    writer.write().unwrap();
}

fn verify(writer: &Writer) -> Report {
    let mut verifier = Verifier::default().expect(writer.head);
    writer.database.each(0, u64::MAX, |_, line| verifier.push(line)).unwrap();
    verifier.finish()
}

/// The lines of the copy, of all days.
fn copied(writer: &Writer) -> Report {
    let mut verifier = Verifier::default().expect(writer.head);
    for path in writer.copy.as_ref().unwrap().files().unwrap() {
        std::fs::read_to_string(path).unwrap().lines().for_each(|line| verifier.push(line));
    }
    verifier.finish()
}

#[test]
fn a_host_goes_on_where_the_one_before_ended() {
    let directory = directory("goes-on");
    let mut first = writer(&directory, u64::MAX);
    add(&mut first, 3);
    let head = first.head;
    assert!(Writer::open(&directory, None, 0, Arc::default()).is_err(), "one writes");
    drop(first);
    let mut second = writer(&directory, u64::MAX);
    assert_eq!(second.head.sequence, head.sequence + 1, "it says that it begins");
    add(&mut second, 2);
    let report = verify(&second);
    assert_eq!((report.fault, report.lines, report.first), (None, 7, 1));
    assert_eq!(copied(&second), report);
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn the_copy_is_made_up_for_what_a_crash_kept_from_it() {
    let directory = directory("copy");
    let mut first = writer(&directory, u64::MAX);
    add(&mut first, 4);
    let path = first.copy.as_ref().unwrap().files().unwrap().remove(0);
    drop(first);
    // Two lines are not there, and a third ends in the middle.
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    std::fs::write(&path, format!("{}\n{}\n{}", lines[0], lines[1], &lines[2][..40])).unwrap();
    let second = writer(&directory, u64::MAX);
    let report = copied(&second);
    assert_eq!((report.fault, report.lines), (None, 6));
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn what_has_had_its_time_is_deleted_and_the_rest_is_sound() {
    let directory = directory("retention");
    let mut writer = writer(&directory, 0);
    add(&mut writer, 20);
    // The newest line stays: the next one is linked to it.
    let until = Instant::now() + Duration::from_secs(5);
    while verify(&writer).lines > 3 {
        assert!(Instant::now() < until, "{:?}", verify(&writer));
        add(&mut writer, 1);
        writer.sweep();
    }
    let report = verify(&writer);
    assert!(report.fault.is_none() && report.first > 20, "{report:?}");
    assert_eq!(copied(&writer).fault, None);
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_line_cannot_be_changed_by_accident_and_what_was_lost_is_said() {
    let directory = directory("lost");
    let mut writer = writer(&directory, u64::MAX);
    writer.lost.store(3, Ordering::Relaxed);
    writer.note_losses();
    writer.write().unwrap();
    let mut last = String::new();
    writer.database.each(0, u64::MAX, |_, line| line.clone_into(&mut last)).unwrap();
    assert!(ledger::record(&last).unwrap().contains("\"count\":3"), "{last}");
    let path = directory.join(database::FILE);
    let changed = rusqlite::Connection::open(path).unwrap().execute("UPDATE line SET line = ''", []);
    assert!(changed.unwrap_err().to_string().contains("are not changed"));
    std::fs::remove_dir_all(directory).unwrap();
}
