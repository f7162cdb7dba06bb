//! The flashQ protocol over HTTP.
#![allow(dead_code, reason = "the routes that lead here are not there yet")]

mod sse;
