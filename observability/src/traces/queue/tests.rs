use std::time::UNIX_EPOCH;

use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanEvents, SpanLinks};

use super::*;

const MIB: usize = 1024 * 1024;

fn new_queue() -> SpanQueue {
    SpanQueue::new(BatchConfig::default())
}

fn enqueue(queue: &SpanQueue, id: u64, bytes: usize) {
    queue.start(ParentOrigin::None);
    let (trace, span) = (TraceId::from(7), SpanId::from(id));
    let state = TraceState::default();
    queue.enqueue(SpanData {
        span_context: SpanContext::new(trace, span, TraceFlags::SAMPLED, false, state),
        parent_span_id: SpanId::INVALID,
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: "span".into(),
        start_time: UNIX_EPOCH,
        end_time: UNIX_EPOCH,
        attributes: vec![KeyValue::new("text", "x".repeat(bytes))],
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::default(),
    });
}

fn ids(batch: Option<Vec<SpanData>>) -> Vec<SpanId> {
    batch.into_iter().flatten().map(|span| span.span_context.span_id()).collect()
}

#[test]
fn large_spans_fill_queue() {
    let queue = new_queue();
    for id in 1..=40 {
        enqueue(&queue, id, MIB);
    }
    let state = queue.state.lock();
    assert!(state.bytes <= MAX_QUEUE_BYTES, "{}", state.bytes);
    assert_eq!((state.counts.queued, state.counts.queue_full), (31, 9));
}

#[test]
fn batch_is_split_by_size() {
    let queue = new_queue();
    for (id, size) in [(1, 2 * MIB), (2, MIB), (3, 5 * MIB), (4, 1)] {
        enqueue(&queue, id, size);
    }
    let batches = [(); 4].map(|()| ids(queue.dequeue(false)));
    let expected = [vec![1, 2], vec![3], vec![4], vec![]];
    assert_eq!(batches, expected.map(|ids| ids.into_iter().map(SpanId::from).collect::<Vec<_>>()));
    assert_eq!(queue.state.lock().bytes, 0);
}

#[test]
fn each_span_has_one_state() {
    let queue = new_queue();
    (1..=7).for_each(|id| enqueue(&queue, id, 1));
    queue.start(ParentOrigin::Remote);
    queue.dequeue(false).unwrap();
    queue.exported(3);
    queue.failed(2, ExportFailure::Rejected);
    enqueue(&queue, 8, 1);
    let counts = queue.counts();
    let expected = SpanCounts {
        started: [8, 0, 1],
        live: 1,
        queued: 1,
        inflight: 2,
        exported: 3,
        failed: [0, 2, 0, 0],
        ..SpanCounts::default()
    };
    assert_eq!(counts, expected);

    queue.close();
    queue.start(ParentOrigin::Local);
    let closed = SpanCounts { started: [8, 1, 1], live: 0, already_shutdown: 2, ..expected };
    assert_eq!(queue.counts(), closed);
    assert_eq!(closed.dropped(), 4);
}
