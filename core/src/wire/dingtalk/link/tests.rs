#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::{super::stream::MESSAGES, *};
use crate::wire::json;

const START: u64 = 1_795_232_797_000;

/// A link and what it has asked for.
struct World {
    link: Link,
    now_ms: u64,
    /// Every pause is of this part of its bound, in 256ths.
    random: u8,
    done: Vec<Output>,
}

impl World {
    fn new() -> Self {
        let robot = Robot {
            name: "desk".into(),
            app_key: "KEY".into(),
            app_secret: "SECRET".into(),
            api: "https://api.dingtalk.com".into(),
            silent_ms: SILENT_MS,
        };
        let now = Moment { unix_ms: START, entropy: [7; 16] };
        let mut world = Self { link: Link::new(robot, now), now_ms: START, random: 7, done: Vec::new() };
        world.drain();
        world
    }

    fn drain(&mut self) {
        self.done.clear();
        while let Some(output) = self.link.poll() {
            self.done.push(output);
        }
    }

    fn handle(&mut self, input: Input<'_>) {
        let moment = Moment { unix_ms: self.now_ms, entropy: [self.random; 16] };
        self.link.handle(moment, input);
        self.drain();
    }

    fn wait(&mut self) {
        self.now_ms = self.now_ms.max(self.link.deadline().expect("there is something to wait for"));
        self.handle(Input::Deadline);
    }

    fn asked(&self) -> Option<u32> {
        self.done.iter().find_map(|output| match output {
            Output::Ask { socket, .. } => Some(*socket),
            _ => None,
        })
    }

    fn answer(&mut self, socket: u32) {
        let body = br#"{"endpoint":"wss://wss.dingtalk.com:443/connect","ticket":"TICKET"}"#;
        self.handle(Input::Answered { socket, status: 200, body });
        let address = "wss://wss.dingtalk.com:443/connect?ticket=TICKET".to_owned();
        assert_eq!(self.done, [Output::Connect { socket, address }]);
    }

    fn open(&mut self) -> u32 {
        let socket = self.asked().expect("an attempt");
        self.answer(socket);
        self.handle(Input::Opened { socket, peer: "203.0.113.7" });
        assert!(self.link.is_open());
        socket
    }

    fn hear(&mut self, socket: u32, kind: &str, topic: &str, id: &str, data: &str) {
        let frame = format!(
            r#"{{"type":"{kind}","headers":{{"messageId":"{id}","topic":"{topic}"}},"data":{}}}"#,
            json::string(data)
        );
        self.handle(Input::Heard { socket, frame: frame.as_bytes() });
    }

    fn hear_message(&mut self, socket: u32, id: &str) {
        self.hear(socket, "CALLBACK", MESSAGES, id, r#"{"msgId":"m"}"#);
    }

    fn closed(&self) -> Vec<u32> {
        let closed = |output: &Output| match output {
            Output::Close { socket } => Some(*socket),
            _ => None,
        };
        self.done.iter().filter_map(closed).collect()
    }

    fn events(&self) -> Vec<&'static str> {
        let event = |output: &Output| match output {
            Output::Say { event, .. } => Some(*event),
            _ => None,
        };
        self.done.iter().filter_map(event).collect()
    }
}

#[test]
fn a_message_is_answered_first_and_then_handed_on() {
    let mut world = World::new();
    let socket = world.open();
    assert_eq!(world.events(), ["dingtalk_stream_open"]);
    world.hear_message(socket, "f1");
    let [Output::Send { socket: to, frame }, Output::Hand { message, head, body }] = world.done.as_slice()
    else {
        panic!("{:?}", world.done)
    };
    assert!(*to == socket && frame.contains(r#""code":200"#) && frame.contains(r#""messageId":"f1""#));
    assert_eq!(
        (head.method.as_str(), head.path.as_str(), head.robot.as_deref()),
        ("POST", "/dingtalk/desk", Some("desk"))
    );
    assert_eq!((head.peer.as_str(), body.as_str(), *message), ("203.0.113.7", r#"{"msgId":"m"}"#, 1));
    world.handle(Input::Taken { message: 1, status: Some(200) });
    // The same frame again is answered again and no more.
    world.hear_message(socket, "f1");
    assert!(matches!(world.done.as_slice(), [Output::Send { .. }]));
    let counts = world.link.counts();
    assert_eq!((counts.opened, counts.messages, counts.repeated), (1, 1, 1));
}

#[test]
fn a_message_that_was_not_taken_is_handed_on_again() {
    let mut world = World::new();
    let socket = world.open();
    world.hear_message(socket, "f1");
    for status in [Some(503), None, Some(429)] {
        world.handle(Input::Taken { message: 1, status });
        assert!(world.done.is_empty());
        world.wait();
        assert!(matches!(world.done.as_slice(), [Output::Hand { message: 1, .. }]), "{:?}", world.done);
    }
    world.handle(Input::Taken { message: 1, status: Some(404) });
    world.handle(Input::Taken { message: 1, status: Some(503) });
    assert!(world.done.is_empty() && world.link.pending.is_empty());
    world.hear_message(socket, "f2");
    for _ in 1..MOST_TRIES {
        world.handle(Input::Taken { message: 2, status: None });
        // A whisper may come between.
        while !world.done.iter().any(|output| matches!(output, Output::Hand { .. })) {
            world.wait();
        }
    }
    world.handle(Input::Taken { message: 2, status: None });
    assert_eq!(world.events(), ["dingtalk_stream_message_lost"]);
}

#[test]
fn with_too_many_on_hand_nothing_is_promised() {
    let mut world = World::new();
    let socket = world.open();
    for number in 0..MOST_PENDING {
        world.hear_message(socket, &format!("f{number}"));
        assert_eq!(world.done.len(), 2);
    }
    world.hear_message(socket, "more");
    assert!(world.done.is_empty());
    // What is answered already is answered still.
    world.hear_message(socket, "f0");
    assert_eq!(world.done.len(), 1);
    world.handle(Input::Taken { message: 1, status: Some(200) });
    world.hear_message(socket, "more");
    assert_eq!(world.done.len(), 2);
}

#[test]
fn before_a_socket_ends_there_is_another() {
    let mut world = World::new();
    let first = world.open();
    world.now_ms += STEADY_MS;
    world.hear(first, "SYSTEM", "disconnect", "d", "{}");
    assert!(world.closed().is_empty());
    let second = world.asked().expect("at once");
    // What still comes on the old one counts.
    world.hear_message(first, "f1");
    assert_eq!(world.done.len(), 2);
    world.answer(second);
    world.handle(Input::Opened { socket: second, peer: "" });
    assert!(world.closed().is_empty());
    world.hear_message(first, "f2");
    assert_eq!(world.done.len(), 2);
    assert_eq!(world.link.deadline(), Some(world.now_ms + LINGER_MS));
    world.wait();
    assert_eq!(world.closed(), [first]);
    world.hear_message(first, "f3");
    assert!(world.done.is_empty());
    // A second word of it on a socket that is old already begins nothing.
    assert!(world.link.is_open());
}

#[test]
fn pings_are_answered_and_kept_up() {
    let mut world = World::new();
    let socket = world.open();
    world.hear(socket, "SYSTEM", "ping", "p", r#"{"opaque":"x"}"#);
    assert!(
        matches!(world.done.as_slice(), [Output::Send { frame, .. }] if frame.contains(r#"\"opaque\":\"x\""#))
    );
    world.wait();
    assert_eq!(
        (world.now_ms, world.done.as_slice()),
        (START + WHISPER_MS, &[Output::Whisper { socket }][..])
    );
}

#[test]
fn a_silent_socket_is_replaced() {
    let mut world = World::new();
    let first = world.open();
    world.wait();
    world.wait();
    assert_eq!(world.now_ms, START + 2 * WHISPER_MS);
    world.wait();
    assert_eq!((world.now_ms, world.events()), (START + SILENT_MS, vec!["dingtalk_stream_silent"]));
    assert!(!world.link.is_open() && world.closed().is_empty());
    let second = world.open();
    world.wait();
    assert_eq!(world.closed(), [first]);
    // A frame in time, and it stays.
    world.now_ms += SILENT_MS / 2;
    world.hear(second, "SYSTEM", "KEEPALIVE", "k", "");
    let heard = world.now_ms;
    while world.now_ms < heard + SILENT_MS - 1 && world.events().is_empty() {
        world.wait();
    }
    assert_eq!(world.now_ms, heard + SILENT_MS);
}

#[test]
fn attempts_become_rarer_and_never_end() {
    let mut world = World::new();
    world.random = 255;
    let mut pauses = Vec::new();
    for _ in 0..20 {
        let socket = world.asked().expect("an attempt");
        world.handle(Input::Ended { socket, why: "closed" });
        let began = world.now_ms;
        world.wait();
        pauses.push(world.now_ms - began);
    }
    assert!(pauses.iter().all(|pause| *pause <= 60_000), "{pauses:?}");
    // The bounds of the random parts grow.
    assert!(world.link.failures == 20 && world.link.counts().failed == 20);
    // It never waits for an answer for longer than a while.
    let socket = world.asked().expect("an attempt");
    world.wait();
    assert_eq!(world.closed(), [socket]);
    while world.asked().is_none() {
        world.wait();
    }
    world.open();
    world.now_ms += STEADY_MS;
    let open = world.link.current.as_ref().expect("open").id;
    world.handle(Input::Ended { socket: open, why: "closed" });
    assert_eq!((world.events(), world.link.failures), (vec!["dingtalk_stream_lost"], 0));
}

#[test]
fn a_refusal_is_said_once_for_each_attempt_and_has_no_credential() {
    let mut world = World::new();
    let socket = world.asked().expect("an attempt");
    world.handle(Input::Answered { socket, status: 401, body: br#"{"code":"authFailed"}"# });
    let [Output::Say { level, event, fields }] = world.done.as_slice() else { panic!("{:?}", world.done) };
    assert_eq!((*level, *event, &fields["status"]), ("error", "dingtalk_stream_refused", &Value::from(401)));
    assert_eq!(fields["traceId"].as_str().map(str::len), Some(32));
    assert!(fields.values().all(|value| !value.to_string().contains("SECRET")));
}

#[test]
fn a_server_that_only_disconnects_is_not_asked_without_end() {
    let mut world = World::new();
    for _ in 0..10 {
        let socket = world.open();
        world.hear(socket, "SYSTEM", "disconnect", "d", "{}");
        assert_eq!(world.asked(), None);
        while world.asked().is_none() {
            world.wait();
        }
    }
    assert_eq!(world.link.failures, 10);
}

#[test]
fn late_answers_and_strange_sockets_change_nothing() {
    let mut world = World::new();
    let first = world.asked().expect("an attempt");
    world.wait();
    while world.asked().is_none() {
        world.wait();
    }
    world.handle(Input::Answered { socket: first, status: 200, body: b"{}" });
    world.handle(Input::Opened { socket: first, peer: "" });
    world.handle(Input::Ended { socket: first, why: "closed" });
    world.hear_message(first, "f");
    assert!(world.done.is_empty() && !world.link.is_open());
}

#[test]
fn the_end_closes_all_of_it() {
    let mut world = World::new();
    let first = world.open();
    world.hear_message(first, "f");
    world.now_ms += STEADY_MS;
    world.hear(first, "SYSTEM", "disconnect", "d", "{}");
    let attempt = world.asked().expect("another");
    world.handle(Input::Stop);
    assert_eq!(world.closed(), [attempt, first]);
    world.handle(Input::Ended { socket: first, why: "closed" });
    world.hear_message(first, "g");
    assert!(world.done.is_empty());
    world.handle(Input::Taken { message: 1, status: Some(200) });
    assert_eq!(world.link.deadline(), None);
    assert!(!world.link.hands_on());
}

#[test]
fn what_the_store_does_not_take_before_the_end_is_said_to_be_lost() {
    for failed_before in [true, false] {
        let mut world = World::new();
        let first = world.open();
        world.hear_message(first, "f");
        if failed_before {
            world.handle(Input::Taken { message: 1, status: Some(503) });
        }
        world.handle(Input::Stop);
        if !failed_before {
            assert!(world.link.hands_on());
            world.handle(Input::Taken { message: 1, status: Some(503) });
        }
        assert!(!world.link.hands_on());
        assert!(format!("{:?}", world.done).contains("dingtalk_stream_message_lost"));
    }
}

#[cfg(not(target_arch = "wasm32"))]
mod sequences {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Happening {
        Answered(bool),
        Opened,
        Message(u8),
        Disconnect,
        Ended(u8),
        Taken(bool),
        Time(u32),
    }

    fn happening() -> impl Strategy<Value = Happening> {
        prop_oneof![
            3 => prop::bool::weighted(0.8).prop_map(Happening::Answered),
            3 => Just(Happening::Opened),
            4 => (0_u8..20).prop_map(Happening::Message),
            1 => Just(Happening::Disconnect),
            1 => any::<u8>().prop_map(Happening::Ended),
            3 => any::<bool>().prop_map(Happening::Taken),
            4 => (0_u32..200_000).prop_map(Happening::Time),
        ]
    }

    /// What a host would know.
    #[derive(Default)]
    struct Host {
        asking: Option<u32>,
        connecting: Option<u32>,
        open: BTreeSet<u32>,
        handed: BTreeSet<u64>,
        /// How often a frame was handed on for the first time.
        first: BTreeMap<String, u32>,
    }

    impl Host {
        fn perform(&mut self, outputs: &[Output], heard: Option<&str>) {
            let mut answered = false;
            for output in outputs {
                match output {
                    Output::Ask { socket, .. } => {
                        assert!(self.asking.is_none() && self.connecting.is_none(), "one attempt at a time");
                        self.asking = Some(*socket);
                    }
                    Output::Connect { socket, .. } => self.connecting = Some(*socket),
                    Output::Send { socket, .. } => {
                        assert!(self.open.contains(socket));
                        answered = true;
                    }
                    Output::Whisper { socket } => assert!(self.open.contains(socket)),
                    Output::Hand { message, .. } => {
                        assert!(self.handed.insert(*message), "an exchange has it already");
                        if let Some(id) = heard {
                            assert!(answered, "handed on and not answered");
                            *self.first.entry(id.to_owned()).or_default() += 1;
                        }
                    }
                    Output::Close { socket } => {
                        self.asking.take_if(|asking| asking == socket);
                        self.connecting.take_if(|connecting| connecting == socket);
                        self.open.remove(socket);
                    }
                    Output::Say { .. } => {}
                }
            }
        }
    }

    fn pick<T: Copy + Ord>(set: &BTreeSet<T>, at: u8) -> Option<T> {
        set.iter().nth(usize::from(at) % set.len().max(1)).copied()
    }

    proptest! {
        #[test]
        fn whatever_happens(happenings in prop::collection::vec(happening(), 0..120), random: u8) {
            let mut world = World::new();
            world.random = random;
            let mut host = Host::default();
            host.perform(&world.done, None);
            world.done.clear();
            for happening in happenings {
                let mut heard = None;
                match happening {
                    Happening::Answered(well) => if let Some(socket) = host.asking.take() {
                        let body: &[u8] = if well { br#"{"endpoint":"wss://w.dingtalk.com/c","ticket":"t"}"# } else { b"" };
                        world.handle(Input::Answered { socket, status: 200, body });
                    },
                    Happening::Opened => if let Some(socket) = host.connecting.take() {
                        host.open.insert(socket);
                        world.handle(Input::Opened { socket, peer: "" });
                    },
                    Happening::Message(id) => if let Some(socket) = pick(&host.open, id) {
                        let id = format!("f{id}");
                        world.hear_message(socket, &id);
                        heard = Some(id);
                    },
                    Happening::Disconnect => if let Some(socket) = pick(&host.open, random) {
                        world.hear(socket, "SYSTEM", "disconnect", "", "");
                    },
                    Happening::Ended(at) => if let Some(socket) = pick(&host.open, at) {
                        host.open.remove(&socket);
                        world.handle(Input::Ended { socket, why: "closed" });
                    },
                    Happening::Taken(well) => if let Some(message) = pick(&host.handed, random) {
                        host.handed.remove(&message);
                        world.handle(Input::Taken { message, status: well.then_some(200) });
                    },
                    Happening::Time(ms) => {
                        world.now_ms += u64::from(ms);
                        world.handle(Input::Deadline);
                    }
                }
                host.perform(&world.done, heard.as_deref());
                world.done.clear();
                prop_assert!(host.open.len() <= 2, "{:?}", host.open);
                prop_assert!(world.link.deadline().is_some(), "nothing would ever happen again");
                prop_assert!(host.first.values().all(|times| *times == 1), "{:?}", host.first);
            }
            // When all goes well from now on a socket is open before long.
            let until = world.now_ms + 4 * 60_000;
            while !world.link.is_open() {
                prop_assert!(world.now_ms <= until);
                if let Some(socket) = host.asking.take() {
                    world.answer(socket);
                } else if let Some(socket) = host.connecting.take() {
                    host.open.insert(socket);
                    world.handle(Input::Opened { socket, peer: "" });
                } else {
                    world.wait();
                }
                host.perform(&world.done, None);
                world.done.clear();
            }
        }

        #[test]
        fn any_frame_on_any_socket(frames in prop::collection::vec((0_u32..4, prop::collection::vec(0_u8..=255, 0..60)), 0..20)) {
            let mut world = World::new();
            world.open();
            for (socket, frame) in frames {
                world.handle(Input::Heard { socket, frame: &frame });
            }
        }
    }
}
