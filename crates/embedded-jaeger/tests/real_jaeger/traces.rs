//! Traces that both Jaegers receive.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};

use crate::queries::Query;
use crate::spans::{MS, New, SECOND, array, attributes, host, link, resource, string};
use crate::support::{attribute, call_echo, int, of_service, span_id, text, trace_hex};

/// Traces in the order of their export, which is also that of their start.
#[derive(Default)]
pub(crate) struct Traces {
    /// Start of the first trace, in nanoseconds since the Unix epoch.
    pub(crate) start_ns: u64,
    pub(crate) list: Vec<Trace>,
}

pub(crate) struct Trace {
    pub(crate) name: String,
    pub(crate) id: String,
    /// Spans of each export.
    pub(crate) exports: Vec<Vec<ResourceSpans>>,
}

impl Traces {
    /// Returns all traces. The first starts at a time in nanoseconds since the Unix epoch.
    pub(crate) fn new(start_ns: u64) -> Self {
        let mut traces = Self { start_ns, list: Vec::new() };
        traces.add_structures();
        traces.add_links();
        traces.add_hosts();
        traces.add_fields();
        traces.add_attributes();
        traces.add_services();
        traces.add_times();
        traces.add_duplicates();
        traces
    }

    /// Returns the target and the body of a query, with the name of a trace instead of its id.
    pub(crate) fn label(&self, query: &Query) -> String {
        let trace = self.list.iter().find(|trace| query.target.contains(&trace.id));
        let target = match trace {
            Some(trace) => query.target.replace(&trace.id, &trace.name),
            None => query.target.clone(),
        };
        target + query.body.as_deref().unwrap_or_default()
    }

    fn add(&mut self, name: impl Into<String>, spans: impl FnOnce(New) -> Vec<ResourceSpans>) {
        self.add_exports(name, |new| vec![spans(new)]);
    }

    fn add_exports(
        &mut self,
        name: impl Into<String>,
        exports: impl FnOnce(New) -> Vec<Vec<ResourceSpans>>,
    ) {
        let number = self.list.len() as u64 + 1;
        let new = New { number, start_ns: self.start_ns + number * SECOND };
        let (name, id) = (name.into(), trace_hex(number));
        self.list.push(Trace { name, id, exports: exports(new) });
    }

    /// Adds a trace of one span of the service `service`.
    fn add_span(&mut self, service: &str, name: impl Into<String>, change: impl FnOnce(&mut Span)) {
        self.add(name, |new| {
            let mut span = new.root();
            change(&mut span);
            vec![of_service(service, vec![span])]
        });
    }

    fn add_structures(&mut self) {
        self.add("one span", |new| vec![of_service("one", vec![new.root()])]);
        self.add("two services", |new| call_echo(new.number, new.start_ns, false));
        self.add("two services, failed", |new| call_echo(new.number, new.start_ns, true));
        self.add("missing parent", |new| {
            vec![of_service("orphan", vec![new.span(2, 9, "orphan")])]
        });
        self.add("missing parent with child", |new| {
            vec![of_service("orphan", vec![new.span(2, 9, "orphan"), new.span(3, 2, "child")])]
        });
        self.add("two roots", |new| {
            vec![of_service("roots", vec![new.root(), new.span(2, 0, "other")])]
        });
        self.add("chain of ten", |new| {
            let spans = (1..=10).map(|id| new.span(id, id - 1, &format!("level {id}")));
            vec![of_service("chain", spans.collect())]
        });
        self.add("child before parent", |new| {
            vec![of_service("order", vec![new.span(2, 1, "child"), new.root()])]
        });
        self.add_exports("two exports", |new| {
            let spans = [new.root(), new.span(2, 1, "child")];
            spans.map(|span| vec![of_service("exports", vec![span])]).to_vec()
        });
        self.add("three services", |new| {
            let names = ["first", "second", "third"];
            let span = |id: u64, name| of_service(name, vec![new.span(id, id - 1, "call")]);
            (1..).zip(names).map(|(id, name)| span(id, name)).collect()
        });
    }

    fn add_links(&mut self) {
        self.add_span("links", "link to other trace", |span| {
            span.links = vec![link(1_000, 7, Vec::new())];
        });
        self.add_span("links", "link to zero trace", |span| {
            span.links = vec![Link { trace_id: vec![0; 16], ..link(1_000, 7, Vec::new()) }];
        });
        self.add_span("own id", "link to own id in other trace", |span| {
            span.links = vec![link(1_000, 1, Vec::new())];
        });
        for (name, id, attributes) in [
            ("sibling", 3, Vec::new()),
            ("parent", 1, Vec::new()),
            ("sibling, child_of", 3, vec![text("opentracing.ref_type", "child_of")]),
            ("sibling, with attributes", 3, vec![text("link.reason", "batch"), int("link.n", 7)]),
        ] {
            self.add(format!("link to {name}"), |new| {
                let mut spans =
                    vec![new.root(), new.span(2, 1, "linked"), new.span(3, 1, "sibling")];
                spans[1].links = vec![link(new.number, id, attributes)];
                vec![of_service("links", spans)]
            });
        }
        self.add("root with link", |new| {
            let mut spans = vec![new.root(), new.span(2, 0, "linked")];
            spans[1].links = vec![link(new.number, 1, Vec::new())];
            vec![of_service("links", spans)]
        });
        self.add("three links", |new| {
            let mut spans = vec![new.root(), new.span(2, 1, "linked")];
            spans[1].links = [(1_000, 7), (new.number, 1), (1_001, 8)]
                .map(|(trace, id)| link(trace, id, Vec::new()))
                .to_vec();
            vec![of_service("links", spans)]
        });
    }

    fn add_hosts(&mut self) {
        for (name, ms) in [("inside", 0), ("before", -200), ("after", 200), ("overlapping", 50)] {
            self.add(format!("other host, {name}"), |new| {
                let (root, child) = (new.root(), new.moved_child(ms));
                vec![
                    host("front", "host.name", string("one"), root),
                    host("back", "host.name", string("two"), child),
                ]
            });
            self.add(format!("same host, {name}"), |new| {
                let (root, child) = (new.root(), new.moved_child(ms));
                vec![
                    host("front", "host.name", string("one"), root),
                    host("back", "host.name", string("one"), child),
                ]
            });
        }
        self.add("no host, after", |new| {
            vec![of_service("front", vec![new.root(), new.moved_child(200)])]
        });
        self.add("longer child starts before", |new| {
            let mut child = new.moved_child(-50);
            child.end_time_unix_nano += 500 * MS;
            vec![
                host("front", "host.id", string("one"), new.root()),
                host("back", "host.id", string("two"), child),
            ]
        });
        self.add("grandchild on skewed host", |new| {
            let grandchild = Span { parent_span_id: span_id(2), ..new.moved_child(200) };
            let grandchild = Span { span_id: span_id(3), ..grandchild };
            vec![
                host("front", "host.name", string("one"), new.root()),
                host("back", "host.name", string("two"), new.moved_child(200)),
                host("back", "host.name", string("two"), grandchild),
            ]
        });
        self.add("hosts by address", |new| {
            let ip = |address| array(vec![string(address)]);
            vec![
                host("front", "host.ip", ip("192.0.2.1"), new.root()),
                host("back", "host.ip", ip("192.0.2.2"), new.moved_child(-200)),
            ]
        });
    }

    fn add_fields(&mut self) {
        for kind in (0..).map_while(|number| SpanKind::try_from(number).ok()) {
            self.add_span("kinds", format!("{kind:?}"), |span| {
                span.kind = kind as i32;
                span.name = format!("{kind:?}");
            });
        }
        for code in [StatusCode::Unset, StatusCode::Ok, StatusCode::Error] {
            for message in ["", "a message"] {
                self.add_span("status", format!("{code:?} {message:?}"), |span| {
                    span.status = Some(Status { code: code as i32, message: message.to_owned() });
                });
            }
        }
        self.add_span("status", "error attribute, no status", |span| {
            span.attributes = vec![attribute("error", Value::BoolValue(true))];
        });
        self.add_span("status", "error attribute and status", |span| {
            span.attributes = vec![text("error", "text")];
            span.status = Some(Status { code: StatusCode::Error as i32, ..Status::default() });
        });
        for (name, event, attributes) in [
            ("named event", "exception", Vec::new()),
            ("event with attributes", "exception", vec![text("exception.type", "timeout")]),
            ("event without name", "", vec![int("n", 1)]),
            ("event with attribute event", "name", vec![text("event", "attribute")]),
        ] {
            self.add_span("events", name, |span| {
                let time_unix_nano = span.start_time_unix_nano + MS;
                let name = event.to_owned();
                span.events = vec![Event { time_unix_nano, name, attributes, ..Event::default() }];
            });
        }
        self.add_span("fields", "trace state", |span| span.trace_state = "vendor=1".to_owned());
        self.add_span("unnamed", "no span name", |span| span.name = String::new());
        for name in ["żółw 🐢", "GET /a/b?c=d&e", "quoted \"name\" <b>"] {
            self.add_span("names", format!("span name {name:?}"), |span| span.name = name.into());
        }
        self.add_span("names", "long name", |span| span.name = "long ".repeat(2_000));
        for (name, scope) in [
            ("no scope", InstrumentationScope::default()),
            (
                "scope without version",
                InstrumentationScope { name: "lib".into(), ..<_>::default() },
            ),
            (
                "scope with attributes",
                InstrumentationScope {
                    name: "lib".to_owned(),
                    version: "1.2".to_owned(),
                    attributes: vec![text("scope.kind", "test")],
                    ..InstrumentationScope::default()
                },
            ),
        ] {
            self.add(name, |new| {
                let service =
                    if scope.attributes.is_empty() { "scopes" } else { "scope attributes" };
                let mut spans = of_service(service, vec![new.root()]);
                spans.scope_spans[0].scope = Some(scope);
                vec![spans]
            });
        }
        self.add("two scopes", |new| {
            let mut spans = of_service("scopes", vec![new.root()]);
            let scope = InstrumentationScope { name: "other".to_owned(), ..<_>::default() };
            spans.scope_spans.push(ScopeSpans {
                scope: Some(scope),
                spans: vec![new.span(2, 1, "child")],
                ..ScopeSpans::default()
            });
            vec![spans]
        });
    }

    fn add_attributes(&mut self) {
        for (key, value) in attributes() {
            self.add_span("attributes", format!("attribute {key}"), |span| {
                span.attributes = vec![attribute(key, value)];
            });
        }
        self.add_span("attributes", "attribute without value", |span| {
            span.attributes = vec![KeyValue { key: "none".to_owned(), ..KeyValue::default() }];
        });
        self.add_span("attributes", "all attributes", |span| {
            let all = attributes().into_iter();
            span.attributes = all.map(|(key, value)| attribute(key, value)).collect();
        });
        self.add_span("sdk", "sdk attribute on the span", |span| {
            span.attributes = vec![text("telemetry.distro.name", "distro"), text("other", "x")];
        });
        self.add("resource attributes", |new| {
            let mut all: Vec<_> =
                attributes().into_iter().map(|(key, value)| attribute(key, value)).collect();
            all.push(text("service.name", "resources"));
            vec![resource(all, vec![new.root()])]
        });
        self.add("two resources of one service", |new| {
            let instance = |id: &str, span| {
                let attributes = vec![text("service.name", "resources"), text("instance", id)];
                resource(attributes, vec![span])
            };
            vec![instance("1", new.root()), instance("2", new.span(2, 1, "child"))]
        });
    }

    fn add_services(&mut self) {
        for (name, attributes) in [
            ("no attributes", Vec::new()),
            ("no service.name", vec![text("host.name", "one")]),
            ("empty service.name", vec![text("service.name", "")]),
            ("integer service.name", vec![int("service.name", 7)]),
            ("unicode service.name", vec![text("service.name", "usługa 🦀")]),
            ("service.name with slash", vec![text("service.name", "a/b c?d")]),
        ] {
            self.add(name, |new| vec![resource(attributes, vec![new.root()])]);
        }
    }

    fn add_times(&mut self) {
        self.add_span("no time", "no duration", |span| {
            span.end_time_unix_nano = span.start_time_unix_nano;
        });
        self.add_span("no time", "end before start", |span| {
            span.end_time_unix_nano = span.start_time_unix_nano - SECOND;
        });
        for (name, ns) in [
            ("one nanosecond", 1),
            ("999 nanoseconds", 999),
            ("one microsecond", 1_000),
            ("one day", 86_400 * SECOND),
            ("hundred years", 36_525 * 86_400 * SECOND),
        ] {
            self.add_span("times", name, |span| {
                span.end_time_unix_nano = span.start_time_unix_nano + ns;
            });
        }
    }

    fn add_duplicates(&mut self) {
        self.add("duplicate in one export", |new| {
            vec![of_service("duplicates", vec![new.root(), new.root()])]
        });
        self.add_exports("duplicate in two exports", |new| {
            vec![vec![of_service("duplicates", vec![new.root()])]; 2]
        });
        self.add("two spans with one id", |new| {
            vec![of_service("duplicates", vec![new.root(), new.span(1, 0, "other")])]
        });
        self.add("client and server with one id", |new| {
            let mut client = new.span(2, 1, "client");
            client.kind = SpanKind::Client as i32;
            let server = Span { kind: SpanKind::Server as i32, ..new.span(2, 1, "server") };
            vec![
                of_service("zipkin client", vec![new.root(), client]),
                of_service("zipkin server", vec![server]),
            ]
        });
    }
}
