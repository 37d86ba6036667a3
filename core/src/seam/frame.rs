//! The encoding of the seam for a host that calls the core as a wasm module.
//!
//! One call per input, one contiguous message each way (postcard), and the payload
//! beside it, copied once. The exchange's state goes out with each reply and comes back
//! with the next step, so an instance holds nothing between calls: any instance can take
//! the next step of any exchange, and a trap loses one step of one exchange.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{Input, Moment, Output, RequestHead};
use crate::{
    exchange::Exchange,
    policy::Policy,
    state::{self, Op, Reduced},
};

/// The version of the exports, the frames and the state. A host refuses a module
/// that says another.
pub const ABI_VERSION: u32 = 6;

/// One call of a module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepFrame<'a> {
    /// When.
    pub now: Moment,
    /// What.
    #[serde(borrow)]
    pub step: Step<'a>,
}

/// The kinds of call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step<'a> {
    /// A request has arrived.
    Begin(RequestHead),
    /// The time has come that a key's [alarm](Reduced::alarm_ms) was set to. The exchange has no
    /// client: the host drives it to its end.
    Alarm {
        /// The key.
        key: String,
    },
    /// Something happened to an exchange.
    Continue {
        /// The state from the last [`Reply`].
        #[serde(with = "serde_bytes")]
        state: &'a [u8],
        /// What happened; its bytes may be empty here and travel beside the frame.
        #[serde(borrow)]
        input: Input<'a>,
    },
}

/// The answer to one call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The exchange's state; empty when it is done.
    pub state: ByteBuf,
    /// What to do, in order.
    pub outputs: Vec<Output>,
}

/// A store's call of a reducer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReduceFrame<'a> {
    /// The operation.
    pub op: Op,
    /// What is stored under the key now.
    #[serde(borrow)]
    pub old: Option<&'a serde_bytes::Bytes>,
    /// Milliseconds since 1970.
    pub unix_ms: u64,
}

/// The answer to a [`ReduceFrame`].
pub type ReduceReply = Reduced;

/// Why a frame was not understood. A host that speaks the module's ABI never sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// Not a frame of this version.
    Frame,
    /// Not a state of this version.
    State,
}

/// Takes one step: decodes the frame, drives the exchange, encodes the reply.
///
/// # Errors
/// When the frame or the state in it is not of this version.
pub fn step_frame(policy: &Policy, frame: &[u8], payload: &[u8]) -> Result<Vec<u8>, FrameError> {
    let StepFrame { now, step } = postcard::from_bytes(frame).map_err(|_| FrameError::Frame)?;
    let mut exchange = match step {
        Step::Begin(head) => Exchange::new(policy, head, now),
        Step::Alarm { key } => Exchange::alarm(policy, &key, now),
        Step::Continue { state, input } => {
            let mut exchange = Exchange::decode(state).ok_or(FrameError::State)?;
            exchange.handle_input(policy, input.with_payload(payload), now);
            exchange
        }
    };
    let mut reply = Reply::default();
    while let Some(output) = exchange.poll_output() {
        reply.outputs.push(output);
    }
    if !exchange.is_done() {
        reply.state = ByteBuf::from(exchange.encode());
    }
    postcard::to_allocvec(&reply).map_err(|_| FrameError::State)
}

/// Applies one operation: the export that a store calls.
///
/// # Errors
/// When the frame is not of this version.
pub fn reduce_frame(frame: &[u8]) -> Result<Vec<u8>, FrameError> {
    let ReduceFrame { op, old, unix_ms } = postcard::from_bytes(frame).map_err(|_| FrameError::Frame)?;
    let reduced = state::reduce(&op, old.map(|bytes| bytes.as_ref()), unix_ms);
    postcard::to_allocvec(&reduced).map_err(|_| FrameError::Frame)
}
