//! Clients of a turn that another exchange runs: those that wait for its answer, watch it come,
//! look how it stands, or do not want it any more.
//!
//! They see what the turn's cell has and change nothing of the answer. Nobody but whoever began a
//! turn may see it.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

use super::{
    Exchange, Phase,
    gates::{Caller, STORE_PATIENCE},
    record,
    routes::Route,
    turns,
};
use crate::{
    policy::Policy,
    seam::{Input, Moment, Output},
    state::{
        Op, Outcome,
        turn::{Awaited, Ended, State, TurnOp, TurnOutcome, View, Watch},
    },
    wire::{
        failure::{Code, Failure, Language},
        reply,
    },
};

/// Milliseconds after which a watcher looks by itself, in case a wake was lost.
const LOOK_AGAIN: u64 = 2_000;
/// Seconds after which a client may look.
const LOOK_AFTER: u64 = 2;
/// An event stream ends itself before `wx.request`'s 60 s are over; the client goes on where it was.
const CONTINUE: u64 = 50_000;
/// The longest that a poll may wait, in seconds.
const LONGEST_WAIT: u64 = 30;
/// How long a client that cancels waits for the end.
const CANCEL_WAIT: u64 = 3_000;

/// What a client wants of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Manner {
    /// The answer, in one piece.
    Whole,
    /// Its events, as they come.
    Events,
    /// How it stands.
    Look,
}

/// A client of a turn.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Watching {
    pub(super) id: String,
    pub(super) manner: Manner,
    pub(super) rate_headers: Vec<(String, String)>,
    /// The turn ends with this connection.
    pub(super) attached: bool,
    /// Until when it waits.
    pub(super) until_ms: u64,
    /// The number of the last event that it has.
    pub(super) after: u32,
    /// It has begun the turn, or joined it: it need not be told where it is when it is over at once.
    pub(super) began: bool,
    pub(super) store_id: u32,
    pub(super) waits: bool,
}

impl Exchange {
    /// Whose turns a caller may see. A key says nothing of who asks with it: whoever has it and
    /// knows an id, which nobody can guess, began that turn or was told of it.
    pub(super) fn owner(&self) -> String {
        match &self.facts.caller {
            Caller::Anyone => String::new(),
            Caller::Key(id) => format!("key:{id}"),
            Caller::Session { subject, .. } => format!("person:{subject}"),
        }
    }

    /// `GET` and `DELETE /v1/mini/turns/{id}`, and its `/events`.
    pub(super) fn look_for_turn(&mut self, policy: &Policy, now: Moment) {
        if let Caller::Session { subject, .. } = &self.facts.caller {
            self.story.subject = Some(subject.clone());
        }
        let Some(id) = self.facts.turn.clone() else { return self.fail(policy, &unknown(), now) };
        let (manner, wait) = match self.facts.route {
            Route::TurnEvents => (Manner::Events, CONTINUE),
            Route::CancelTurn => (Manner::Look, CANCEL_WAIT),
            _ => (Manner::Look, self.facts.wait_s.min(LONGEST_WAIT) * 1_000),
        };
        let watching = Watching {
            id,
            manner,
            rate_headers: Vec::new(),
            attached: false,
            until_ms: now.unix_ms + wait,
            after: self.facts.last_event,
            began: false,
            store_id: 0,
            waits: false,
        };
        self.watch(watching, now);
    }

    /// Looks at a turn, and waits where there is nothing yet.
    pub(super) fn watch(&mut self, mut watching: Watching, now: Moment) {
        let waits = now.unix_ms < watching.until_ms;
        let awaited = match watching.manner {
            _ if !waits => Awaited::Nothing,
            Manner::Events => Awaited::Events,
            Manner::Whole | Manner::Look => Awaited::End,
        };
        let key = turns::cell(&watching.id);
        let mut ops = Vec::with_capacity(2);
        if self.facts.route == Route::CancelTurn && !watching.waits {
            ops.push((key.clone(), Op::Turn(TurnOp::Cancel { owner: Some(self.owner()) })));
        }
        let after = match watching.manner {
            Manner::Events => watching.after,
            // What has come so far is shown, but for those who wait for the whole.
            Manner::Look => 0,
            Manner::Whole => u32::MAX,
        };
        let watch = Watch { owner: Some(self.owner()), ticket: self.facts.ticket, awaited, after };
        ops.push((key, Op::Turn(TurnOp::Watch(watch))));
        watching.store_id = self.take_id();
        watching.waits = true;
        self.outputs.push_back(Output::Store { id: watching.store_id, ops });
        self.timers.store = Some(now.unix_ms + STORE_PATIENCE);
        self.timers.watch = None;
        self.phase = Phase::Watching(Box::new(watching));
    }

    pub(super) fn in_watching(
        &mut self,
        policy: &Policy,
        watching: Box<Watching>,
        input: &Input<'_>,
        now: Moment,
    ) {
        match input {
            Input::Stored { id, outcomes } if *id == watching.store_id => {
                self.timers.store = None;
                match outcomes.last() {
                    Some(Outcome::Turn(TurnOutcome::Seen(view))) => self.seen(policy, *watching, view, now),
                    _ => self.fail(policy, &unknown(), now),
                }
            }
            Input::StoreFailed { id } if *id == watching.store_id => {
                self.watch_failed(policy, *watching, now);
            }
            Input::Woken { id } if *id == watching.store_id => self.watch(*watching, now),
            _ => self.phase = Phase::Watching(watching),
        }
    }

    /// It is time to look again, or to give up waiting.
    pub(super) fn look_again_at_turn(&mut self, watching: Watching, now: Moment) {
        self.outputs.push_back(Output::Cancel { id: watching.store_id });
        self.watch(watching, now);
    }

    /// The store fails; the turn goes on where it runs.
    pub(super) fn watch_failed(&mut self, policy: &Policy, watching: Watching, now: Moment) {
        self.timers.store = None;
        self.story.store_failed = true;
        if self.story.opened {
            return self.say_continue(policy, &watching, now);
        }
        if watching.began && !watching.attached {
            return self.accepted(policy, watching, State::Queued, None, now);
        }
        if watching.attached {
            // Its client is told that it failed, and may ask again: it must not go on beside.
            self.end_turn(&watching.id);
        }
        let failure = Failure::new(Code::StoreUnavailable, "nobody knows now how the turn stands");
        self.fail(policy, &failure.after(LOOK_AFTER), now);
    }

    fn seen(&mut self, policy: &Policy, mut watching: Watching, view: &View, now: Moment) {
        if view.state.is_end() && view.ended.is_none() && watching.manner != Manner::Look {
            return self.fail(policy, &lost(), now);
        }
        match watching.manner {
            Manner::Look => self.show_turn(policy, &watching, view, now),
            Manner::Whole => match &view.ended {
                Some(ended) => self.give_end(policy, watching, ended, now),
                None if view.waits => self.wait_for_turn(watching, now),
                None => {
                    let approval =
                        view.approval.is_some().then(|| self.approval_shown(policy, &watching.id, view));
                    self.accepted(policy, watching, view.state, approval, now);
                }
            },
            Manner::Events => {
                if let Some(ended) =
                    view.ended.as_ref().filter(|_| !self.story.opened && view.events.is_empty())
                {
                    if watching.after == 0 && (ended.status != 200 || self.facts.route == Route::Chat) {
                        return self.give_end(policy, watching, ended, now);
                    }
                    self.open_events(&watching);
                    if watching.after == 0 {
                        let body = String::from_utf8_lossy(&ended.body);
                        self.send(policy, format!("id: 1\nevent: done\ndata: {body}\n\n"), now);
                    }
                    return self.end_answer_and_finish(policy, now);
                }
                if !view.events.is_empty() || view.ended.is_some() || view.approval.is_some() {
                    self.open_events(&watching);
                }
                if view.gap {
                    let failure = Failure::new(
                        Code::EventsGone,
                        "the first events are not kept any more; look at the turn for its answer",
                    );
                    return self.fail(policy, &failure, now);
                }
                if let Some(last) = view.events.last() {
                    watching.after = last.number;
                    let out: String = view.events.iter().map(|event| event.text.as_str()).collect();
                    self.send(policy, out, now);
                }
                if view.ended.is_some() {
                    self.end_answer_and_finish(policy, now);
                } else if view.approval.is_some() || now.unix_ms >= watching.until_ms {
                    self.say_continue(policy, &watching, now);
                } else if view.waits {
                    self.wait_for_turn(watching, now);
                } else {
                    self.watch(watching, now);
                }
            }
        }
    }

    fn wait_for_turn(&mut self, watching: Watching, now: Moment) {
        self.outputs.push_back(Output::Watch { id: watching.store_id });
        self.timers.watch = Some(watching.until_ms.min(now.unix_ms + LOOK_AGAIN));
        self.phase = Phase::Watching(Box::new(watching));
    }

    /// The answer of a turn that has ended.
    fn give_end(&mut self, policy: &Policy, watching: Watching, ended: &Ended, now: Moment) {
        let mut headers = watching.rate_headers;
        headers.extend(ended.retry_after_s.map(|seconds| ("retry-after".into(), seconds.to_string())));
        let body = String::from_utf8_lossy(&ended.body).into_owned();
        self.respond(policy, ended.status, headers, body, now);
    }

    /// The turn goes on, and can be found.
    pub(super) fn accepted(
        &mut self,
        policy: &Policy,
        watching: Watching,
        state: State,
        approval: Option<Value>,
        now: Moment,
    ) {
        let mut headers = watching.rate_headers;
        headers.push(("location".into(), format!("{}{}", turns::PATH, watching.id)));
        headers.push(("retry-after".into(), LOOK_AFTER.to_string()));
        let answer = match (self.facts.language, approval.is_some()) {
            (Language::Zh, false) => "正在处理，请稍候。",
            (Language::En, false) => "Working on it. Please wait a moment.",
            (Language::Zh, true) => "需要您确认后才能继续。",
            (Language::En, true) => "This needs your confirmation to go on.",
        };
        let mut body = json!({
            "requestId": watching.id, "traceId": self.facts.trace_id, "state": state, "answer": answer,
        });
        if let Some(approval) = approval {
            body["approval"] = approval;
        }
        self.respond(policy, 202, headers, self.lettered(body.to_string()), now);
    }

    /// JSON in the letters that the client wants.
    fn lettered(&self, body: String) -> String {
        if self.facts.ascii { reply::ascii(&body) } else { body }
    }

    fn show_turn(&mut self, policy: &Policy, watching: &Watching, view: &View, now: Moment) {
        if view.waits && now.unix_ms < watching.until_ms {
            return self.wait_for_turn(watching.clone(), now);
        }
        let state = view.state;
        if let Some(ended) = &view.ended {
            let body = String::from_utf8_lossy(&ended.body);
            let rest = body.strip_prefix('{').unwrap_or("}");
            let comma = if rest.starts_with('}') { "" } else { "," };
            let body = format!("{{\"state\":{}{comma}{rest}", json!(state));
            return self.respond_json(policy, 200, body, now);
        }
        if state.is_end() {
            let body = self.failure_body(&lost()).replacen('{', "{\"state\":\"expired\",", 1);
            return self.respond_json(policy, 200, body, now);
        }
        let mut body = json!({
            "state": state,
            "requestId": watching.id,
            "since": record::timestamp(view.created_ms),
            "elapsedMs": now.unix_ms.saturating_sub(view.created_ms),
        });
        let text = text_of(view);
        if !text.is_empty() {
            body["partial"] = text.into();
        }
        if let Some(last) = view.events.last() {
            body["lastEventId"] = last.number.to_string().into();
        }
        if view.approval.is_some() {
            body["approval"] = self.approval_shown(policy, &watching.id, view);
        }
        let headers = vec![("retry-after".into(), LOOK_AFTER.to_string())];
        self.respond(policy, 200, headers, self.lettered(body.to_string()), now);
    }

    /// Opens an event stream for a client that watches.
    fn open_events(&mut self, watching: &Watching) {
        if self.story.opened {
            return;
        }
        let mut headers = self.common_headers();
        headers.push(("content-type".into(), "text/event-stream; charset=utf-8".into()));
        // A proxy in front (nginx) must not hold events back.
        headers.push(("x-accel-buffering".into(), "no".into()));
        headers.extend(watching.rate_headers.iter().cloned());
        self.story.status = 200;
        self.story.opened = true;
        self.outputs.push_back(Output::Head { status: 200, headers });
    }

    /// The stream ends here and the turn does not: the client comes back for the rest.
    fn say_continue(&mut self, policy: &Policy, watching: &Watching, now: Moment) {
        self.open_events(watching);
        let data = json!({
            "requestId": watching.id,
            "lastEventId": watching.after.to_string(),
            "path": format!("{}{}/events", turns::PATH, watching.id),
        });
        self.send(policy, format!("event: continue\ndata: {data}\n\n"), now);
        self.end_answer_and_finish(policy, now);
    }

    fn end_answer_and_finish(&mut self, policy: &Policy, now: Moment) {
        self.end_answer();
        self.finish(policy, now);
    }

    /// The client of a turn has gone: one that cannot be found again ends with it.
    pub(super) fn leave_turn(&mut self) {
        match &self.phase {
            Phase::Watching(watching) if watching.attached => self.end_turn(&watching.id.clone()),
            // It may be made at this moment.
            Phase::Gates(waiting) if waiting.makes_turn() && self.is_attached() => {
                self.end_turn(&self.facts.request_id.clone());
            }
            _ => {}
        }
    }

    pub(super) fn end_turn(&mut self, id: &str) {
        let owner = Some(self.owner());
        self.tell(turns::cell(id), Op::Turn(TurnOp::Cancel { owner }));
    }
}

/// Whoever was to tell its end has died, and it comes to none.
fn lost() -> Failure {
    Failure::new(Code::TurnExpired, "the turn's time was over before it ended")
}

/// The text of the answer so far. Events of text after a second `meta` begin anew.
fn text_of(view: &View) -> String {
    #[derive(Deserialize)]
    struct Delta<'a> {
        #[serde(borrow)]
        text: Option<&'a RawValue>,
    }
    let (mut text, mut draft) = (String::new(), String::new());
    for event in &view.events {
        let field = |name: &str| event.text.lines().find_map(|line| line.strip_prefix(name));
        let (Some(kind), Some(data)) = (field("event: "), field("data: ")) else { continue };
        let said = || {
            let delta = serde_json::from_str::<Delta<'_>>(data).ok()?;
            serde_json::from_str::<String>(delta.text?.get()).ok()
        };
        match kind {
            "meta" => {
                text.clear();
                draft.clear();
            }
            "delta" | "refined" => text.extend(said()),
            "draft" => draft.extend(said()),
            _ => {}
        }
    }
    if text.is_empty() { draft } else { text }
}

pub(super) fn unknown() -> Failure {
    Failure::new(Code::TurnUnknown, "no such turn, or not any more, or not the caller's")
}
