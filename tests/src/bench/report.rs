//! One list of numbers, shown as a table or as JSON.

use std::{fmt::Write as _, fs, time::Instant};

use serde_json::{Map, Value, json};

/// What a number is to be.
#[derive(Clone, Copy)]
pub(super) enum Target {
    /// Nothing in particular.
    None,
    /// At most so much.
    AtMost(f64),
    /// At most so many times the other side's.
    Ratio(f64),
    /// At most so much more than the other side's.
    MoreBy(f64),
    /// At least so many times the other side's.
    AtLeast(f64),
}

/// One number of ours, perhaps beside another's.
pub(super) struct Row {
    id: String,
    what: String,
    unit: &'static str,
    ours: f64,
    other: Option<(&'static str, f64)>,
    target: Target,
}

impl Row {
    pub(super) fn ours(id: &str, what: &str, unit: &'static str, ours: f64, target: Target) -> Self {
        Self { id: id.into(), what: what.into(), unit, ours, other: None, target }
    }

    pub(super) fn pair(
        against: &'static str,
        id: &str,
        what: &str,
        unit: &'static str,
        ours: f64,
        theirs: f64,
        target: Target,
    ) -> Self {
        Self { id: id.into(), what: what.into(), unit, ours, other: Some((against, theirs)), target }
    }

    fn ratio(&self) -> Option<f64> {
        self.other.map(|(_, theirs)| self.ours / theirs)
    }

    fn met(&self) -> Option<bool> {
        match (self.target, self.other) {
            (Target::AtMost(most), _) => Some(self.ours <= most),
            (Target::Ratio(most), Some((_, theirs))) => Some(self.ours <= most * theirs),
            (Target::AtLeast(least), Some((_, theirs))) => Some(self.ours >= least * theirs),
            (Target::MoreBy(most), Some((_, theirs))) => Some(self.ours - theirs <= most),
            _ => None,
        }
    }

    fn target(&self) -> String {
        match self.target {
            Target::None => String::new(),
            Target::AtMost(most) => format!("≤ {} {}", number(most), self.unit),
            Target::Ratio(most) => format!("≤ {most}×"),
            Target::AtLeast(least) => format!("≥ {least}×"),
            Target::MoreBy(most) => format!("≤ +{} {}", number(most), self.unit),
        }
    }

    fn json(&self) -> Value {
        json!({
            "id": self.id,
            "what": self.what,
            "unit": self.unit,
            "minigate": self.ours,
            "against": self.other.map(|(against, _)| against),
            "other": self.other.map(|(_, theirs)| theirs),
            "ratio": self.ratio(),
            "target": Some(self.target()).filter(|target| !target.is_empty()),
            "met": self.met(),
        })
    }
}

/// All numbers of a run.
pub(crate) struct Report {
    begun: Instant,
    machine: Value,
    rows: Vec<Row>,
    notes: Map<String, Value>,
}

impl Report {
    pub(super) fn begin(requests: usize, rounds: usize) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let processor = read("/proc/cpuinfo").lines().find_map(|line| {
            line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name.to_owned())
        });
        let machine = json!({
            "cores": std::thread::available_parallelism().map_or(1, usize::from),
            "kernel": read("/proc/sys/kernel/osrelease"),
            "processor": processor,
            "load_before": read("/proc/loadavg").split(' ').next(),
        });
        let mut notes = Map::new();
        notes.insert("requests".into(), requests.into());
        notes.insert("rounds".into(), rounds.into());
        Self { begun: Instant::now(), machine, rows: Vec::new(), notes }
    }

    pub(super) fn push(&mut self, row: Row) {
        self.rows.push(row);
    }

    pub(super) fn extend(&mut self, rows: Vec<Row>) {
        self.rows.extend(rows);
    }

    /// A number that explains others.
    pub(super) fn note(&mut self, case: &str, name: &str, value: f64) {
        self.notes.insert(format!("{case}.{name}"), value.into());
    }

    pub(super) fn end(&mut self) {
        self.notes.insert("seconds".into(), self.begun.elapsed().as_secs().into());
    }

    /// One object with everything.
    pub(crate) fn json(&self) -> String {
        let rows: Vec<Value> = self.rows.iter().map(Row::json).collect();
        json!({"machine": self.machine, "notes": self.notes, "rows": rows}).to_string()
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut lines =
            vec![["what", "unit", "minigate", "other", "", "ratio", "target", "met?"].map(String::from)];
        lines.extend(self.rows.iter().map(|row| {
            [
                row.what.clone(),
                row.unit.into(),
                number(row.ours),
                row.other.map(|(_, theirs)| number(theirs)).unwrap_or_default(),
                row.other.map(|(against, _)| against.to_owned()).unwrap_or_default(),
                row.ratio().map(|ratio| format!("{ratio:.2}×")).unwrap_or_default(),
                row.target(),
                row.met().map(|met| if met { "yes" } else { "no" }.to_owned()).unwrap_or_default(),
            ]
        }));
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..8).map(width).collect();
        let mut out = String::new();
        for line in &lines {
            for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
                let numeric = matches!(column, 2 | 3 | 5);
                // Writing to a String cannot fail.
                let _ =
                    if numeric { write!(out, "{cell:>width$}  ") } else { write!(out, "{cell:<width$}  ") };
            }
            out.truncate(out.trim_end().len());
            out.push('\n');
        }
        let _ = write!(out, "\nmachine: {}\nnotes: {}", self.machine, Value::Object(self.notes.clone()));
        out
    }
}

/// Three digits that matter.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
