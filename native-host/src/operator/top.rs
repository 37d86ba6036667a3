//! The overview again and again, with rates.
//!
//! Plain ANSI: a screen of its own, lines that are not wrapped, and everything given back at the end.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    signal,
    time::{Instant, sleep_until},
};

use super::{client::Gateway, stats, word};

/// The other screen, without a cursor and without wrapping; and the way back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// Shows it until Ctrl-C, or once.
pub(super) async fn run(
    gateway: &Gateway,
    once: bool,
    every: Duration,
    as_json: bool,
) -> Result<String, String> {
    let mut last = gateway.get("/v1/admin/overview").await?;
    if once || as_json || !io::stdout().is_terminal() {
        return super::shown(&last, as_json, |overview| frame(overview, None, &gateway.url));
    }
    let screen = Screen::enter();
    screen.draw(&frame(&last, None, &gateway.url));
    let mut next = Instant::now();
    loop {
        next += every;
        tokio::select! {
            _ = signal::ctrl_c() => return Ok(String::new()),
            () = sleep_until(next) => {}
        }
        match gateway.get("/v1/admin/overview").await {
            Ok(overview) => {
                screen.draw(&frame(&overview, Some(&last), &gateway.url));
                last = overview;
            }
            // It may be starting again.
            Err(problem) => screen.draw(&format!("{problem}\n\n{}", frame(&last, None, &gateway.url))),
        }
    }
}

/// The terminal, as long as it is ours.
struct Screen;

impl Screen {
    fn enter() -> Self {
        let _ = io::stdout().write_all(ENTER.as_bytes());
        Self
    }

    /// Each line has its place: one that is too many moves none of the others.
    fn draw(&self, frame: &str) {
        let mut out = String::new();
        for (row, line) in frame.lines().enumerate() {
            out.push_str(&format!("\x1b[{};1H{line}\x1b[K", row + 1));
        }
        out.push_str("\x1b[J");
        let mut stdout = io::stdout();
        let _ = stdout.write_all(out.as_bytes()).and_then(|()| stdout.flush());
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut stdout = io::stdout();
        let _ = stdout.write_all(LEAVE.as_bytes()).and_then(|()| stdout.flush());
    }
}

/// One look: rates where the one before is known.
fn frame(overview: &Value, before: Option<&Value>, url: &str) -> String {
    let seconds = before.and_then(|before| seconds_between(&before["at"], &overview["at"]));
    let rate = |row: &Value| match (before, seconds) {
        (Some(before), Some(seconds)) => {
            let same = stats::list(&before["profiles"]).find(|old| old["profile"] == row["profile"]);
            let old = same.and_then(|row| row["requests"].as_f64()).unwrap_or_default();
            // A host that began anew has counted less.
            format!("{:.1}", (row["requests"].as_f64().unwrap_or_default() - old).max(0.0) / seconds)
        }
        _ => word(&row["requests"]),
    };
    let name = if seconds.is_some() { "per s" } else { "requests" };
    let mut out = format!("minigate top  {url}  (Ctrl-C ends)\n{}", stats::heading(overview));
    let parts = [
        stats::profiles(overview, rate, name),
        stats::upstreams(overview),
        stats::abuse(overview),
        stats::waits(overview),
    ];
    for part in parts.iter().filter(|part| !part.is_empty()) {
        out.push('\n');
        out.push_str(part);
    }
    out
}

/// Between two times of the gateway's own clock; `None` when they are one.
fn seconds_between(before: &Value, after: &Value) -> Option<f64> {
    let time = |value: &Value| humantime::parse_rfc3339(value.as_str()?).ok();
    let passed = time(after)?.duration_since(time(before)?).ok()?.as_secs_f64();
    (passed > 0.0).then_some(passed)
}

#[cfg(test)]
mod tests {
    use super::{super::stats::tests::overview, *};

    #[test]
    fn the_first_look_has_counts_and_the_next_one_rates() {
        let (before, mut after) = (overview(10), overview(40));
        let first = frame(&before, None, "http://x");
        assert!(first.contains("requests") && first.starts_with("minigate top  http://x"), "{first}");
        after["at"] = "2026-11-21T03:46:39.000Z".into();
        let next = frame(&after, Some(&before), "http://x");
        let row = next.lines().find(|line| line.starts_with("qa_v2")).expect("a row");
        assert!(next.contains("per s") && row.contains(" 15.0 "), "{row}");
        let again = frame(&before, Some(&after), "http://x");
        assert!(!again.contains('-'.to_string().repeat(2).as_str()) && again.contains("requests"));
    }
}
