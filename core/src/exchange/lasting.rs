//! What every version of this program can read of a checkpoint.
//!
//! A checkpoint is an exchange of one version; another version has no use for it, and its turn
//! ends as interrupted. But whoever waits must be told: who asks on a phone finds the turn's end in its cell, who
//! asked a robot has only the way back that came with the message. And what was to be said or told of a
//! turn that has ended is known in full. So that stands in front of the exchange, by name and not by
//! place: what another version does not know of it is passed over.
//!
//! The version that wrote a checkpoint may need nothing of this. A new member of what is in here needs
//! `#[serde(default)]`, or an upgrade ends in silence for those who waited.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Exchange, Facts, notices::Notifying, robot::Heard, runner::Next, saying::Saying};
use crate::{
    policy::Policy,
    seam::Moment,
    state::turn::Claimed,
    wire::failure::{Code, Failure},
};

/// The bytes of the length that a checkpoint begins with: of the JSON after it, little-endian.
const LENGTH: usize = size_of::<u32>();

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Lasting {
    request_id: String,
    trace_id: String,
    /// How its client is answered: the names of a route and of a language, which another version
    /// may not know, and whether all that is not ASCII is escaped.
    route: Value,
    language: Value,
    ascii: bool,
    rest: Option<Rest>,
}

/// What another version goes on with, or whom it tells that nobody can.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Rest {
    Heard(Box<Heard>),
    Say(Box<Saying>),
    Notify(Box<Notifying>),
}

impl Lasting {
    pub(super) fn of(facts: &Facts, next: &Next, heard: Option<&Heard>) -> Self {
        let rest = match (next, heard) {
            (Next::Say(saying), _) => Some(Rest::Say(saying.clone())),
            (Next::Notify(notifying), _) => Some(Rest::Notify(notifying.clone())),
            (_, Some(heard)) => Some(Rest::Heard(Box::new(heard.clone()))),
            (_, None) => None,
        };
        Self {
            request_id: facts.request_id.clone(),
            trace_id: facts.trace_id.clone(),
            route: serde_json::to_value(facts.route).unwrap_or_default(),
            language: serde_json::to_value(facts.language).unwrap_or_default(),
            ascii: facts.ascii,
            rest,
        }
    }

    /// The checkpoint, with the exchange's own bytes.
    pub(super) fn before(&self, exchange: &[u8]) -> Vec<u8> {
        let json = serde_json::to_vec(self).unwrap_or_default();
        let length = u32::try_from(json.len()).unwrap_or_default().to_le_bytes();
        [&length, json.as_slice(), exchange].concat()
    }

    /// Both parts of a checkpoint; of one that was written before there was this, none.
    pub(super) fn split(checkpoint: &[u8]) -> Option<(Self, &[u8])> {
        let (length, rest) = checkpoint.split_at_checked(LENGTH)?;
        let length = u32::from_le_bytes(length.try_into().ok()?);
        let (json, exchange) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        Some((serde_json::from_slice(json).unwrap_or_default(), exchange))
    }
}

impl Exchange {
    /// The turn's checkpoint is another version's: what is known of it is done, and nobody waits
    /// for the rest.
    pub(super) fn take_up_lasting(
        &mut self,
        policy: &Policy,
        lasting: Lasting,
        claimed: &Claimed,
        now: Moment,
    ) {
        let Lasting { request_id, trace_id, route, language, ascii, rest } = lasting;
        if !request_id.is_empty() {
            (self.facts.request_id, self.facts.trace_id) = (request_id, trace_id);
        }
        if let Ok(route) = serde_json::from_value(route) {
            self.facts.route = route;
        }
        self.facts.language = serde_json::from_value(language).unwrap_or_default();
        self.facts.ascii = ascii;
        match rest {
            Some(Rest::Say(saying)) => return self.take_up_saying(policy, *saying, claimed, now),
            Some(Rest::Notify(notifying)) => return self.take_up_notice(policy, *notifying, claimed, now),
            Some(Rest::Heard(heard)) => self.robot = Some(heard),
            None => {}
        }
        let message = "another version of the gateway has it now and could not go on with the turn";
        self.fail(policy, &Failure::new(Code::Interrupted, message), now);
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    /// As the first version that had this wrote them. They stay as they are: whoever adds a member
    /// sees here whether an upgrade would lose it.
    const HEARD: &str = r#"{"request_id":"req_1","trace_id":"t1","route":"Robot","language":"Zh","ascii":false,"rest":{"heard":{"seat":{"channel":"desk",
        "conversation":"cid1","is_group":true,"asker":"0326","webhook":{"url":"https://oapi.dingtalk.com/x","expires_ms":5}},
        "party":"p","sender":"s","text":"怎么退款","attached":null,"deadline_ms":9}}}"#;
    const SAY: &str = r#"{"request_id":"req_1","trace_id":"t1","rest":{"say":{"kind":"Answer","seat":{"channel":"desk",
        "conversation":"cid1","is_group":false,"asker":"0326","webhook":null},"words":"退款要三天","since_ms":1,
        "from_ms":0,"about":null,"said":1,"attempts":2,"webhook_from_ms":null,"by_api":true,"rests":false,
        "stage":"Turn","id":3,"token":"","renewed":false}}}"#;
    const NOTIFY: &str = r#"{"request_id":"req_1","trace_id":"t1","rest":{"notify":{"way":"Webhook","event":"Done","at_ms":1,"intent":"qa",
        "profile":"qa_v1","subject":"","code":"UpstreamError","approval":null,"question":null,"attempts":1,"begun":false,
        "stage":"Store","id":2,"openid":"","token":"","renewed":false}}}"#;

    fn read(json: &str) -> Lasting {
        serde_json::from_str(json).expect("an older version's can be read")
    }

    #[test]
    fn what_the_first_version_wrote_is_read() {
        assert!(matches!(read(HEARD).rest, Some(Rest::Heard(heard)) if heard.seat.is_group));
        assert!(matches!(read(SAY).rest, Some(Rest::Say(saying)) if saying.is_end()));
        assert!(matches!(read(NOTIFY).rest, Some(Rest::Notify(_))));
    }

    #[test]
    fn what_a_newer_version_knows_besides_is_passed_over() {
        let newer = HEARD.replacen('{', r#"{"since":7,"#, 1).replace(r#""party""#, r#""mood":{},"party""#);
        assert!(read(&newer).rest.is_some());
        assert_eq!(read("{}").request_id, "");
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest::proptest! {
        #[test]
        fn any_bytes_are_split_or_refused(bytes: Vec<u8>, claimed in 0_u32..64) {
            for bytes in [bytes.clone(), [&claimed.to_le_bytes(), bytes.as_slice()].concat()] {
                if let Some((_, exchange)) = Lasting::split(&bytes) {
                    proptest::prop_assert!(bytes.ends_with(exchange));
                }
            }
        }

        #[test]
        fn both_parts_come_back(request_id: String, exchange: Vec<u8>) {
            let lasting = Lasting { request_id, ..Lasting::default() };
            let checkpoint = lasting.before(&exchange);
            let (again, rest) = Lasting::split(&checkpoint).expect("both parts");
            proptest::prop_assert_eq!((again.request_id, rest), (lasting.request_id, exchange.as_slice()));
        }
    }
}
