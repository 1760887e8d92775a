//! What the tests share: real processes, real sockets, an OTLP receiver.
