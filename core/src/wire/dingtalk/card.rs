//! AI cards: an answer that grows while it is written.
//!
//! The keys are those of the official SDK for Python. An app may call about 40 times a second for
//! all of its cards, so a card is for operators who ask for it, and its text is sent in few pieces.
//! Answers are read by [`by_api`](super::send::by_api).

use super::send::To;
use crate::wire::json;

/// The path to create and deliver a card: `POST`.
pub(crate) const CREATE: &str = "/v1.0/card/instances/createAndDeliver";
/// The path to change a card as a whole: `PUT`.
pub(crate) const UPDATE: &str = "/v1.0/card/instances";
/// The path to write into a card: `PUT`.
pub(crate) const STREAM: &str = "/v1.0/card/streaming";

/// How a card stands, its parameter `flowStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// The agent works.
    Processing,
    /// The answer is being written.
    Writing,
    /// It is there.
    Finished,
    /// There is none.
    Failed,
}

impl Flow {
    /// DingTalk's number; 4 is "executing", which nothing here does.
    fn number(self) -> &'static str {
        match self {
            Self::Processing => "1",
            Self::Writing => "2",
            Self::Finished => "3",
            Self::Failed => "5",
        }
    }
}

/// The parameters of a card; their values are texts.
fn data(parameters: &[(&str, &str)], flow: Flow) -> String {
    let all = parameters.iter().copied().chain([("flowStatus", flow.number())]);
    let pairs: Vec<String> =
        all.map(|(name, value)| format!("{}:{}", json::string(name), json::string(value))).collect();
    format!("\"cardData\":{{\"cardParamMap\":{{{}}}}}", pairs.join(","))
}

/// The body to create a card and show it. `track` is its id, which we choose.
pub(crate) fn create_body(
    template: &str,
    track: &str,
    robot_code: &str,
    to: To<'_>,
    parameters: &[(&str, &str)],
) -> String {
    let robot = json::string(robot_code);
    let (space, model, deliver) = match to {
        To::Group(id) => (
            format!("dtv1.card//IM_GROUP.{id}"),
            "imGroupOpenSpaceModel",
            format!("\"imGroupOpenDeliverModel\":{{\"robotCode\":{robot}}}"),
        ),
        To::Person(id) => (
            format!("dtv1.card//IM_ROBOT.{id}"),
            "imRobotOpenSpaceModel",
            format!("\"imRobotOpenDeliverModel\":{{\"spaceType\":\"IM_ROBOT\",\"robotCode\":{robot}}}"),
        ),
    };
    format!(
        "{{\"cardTemplateId\":{},\"outTrackId\":{},{},\"callbackType\":\"STREAM\",\"{model}\":{{\"supportForward\":true}},\"userIdType\":1,\"openSpaceId\":{},{deliver}}}",
        json::string(template),
        json::string(track),
        data(parameters, Flow::Processing),
        json::string(&space),
    )
}

/// The body to change a card as a whole.
pub(crate) fn update_body(track: &str, flow: Flow, parameters: &[(&str, &str)]) -> String {
    format!("{{\"outTrackId\":{},{}}}", json::string(track), data(parameters, flow))
}

/// A text that is written into a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written<'a> {
    /// The whole text so far: what is lost is made good by the next.
    pub text: &'a str,
    /// It is the last.
    pub is_last: bool,
    /// The answer failed.
    pub is_error: bool,
}

/// The body to write into a card. `key` is the template's variable, `id` another one each time.
pub(crate) fn stream_body(track: &str, id: &str, key: &str, written: Written<'_>) -> String {
    format!(
        "{{\"outTrackId\":{},\"guid\":{},\"key\":{},\"content\":{},\"isFull\":true,\"isFinalize\":{},\"isError\":{}}}",
        json::string(track),
        json::string(id),
        json::string(key),
        json::string(written.text),
        written.is_last,
        written.is_error,
    )
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn a_card_is_created_where_the_question_was_asked() {
        assert_eq!(
            create_body("T.schema", "track-1", "ding1", To::Group("cid="), &[("content", "")]),
            concat!(
                r#"{"cardTemplateId":"T.schema","outTrackId":"track-1","cardData":{"cardParamMap":{"content":"","flowStatus":"1"}},"#,
                r#""callbackType":"STREAM","imGroupOpenSpaceModel":{"supportForward":true},"userIdType":1,"#,
                r#""openSpaceId":"dtv1.card//IM_GROUP.cid=","imGroupOpenDeliverModel":{"robotCode":"ding1"}}"#
            )
        );
        let body = create_body("T", "t", "ding1", To::Person("03\"26"), &[]);
        let body: serde_json::Value = serde_json::from_str(&body).expect("json");
        assert_eq!(body["openSpaceId"], "dtv1.card//IM_ROBOT.03\"26");
        assert_eq!(body["imRobotOpenDeliverModel"]["spaceType"], "IM_ROBOT");
        assert!(body.get("imGroupOpenSpaceModel").is_none());
    }

    #[test]
    fn a_card_grows_and_ends() {
        assert_eq!(
            stream_body("t", "g", "content", Written { text: "a\n", is_last: false, is_error: false }),
            r#"{"outTrackId":"t","guid":"g","key":"content","content":"a\n","isFull":true,"isFinalize":false,"isError":false}"#
        );
        assert_eq!(
            update_body("t", Flow::Finished, &[("content", "done")]),
            r#"{"outTrackId":"t","cardData":{"cardParamMap":{"content":"done","flowStatus":"3"}}}"#
        );
        let numbers = [Flow::Processing, Flow::Writing, Flow::Finished, Flow::Failed].map(Flow::number);
        assert_eq!(numbers, ["1", "2", "3", "5"]);
    }
}
