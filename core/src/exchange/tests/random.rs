//! Whatever comes in whatever order: the rules that [`World`] watches over hold, and every
//! exchange comes to an end.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    ask::configured,
    turns::drafted,
    upstream::{
        DONE, chunk_finish, chunk_text, completion, completion_stream, error, picture, question,
        response_failed, response_stream, response_text,
    },
    world::{World, chat_head, get, guarded, policy},
};
use crate::{
    policy::{Policy, StoreFailure},
    seam::{BodyFailure, FetchFailure, Input, RequestHead},
    state::{Outcome, admission::Refusal, caller::Standing},
};

/// More deadlines than any turn has: one each 2 s of 55 while it waits for a slot.
const MOST_DEADLINES: usize = 60;

/// One input: which, which kind of it, whose id, and after how long.
type Act = (u8, u8, u8, u16);

fn bodies() -> [Value; 7] {
    let mut usage = question(true);
    usage["stream_options"] = json!({"include_usage": true});
    [question(false), question(true), picture(false), picture(true), usage, json!({"messages": []}), json!(7)]
}

fn line_groups() -> Vec<String> {
    vec![
        completion_stream(&["一", "b"]),
        response_stream(&["一", "b"]),
        chunk_text("![a](https://x.cn/a.png"),
        response_text("b"),
        chunk_finish("stop"),
        DONE.into(),
        response_failed("api_error", "x"),
        format!("data: {}\n\n", error("upstream provider error", "api_error")),
        "data: {\"half\":\n".into(),
        ": comment\n\n".into(),
        "\n".into(),
        "no line feed".into(),
    ]
}

fn act(world: &mut World, (which, kind, whose, gap): Act) {
    world.now += u64::from(gap % 12_000);
    let kind = usize::from(kind);
    let pick = |len: usize| kind % len;
    // Three in four are meant for what runs.
    let fetch = world.fetches.last().map_or(1, |fetch| fetch.id);
    let id = if whose % 4 == 0 { u32::from(whose) / 4 % 5 } else { fetch };
    let store = if whose % 4 == 0 { u32::from(whose) } else { world.asked.last().map_or(2, |asked| asked.0) };
    let status = [200, 200, 200, 401, 404, 429, 503, 0, 999][pick(9)];
    let event_stream = ("content-type".to_owned(), "text/event-stream".to_owned());
    let headers = match kind % 3 {
        0 => vec![("retry-after".to_owned(), "9".to_owned())],
        _ => vec![event_stream],
    };
    let failures =
        [FetchFailure::Connect, FetchFailure::ConnectTimeout, FetchFailure::Reset, FetchFailure::TooLarge];
    match which % 16 {
        0 | 1 => {
            let body = bodies()[pick(7)].to_string();
            world.give(Input::Body(body.as_bytes()));
        }
        2 => world.give(Input::BodyFailed([BodyFailure::TooLarge, BodyFailure::Incomplete][pick(2)])),
        3 | 4 => {
            let granted = kind % 4 != 0;
            let standings =
                [Standing::Good, Standing::Slowed, Standing::Restricted, Standing::Blocked { for_ms: 9_001 }];
            let entered = Outcome::Entered {
                granted,
                remaining: 3,
                retry_after_ms: 9_001,
                full_after_ms: 1,
                standing: standings[if kind % 5 == 0 { pick(4) } else { 0 }],
                revoked: kind % 11 == 0,
                repeated: kind % 3 == 0,
                spiked: kind % 7 == 0,
            };
            let last = [
                Outcome::Admitted,
                Outcome::Queued { ahead: 1 },
                Outcome::Refused { reason: Refusal::Full, retry_after_ms: 1, waiting: 1 },
                Outcome::Written,
            ][pick(4)]
            .clone();
            let outcomes = match kind % 6 {
                0 => vec![last],
                1 => vec![entered],
                2 => Vec::new(),
                3 => vec![Outcome::Struck(standings[pick(4)])],
                _ => vec![entered.clone(), entered, last],
            };
            world.give(Input::Stored { id: store, outcomes });
        }
        13 => {
            let id = world.watched.unwrap_or(store);
            world.give(Input::Woken { id });
        }
        5 => world.give(Input::StoreFailed { id: store }),
        6 => {
            let whole = [completion("a", "stop"), error("x", "api_error"), "{".into(), String::new()];
            world.give(Input::FetchWhole { id, status, headers, body: whole[pick(4)].as_bytes() });
        }
        7 => world.give(Input::FetchHead { id, status, headers }),
        8..=10 => {
            let groups = line_groups();
            world.give(Input::FetchLines { id, lines: groups[pick(groups.len())].as_bytes() });
        }
        11 => world.give(Input::FetchEnd { id }),
        12 => world.give(Input::FetchFailed { id, failure: failures[pick(4)] }),
        _ if kind % 8 == 0 => world.give(Input::ClientGone),
        _ => world.give(Input::Deadline),
    }
}

fn heads() -> [RequestHead; 4] {
    let mut refused = chat_head();
    refused.headers.clear();
    [chat_head(), chat_head(), get("/readyz"), refused]
}

fn policies() -> [Policy; 5] {
    let mut closed = policy();
    closed.store_failure = StoreFailure::Closed;
    let mut free = policy();
    free.roles[0].rate = None;
    let mut full = guarded();
    full.admission.places = 1;
    [policy(), closed, free, guarded(), full]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn every_exchange_keeps_the_rules_and_ends(
        head in 0_usize..4,
        rules in 0_usize..5,
        acts in proptest::collection::vec(any::<Act>(), 0..24),
    ) {
        let mut world = World::begin(policies()[rules].clone(), heads()[head].clone());
        for each in acts {
            act(&mut world, each);
        }
        let mut deadlines = 0;
        while !world.done {
            prop_assert!(deadlines < MOST_DEADLINES, "still waiting: {:?}", world.deadline);
            world.wait();
            deadlines += 1;
        }
        prop_assert_eq!(world.records.len(), 1);
        // Without a client's leaving there is an answer.
        prop_assert!(world.ended || world.record()["clientGone"] == true);
    }

    /// Also one that goes on without its client.
    #[test]
    fn a_turn_that_goes_on_ends_too(acts in proptest::collection::vec(any::<Act>(), 0..12), slots in any::<bool>()) {
        let mut policy = configured();
        if slots {
            policy.admission = guarded().admission;
        }
        let mut world = drafted(policy);
        let answer = world.text();
        for each in acts {
            act(&mut world, each);
        }
        let mut deadlines = 0;
        while !world.done {
            prop_assert!(deadlines < MOST_DEADLINES, "still waiting: {:?}", world.deadline);
            world.wait();
            deadlines += 1;
        }
        prop_assert_eq!(world.text(), answer);
        prop_assert_eq!(&world.record()["drafted"], &json!(true));
        let kept = world.told.iter().filter(|(key, _)| key.starts_with("turn:")).count();
        prop_assert_eq!(kept, 1);
    }

    /// The right inputs in the right order, with any others in between that are not meant
    /// for what runs, and any other grouping: the answer stays the same.
    #[test]
    fn strangers_do_not_change_an_answer(
        strangers in proptest::collection::vec((any::<u8>(), any::<u8>()), 40),
        group in 1_usize..9,
    ) {
        let pieces = ["一", "two ", "3️⃣"];
        let mut plain = World::asked(policy(), &question(true));
        plain.opens_stream();
        plain.lines(&completion_stream(&pieces));
        plain.closes();

        let mut world = World::asked(policy(), &question(true));
        let mut strangers = strangers.into_iter();
        let mut disturb = |world: &mut World| {
            let Some((which, kind)) = strangers.next() else { return };
            // Fetch ids begin after the store's; 900 is nobody's.
            let id = 900 + u32::from(kind);
            match which % 5 {
                0 => world.give(Input::FetchEnd { id }),
                1 => world.give(Input::FetchLines { id, lines: b"data: [DONE]\n\n" }),
                2 => world.give(Input::FetchFailed { id, failure: FetchFailure::Reset }),
                3 => world.give(Input::StoreFailed { id }),
                _ => world.give(Input::Deadline),
            }
        };
        disturb(&mut world);
        world.opens_stream();
        let stream = completion_stream(&pieces);
        let lines: Vec<&str> = stream.split_inclusive('\n').collect();
        for lines in lines.chunks(group) {
            disturb(&mut world);
            world.lines(&lines.concat());
        }
        disturb(&mut world);
        world.closes();
        prop_assert_eq!(world.text(), plain.text());
    }
}
