//! A raw HTTP/2 server, for faults that no gRPC server has: reset streams, broken connections, statuses of gateways.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::Reason;
use h2::server::SendResponse;
use http::{HeaderMap, StatusCode};
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// An answer to a call.
pub struct Response {
    pub status: StatusCode,
    pub messages: Vec<Vec<u8>>,
    pub ending: Ending,
}

pub enum Ending {
    Trailers(Vec<(&'static str, &'static str)>),
    /// The stream ends without an error, but also without a gRPC status.
    NoTrailers,
    Reset(Reason),
    /// The whole connection ends with an error.
    GoAway(Reason),
}

impl Response {
    pub fn new<M: Message>(messages: impl IntoIterator<Item = M>, ending: Ending) -> Self {
        let messages = messages.into_iter().map(|message| message.encode_to_vec()).collect();
        Self {
            status: StatusCode::OK,
            messages,
            ending,
        }
    }

    pub fn of_gateway(status: StatusCode) -> Self {
        Self {
            status,
            messages: Vec::new(),
            ending: Ending::NoTrailers,
        }
    }
}

/// The server, which answers each call with the next response and listens on `target`.
pub struct Http2Server {
    pub target: String,
    left: Arc<Mutex<VecDeque<Response>>>,
    task: JoinHandle<()>,
}

impl Http2Server {
    pub async fn start(responses: impl IntoIterator<Item = Response>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap().to_string();
        let left = Arc::new(Mutex::new(responses.into_iter().collect()));
        let responses = left.clone();
        let task = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let responses: Arc<Mutex<VecDeque<Response>>> = responses.clone();
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(socket).await.unwrap();
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        let response = responses.lock().unwrap().pop_front().expect("an unexpected call");
                        drop(request);
                        if let Some(reason) = answer(response, respond) {
                            connection.abrupt_shutdown(reason);
                        }
                    }
                });
            }
        });
        Self { target, left, task }
    }

    /// Returns the number of responses that are left.
    pub fn left(&self) -> usize {
        self.left.lock().unwrap().len()
    }
}

impl Drop for Http2Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Answers a call. Returns a reason if the whole connection must end.
fn answer(response: Response, mut respond: SendResponse<Bytes>) -> Option<Reason> {
    let mut head = http::Response::new(());
    *head.status_mut() = response.status;
    if response.status == StatusCode::OK {
        head.headers_mut()
            .insert("content-type", "application/grpc".parse().unwrap());
    }
    let mut body = respond.send_response(head, false).unwrap();
    for message in response.messages {
        let mut frame = BytesMut::new();
        frame.put_u8(0);
        frame.put_u32(message.len().try_into().unwrap());
        frame.extend_from_slice(&message);
        body.send_data(frame.freeze(), false).unwrap();
    }
    match response.ending {
        Ending::Trailers(trailers) => {
            let mut headers = HeaderMap::new();
            for (name, value) in trailers {
                headers.insert(name, value.parse().unwrap());
            }
            body.send_trailers(headers).unwrap();
        }
        Ending::NoTrailers => body.send_data(Bytes::new(), true).unwrap(),
        Ending::Reset(reason) => body.send_reset(reason),
        Ending::GoAway(reason) => return Some(reason),
    }
    None
}
