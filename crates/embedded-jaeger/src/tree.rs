//! The shape of a trace as a tree that any reader can walk.
//!
//! Exporters may send a span twice, name a span as its own ancestor, or nest without end. Jaeger's
//! interface follows references without a look back: here every reference that would lead it in a
//! circle, or deeper than its stack, is found and told apart.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::ids::SpanId;
use crate::store::{SpanRecord, Trace};

/// Browsers give a script's recursion some thousand frames; the interface uses several a level.
const MAX_DEPTH: u32 = 1_000;

/// Why a span's parent is left out of its references.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    SelfParent,
    Cycle,
    TooDeep,
}

impl Broken {
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

/// The spans of a trace in the order of their start, each once.
pub(crate) struct Shape<'a> {
    pub(crate) nodes: Vec<Node<'a>>,
    by_id: HashMap<SpanId, usize>,
}

/// A span and its place.
pub(crate) struct Node<'a> {
    pub(crate) span: &'a SpanRecord,
    /// How often the very same span arrived again.
    pub(crate) repeats: usize,
    /// Set where its parent is not to be followed.
    pub(crate) broken: Option<Broken>,
    parent: Option<usize>,
    /// Its place where parents come before their children.
    place: Option<usize>,
}

impl<'a> Shape<'a> {
    pub(crate) fn of(trace: &'a Trace) -> Self {
        let mut shape = Self::without_repeats(trace);
        shape.find_parents();
        shape.find_places();
        shape
    }

    /// Whether `from` may refer to the span `to`: only ever to one placed before it, so that
    /// references never close a circle. Spans of other traces are always fine.
    pub(crate) fn may_link(&self, from: &Node<'_>, to: SpanId) -> bool {
        self.by_id.get(&to).is_none_or(|&target| self.nodes[target].place < from.place)
    }

    fn without_repeats(trace: &'a Trace) -> Self {
        let mut spans: Vec<&SpanRecord> = trace.spans.iter().collect();
        spans.sort_by_key(|span| span.start_ns);
        let mut nodes: Vec<Node<'a>> = Vec::with_capacity(spans.len());
        let mut by_id: HashMap<SpanId, usize> = HashMap::with_capacity(spans.len());
        for span in spans {
            match by_id.entry(span.id) {
                Entry::Occupied(first) if nodes[*first.get()].span == span => {
                    nodes[*first.get()].repeats += 1;
                    continue;
                }
                // Another span under the same id: shown too, but its id means the first.
                Entry::Occupied(_) => {}
                Entry::Vacant(entry) => {
                    entry.insert(nodes.len());
                }
            }
            nodes.push(Node { span, repeats: 0, broken: None, parent: None, place: None });
        }
        Self { nodes, by_id }
    }

    fn find_parents(&mut self) {
        for node in &mut self.nodes {
            if node.span.parent == node.span.id {
                node.broken = Some(Broken::SelfParent);
            } else {
                node.parent = self.by_id.get(&node.span.parent).copied();
            }
        }
    }

    fn find_places(&mut self) {
        let mut children = vec![Vec::new(); self.nodes.len()];
        for (child, node) in self.nodes.iter().enumerate() {
            if let Some(parent) = node.parent {
                children[parent].push(child);
            }
        }
        let mut places = 0;
        for index in 0..self.nodes.len() {
            if self.nodes[index].parent.is_none() {
                self.place_below(index, &children, &mut places);
            }
        }
        // What no root leads to hangs on a circle, and each circle is opened once.
        let mut walked = vec![usize::MAX; self.nodes.len()];
        for index in 0..self.nodes.len() {
            if self.nodes[index].place.is_none() {
                let first = self.first_of_cycle(index, &mut walked);
                self.nodes[first].broken = Some(Broken::Cycle);
                self.place_below(first, &children, &mut places);
            }
        }
    }

    /// Walks up from `start` into the circle above it; answers the circle's earliest span.
    fn first_of_cycle(&self, start: usize, walked: &mut [usize]) -> usize {
        let up = |index: usize| self.nodes[index].parent.unwrap_or(index);
        let mut on_cycle = start;
        while walked[on_cycle] != start {
            walked[on_cycle] = start;
            on_cycle = up(on_cycle);
        }
        let (mut first, mut next) = (on_cycle, up(on_cycle));
        while next != on_cycle {
            first = first.min(next);
            next = up(next);
        }
        first
    }

    /// Gives `root` and all below it their places, parents first.
    fn place_below(&mut self, root: usize, children: &[Vec<usize>], places: &mut usize) {
        let mut waiting = vec![(root, 0)];
        while let Some((index, mut depth)) = waiting.pop() {
            let node = &mut self.nodes[index];
            if node.place.is_some() {
                continue;
            }
            if depth > MAX_DEPTH {
                node.broken = Some(Broken::TooDeep);
                depth = 0;
            }
            node.place = Some(*places);
            *places += 1;
            waiting.extend(children[index].iter().rev().map(|&child| (child, depth + 1)));
        }
    }
}
