//! The client of [Palaver](https://github.com/palaver-chat/palaver): assistants over gRPC.
//!
//! ```no_run
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use futures_util::TryStreamExt as _;
//! use palaver::{Client, PostUserQueryRequest};
//!
//! let client = Client::new("127.0.0.1:50051")?;
//! let request = PostUserQueryRequest {
//!     id: "support-42".into(),
//!     user_message: "Hello!".into(),
//!     ..Default::default()
//! };
//! let mut text = client.post_user_query(request).text();
//! while let Some(piece) = text.try_next().await? {
//!     print!("{piece}");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Requests, responses and events are the messages of the contract, [`v1`], whose fields are documented there. A
//! [`Client`] makes the calls, and a [`Reply`] survives broken connections and servers that stop. Everything runs on
//! Tokio.
//!
//! Fields that are enums are numbers, as everywhere with prost, because a newer server may send one that has no name
//! here: `IfExists::Keep.into()` is the number of a value, and `turn.finish_reason()` the value of the field
//! `finish_reason`, or the unspecified one where it has no name.
//!
//! # Features
//!
//! - `tls` (on by default): TLS, with rustls and ring.
//! - `server`: the server sides of both services in [`v1`], for hosts of skills, and for servers that stand in for
//!   Palaver in a test.

/// The examples of the README, which must compile.
#[cfg(all(doctest, feature = "server", feature = "tls"))]
#[doc = include_str!("../README.md")]
mod readme {}

mod attempts;
mod builder;
mod client;
mod connection;
mod error;
mod messages;
mod progress;
mod reply;

/// The messages and services of the contract `palaver.v1`, as tonic and prost generate them.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
#[path = "generated/palaver.v1.rs"]
#[rustfmt::skip]
pub mod v1;

pub use builder::{BuildError, ClientBuilder};
pub use client::Client;
pub use error::{Error, FieldViolation};
pub use messages::Messages;
pub use prost_types::Timestamp;
pub use reply::{Reply, Text};
pub use tonic::Code;
#[doc(no_inline)]
pub use v1::{
    Assistant, CancelTurnRequest, CreateAssistantRequest, CreateAssistantResponse, DeleteAssistantRequest, ErrorReason,
    FinishReason, GetAssistantRequest, History, IfExists, ListMessagesRequest, Message, OnDisconnect, Order,
    PostUserQueryRequest, Role, Skill, SkillCall, SkillResult, TextDelta, TurnCompleted, TurnStarted, Usage,
    post_user_query_response::Event, skill_result::Outcome,
};
