//! The client API that calls service A and degrades gracefully.
