//! A small in-memory Jaeger: OTLP in, Jaeger's query API and user interface out.
