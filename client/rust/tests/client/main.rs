//! Tests the client against servers on loopback with scripted answers.

#![allow(missing_docs, unreachable_pub, clippy::pedantic)]

mod calls;
mod connection;
mod printable;
mod replay;
mod reply;
mod resume;
mod skill_host;
mod support;
mod traces;
