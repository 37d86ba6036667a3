#![allow(clippy::unwrap_used, reason = "a test says so when something is missing")]

use minigate_core::{
    policy::{Environment, Policy},
    seam::{Delivery, RequestHead, StepFrame, step_frame},
};

use super::{
    rerun::{Rerun, Stepper},
    *,
};

const KEY: &str = "key-canary-51d0";
const CODE: &str = "code-canary-7b11";
const ANSWER: &[u8] =
    br#"{"choices":[{"message":{"role":"assistant","content":"said"},"finish_reason":"stop"}]}"#;

fn dev() -> Policy {
    Policy { environment: Environment::Dev, ..Policy::default() }
}

/// The core as it is here, in the place of a module.
fn stepper(policy: Policy) -> Stepper<'static> {
    Box::new(move |now, step, payload| {
        let frame = postcard::to_stdvec(&StepFrame { now, step }).unwrap();
        let reply = step_frame(&policy, &frame, payload).map_err(|error| format!("{error:?}"))?;
        Ok(postcard::from_bytes(&reply).unwrap())
    })
}

/// Drives a request to its end with a store that fails and a model that answers.
fn taped(policy: &Policy, path: &str, body: &str) -> Option<Kept> {
    let mut step = stepper(policy.clone());
    let mut clock = 0;
    let mut moment = || {
        clock += 1;
        Moment { unix_ms: 1_795_232_797_000 + clock, entropy: [u8::try_from(clock).unwrap(); 16] }
    };
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let head = RequestHead {
        method: "POST".into(),
        path: path.into(),
        headers: vec![header("x-api-key", KEY), header("content-type", "application/json")],
        content_length: Some(body.len() as u64),
        ..RequestHead::default()
    };
    let (now, begin) = (moment(), Step::Begin(head));
    let reply = step(now, begin.clone(), &[]);
    let mut tape = Tape::begin(now, &begin, &reply);
    let mut reply = reply.unwrap();
    while !reply.outputs.contains(&Output::Done) {
        let answered = reply.outputs.iter().find_map(|output| match output {
            Output::ReadBody { .. } => Some((Input::Body(&[]), body.as_bytes())),
            Output::Store { id, .. } if *id > 0 => Some((Input::StoreFailed { id: *id }, &[] as &[u8])),
            Output::Fetch(fetch) => {
                assert!(matches!(fetch.delivery, Delivery::Whole { .. }));
                Some((
                    Input::FetchWhole { id: fetch.id, status: 200, headers: Vec::new(), body: &[] },
                    ANSWER,
                ))
            }
            _ => None,
        });
        let (input, payload) = answered.expect("something is waited for");
        let now = moment();
        let step_taken = Step::Continue { state: &reply.state, input: input.clone() };
        let next = step(now, step_taken, payload);
        tape.note(now, &input, &[Bytes::copy_from_slice(payload)], &next);
        reply = next.unwrap();
    }
    tape.end()
}

fn chat(policy: &Policy) -> Kept {
    taped(policy, "/api/chat", r#"{"messages":[{"role":"user","content":"asked"}]}"#).expect("kept")
}

fn is_same(run: &Rerun<'_>) -> bool {
    run.came().stopped.is_none() && run.came().taken.iter().all(|step| step.same)
}

#[test]
fn the_same_comes_out_again_and_a_change_is_found() {
    let kept = chat(&dev());
    let run = Rerun::again(stepper(dev()), &kept);
    assert!(is_same(&run), "{:?}", run.came());
    assert_eq!(run.came().taken.len(), kept.steps.len());
    assert_eq!(run.came().decisions.get("log.status").map(String::as_str), Some("200"));
    assert!(run.came().answer.contains("said") && run.came().sent[0].1.contains("asked"));

    for at in 0..kept.steps.len() {
        let mut changed = kept.clone();
        let step = &mut changed.steps[at];
        match step.payload.is_empty() {
            true => step.now.unix_ms += 60_000,
            false => {
                step.payload =
                    String::from_utf8_lossy(&step.payload).replace("sa", "pa").replace("as", "ap").into()
            }
        }
        assert!(!is_same(&Rerun::again(stepper(dev()), &changed)), "step {at}");
    }
    let mut short = kept.clone();
    short.steps.pop();
    let run = Rerun::again(stepper(dev()), &short);
    assert!(run.came().stopped.is_some(), "its end is missing");
}

#[test]
fn what_would_differ_is_said() {
    let kept = chat(&dev());
    let before = Rerun::again(stepper(dev()), &kept);
    let mut other = dev();
    other.chat.system_prompt = Some("Be brief.".into());
    let after = Rerun::otherwise(stepper(other), &kept, &before, None);
    assert_eq!(after.came().stopped, None);
    let said = show::differences(before.came(), after.came());
    assert!(said.contains("request 1") && said.contains("Be brief."), "{said}");
    let after = Rerun::otherwise(stepper(dev()), &kept, &before, None);
    assert_eq!(show::differences(before.came(), after.came()), "");

    // The model answers anew.
    let mut ask = |fetch: &minigate_core::seam::Fetch, body: &[u8]| {
        assert!(String::from_utf8_lossy(body).contains("asked"));
        let answer = String::from_utf8_lossy(ANSWER).replace("said", "said anew").into_bytes();
        vec![(Input::FetchWhole { id: fetch.id, status: 200, headers: Vec::new(), body: &[] }, answer)]
    };
    let after = Rerun::otherwise(stepper(dev()), &kept, &before, Some(&mut ask));
    assert!(after.came().answer.contains("said anew"), "{:?}", after.came());
}

#[test]
fn nothing_is_kept_that_may_not_be() {
    let kept = chat(&dev());
    let mut all = postcard::to_stdvec(&kept.first).unwrap();
    all.extend(kept.steps.iter().flat_map(|step| [step.input.clone(), step.payload.clone()].concat()));
    assert!(!String::from_utf8_lossy(&all).contains(KEY));
    assert!(String::from_utf8_lossy(&all).contains("asked"));

    let body = r#"{"messages":[{"role":"user","content":"asked"}]}"#;
    let prod = Policy {
        api_keys: vec![minigate_core::policy::auth::KeyDigest::of(KEY.as_bytes())],
        ..Policy::default()
    };
    assert_eq!(taped(&prod, "/api/chat", body), None);
    let mut allowed = prod.clone();
    allowed.catalog.audit.content = Some(true);
    assert!(taped(&allowed, "/api/chat", body).is_some());
    allowed.catalog.audit.enabled = false;
    assert_eq!(taped(&allowed, "/api/chat", body), None);
    assert_eq!(taped(&dev(), "/v1/mini/login", &format!(r#"{{"code":"{CODE}"}}"#)), None);
}

fn directory(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("minigate-replay-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn what_is_written_is_read_and_what_is_too_old_or_too_much_goes() {
    let directory = directory("database");
    let kept = chat(&dev());
    let mut database = Database::create(&directory, "m").unwrap();
    database.add(&kept, "c").unwrap();
    let found = Database::find(&directory, &kept.trace_id).unwrap();
    assert_eq!((found.len(), &found[0].kept, found[0].module.as_str()), (1, &kept, "m"));
    database.sweep(kept.began_ms).unwrap();
    assert_eq!(Database::find(&directory, &kept.request_id).unwrap().len(), 1);
    database.sweep(kept.began_ms + 1).unwrap();
    assert!(Database::find(&directory, &kept.request_id).unwrap().is_empty());

    let mut large = kept.clone();
    large.steps[0].payload = vec![b'x'; MOST_OF_ONE];
    let fit = MOST_OF_ALL / large.bytes();
    for _ in 0..fit + 2 {
        database.add(&large, "c").unwrap();
        database.sweep(0).unwrap();
    }
    assert_eq!(Database::find(&directory, &kept.request_id).unwrap().len() as u64, fit);
    drop(database);
    forget(&directory);
    assert!(!directory.join("replay.sqlite").exists());
}

#[test]
fn of_one_exchange_only_so_much_is_kept() {
    let long = "x".repeat(MOST_OF_ONE);
    let body = format!(r#"{{"messages":[{{"role":"user","content":"{long}"}}]}}"#);
    let kept = taped(&dev(), "/api/chat", &body).expect("kept");
    assert!(kept.cut && kept.steps.is_empty() && kept.bytes() < 64 * 1024);
}
