//! The answer to a client: its head, its body, and failures in the shape of each API.
//!
//! Whatever ends with a whole answer ends here, a stream's failure excepted. A run whose clients
//! are elsewhere keeps what would have been sent.

use serde_bytes::ByteBuf;

use super::{Exchange, runner::Run};
use crate::{
    policy::Policy,
    seam::{Moment, Output},
    wire::failure::Failure,
};

impl Exchange {
    /// Headers that every answer has.
    pub(super) fn common_headers(&self) -> Vec<(String, String)> {
        let mut headers: Vec<(String, String)> = vec![
            ("cache-control".into(), "no-store".into()),
            ("x-content-type-options".into(), "nosniff".into()),
            ("x-request-id".into(), self.facts.request_id.clone()),
            ("x-trace-id".into(), self.facts.trace_id.clone()),
        ];
        if let Some(origin) = &self.facts.origin {
            origin.write(&mut headers);
        }
        headers
    }

    /// Answers with a failure, as a whole response.
    pub(super) fn fail(&mut self, policy: &Policy, failure: &Failure, now: Moment) {
        self.fail_with(policy, failure, Vec::new(), now);
    }

    pub(super) fn fail_with(
        &mut self,
        policy: &Policy,
        failure: &Failure,
        extra: Vec<(String, String)>,
        now: Moment,
    ) {
        if self.story.opened || self.run.as_ref().is_some_and(Run::has_said) {
            // The status was sent long ago.
            self.strike(policy, failure.code);
            return self.fail_stream(policy, failure, String::new(), now);
        }
        let mut headers = extra;
        // RFC 9110, 11.6.1: a 401 names the scheme.
        if failure.code.status() == 401 && !headers.iter().any(|(name, _)| name == "www-authenticate") {
            headers.push(("www-authenticate".into(), "Bearer".into()));
        }
        if let Some(seconds) = failure.retry_after_s {
            headers.push(("retry-after".into(), seconds.to_string()));
        }
        self.story.code = Some(failure.code);
        self.story.retry_after_s = failure.retry_after_s;
        self.strike(policy, failure.code);
        let body = self.failure_body(failure);
        self.respond(policy, failure.code.status(), headers, body, now);
    }

    /// A failure as JSON, in the letters that the client wants.
    pub(super) fn failure_body(&self, failure: &Failure) -> String {
        if self.facts.route.is_openai() {
            return failure.openai_body(&self.facts.trace_id);
        }
        let body = failure.body(&self.facts.trace_id, self.facts.language);
        if self.facts.ascii { crate::wire::reply::ascii(&body) } else { body }
    }

    pub(super) fn respond_json(&mut self, policy: &Policy, status: u16, body: String, now: Moment) {
        self.respond(policy, status, Vec::new(), body, now);
    }

    /// A whole response with a JSON body.
    pub(super) fn respond(
        &mut self,
        policy: &Policy,
        status: u16,
        mut extra: Vec<(String, String)>,
        body: String,
        now: Moment,
    ) {
        if self.story.drafted {
            return self.keep_turn(policy, body, now);
        }
        extra.extend(self.prolong_session(policy, now));
        self.send_json(status, extra, body);
        self.finish(policy, now);
    }

    /// A whole response with a JSON body, which need not be the end of the exchange.
    pub(super) fn send_json(&mut self, status: u16, extra: Vec<(String, String)>, body: String) {
        let mut headers = vec![("content-type".into(), "application/json; charset=utf-8".into())];
        headers.extend(extra);
        self.send_whole(status, headers, ByteBuf::from(body.into_bytes()));
    }

    /// A whole response; its type is among the headers.
    pub(super) fn respond_with(
        &mut self,
        policy: &Policy,
        status: u16,
        extra: Vec<(String, String)>,
        body: ByteBuf,
        now: Moment,
    ) {
        self.send_whole(status, extra, body);
        self.finish(policy, now);
    }

    pub(super) fn send_whole(&mut self, status: u16, mut extra: Vec<(String, String)>, body: ByteBuf) {
        if self.run.is_some() {
            self.story.status = status;
            return self.keep_end(status, String::from_utf8_lossy(&body).into_owned());
        }
        let mut headers = self.common_headers();
        // In the order in which they always were.
        extra.insert(1, ("content-length".into(), body.len().to_string()));
        headers.extend(extra);
        self.story.status = status;
        self.outputs.push_back(Output::Head { status, headers });
        if !self.facts.head_only && !body.is_empty() {
            self.outputs.push_back(Output::Chunk(body));
        }
        self.outputs.push_back(Output::End);
    }

    pub(super) fn respond_empty(
        &mut self,
        policy: &Policy,
        status: u16,
        extra: Vec<(String, String)>,
        now: Moment,
    ) {
        let mut headers = self.common_headers();
        headers.extend(extra);
        self.story.status = status;
        self.outputs.push_back(Output::Head { status, headers });
        self.outputs.push_back(Output::End);
        self.finish(policy, now);
    }

    /// The last of an answer has been sent.
    pub(super) fn end_answer(&mut self) {
        if self.run.is_none() {
            self.outputs.push_back(Output::End);
        }
    }
}
