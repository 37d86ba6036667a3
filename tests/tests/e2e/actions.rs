//! Tools end to end: what a model may do, who is asked before, and that it is done once. The
//! tools' server counts.

use minigate_tests::{turns::Story, until};
use serde_json::{Value, json};

use crate::{
    Scenario, Scene, scenarios,
    stage::{PATIENCE, Place, Stage, ask, id_of, wants},
};

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![
        a_person_agrees_and_it_is_done_once,
        a_no_ends_in_an_explanation,
        what_only_reads_needs_nobody,
        operators_are_asked,
        a_doubt_stays_a_doubt,
        what_is_done_once_by_its_key_is_sent_again,
        whoever_cancels_a_question_ends_it,
        what_does_not_fit_is_not_sent,
    ]
}

/// Runs a scenario over each store of a host.
async fn on_each(scene: &Scene, name: &str, scenario: impl AsyncFn(&Scene, &Stage)) {
    for place in Place::of(scene.kind) {
        let stage = Stage::start(scene, *place, name, &[]).await;
        scenario(scene, &stage).await;
        stage.stop().await;
    }
}

/// The path of the question that an answer shows.
fn question_of(asked: &Value) -> String {
    let id = asked["approval"]["approvalId"].as_str();
    format!("/v1/mini/approvals/{}", id.unwrap_or_else(|| panic!("nobody is asked: {asked}")))
}

/// Asks with a key; gives the turn and the path of its question.
async fn asked(stage: &Stage, key: &str, body: &Value) -> (String, String) {
    let answer = stage.person().ask_keyed(key, body).await;
    let value = answer.json();
    assert_eq!((answer.status, &value["state"]), (202, &json!("needs_approval")), "{}", answer.text);
    (id_of(&answer), question_of(&value))
}

/// What became of the only call of a turn.
fn outcome(turn: &Value) -> &Value {
    assert_eq!(turn["actions"].as_array().map(Vec::len), Some(1), "{turn}");
    &turn["actions"][0]["outcome"]
}

async fn a_person_agrees_and_it_is_done_once(scene: Scene) {
    on_each(&scene, "agrees", async |scene, stage| {
        let (person, order) = (stage.person(), stage.marker("agrees"));
        let body = wants("shop", "refund", &order, "");
        let (id, path) = asked(stage, "agrees-1", &body).await;
        let shown = person.get(&path).await.json();
        assert_eq!(shown["arguments"]["order"], order.as_str());
        assert_eq!((&shown["tool"], &shown["requestId"]), (&json!("refund"), &json!(id)));
        assert_eq!(stage.tools.calls(&order), [], "nothing is sent before somebody agrees");
        // Nobody else sees it or decides, and what was not shown cannot be agreed to.
        let stranger = stage.stranger();
        assert_eq!(stranger.get(&path).await.status, 404);
        let word = json!({"decision": "approve", "grant": shown["grant"]});
        assert_eq!(stranger.send("POST", &path, &[], Some(&word)).await.expect("an answer").status, 404);
        let word = json!({"decision": "approve", "grant": "1.00"});
        let invented = person.send("POST", &path, &[], Some(&word)).await.expect("an answer");
        assert_eq!(invented.error(), (409, "grant_invalid".into()));
        assert_eq!(stage.tools.calls(&order), []);

        let decided = person.decide(&path, "approve").await;
        assert_eq!(decided.json()["decision"], "approved", "{}", decided.text);
        let done = person.until(&id, &["done", "failed"]).await;
        assert_eq!(outcome(&done), "done");
        assert_eq!(done["answer"], format!("said | {{\"receipt\":\"receipt-{order}-1\"}}"));
        let calls = stage.tools.calls(&order);
        assert_eq!((calls.len(), stage.tools.times_done(&order)), (1, 1));
        assert!(calls[0].key.starts_with(&format!("{id}-1-")), "{}", calls[0].key);
        // The word counts once, and so does the request.
        assert_eq!(person.decide(&path, "approve").await.error(), (410, "approval_gone".into()));
        let again = person.ask_keyed("agrees-1", &body).await;
        assert_eq!((again.status, &again.json()["answer"]), (200, &done["answer"]));
        assert_eq!(stage.tools.times_done(&order), 1);
        assert_eq!(scene.upstream().seen(&order).len(), 2);
        // Its events are all there to be read again.
        let mut story = Story::default();
        let events = person.events(&id, "0").await.expect("an answer");
        story.push(&events.text().await.expect("events"));
        let names: Vec<String> = story.events().into_iter().map(|(name, _)| name).collect();
        let told = ["approval", "tool", "done"].map(|name| names.iter().position(|is| is == name));
        assert!(told[0].is_some() && told[0] < told[1] && told[1] < told[2], "{names:?}");
    })
    .await;
}

async fn a_no_ends_in_an_explanation(scene: Scene) {
    on_each(&scene, "no", async |scene, stage| {
        let (person, order) = (stage.person(), stage.marker("no"));
        let (id, path) = asked(stage, "no-1", &wants("shop", "refund", &order, "")).await;
        assert_eq!(person.decide(&path, "refuse").await.json()["decision"], "refused");
        let done = person.until(&id, &["done", "failed"]).await;
        assert_eq!(outcome(&done), "not_approved", "{done}");
        assert!(done["answer"].as_str().is_some_and(|said| said.starts_with("said | Not called")), "{done}");
        assert_eq!(stage.tools.calls(&order), []);
        let told = scene.upstream().seen(&order).pop().expect("it was told");
        assert!(told.body.get("tools").is_none(), "it may only explain");
        assert!(told.raw.windows(21).any(|words| words == b"only explain in words"), "{}", told.body);
    })
    .await;
}

async fn what_only_reads_needs_nobody(scene: Scene) {
    on_each(&scene, "reads", async |_, stage| {
        let (person, order) = (stage.person(), stage.marker("reads"));
        let first = json!({"order": order, "how": "busy"});
        let second = json!({"order": order});
        let text = format!("{order} [[up:text=found]][[up:call=lookup {first}]][[up:call=lookup {second}]]");
        // Without a key, and its client waits.
        let answer = person.ask(&[], &ask("shop", &text)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let said = answer.json()["answer"].as_str().unwrap_or_default().to_owned();
        assert!(said.starts_with("found | ") && said.contains(&format!("receipt-{order}-2")), "{said}");
        let keys: Vec<String> = stage.tools.calls(&order).into_iter().map(|call| call.key).collect();
        assert!(keys.len() == 3 && keys[0] == keys[1] && keys[1] != keys[2], "{keys:?}");
        // Its stream has the same.
        let order = stage.marker("reads-stream");
        let mut body = wants("shop", "lookup", &order, "");
        body["stream"] = json!(true);
        let mut story = Story::default();
        story.push(&person.ask(&[], &body).await.text);
        let end = story.end().expect("an end");
        assert_eq!(end.0, "done", "{}", story.text);
        assert_eq!(outcome(&end.1), "done");
        assert!(story.answer().contains(&format!("receipt-{order}-1")), "{}", story.text);
    })
    .await;
}

async fn operators_are_asked(scene: Scene) {
    on_each(&scene, "operators", async |_, stage| {
        let (person, order) = (stage.person(), stage.marker("operators"));
        let (id, path) = asked(stage, "operators-1", &wants("till", "close", &order, "")).await;
        assert_eq!(person.decide(&path, "approve").await.error(), (403, "approval_forbidden".into()));
        let theirs = path.replace("/v1/mini/", "/v1/admin/");
        assert_eq!(person.get(&theirs).await.status, 401, "no operator");
        let one = stage.operator(0);
        until("the list", PATIENCE, async || one.get("/v1/admin/approvals").await.text.contains(&id)).await;
        assert_eq!(one.decide(&theirs, "approve").await.json()["decision"], "approved");
        let done = person.until(&id, &["done", "failed"]).await;
        assert_eq!((outcome(&done), stage.tools.times_done(&order)), (&json!("done"), 1));

        let order = stage.marker("two-operators");
        let (id, path) = asked(stage, "operators-2", &wants("vault", "erase", &order, "")).await;
        let theirs = path.replace("/v1/mini/", "/v1/admin/");
        for _ in 0..2 {
            assert_eq!(one.decide(&theirs, "approve").await.json()["decision"], "waiting", "one is one");
        }
        assert_eq!(stage.tools.calls(&order), []);
        assert_eq!(stage.operator(1).decide(&theirs, "approve").await.json()["decision"], "approved");
        let done = person.until(&id, &["done", "failed"]).await;
        assert_eq!((outcome(&done), stage.tools.times_done(&order)), (&json!("done"), 1));
    })
    .await;
}

async fn a_doubt_stays_a_doubt(scene: Scene) {
    on_each(&scene, "doubt", async |scene, stage| {
        let person = stage.person();
        // The connection breaks after the work; the answer takes longer than the tool may.
        for (how, key) in [("cut", "doubt-1"), ("lag=20000", "doubt-2")] {
            let order = format!("{key}-{}", stage.marker("doubt"));
            let (id, path) = asked(stage, key, &wants("shop", "refund", &order, how)).await;
            assert_eq!(person.decide(&path, "approve").await.json()["decision"], "approved");
            let done = person.until(&id, &["done", "failed"]).await;
            assert_eq!((&done["state"], outcome(&done)), (&json!("done"), &json!("unknown")), "{done}");
            assert!(done["answer"].as_str().is_some_and(|said| said.contains("not known whether")), "{done}");
            assert_eq!((stage.tools.calls(&order).len(), stage.tools.times_done(&order)), (1, 1));
            let again = person.ask_keyed(key, &wants("shop", "refund", &order, how)).await;
            assert_eq!(again.json()["answer"], done["answer"]);
            assert_eq!(stage.tools.calls(&order).len(), 1);
            assert_eq!(scene.upstream().seen(&order).len(), 2);
        }
        // A no of the server's is a no.
        let order = stage.marker("doubt-refused");
        let (id, path) = asked(stage, "doubt-3", &wants("shop", "refund", &order, "refuse")).await;
        person.decide(&path, "approve").await;
        let done = person.until(&id, &["done", "failed"]).await;
        assert_eq!(outcome(&done), "refused");
        assert!(done["answer"].as_str().is_some_and(|said| said.contains("the order is closed")), "{done}");
    })
    .await;
}

async fn what_is_done_once_by_its_key_is_sent_again(scene: Scene) {
    on_each(&scene, "again", async |_, stage| {
        let person = stage.person();
        for (tool, how, key) in [("refund_once", "cut_once", "again-1"), ("refund", "busy", "again-2")] {
            let order = format!("{key}-{}", stage.marker("again"));
            let (id, path) = asked(stage, key, &wants("shop", tool, &order, how)).await;
            person.decide(&path, "approve").await;
            let done = person.until(&id, &["done", "failed"]).await;
            assert_eq!(outcome(&done), "done", "{done}");
            let calls = stage.tools.calls(&order);
            assert_eq!((calls.len(), stage.tools.times_done(&order)), (2, 1), "{calls:?}");
            assert_eq!(calls[0].key, calls[1].key);
        }
    })
    .await;
}

async fn whoever_cancels_a_question_ends_it(scene: Scene) {
    on_each(&scene, "withdrawn", async |scene, stage| {
        let (person, order) = (stage.person(), stage.marker("withdrawn"));
        let (id, path) = asked(stage, "withdrawn-1", &wants("shop", "refund", &order, "")).await;
        person.cancel(&id).await;
        let ended = person.until(&id, &["cancelled", "done", "failed"]).await;
        assert_eq!(ended["state"], "cancelled", "{ended}");
        assert_eq!(person.decide(&path, "approve").await.error(), (410, "approval_gone".into()));
        assert_eq!(stage.tools.calls(&order), []);
        assert_eq!(scene.upstream().seen(&order).len(), 1);
    })
    .await;
}

async fn what_does_not_fit_is_not_sent(scene: Scene) {
    on_each(&scene, "unfit", async |_, stage| {
        let (person, order) = (stage.person(), stage.marker("unfit"));
        let text =
            format!("{order} [[up:text=said]][[up:call=refund {{\"order\":7,\"where\":\"{order}\"}}]]");
        let done = person.ask_keyed("unfit-1", &ask("shop", &text)).await;
        assert_eq!((done.status, outcome(&done.json())), (200, &json!("unfit")), "{}", done.text);
        assert!(done.json()["answer"].as_str().is_some_and(|said| said.contains("was not sent")));
        assert_eq!(stage.tools.calls(&order), []);
    })
    .await;
}
