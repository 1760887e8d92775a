//! Errors: the kind of a failed call or request, and the reason for the end of a process.

mod exit;
mod failure;
mod grpc;
mod kind;
mod source;

pub use exit::{Error, exit_code};
pub use failure::Failure;
pub use grpc::GrpcStatus;
pub use kind::ErrorKind;
pub(crate) use source::{CircuitOpenError, DnsError, causes, error_chain};
