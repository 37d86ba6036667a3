//! The configuration in use, another one, and an earlier one.
//!
//! Nothing is checked here: the gateway checks what it is sent completely and says every mistake with
//! its place. Whoever sends one from a terminal sees first what would change, as one who reviews does.

use std::{
    fs,
    io::{self, IsTerminal as _},
    path::PathBuf,
};

use clap::Subcommand;
use serde_json::{Value, json};
use similar::TextDiff;

use super::{agree, client, client::Gateway, columns, plain, shown, stats::list, word};

const PATH: &str = "/v1/admin/config";
/// Lines around a change that are shown with it.
const CONTEXT: usize = 3;

/// What is wanted of the gateway's configurations.
#[derive(Debug, Subcommand)]
pub(super) enum Wish {
    /// Which one is in use, and which were before it.
    List,
    /// What one of them says.
    Show {
        /// Its version; without it the one in use.
        version: Option<String>,
    },
    /// What would change with these files.
    Diff {
        /// The files; several are read as one.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Compare with this version, not with the one in use.
        #[arg(long, value_name = "VERSION")]
        from: Option<String>,
    },
    /// Show what would change, and put these files in the place of what is in use. They are checked
    /// completely first; one with mistakes changes nothing.
    Push {
        /// The files; several are read as one.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Why, for the list.
        #[arg(long, default_value = "")]
        note: String,
        /// Without being asked again. Needed where nobody sits at a terminal.
        #[arg(long)]
        yes: bool,
    },
    /// Go back to an earlier one.
    Rollback {
        /// Its version; without it the one before.
        version: Option<String>,
        /// Why, for the list.
        #[arg(long, default_value = "")]
        note: String,
    },
}

pub(super) async fn run(gateway: &Gateway, wish: &Wish, as_json: bool) -> Result<String, String> {
    match wish {
        Wish::List => shown(&gateway.get(PATH).await?, as_json, versions),
        Wish::Show { version } => {
            let version = match version {
                Some(version) => version.clone(),
                None => in_use(gateway).await?,
            };
            shown(&edition(gateway, &version).await?, as_json, text)
        }
        Wish::Diff { files, from } => {
            let files = read(files)?;
            let change = change(gateway, from.as_deref(), &files).await?;
            Ok(if as_json { format!("{}\n", json!({"diff": change})) } else { change })
        }
        Wish::Push { files, note, yes } => {
            let files = read(files)?;
            if !yes && !is_wanted(gateway, &files).await? {
                return Err("nothing was sent".into());
            }
            let taken = gateway.put(PATH, &json!({"files": files, "note": note})).await?;
            shown(&taken, as_json, outcome)
        }
        Wish::Rollback { version, note } => {
            let mut body = json!({"note": note});
            if let Some(version) = version {
                body["version"] = client::segment(version)?.into();
            }
            shown(&gateway.post(&format!("{PATH}/rollback"), &body).await?, as_json, outcome)
        }
    }
}

/// The files as the gateway takes them.
fn read(files: &[PathBuf]) -> Result<Vec<Value>, String> {
    let read = |path: &PathBuf| {
        let name = path.display().to_string();
        let text = fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
        Ok(json!({"name": name, "text": text}))
    };
    files.iter().map(read).collect()
}

async fn in_use(gateway: &Gateway) -> Result<String, String> {
    let all = gateway.get(PATH).await?;
    all["version"].as_str().filter(|version| !version.is_empty()).map(str::to_owned).ok_or_else(|| {
        "this gateway runs without a configuration; `config push FILE` gives it one".to_owned()
    })
}

async fn edition(gateway: &Gateway, version: &str) -> Result<Value, String> {
    gateway.get(&format!("{PATH}/{}", client::segment(version)?)).await
}

/// Asks whoever sits at the terminal, who is shown the change.
async fn is_wanted(gateway: &Gateway, files: &[Value]) -> Result<bool, String> {
    if !io::stdin().is_terminal() {
        return Err("push: nobody sits at a terminal; look with `config diff`, then add --yes".into());
    }
    let change = match change(gateway, None, files).await {
        Ok(change) if change.is_empty() => "Nothing would change.\n".to_owned(),
        Ok(change) => change,
        // What came with a deployment of the edge has no text there.
        Err(reason) => format!("What would change cannot be shown: {reason}\n"),
    };
    agree(&change, "Take it?")
}

/// What differs between a version, or the one in use, and files.
async fn change(gateway: &Gateway, from: Option<&str>, files: &[Value]) -> Result<String, String> {
    let version = match from {
        Some(version) => version.to_owned(),
        None => in_use(gateway).await?,
    };
    let old = edition(gateway, &version).await?;
    Ok(differences(&version, files_of(&old), files))
}

/// The files of an edition.
fn files_of(edition: &Value) -> &[Value] {
    edition["files"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The files' differences, file by file: one file is compared with one whatever they are called.
fn differences(version: &str, old: &[Value], new: &[Value]) -> String {
    let text =
        |file: Option<&Value>| file.and_then(|file| file["text"].as_str()).unwrap_or_default().to_owned();
    let name = |file: &Value| file["name"].as_str().unwrap_or_default().to_owned();
    let same = |one: &Value, other: &Value| name(one) == name(other) || (old.len() == 1 && new.len() == 1);
    let mut out = String::new();
    let gone = old.iter().filter(|file| !new.iter().any(|other| same(file, other)));
    let pairs = new.iter().map(|file| (old.iter().find(|other| same(other, file)), Some(file)));
    for (before, after) in gone.map(|file| (Some(file), None)).chain(pairs) {
        let (was, is) = (text(before), text(after));
        let diff = TextDiff::from_lines(&was, &is);
        let title = after.or(before).map(name).unwrap_or_default();
        let mut lines = diff.unified_diff();
        lines.context_radius(CONTEXT).header(&format!("{title} ({version})"), &title);
        out.extend(lines.to_string().lines().map(|line| plain(line) + "\n"));
    }
    out
}

fn versions(answer: &Value) -> String {
    let mut rows = vec![["", "version", "at", "by", "note"].map(str::to_owned).to_vec()];
    let mut marked = false;
    for edition in list(&answer["versions"]) {
        // One that was taken twice is in use once: the newest is first.
        let used = !marked && edition["version"] == answer["version"];
        marked |= used;
        let mark = if used { "*" } else { "" }.to_owned();
        let words = [&edition["version"], &edition["at"], &edition["by"], &edition["note"]].map(word);
        rows.push([vec![mark], words.to_vec()].concat());
    }
    if !marked {
        let used = word(&answer["version"]);
        rows.insert(
            1,
            vec!["*".into(), used, "–".into(), "–".into(), "in use; its text is not kept here".into()],
        );
    }
    columns(&rows)
}

fn text(edition: &Value) -> String {
    // What goes into a file goes there as it is.
    let exact = !io::stdout().is_terminal();
    let files = files_of(edition);
    let mut out = String::new();
    for file in files {
        if files.len() > 1 {
            out += &format!("# {}\n", word(&file["name"]));
        }
        let text = file["text"].as_str().unwrap_or_default();
        match exact {
            true => out += text,
            false => out.extend(text.lines().map(|line| plain(line) + "\n")),
        }
    }
    out
}

fn outcome(taken: &Value) -> String {
    let warnings = client::diagnostics(taken);
    let [version, before] = [&taken["version"], &taken["before"]].map(word);
    let back =
        if before.is_empty() { String::new() } else { format!("; back: minigate config rollback {before}") };
    format!("{warnings}{version} is in use{back}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> Value {
        json!({"name": name, "text": text})
    }

    #[test]
    fn a_change_is_shown_by_lines_and_moves_no_cursor() {
        let old = [file("/etc/minigate/a.yaml", "one\ntwo\nthree\n")];
        let shown = differences("c0ffee", &old, &[file("a.yaml", "one\n2\u{1b}[2J\nthree\n")]);
        assert!(shown.starts_with("--- a.yaml (c0ffee)\n+++ a.yaml\n"), "{shown}");
        assert!(shown.contains("-two\n+2\u{fffd}[2J\n three\n"), "{shown}");
        assert_eq!(differences("c0ffee", &old, &old), "");
        // Of several files each is compared with its own; one that is left out is gone.
        let two = [file("a", "x\n"), file("b", "y\n")];
        let shown = differences("c0ffee", &two, &[file("b", "y\n"), file("c", "z\n")]);
        assert!(shown.contains("--- a (c0ffee)") && shown.contains("-x\n"), "{shown}");
        assert!(shown.contains("+z\n") && !shown.contains("+++ b"), "{shown}");
    }

    #[test]
    fn the_list_marks_what_is_in_use() {
        let one = |version: &str| json!({"version": version, "at": "T", "by": "k", "note": "n"});
        let shown = versions(&json!({"version": "b", "versions": [one("b"), one("a"), one("b")]}));
        assert_eq!(shown.lines().filter(|line| line.starts_with('*')).count(), 1, "{shown}");
        let unknown = versions(&json!({"version": "z", "versions": [one("a")]}));
        assert!(unknown.lines().nth(1).is_some_and(|line| line.contains("not kept")), "{unknown}");
    }
}
