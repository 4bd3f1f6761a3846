//! The client against real servers on loopback, whose answers the tests script.

#![allow(missing_docs, unreachable_pub, clippy::pedantic)]

mod calls;
mod connection;
mod reply;
mod resume;
mod skill_host;
mod support;
