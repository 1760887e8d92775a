//! A trace as a forest without cycles.
//!
//! Exporters may send a span twice, send parents that form a cycle, or nest without limit. Jaeger's
//! UI follows references recursively without checks. The tree finds every reference that would
//! lead the UI into a cycle or too deep for its stack, so that it can be omitted.

use std::collections::{HashMap, HashSet};

use crate::ids::SpanId;
use crate::span::SpanRecord;
use crate::store::Trace;

/// Maximum depth. Browsers allow some thousand stack frames, and the UI uses several per level.
const MAX_DEPTH: u32 = 1_000;

/// The distinct spans of a trace in order of their start.
pub(crate) struct TraceTree<'a> {
    pub(crate) nodes: Vec<Node<'a>>,
    /// Positions of all nodes. Parents precede their children.
    pub(crate) preorder: Vec<usize>,
    by_id: HashMap<SpanId, usize>,
}

/// A span of a [`TraceTree`].
pub(crate) struct Node<'a> {
    pub(crate) span: &'a SpanRecord,
    /// Number of identical copies that arrived after the first.
    pub(crate) duplicates: usize,
    /// Warning for the UI if the reference to the parent must be omitted.
    pub(crate) parent_warning: Option<String>,
    /// Position of the parent, unless the reference to it must be omitted.
    pub(crate) parent: Option<usize>,
    /// Position in the preorder.
    preorder_index: Option<usize>,
}

impl<'a> TraceTree<'a> {
    pub(crate) fn new(trace: &'a Trace) -> Self {
        let mut tree = Self::deduplicate(trace);
        tree.assign_preorder();
        tree
    }

    /// Returns `true` if `from` may refer to the span `to`: a span that precedes it, or a span of
    /// another trace. Such references never form a cycle.
    pub(crate) fn allows_link(&self, from: &Node<'_>, to: SpanId) -> bool {
        let precedes = |&to: &usize| self.nodes[to].preorder_index < from.preorder_index;
        self.by_id.get(&to).is_none_or(precedes)
    }

    /// Returns the position of the first span with an id.
    pub(crate) fn position(&self, id: SpanId) -> Option<usize> {
        self.by_id.get(&id).copied()
    }

    fn deduplicate(trace: &'a Trace) -> Self {
        let mut spans: Vec<&SpanRecord> = trace.spans.iter().collect();
        spans.sort_by_key(|span| span.start_ns);
        let mut nodes: Vec<Node<'a>> = Vec::with_capacity(spans.len());
        let mut by_id: HashMap<SpanId, usize> = HashMap::with_capacity(spans.len());
        for span in spans {
            // References to an id that two different spans share lead to the first.
            let first = *by_id.entry(span.id).or_insert(nodes.len());
            if let Some(node) = nodes.get_mut(first)
                && node.span == span
            {
                node.duplicates += 1;
                continue;
            }
            nodes.push(Node {
                span,
                duplicates: 0,
                parent_warning: None,
                parent: None,
                preorder_index: None,
            });
        }
        Self { preorder: Vec::with_capacity(nodes.len()), nodes, by_id }
    }

    fn assign_preorder(&mut self) {
        let mut children = vec![Vec::new(); self.nodes.len()];
        for (index, node) in self.nodes.iter_mut().enumerate() {
            if node.span.parent == node.span.id {
                let warning = "the span names itself as its parent; shown as a root";
                node.parent_warning = Some(warning.to_owned());
            } else if let Some(&parent) = self.by_id.get(&node.span.parent) {
                node.parent = Some(parent);
                children[parent].push(index);
            }
        }
        for index in 0..self.nodes.len() {
            if self.nodes[index].preorder_index.is_none() {
                let root = self.find_root(index);
                self.visit_subtree(root, &children);
            }
        }
    }

    /// Returns the root above a node. If its ancestors form a cycle, the first of them that the walk
    /// meets again becomes the root.
    fn find_root(&mut self, mut index: usize) -> usize {
        let mut path = HashSet::new();
        while path.insert(index) {
            let Some(parent) = self.nodes[index].parent else { return index };
            index = parent;
        }
        let node = &mut self.nodes[index];
        node.parent = None;
        let parent = node.span.parent;
        let warning = format!("the parent {parent} descends from this span; shown as a root");
        node.parent_warning = Some(warning);
        index
    }

    /// Numbers `root` and its descendants in preorder.
    fn visit_subtree(&mut self, root: usize, children: &[Vec<usize>]) {
        let mut pending = vec![(root, 0)];
        while let Some((index, mut depth)) = pending.pop() {
            let node = &mut self.nodes[index];
            if node.preorder_index.is_some() {
                continue;
            }
            if depth > MAX_DEPTH {
                let parent = node.span.parent;
                node.parent_warning = Some(format!(
                    "{MAX_DEPTH} levels below a root: shown apart from the parent {parent}"
                ));
                node.parent = None;
                depth = 0;
            }
            node.preorder_index = Some(self.preorder.len());
            self.preorder.push(index);
            pending.extend(children[index].iter().rev().map(|&child| (child, depth + 1)));
        }
    }
}
