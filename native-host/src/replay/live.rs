//! Asks a model anew: its whole answer, as the inputs that a host makes of it.

use bytes::Bytes;
use minigate_core::seam::{Delivery, Fetch, FetchFailure, Input, Rope};

use crate::upstream::{self, RopeBody, Upstream};

/// The most bytes of a streamed answer.
const MOST: u64 = 16 * 1024 * 1024;

/// Sends a fetch with that body. A stream's lines come at once, when all of them are there.
pub(super) async fn ask(upstream: &Upstream, fetch: &Fetch, body: &[u8]) -> Vec<(Input<'static>, Vec<u8>)> {
    let id = fetch.id;
    let mut rope = Rope::default();
    rope.push_range(0..body.len());
    let body = RopeBody::new(&rope, &[Bytes::copy_from_slice(body)]);
    let failed = |failure: FetchFailure| vec![(Input::FetchFailed { id, failure }, Vec::new())];
    let response = match upstream.send(fetch, body).await {
        Ok(response) => response,
        Err(failure) => return failed(failure),
    };
    let (status, headers) = (response.status().as_u16(), upstream::headers(&response));
    let limit = match fetch.delivery {
        Delivery::Whole { limit } => limit,
        Delivery::Lines { .. } => MOST,
    };
    let body = match upstream::collect(response.into_body(), limit).await {
        Ok(parts) => parts.concat(),
        Err(failure) => return failed(failure),
    };
    match fetch.delivery {
        Delivery::Whole { .. } => vec![(Input::FetchWhole { id, status, headers, body: &[] }, body)],
        Delivery::Lines { .. } => vec![
            (Input::FetchHead { id, status, headers }, Vec::new()),
            (Input::FetchLines { id, lines: &[] }, body),
            (Input::FetchEnd { id }, Vec::new()),
        ],
    }
}
