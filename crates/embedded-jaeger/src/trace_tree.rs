//! A trace as a forest without cycles.
//!
//! Exporters may send a span twice, send parents that form a cycle, or nest without limit. Jaeger's
//! UI follows references recursively without checks. The tree finds every reference that would
//! lead the UI into a cycle or too deep for its stack, so that it can be omitted.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::ids::SpanId;
use crate::span::SpanRecord;
use crate::store::Trace;

/// Maximum depth. Browsers allow some thousand stack frames, and the UI uses several per level.
const MAX_DEPTH: u32 = 1_000;

/// Reason for which the parent of a span is omitted from its references.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InvalidParent {
    /// The span names itself as its parent.
    SelfParent,
    /// The parent is a descendant of the span.
    Cycle,
    /// The span is deeper than [`MAX_DEPTH`].
    TooDeep,
}

impl InvalidParent {
    /// Returns the warning that the UI shows at the span.
    pub(crate) fn warning(self, parent: SpanId) -> String {
        match self {
            Self::SelfParent => "the span names itself as its parent; shown as a root".to_owned(),
            Self::Cycle => format!("the parent {parent} descends from this span; shown as a root"),
            Self::TooDeep => {
                format!("{MAX_DEPTH} levels below a root: shown apart from the parent {parent}")
            }
        }
    }
}

/// The distinct spans of a trace in order of their start.
pub(crate) struct TraceTree<'a> {
    pub(crate) nodes: Vec<Node<'a>>,
    by_id: HashMap<SpanId, usize>,
}

/// A span of a [`TraceTree`].
pub(crate) struct Node<'a> {
    pub(crate) span: &'a SpanRecord,
    /// Number of identical copies that arrived after the first.
    pub(crate) duplicates: usize,
    /// Set if the reference to the parent must be omitted.
    pub(crate) invalid_parent: Option<InvalidParent>,
    parent: Option<usize>,
    /// Position in an order in which parents precede their children.
    preorder_index: Option<usize>,
}

impl<'a> TraceTree<'a> {
    pub(crate) fn new(trace: &'a Trace) -> Self {
        let mut tree = Self::deduplicate(trace);
        tree.link_parents();
        tree.assign_preorder();
        tree
    }

    /// Returns `true` if `from` may refer to the span `to`: a span that precedes it, or a span of
    /// another trace. Such references never form a cycle.
    pub(crate) fn allows_link(&self, from: &Node<'_>, to: SpanId) -> bool {
        let precedes = |&to: &usize| self.nodes[to].preorder_index < from.preorder_index;
        self.by_id.get(&to).is_none_or(precedes)
    }

    fn deduplicate(trace: &'a Trace) -> Self {
        let mut spans: Vec<&SpanRecord> = trace.spans.iter().collect();
        spans.sort_by_key(|span| span.start_ns);
        let mut nodes: Vec<Node<'a>> = Vec::with_capacity(spans.len());
        let mut by_id: HashMap<SpanId, usize> = HashMap::with_capacity(spans.len());
        for span in spans {
            match by_id.entry(span.id) {
                Entry::Occupied(first) if nodes[*first.get()].span == span => {
                    nodes[*first.get()].duplicates += 1;
                    continue;
                }
                // References to an id that two different spans share lead to the first.
                Entry::Occupied(_) => {}
                Entry::Vacant(entry) => {
                    entry.insert(nodes.len());
                }
            }
            nodes.push(Node {
                span,
                duplicates: 0,
                invalid_parent: None,
                parent: None,
                preorder_index: None,
            });
        }
        Self { nodes, by_id }
    }

    fn link_parents(&mut self) {
        for node in &mut self.nodes {
            if node.span.parent == node.span.id {
                node.invalid_parent = Some(InvalidParent::SelfParent);
            } else {
                node.parent = self.by_id.get(&node.span.parent).copied();
            }
        }
    }

    fn assign_preorder(&mut self) {
        let mut children = vec![Vec::new(); self.nodes.len()];
        for (child, node) in self.nodes.iter().enumerate() {
            if let Some(parent) = node.parent {
                children[parent].push(child);
            }
        }
        let mut next_index = 0;
        for index in 0..self.nodes.len() {
            if self.nodes[index].parent.is_none() {
                self.visit_subtree(index, &children, &mut next_index);
            }
        }
        // Nodes without an index are on a cycle or below one. Each cycle is opened once.
        let mut walked_from = vec![usize::MAX; self.nodes.len()];
        for index in 0..self.nodes.len() {
            if self.nodes[index].preorder_index.is_none() {
                let root = self.earliest_in_cycle(index, &mut walked_from);
                self.nodes[root].invalid_parent = Some(InvalidParent::Cycle);
                self.visit_subtree(root, &children, &mut next_index);
            }
        }
    }

    /// Returns the earliest node of the cycle that is on the path from `start` to its ancestors.
    fn earliest_in_cycle(&self, start: usize, walked_from: &mut [usize]) -> usize {
        let parent = |index: usize| self.nodes[index].parent.unwrap_or(index);
        let mut on_cycle = start;
        while walked_from[on_cycle] != start {
            walked_from[on_cycle] = start;
            on_cycle = parent(on_cycle);
        }
        let (mut earliest, mut next) = (on_cycle, parent(on_cycle));
        while next != on_cycle {
            earliest = earliest.min(next);
            next = parent(next);
        }
        earliest
    }

    /// Numbers `root` and its descendants in preorder.
    fn visit_subtree(&mut self, root: usize, children: &[Vec<usize>], next_index: &mut usize) {
        let mut pending = vec![(root, 0)];
        while let Some((index, mut depth)) = pending.pop() {
            let node = &mut self.nodes[index];
            if node.preorder_index.is_some() {
                continue;
            }
            if depth > MAX_DEPTH {
                node.invalid_parent = Some(InvalidParent::TooDeep);
                depth = 0;
            }
            node.preorder_index = Some(*next_index);
            *next_index += 1;
            pending.extend(children[index].iter().rev().map(|&child| (child, depth + 1)));
        }
    }
}
