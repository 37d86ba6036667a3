//! What this isolate has counted and not yet told the store, and points for Analytics Engine.
//!
//! An isolate ends without a word, and the next scrape may reach another one. So counts go to a few
//! cells of the store, every few seconds in one call and not with each request.

use std::cell::{Cell, RefCell};

use futures_util::{FutureExt as _, future::LocalBoxFuture};
use js_sys::Date;
use minigate_core::{
    measure::{Sample, Totals},
    seam::{STATS, STATS_SHARDS},
    state::Op,
};
use serde_bytes::ByteBuf;
use worker::{AnalyticsEngineDataPointBuilder, AnalyticsEngineDataset, ObjectNamespace};

use super::{js, state_cell};

/// How long counts are collected, in milliseconds: less than `waitUntil` waits (30 s).
const COLLECT: u64 = 2_000;
/// A collection that has not ended by then was cut off with its request, in milliseconds.
const LOST: f64 = 10_000.0;

thread_local! {
    static TOTALS: RefCell<Totals> = RefCell::default();
    /// When the collection began that runs, in milliseconds since 1970.
    static COLLECTING: Cell<Option<f64>> = const { Cell::new(None) };
}

/// Counts a request; gives what brings it to the store, unless that is under way.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "milliseconds fit")]
pub(super) fn absorb(
    sample: &Sample,
    state: &ObjectNamespace,
    analytics: Option<&AnalyticsEngineDataset>,
) -> Option<LocalBoxFuture<'static, ()>> {
    let now = Date::now();
    TOTALS.with_borrow_mut(|totals| totals.absorb(sample, now as u64));
    if let Some(dataset) = analytics {
        write_point(sample, dataset);
    }
    if COLLECTING.get().is_some_and(|since| now - since < LOST) {
        return None;
    }
    COLLECTING.set(Some(now));
    let state = state.clone();
    let collect = async move {
        js::Sleep::new(COLLECT).await;
        COLLECTING.set(None);
        flush(state, any_shard()).await;
    };
    Some(collect.boxed_local())
}

/// Writes what was counted. What cannot be written is kept for the next time.
pub(super) async fn flush(state: ObjectNamespace, shard: u8) {
    let taken = TOTALS.take();
    if taken.is_empty() {
        return;
    }
    let absorb = Op::Absorb { totals: ByteBuf::from(taken.encode()) };
    if state_cell::apply(state, vec![(format!("{STATS}{shard}"), absorb)]).await.is_none() {
        TOTALS.with_borrow_mut(|totals| totals.merge(&taken));
    }
}

/// Any of the cells.
pub(super) fn any_shard() -> u8 {
    let mut byte = [0];
    // `crypto.getRandomValues` does not fail for one byte.
    let _ = getrandom::fill(&mut byte);
    byte[0] % STATS_SHARDS
}

fn write_point(sample: &Sample, dataset: &AnalyticsEngineDataset) {
    let (index, blobs, doubles) = sample.data_point();
    let point = AnalyticsEngineDataPointBuilder::new().indexes([index.as_str()]);
    let point = blobs.iter().fold(point, |point, blob| point.add_blob(blob.as_str()));
    let point = doubles.into_iter().fold(point, |point, double| point.add_double(double));
    // A point that is lost is one of very many.
    let _ = point.write_to(dataset);
}
